package zone

import (
	"net"
	"syscall"
	"testing"
)

// Connections give up early on hosts that are gone.
func TestHostsThatAreGone(t *testing.T) {
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
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct{ option, value int }{
		{optUserTimeout, tcpUserTimeout}, {syscall.TCP_KEEPIDLE, 1}, {syscall.TCP_KEEPINTVL, 1}, {syscall.TCP_KEEPCNT, 2},
	} {
		got := 0
		if err := raw.Control(func(fd uintptr) { got, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, want.option) }); err != nil {
			t.Fatal(err)
		}
		if got != want.value {
			t.Errorf("option %d is %d, not %d", want.option, got, want.value)
		}
	}
}
