package agent

import (
	"context"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// forwarder is another way to an address that counts who comes.
func forwarder(t *testing.T, to string) (address string, came *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	came = &atomic.Int64{}
	r := newRelay(slog.New(slog.DiscardHandler))
	r.lead(to)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		var conns sync.WaitGroup
		defer conns.Wait()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			came.Add(1)
			if target, ok := r.admit(c); ok {
				conns.Go(func() { r.carry(ctx, c, target) })
			}
		}
	})
	t.Cleanup(func() { cancel(); _ = l.Close(); r.lead("127.0.0.1:1"); all.Wait() })
	return l.Addr().String(), came
}

// TestEnvoyFollowsTheAgent: an agent that registers with another instance of the
// zone takes its Envoy along, which goes on with the connections it has.
func TestEnvoyFollowsTheAgent(t *testing.T) {
	z := newFakeZone(t)
	startApp(t, z, hello)
	one, first := forwarder(t, z.address)
	two, second := forwarder(t, z.address)
	z.xds = one
	z.start()
	cfg := podConfig(t, z)
	r := startConfigured(t, z, cfg)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := Wait(ctx, cfg.ReadinessAddress); err != nil {
		t.Fatal(err)
	}
	if first.Load() == 0 || second.Load() != 0 {
		t.Fatalf("envoy came %d times to the first instance, %d to the second", first.Load(), second.Load())
	}
	pid := r.envoyPID(t)
	client := z.client()
	serial, _, err := z.call(ctx, client, "/")
	if err != nil {
		t.Fatal(err)
	}

	z.stop()
	z.mu.Lock()
	z.xds = two
	z.mu.Unlock()
	z.start()
	eventually(t, "envoy comes to the second instance", func() bool { return second.Load() > 0 })
	if now := r.envoyPID(t); now != pid || !alive(pid) {
		t.Errorf("envoy was started again: %d, then %d", pid, now)
	}
	again, closing, err := z.call(ctx, client, "/")
	if err != nil || again != serial || closing {
		t.Errorf("the connection did not survive: %q, then %q (closing %v), %v", serial, again, closing, err)
	}
}

func TestRelay(t *testing.T) {
	echo := func(word string) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		all.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				all.Go(func() { defer c.Close(); _, _ = io.WriteString(c, word); _, _ = io.Copy(io.Discard, c) })
			}
		})
		t.Cleanup(func() { _ = l.Close(); all.Wait() })
		return l.Addr().String()
	}
	a, b := echo("a"), echo("b")
	socket := filepath.Join(t.TempDir(), "xds.sock")
	l, err := listenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	r := newRelay(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.serve(ctx, l) }()
	read := func(c net.Conn) string {
		_ = c.SetReadDeadline(time.Now().Add(60 * time.Second))
		buf := make([]byte, 1)
		if _, err := io.ReadFull(c, buf); err != nil {
			return "closed"
		}
		return string(buf)
	}
	dial := func() net.Conn {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	if got := read(dial()); got != "closed" {
		t.Errorf("before it leads anywhere: %q", got)
	}
	r.lead(a)
	c := dial()
	if got := read(c); got != "a" {
		t.Errorf("to a: %q", got)
	}
	r.lead(a)
	r.lead(b)
	if got := read(c); got != "closed" {
		t.Errorf("the connection to a after it leads to b: %q", got)
	}
	if got := read(dial()); got != "b" {
		t.Errorf("to b: %q", got)
	}
	r.lead("127.0.0.1:1")
	if got := read(dial()); got != "closed" {
		t.Errorf("to nobody: %q", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
