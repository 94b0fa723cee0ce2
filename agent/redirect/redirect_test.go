package redirect

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func everything() Config {
	return Config{
		Inbound: Direction{
			ExcludePorts: []Ports{{8081, 8081}, {8090, 8099}},
			ExcludeCIDRs: []netip.Prefix{netip.MustParsePrefix("10.98.0.0/16"), netip.MustParsePrefix("fd98::/33")},
		},
		Outbound: Direction{
			ExcludePorts: []Ports{{8082, 8082}, {8070, 8079}},
			ExcludeCIDRs: []netip.Prefix{netip.MustParsePrefix("10.97.0.0/17"), netip.MustParsePrefix("fd97::1/128")},
		},
		DNS:         DNS{Mode: DNSAll},
		ExcludeUIDs: []UIDs{{First: 2000, Last: 2000}, {First: 2010, Last: 2019, Ports: []Ports{{53, 53}, {9000, 9100}}}},
		VIPs:        []netip.Prefix{netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("fd00:fd00::/64")},
	}.WithDefaults()
}

func nameserversOnly() Config {
	return Config{
		Inbound:  Direction{IncludeCIDRs: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/24")}},
		Outbound: Direction{IncludeCIDRs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("fd00::/8")}},
		DNS:      DNS{Mode: DNSNameservers, Nameservers: []netip.Addr{netip.MustParseAddr("127.0.0.53"), netip.MustParseAddr(peer4), netip.MustParseAddr(peer6)}},
	}.WithDefaults()
}

func configs() map[string]Config {
	return map[string]Config{
		"default":          Config{}.WithDefaults(),
		"everything":       everything(),
		"nameservers only": nameserversOnly(),
		"IPv4 only":        Config{Families: []Family{IPv4}, DNS: DNS{Mode: DNSAll}}.WithDefaults(),
		"IPv6 only":        Config{Families: []Family{IPv6}}.WithDefaults(),
		"outbound only":    Config{Inbound: Direction{Disabled: true}}.WithDefaults(),
		"inbound only":     Config{Outbound: Direction{Disabled: true}}.WithDefaults(),
	}
}

// TestPrintedIsInstalled: what --dry-run prints and what netlink installs are the
// same rules, and Check agrees that they are there.
func TestPrintedIsInstalled(t *testing.T) {
	l := newLab(t)
	for name, c := range configs() {
		t.Run(name, func(t *testing.T) {
			if err := Install(c, l.path()); err != nil {
				t.Fatal(err)
			}
			installed := l.list(t)
			problems, err := Check(c, l.path())
			if err != nil || len(problems) != 0 {
				t.Errorf("Check: %v, %v", problems, err)
			}
			run(t, Rules(c).String(), "ip", "netns", "exec", l.host, "nft", "-f", "-")
			if printed := l.list(t); printed != installed {
				t.Errorf("printed:\n%s\ninstalled:\n%s", printed, installed)
			}
			if !strings.Contains(installed, "table inet tombolo") {
				t.Errorf("nothing is installed:\n%s", installed)
			}
		})
	}
}

