package lab

import (
	"io"
	"net"
	"runtime"

	"github.com/vishvananda/netns"
)

// Listen opens a TCP port on the host.
func (h *Host) Listen(address string) (net.Listener, error) {
	type result struct {
		l   net.Listener
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := netns.Set(h.ns); err != nil {
			made <- result{err: err}
			return
		}
		l, err := net.Listen("tcp", address)
		made <- result{l, err}
	}()
	r := <-made
	return r.l, r.err
}

// Relay makes a server outside of the laboratory reachable on a host: what
// connects to listen there is carried to target here. It ends with the process.
func (h *Host) Relay(listen, target string) error {
	l, err := h.Listen(listen)
	if err != nil {
		return err
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go carry(in, target)
		}
	}()
	return nil
}

func carry(in net.Conn, target string) {
	defer in.Close()
	out, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer out.Close()
	done := make(chan struct{}, 2)
	pipe := func(to, from net.Conn) {
		io.Copy(to, from)
		done <- struct{}{}
	}
	go pipe(in, out)
	go pipe(out, in)
	<-done
}
