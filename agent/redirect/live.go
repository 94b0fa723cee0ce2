package redirect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// ErrNotRedirected says that the rules are not in effect.
var ErrNotRedirected = errors.New("traffic is not redirected")

// liveTimeout is for one connection, which takes microseconds if it is redirected.
const liveTimeout = 2 * time.Second

// Live finds out without any privilege whether this network namespace is
// redirected: it opens connections as an application would, to addresses where
// nothing answers, and listens at the proxy's port for them. Where something
// listens there already, its accepting is the proof. Connections of others that
// arrive meanwhile, as in a pod whose proxy starts again, are ended. Run as the proxy's user it
// makes the application's call to itself instead, which needs Inbound. A family
// without a route is no way out and is not tried; all that can be tried must pass.
func Live(ctx context.Context, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	targets, port, err := probes(c)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":"+strconv.Itoa(int(port)))
	if err != nil && !errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("redirect: listen for probes: %w", err)
	}
	arrived := make(chan string)
	if l != nil {
		ended := make(chan struct{})
		defer close(ended)
		defer l.Close()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				from := addrPort(conn.RemoteAddr())
				conn.Close()
				select {
				case arrived <- from:
				case <-ended:
					return
				}
			}
		}()
	}
	var control func(string, string, syscall.RawConn) error
	if os.Geteuid() == int(c.Proxy.UID) {
		control = asMeshCall
	}
	tried := 0
	for _, target := range targets {
		d := net.Dialer{Timeout: liveTimeout, Control: control}
		conn, err := d.DialContext(ctx, "tcp", target.String())
		if errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL) {
			continue
		}
		tried++
		if err != nil {
			return fmt.Errorf("redirect: %w: a connection to %s did not arrive at port %d (%w)", ErrNotRedirected, target, port, err)
		}
		from := addrPort(conn.LocalAddr())
		conn.Close()
		if l != nil && !arrives(arrived, from) {
			return fmt.Errorf("redirect: %w: a connection to %s was accepted elsewhere than at port %d", ErrNotRedirected, target, port)
		}
	}
	if tried == 0 {
		return errors.New("redirect: nothing could be tried: no route for any of the redirected families")
	}
	return nil
}

// arrives says whether one of the connections that arrive is the given one.
func arrives(arrived <-chan string, from string) bool {
	late := time.After(liveTimeout)
	for {
		select {
		case got := <-arrived:
			if got == from {
				return true
			}
		case <-late:
			return false
		}
	}
}

// asMeshCall marks a socket as Envoy marks what it opens to other proxies.
func asMeshCall(_, _ string, c syscall.RawConn) error {
	var option error
	if err := c.Control(func(fd uintptr) {
		option = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_PRIORITY, MeshCallPriority)
	}); err != nil {
		return err
	}
	return option
}

// addrPort compares addresses of either family, without a zone.
func addrPort(a net.Addr) string {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	return netip.AddrPortFrom(p.Addr().Unmap().WithZone(""), p.Port()).String()
}

// probes are addresses that must be redirected, by the rules of c, for a process
// of this user; and the port where their connections arrive.
func probes(c Config) ([]netip.AddrPort, uint16, error) {
	if os.Geteuid() == int(c.Proxy.UID) {
		if c.Inbound.Disabled {
			return nil, 0, errors.New("redirect: nothing of the proxy's user is redirected without inbound: check as another user and group")
		}
		out, err := ownAddresses(c, freePort(append(c.OwnPorts(), c.Inbound.ExcludePorts...)))
		return out, c.Inbound.Port, err
	}
	if os.Getegid() == int(c.Proxy.GID) {
		return nil, 0, errors.New("redirect: nothing of the proxy's group is redirected: check with another one, or as the proxy's user")
	}
	if c.Outbound.Disabled {
		return nil, 0, errors.New("redirect: outbound is disabled: check as the proxy's user")
	}
	port := freePort(c.Outbound.ExcludePorts)
	var out []netip.AddrPort
	for _, f := range []Family{IPv4, IPv6} {
		if !c.has(f) {
			continue
		}
		if a, ok := elsewhere(c, f); ok {
			out = append(out, netip.AddrPortFrom(a, port))
		}
	}
	if len(out) == 0 {
		return nil, 0, errors.New("redirect: every address that could be tried is excluded")
	}
	return out, c.Outbound.Port, nil
}

// elsewhere is an address outside of this host that must be redirected and that
// nobody else answers at.
func elsewhere(c Config, f Family) (netip.Addr, bool) {
	in := func(list []netip.Prefix, a netip.Addr) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	// Those of RFC 5737 and RFC 3849, for documentation.
	candidates := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1")}
	for _, p := range slices.Concat(c.VIPs, c.Outbound.IncludeCIDRs) {
		candidates = append(candidates, p.Masked().Addr().Next())
	}
	for _, a := range candidates {
		if a.Is4() != (f == IPv4) {
			continue
		}
		if in(c.VIPs, a) {
			return a, true
		}
		if !in(c.Outbound.ExcludeCIDRs, a) && (len(c.Outbound.IncludeCIDRs) == 0 || in(c.Outbound.IncludeCIDRs, a)) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func ownAddresses(c Config, port uint16) ([]netip.AddrPort, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("redirect: own addresses: %w", err)
	}
	seen := map[Family]bool{}
	var out []netip.AddrPort
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().IsGlobalUnicast() {
			continue
		}
		f := IPv6
		if p.Addr().Is4() {
			f = IPv4
		}
		if c.has(f) && !seen[f] {
			seen[f] = true
			out = append(out, netip.AddrPortFrom(p.Addr(), port))
		}
	}
	if len(out) == 0 {
		return nil, errors.New("redirect: nothing could be tried: no own address of the redirected families")
	}
	return out, nil
}

// freePort is one that no list excludes and that hardly anything listens at.
func freePort(excluded []Ports) uint16 {
	for port := uint16(1); port < 65535; port++ {
		if port != dnsPort && !slices.ContainsFunc(excluded, func(p Ports) bool { return p.contains(port) }) {
			return port
		}
	}
	return 65535
}