func TestTCP(t *testing.T) {
	l := newLab(t)
	for _, name := range []string{"15001", "15006", "8080", "8081", "8095", "9001", "5000"} {
		serve(t, l.host, name, ":"+name)
	}
	for _, port := range []string{"80", "8082", "8075", "9050", "9200"} {
		serve(t, l.peer, "peer", ":"+port)
	}
	run(t, "", "ip", "-n", l.peer, "addr", "add", "10.97.0.1/32", "dev", "lo")
	run(t, "", "ip", "-n", l.peer, "addr", "add", "fd97::1/128", "dev", "lo")
	run(t, "", "ip", "-n", l.peer, "addr", "add", "10.98.0.1/32", "dev", "lo")
	run(t, "", "ip", "-n", l.host, "route", "add", "10.98.0.1/32", "via", peer4)
	if err := Install(everything(), l.path()); err != nil {
		t.Fatal(err)
	}
	const proxy = DefaultProxyID
	join := net.JoinHostPort
	for _, tc := range []struct {
		name      string
		from      string
		uid, gid  int
		source    string
		to        string
		server    string
		priority  int
		unchanged bool
	}{
		{name: "out v4", from: l.host, to: join(peer4, "80"), server: "15001"},
		{name: "out v6", from: l.host, to: join(peer6, "80"), server: "15001"},
		{name: "out, a user", from: l.host, uid: 1000, gid: 1000, to: join(peer4, "80"), server: "15001"},
		{name: "out, VIP v4", from: l.host, to: "240.0.0.7:80", server: "15001"},
		{name: "out, VIP v6", from: l.host, to: "[fd00:fd00::7]:80", server: "15001"},
		{name: "out, VIP on an excluded port", from: l.host, to: "240.0.0.7:8082", server: "15001"},
		{name: "proxy's user", from: l.host, uid: proxy, to: join(peer4, "80"), server: "peer"},
		{name: "proxy's group", from: l.host, uid: 1000, gid: proxy, to: join(peer6, "80"), server: "peer"},
		{name: "excluded port", from: l.host, to: join(peer4, "8082"), server: "peer"},
		{name: "excluded range", from: l.host, to: join(peer6, "8075"), server: "peer"},
		{name: "excluded network v4", from: l.host, to: "10.97.0.1:80", server: "peer"},
		{name: "excluded address v6", from: l.host, to: "[fd97::1]:80", server: "peer"},
		{name: "excluded user", from: l.host, uid: 2000, to: join(peer4, "80"), server: "peer"},
		{name: "excluded users' port", from: l.host, uid: 2015, to: join(peer4, "9050"), server: "peer"},
		{name: "excluded users' other port", from: l.host, uid: 2015, to: join(peer4, "9200"), server: "15001"},
		{name: "user beside excluded users", from: l.host, uid: 2020, to: join(peer4, "9050"), server: "15001"},
		{name: "loopback", from: l.host, to: "127.0.0.1:8080", server: "8080"},
		{name: "loopback v6", from: l.host, to: "[::1]:8080", server: "8080"},
		{name: "own address", from: l.host, to: join(host4, "8080"), server: "8080"},
		{name: "own address v6", from: l.host, to: join(host6, "8080"), server: "8080"},
		{name: "proxy to application, loopback", from: l.host, uid: proxy, to: "127.0.0.1:8080", server: "8080"},
		{name: "proxy to application", from: l.host, uid: proxy, to: join(host4, "8080"), server: "8080"},
		{name: "proxy to application v6", from: l.host, uid: proxy, to: join(host6, "8080"), server: "8080"},
		{name: "proxy to application, from loopback", from: l.host, uid: proxy, source: "127.0.0.6", to: join(host4, "8080"), server: "8080"},
		{name: "application calls itself by the mesh", from: l.host, uid: proxy, priority: MeshCallPriority, to: join(host4, "8080"), server: "15006"},
		{name: "application calls itself by the mesh v6", from: l.host, uid: proxy, priority: MeshCallPriority, to: join(host6, "8080"), server: "15006"},
		{name: "proxy to another proxy", from: l.host, uid: proxy, priority: MeshCallPriority, to: join(peer4, "80"), server: "peer"},
		{name: "proxy to a proxy on loopback", from: l.host, uid: proxy, priority: MeshCallPriority, to: "127.0.0.1:8080", server: "8080"},
		{name: "application with that priority", from: l.host, uid: 1000, priority: MeshCallPriority, to: join(host4, "8080"), server: "8080"},
		{name: "proxy to own excluded port", from: l.host, uid: proxy, priority: MeshCallPriority, to: join(host4, "8081"), server: "8081"},
		{name: "in v4", from: l.peer, to: join(host4, "8080"), server: "15006"},
		{name: "in v6", from: l.peer, to: join(host6, "8080"), server: "15006"},
		{name: "in, port without a server", from: l.peer, to: join(host4, "4711"), server: "15006"},
		{name: "in, excluded port", from: l.peer, to: join(host4, "8081"), server: "8081"},
		{name: "in, excluded range v6", from: l.peer, to: join(host6, "8095"), server: "8095"},
		{name: "in, mesh's own port", from: l.peer, to: join(host6, "9001"), server: "9001"},
		{name: "in, excluded network", from: l.peer, source: "10.98.0.1", to: join(host4, "8080"), server: "8080"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := callWith(t, tc.from, tc.uid, tc.gid, tc.source, tc.to, tc.priority)
			if err != nil {
				t.Fatal(err)
			}
			if got.server != tc.server {
				t.Errorf("arrived at %s, want %s", got.server, tc.server)
			}
			// Conntrack knows every connection, redirected or not.
			if redirected := tc.server == "15001" || tc.server == "15006"; redirected && got.to != tc.to {
				t.Errorf("original destination %s, want %s", got.to, tc.to)
			}
		})
	}
}

