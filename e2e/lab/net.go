package lab

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Net is a router with a bridge for each zone. Zones reach each other through it
// and only at the addresses that are opened.
type Net struct {
	router *Host
	mu     sync.Mutex
	zones  map[string]string // zone → network, "10.77.1"
	cuts   map[string]bool
	open   map[string]bool
}

// Host is a machine of the laboratory: a network namespace with one address.
type Host struct {
	// Name, for logs.
	Name string
	// Zone it is in.
	Zone string
	// IP address.
	IP string

	ns      netns.NsHandle
	outside *Host       // where the other end of its cable is
	cable   string      // the name of that end
	work    chan func() // runs on a thread of the namespace, for ever
}

// NewNet makes the router and forwards nothing yet.
func NewNet() (*Net, error) {
	router, err := newHost("router")
	if err != nil {
		return nil, err
	}
	n := &Net{router: router, zones: map[string]string{}, cuts: map[string]bool{}, open: map[string]bool{}}
	err = router.do(func() error { return setSysctl("net/ipv4/ip_forward", "1") })
	if err != nil {
		return nil, err
	}
	return n, n.filter()
}

// AddZone makes a bridge with the network 10.77.<number>.0/24.
func (n *Net) AddZone(name string, number int) error {
	prefix := fmt.Sprintf("10.77.%d", number)
	n.mu.Lock()
	n.zones[name] = prefix
	n.mu.Unlock()
	if err := n.filter(); err != nil {
		return err
	}
	return n.router.do(func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br-" + name}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("add bridge of zone %s: %w", name, err)
		}
		address, err := netlink.ParseAddr(prefix + ".1/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(bridge, address); err != nil {
			return err
		}
		return netlink.LinkSetUp(bridge)
	})
}

// AddHost makes a host in a zone with the address that ends in number.
func (n *Net) AddHost(zone, name string, number int) (*Host, error) {
	prefix, ok := n.zones[zone]
	if !ok {
		return nil, fmt.Errorf("no zone %s", zone)
	}
	ip := fmt.Sprintf("%s.%d", prefix, number)
	h, err := n.router.Attach("br-"+zone, name, "v"+ip[len("10.77."):], ip+"/24", prefix+".1")
	if err != nil {
		return nil, err
	}
	h.Zone = zone
	return h, nil
}

// Attach makes a host and connects it to a bridge in this one's namespace by a
// cable of that name (at most 15 characters, free in the namespace). The address
// has its prefix's length; the gateway becomes the default route.
func (h *Host) Attach(bridge, name, cable, address, gateway string) (*Host, error) {
	made, err := newHost(name)
	if err != nil {
		return nil, err
	}
	made.outside, made.cable = h, cable
	made.IP, _, _ = strings.Cut(address, "/")
	err = h.do(func() error {
		master, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		veth := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: cable, MasterIndex: master.Attrs().Index},
			PeerName:      "eth0",
			PeerNamespace: netlink.NsFd(made.ns),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("connect host %s: %w", name, err)
		}
		return netlink.LinkSetUp(veth)
	})
	if err != nil {
		return nil, err
	}
	return made, made.do(func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(eth, addr); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(eth); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.ParseIP(gateway)})
	})
}

// Enter is a host that is there already: the network namespace of a name, as `ip
// netns` lists them, or with none the one of this process.
func Enter(name string) (*Host, error) {
	h := &Host{Name: name, work: make(chan func())}
	entered := make(chan error)
	go func() {
		runtime.LockOSThread()
		var err error
		if name == "" {
			h.ns, err = netns.Get()
		} else if h.ns, err = netns.GetFromName(name); err == nil {
			err = netns.Set(h.ns)
		}
		entered <- err
		if err != nil {
			return
		}
		for f := range h.work {
			f()
		}
	}()
	if err := <-entered; err != nil {
		return nil, fmt.Errorf("enter the network namespace %q: %w", name, err)
	}
	return h, nil
}

// Open lets other zones reach a host.
func (n *Net) Open(h *Host) error {
	n.mu.Lock()
	n.open[h.IP] = true
	n.mu.Unlock()
	return n.filter()
}

// Cut drops every packet between two zones, both ways, without a word.
func (n *Net) Cut(a, b string) error { return n.setCut(a, b, true) }

// Heal undoes Cut.
func (n *Net) Heal(a, b string) error { return n.setCut(a, b, false) }

func (n *Net) setCut(a, b string, cut bool) error {
	n.mu.Lock()
	for _, pair := range []string{n.zones[a] + ".0/24 ip daddr " + n.zones[b] + ".0/24", n.zones[b] + ".0/24 ip daddr " + n.zones[a] + ".0/24"} {
		if cut {
			n.cuts[pair] = true
		} else {
			delete(n.cuts, pair)
		}
	}
	n.mu.Unlock()
	return n.filter()
}

// filter loads the router's rules anew, atomically.
func (n *Net) filter() error {
	n.mu.Lock()
	var rules strings.Builder
	rules.WriteString("table inet lab\ndelete table inet lab\ntable inet lab {\nchain forward { type filter hook forward priority 0; policy drop;\n")
	for pair := range n.cuts {
		fmt.Fprintf(&rules, "ip saddr %s drop\n", pair)
	}
	// A kernel may show the router what merely crosses a bridge.
	for _, prefix := range n.zones {
		fmt.Fprintf(&rules, "ip saddr %[1]s.0/24 ip daddr %[1]s.0/24 accept\n", prefix)
	}
	for ip := range n.open {
		fmt.Fprintf(&rules, "ip daddr %s accept\n", ip)
	}
	rules.WriteString("ct state established accept\n}\n}\n")
	n.mu.Unlock()
	return n.router.do(func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(rules.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	})
}

// Unplug takes the host off its network, as a pulled cable does; Plug undoes it.
func (h *Host) Unplug() error { return h.setLink(netlink.LinkSetDown) }

// Plug undoes Unplug.
func (h *Host) Plug() error { return h.setLink(netlink.LinkSetUp) }

func (h *Host) setLink(set func(netlink.Link) error) error {
	return h.outside.do(func() error {
		link, err := netlink.LinkByName(h.cable)
		if err != nil {
			return err
		}
		return set(link)
	})
}

// Dial opens a connection from this host; the address must be numeric.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if ip := net.ParseIP(hostOf(address)); ip == nil && network != "unix" {
		return nil, fmt.Errorf("dial %s: not a numeric address", address)
	}
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// The thread is not given back: it ends with the goroutine.
		runtime.LockOSThread()
		if err := netns.Set(h.ns); err != nil {
			done <- result{err: err}
			return
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// newHost makes a namespace and a thread that stays in it.
func newHost(name string) (*Host, error) {
	h := &Host{Name: name, work: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread()
		var err error
		h.ns, err = netns.New()
		made <- err
		if err != nil {
			return
		}
		for f := range h.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("new namespace for %s (root is needed): %w", name, err)
	}
	return h, h.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
}

// do runs f on the host's thread.
func (h *Host) do(f func() error) error {
	done := make(chan error, 1)
	h.work <- func() { done <- f() }
	return <-done
}
