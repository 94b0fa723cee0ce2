package zone

import (
	"net"
	"syscall"
	"testing"

	"google.golang.org/grpc/peer"
)

// Connections give up early on hosts that are gone, those of Envoys later.
func TestPatience(t *testing.T) {
	l, err := listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.RemoteAddr().String() != client.LocalAddr().String() {
		t.Errorf("the peer is %s, not %s", c.RemoteAddr(), client.LocalAddr())
	}
	timeout := func() (ms int) {
		raw, err := c.RemoteAddr().(addr).conn.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) { ms, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, optUserTimeout) }); err != nil {
			t.Fatal(err)
		}
		return ms
	}
	if ms := timeout(); ms != tcpUserTimeout {
		t.Errorf("%d ms, not %d", ms, tcpUserTimeout)
	}
	patient(peer.NewContext(t.Context(), &peer.Peer{Addr: c.RemoteAddr()}))
	if ms := timeout(); ms != tcpPatience {
		t.Errorf("%d ms, not %d for an Envoy", ms, tcpPatience)
	}
	patient(t.Context())
}
