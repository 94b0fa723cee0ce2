package ports

import (
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
)

// TestFree: all that is reserved at once differs, can be bound, and is outside of
// what the kernel gives to outgoing connections.
func TestFree(t *testing.T) {
	var mu sync.Mutex
	seen := map[int]bool{}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				port, release, err := Reserve()
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(release)
				mu.Lock()
				if seen[port] {
					t.Error("given twice:", port)
				}
				seen[port] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(seen) != 400 {
		t.Error("only", len(seen))
	}
}

func TestCandidates(t *testing.T) {
	for kernel, want := range map[string][2]int{
		"32768\t60999\n": {32767 - 20000 + 1 + 65535 - 61000 + 1, 20000},
		"10000 30000":    {65535 - 30001 + 1, 30001},
		"1024 65535":     {65535 - 20000 + 1, 20000}, // nothing is left outside
	} {
		got, err := candidates(kernel)
		if err != nil || len(got) != want[0] || got[0] != want[1] {
			t.Errorf("%q: %d from %d, %v", kernel, len(got), got[0], err)
		}
	}
	for _, kernel := range []string{"", "1", "a b"} {
		if _, err := candidates(kernel); err == nil {
			t.Errorf("%q is taken", kernel)
		}
	}
}

// TestTaken: a port is not given out while somebody has it, in whichever way.
func TestTaken(t *testing.T) {
	port := Free(t)
	if release, err := take(port); err == nil {
		release()
		t.Error("reserved twice")
	}
	for _, at := range []struct{ network, host string }{{"tcp", "127.0.0.1"}, {"tcp", "127.0.0.9"}, {"tcp", ""}, {"udp", "127.0.0.1"}} {
		port, release, err := Reserve()
		if err != nil {
			t.Fatal(err)
		}
		address := net.JoinHostPort(at.host, strconv.Itoa(port))
		var listener io.Closer
		if at.network == "tcp" {
			listener, err = net.Listen("tcp", address)
		} else {
			listener, err = net.ListenPacket("udp", address)
		}
		if err != nil {
			t.Fatal(err)
		}
		release()
		if release, err := take(port); err == nil {
			release()
			t.Errorf("%+v: given while somebody listens", at)
		}
		_ = listener.Close()
		if release, err = take(port); err != nil {
			t.Errorf("%+v: not given again: %v", at, err)
		} else {
			release()
		}
	}
}

func TestListen(t *testing.T) {
	l := Listen(t)
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	_ = l.Close()
	// Also right after its end, with a connection in TIME_WAIT.
	again, err := net.Listen("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
}