func TestLinkLocalIsLeftAlone(t *testing.T) {
	l := newLab(t)
	if err := Install(everything(), l.path()); err != nil {
		t.Fatal(err)
	}
	// Neighbour discovery works, or this would not connect at all.
	serve(t, l.peer, "peer", "[::]:80")
	run(t, "", "ip", "-n", l.peer, "addr", "add", "fe80::99/64", "dev", "eth0", "nodad")
	run(t, "", "ip", "-n", l.host, "-6", "neigh", "flush", "all")
	got, err := call(t, l.host, 0, 0, "", "[fe80::99%eth0]:80")
	if err != nil || got.server != "peer" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestForwardedIsLeftAlone: the host is a router here.
func TestForwardedIsLeftAlone(t *testing.T) {
	l := newLab(t)
	serve(t, l.host, "15006", ":15006")
	serve(t, l.peer, "peer", ":80")
	// The peer owns an address that it reaches by way of the host alone.
	run(t, "", "ip", "netns", "exec", l.host, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	behind := lab{l.host + "b", ""}
	run(t, "", "ip", "netns", "add", behind.host)
	t.Cleanup(func() { run(t, "", "ip", "netns", "del", behind.host) })
	run(t, "", "ip", "link", "add", "eth1", "netns", l.host, "type", "veth", "peer", "name", "eth0", "netns", behind.host)
	run(t, "", "ip", "-n", l.host, "addr", "add", "10.96.0.1/24", "dev", "eth1")
	run(t, "", "ip", "-n", l.host, "link", "set", "eth1", "up")
	run(t, "", "ip", "-n", behind.host, "addr", "add", "10.96.0.2/24", "dev", "eth0")
	run(t, "", "ip", "-n", behind.host, "link", "set", "eth0", "up")
	run(t, "", "ip", "-n", behind.host, "route", "add", "default", "via", "10.96.0.1")
	run(t, "", "ip", "-n", l.peer, "route", "add", "10.96.0.0/24", "via", host4)
	if err := Install(everything(), l.path()); err != nil {
		t.Fatal(err)
	}
	got, err := call(t, behind.host, 0, 0, "", net.JoinHostPort(peer4, "80"))
	if err != nil || got.server != "peer" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestIncludedNetworksAlone(t *testing.T) {
	l := newLab(t)
	serve(t, l.host, "15001", ":15001")
	serve(t, l.peer, "peer", ":80")
	c := nameserversOnly()
	c.Outbound.IncludeCIDRs = []netip.Prefix{netip.MustParsePrefix(peer4 + "/32")}
	if err := Install(c, l.path()); err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]string{net.JoinHostPort(peer4, "80"): "15001", net.JoinHostPort(peer6, "80"): "peer"} {
		if got, err := call(t, l.host, 0, 0, "", to); err != nil || got.server != want {
			t.Errorf("%s: %+v, %v; want %s", to, got, err, want)
		}
	}
}

// TestReplacing: a hundred installs leave the rules of one, open connections go
// on, and none that is opened meanwhile escapes.
func TestReplacing(t *testing.T) {
	l := newLab(t)
	serve(t, l.host, "15001", ":15001")
	serve(t, l.peer, "peer", ":80")
	c := everything()
	if err := Install(c, l.path()); err != nil {
		t.Fatal(err)
	}
	once := l.list(t)
	open, err := dial(t, l.host, 0, 0, "", net.JoinHostPort(peer4, "80"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if got, err := greeting(open); err != nil || got.server != "15001" {
		t.Fatalf("%+v, %v", got, err)
	}

	var stop atomic.Bool
	var calls atomic.Int64
	var callers sync.WaitGroup
	for range 2 {
		callers.Go(func() {
			for !stop.Load() {
				got, err := call(t, l.host, 0, 0, "", net.JoinHostPort(peer4, "80"))
				if err != nil || got.server != "15001" {
					t.Errorf("during replacement: %+v, %v", got, err)
					return
				}
				calls.Add(1)
			}
		})
	}
	for range 100 {
		if err := Install(c, l.path()); err != nil {
			t.Error(err)
			break
		}
	}
	stop.Store(true)
	callers.Wait()
	if calls.Load() < 20 {
		t.Errorf("only %d calls during 100 installs: proves nothing", calls.Load())
	}
	if got := l.list(t); got != once {
		t.Errorf("after 100 installs:\n%s\nafter one:\n%s", got, once)
	}
	if _, err := open.Write([]byte("still there")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	_ = open.SetReadDeadline(time.Now().Add(30 * time.Second))
	if n, err := open.Read(buf); err != nil || string(buf[:n]) != "still there" {
		t.Errorf("a connection opened before: %q, %v", buf[:n], err)
	}
}

func TestRemove(t *testing.T) {
	l := newLab(t)
	serve(t, l.peer, "peer", ":80")
	if err := Remove(l.path()); err != nil {
		t.Fatalf("nothing to remove: %v", err)
	}
	run(t, "table inet other { chain c { type filter hook input priority 0; }; }", "ip", "netns", "exec", l.host, "nft", "-f", "-")
	before := l.list(t)
	if err := Install(everything(), l.path()); err != nil {
		t.Fatal(err)
	}
	if _, err := call(t, l.host, 0, 0, "", net.JoinHostPort(peer4, "80")); err == nil {
		t.Error("a call arrives without a proxy")
	}
	if err := Remove(l.path()); err != nil {
		t.Fatal(err)
	}
	if got := l.list(t); got != before {
		t.Errorf("left behind:\n%s", got)
	}
	if got, err := call(t, l.host, 0, 0, "", net.JoinHostPort(peer4, "80")); err != nil || got.server != "peer" {
		t.Errorf("after removal: %+v, %v", got, err)
	}
}

func TestCheckSaysWhatDiffers(t *testing.T) {
	l := newLab(t)
	c := everything()
	nft := func(script string) func(*testing.T) {
		return func(t *testing.T) { run(t, script, "ip", "netns", "exec", l.host, "nft", "-f", "-") }
	}
	for _, tc := range []struct {
		name  string
		spoil func(*testing.T)
		want  []string
	}{
		{"nothing", func(*testing.T) {}, nil},
		{"no table", nft("delete table inet tombolo"), []string{"tombolo: missing: table inet tombolo"}},
		{"no chain", nft("delete chain inet tombolo prerouting"), []string{"prerouting: missing: chain prerouting"}},
		{"a foreign rule", nft(`insert rule inet tombolo output tcp dport 1 return comment "mine"`), []string{`output: foreign: rule with handle`, `comment "mine"`}},
		{"a foreign chain", nft("add chain inet tombolo mine"), []string{"mine: foreign: chain mine"}},
		{"rules gone", nft("flush chain inet tombolo output"), []string{`output: missing: meta l4proto tcp redirect to :15001 comment "outbound"`}},
		{"another policy", nft("add chain inet tombolo output { policy drop; }"), []string{"output: changed: must be type nat hook output priority -100 policy accept"}},
		{"dormant", nft("add table inet tombolo { flags dormant; }"), []string{"tombolo: changed: table has flags 0x1"}},
		{"order", func(t *testing.T) {
			// The last rule goes first: everything else is dead.
			nft(`insert rule inet tombolo prerouting meta l4proto tcp redirect to :15006 comment "inbound"`)(t)
			handles := run(t, "", "ip", "netns", "exec", l.host, "nft", "-a", "list", "chain", "inet", "tombolo", "prerouting")
			last := ""
			for line := range strings.Lines(handles) {
				if strings.Contains(line, `comment "inbound"`) {
					last = strings.TrimSpace(line[strings.LastIndex(line, " ")+1:])
				}
			}
			nft("delete rule inet tombolo prerouting handle " + last)(t)
		}, []string{"prerouting: changed: order of the rules"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := Install(c, l.path()); err != nil {
				t.Fatal(err)
			}
			tc.spoil(t)
			problems, err := Check(c, l.path())
			if err != nil {
				t.Fatal(err)
			}
			text := ""
			for _, p := range problems {
				text += p.String() + "\n"
			}
			if len(tc.want) == 0 && text != "" || len(tc.want) > 0 && text == "" {
				t.Errorf("problems:\n%s", text)
			}
			for _, want := range tc.want {
				if !strings.Contains(text, want) {
					t.Errorf("want %q in:\n%s", want, text)
				}
			}
		})
	}
}

func TestWithoutPermission(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("drops a permission that only root has")
	}
	l := newLab(t)
	err := unprivileged(l, func() error { return Install(everything(), "") })
	if err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN is needed") {
		t.Errorf("error %v", err)
	}
	if got := l.list(t); got != "" {
		t.Errorf("installed:\n%s", got)
	}
}
