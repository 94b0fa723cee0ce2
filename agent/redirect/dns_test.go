package redirect

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serveUDP answers each packet with the server's name.
func serveUDP(t *testing.T, netns, name, address string) {
	t.Helper()
	as(t, netns, DefaultProxyID, DefaultProxyID, func() {
		c, err := net.ListenPacket("udp", address)
		if err != nil {
			t.Errorf("listen %s: %v", address, err)
			return
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 512)
			for {
				_, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				if _, err := c.WriteTo([]byte(name), from); err != nil {
					return
				}
			}
		}()
	})
}

// ask sends a packet from a port (0 is any) and returns who answers; the socket
// is connected, so an answer from another address does not count.
func ask(t *testing.T, netns string, uid int, port int, to string) (name string, from int) {
	t.Helper()
	as(t, netns, uid, uid, func() {
		d := net.Dialer{LocalAddr: &net.UDPAddr{Port: port}}
		c, err := d.Dial("udp", to)
		if err != nil {
			name = err.Error()
			return
		}
		defer c.Close()
		name = exchange(c)
		from = c.LocalAddr().(*net.UDPAddr).Port
	})
	return name, from
}

func exchange(c net.Conn) string {
	buf := make([]byte, 64)
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Write([]byte("?")); err != nil {
		return err.Error()
	}
	n, err := c.Read(buf)
	if err != nil {
		return err.Error()
	}
	return string(buf[:n])
}

func TestDNS(t *testing.T) {
	l := newLab(t)
	serveUDP(t, l.host, "agent", "127.0.0.1:15053")
	serveUDP(t, l.host, "agent", "[::1]:15053")
	serveUDP(t, l.host, "resolved", "127.0.0.53:53")
	serveUDP(t, l.host, "other", "127.0.0.54:53")
	serveUDP(t, l.peer, "upstream", net.JoinHostPort(peer4, "53"))
	serveUDP(t, l.peer, "upstream", net.JoinHostPort(peer6, "53"))
	serve(t, l.host, "agent", "127.0.0.1:15053")
	serve(t, l.host, "15001", ":15001")
	run(t, "", "ip", "-n", l.peer, "addr", "add", "10.95.0.1/32", "dev", "lo")
	serveUDP(t, l.peer, "elsewhere", "10.95.0.1:53")

	modes := map[string]Config{"all": everything(), "nameservers": nameserversOnly()}
	for _, tc := range []struct {
		mode, to, want string
		uid            int
	}{
		{"all", net.JoinHostPort(peer4, "53"), "agent", 0},
		{"all", net.JoinHostPort(peer6, "53"), "agent", 1000},
		{"all", "10.95.0.1:53", "agent", 1000},
		{"all", "127.0.0.53:53", "resolved", 1000},
		{"all", net.JoinHostPort(peer4, "53"), "upstream", DefaultProxyID},
		{"all", net.JoinHostPort(peer6, "53"), "upstream", DefaultProxyID},
		{"all", net.JoinHostPort(peer4, "53"), "upstream", 2000},
		{"all", net.JoinHostPort(peer4, "53"), "upstream", 2015},
		{"nameservers", net.JoinHostPort(peer4, "53"), "agent", 1000},
		{"nameservers", net.JoinHostPort(peer6, "53"), "agent", 1000},
		{"nameservers", "127.0.0.53:53", "agent", 1000},
		{"nameservers", "127.0.0.53:53", "resolved", DefaultProxyID},
		{"nameservers", "127.0.0.54:53", "other", 1000},
		{"nameservers", "10.95.0.1:53", "elsewhere", 1000},
	} {
		if err := Install(modes[tc.mode], l.path()); err != nil {
			t.Fatal(err)
		}
		if got, _ := ask(t, l.host, tc.uid, 0, tc.to); got != tc.want {
			t.Errorf("mode %s, user %d asks %s: answered by %s, want %s", tc.mode, tc.uid, tc.to, got, tc.want)
		}
	}
	if got, err := call(t, l.host, 0, 0, "", net.JoinHostPort(peer4, "53")); err != nil || got.server != "agent" {
		t.Errorf("TCP: %+v, %v", got, err)
	}
}

// TestDNSFromTheSamePort: the agent asks upstream from the port that the
// application's question came from, while conntrack still remembers that one.
func TestDNSFromTheSamePort(t *testing.T) {
	for _, family := range []string{peer4, peer6} {
		l := newLab(t)
		serveUDP(t, l.host, "agent", "127.0.0.1:15053")
		serveUDP(t, l.host, "agent", "[::1]:15053")
		serveUDP(t, l.peer, "upstream", ":53")
		if err := Install(everything(), l.path()); err != nil {
			t.Fatal(err)
		}
		server := net.JoinHostPort(family, "53")
		for range 3 {
			name, port := ask(t, l.host, 1000, 0, server)
			if name != "agent" {
				t.Fatalf("application: %s", name)
			}
			if name, _ := ask(t, l.host, DefaultProxyID, port, server); name != "upstream" {
				t.Errorf("agent asks %s from port %d: %s", server, port, name)
			}
			if name, _ := ask(t, l.host, 1000, port, server); name != "agent" {
				t.Errorf("application from port %d, after the agent: %s", port, name)
			}
		}
	}
}

// TestDNSBehindAFirewall: a host that lets in answers alone.
func TestDNSBehindAFirewall(t *testing.T) {
	l := newLab(t)
	serveUDP(t, l.host, "agent", "127.0.0.1:15053")
	serveUDP(t, l.peer, "upstream", ":53")
	run(t, `table inet firewall { chain in { type filter hook input priority 0; policy drop; ct state established,related accept; iif lo accept; }; }`,
		"ip", "netns", "exec", l.host, "nft", "-f", "-")
	if err := Install(everything(), l.path()); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[int]string{1000: "agent", DefaultProxyID: "upstream", 2015: "upstream", 2000: "upstream"} {
		if got, _ := ask(t, l.host, uid, 0, net.JoinHostPort(peer4, "53")); got != want {
			t.Errorf("user %d: answered by %s, want %s", uid, got, want)
		}
	}
}

// TestDNSOfOpenSockets: who has a socket open when rules come or go is answered.
func TestDNSOfOpenSockets(t *testing.T) {
	l := newLab(t)
	serveUDP(t, l.host, "agent", "127.0.0.1:15053")
	serveUDP(t, l.peer, "upstream", ":53")
	var c net.Conn
	as(t, l.host, 1000, 1000, func() {
		var err error
		if c, err = net.Dial("udp", net.JoinHostPort(peer4, "53")); err != nil {
			t.Error(err)
		}
	})
	defer c.Close()
	// Without a rule that looks at conntrack nothing is tracked.
	run(t, `table inet firewall { chain in { type filter hook input priority 0; ct state established accept; }; }`,
		"ip", "netns", "exec", l.host, "nft", "-f", "-")
	for _, step := range []struct {
		do   func() error
		want string
	}{
		{func() error { return nil }, "upstream"},
		{func() error { return Install(everything(), l.path()) }, "agent"},
		{func() error { return Remove(l.path()) }, "upstream"},
		{func() error { return Install(everything(), l.path()) }, "agent"},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got := exchange(c); got != step.want {
			t.Errorf("answered by %s, want %s", got, step.want)
		}
	}
}

func TestNameservers(t *testing.T) {
	path := t.TempDir() + "/resolv.conf"
	text := "# nameserver 1.1.1.1\nsearch a b\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver nonsense\nnameserver fd00::1\noptions ndots:5\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Nameservers(path)
	want := []netip.Addr{netip.MustParseAddr("127.0.0.53"), netip.MustParseAddr("fd00::1")}
	if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("%v, %v", got, err)
	}
	if err := os.WriteFile(path, []byte("search a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Nameservers(path); err == nil || !strings.Contains(err.Error(), "none in") {
		t.Errorf("error %v", err)
	}
}

// unprivileged runs f in the host's namespace on a thread without capabilities.
func unprivileged(l lab, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			file, err := os.Open("/run/netns/" + l.host)
			if err != nil {
				return err
			}
			defer file.Close()
			if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var none [2]unix.CapUserData
			if err := unix.Capset(&header, &none[0]); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}
