package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Bounds of a relay: one Envoy has one stream, and a second while it reconnects.
const (
	maxRelayed  = 8
	relayDialup = time.Second
)

// relay carries Envoy's stream to the instance of the zone that the agent is
// registered with, so that Envoy stays where it is when instances come and go. It
// sees ciphertext only: TLS is between Envoy and the zone.
type relay struct {
	log *slog.Logger

	mu     sync.Mutex
	target string
	open   map[net.Conn]net.Conn // Envoy's end, to the zone's once it is there
	closed bool
}

func newRelay(log *slog.Logger) *relay { return &relay{log: log, open: map[net.Conn]net.Conn{}} }

// lead leads what comes from now on to another address, and ends what leads elsewhere:
// Envoy connects again at once, and is told only what it has not.
func (r *relay) lead(address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.target == address {
		return
	}
	if r.target != "" {
		r.log.Info("envoy follows to another instance of the zone", "from", r.target, "to", address)
	}
	r.target = address
	r.end()
}

// end closes both ends of everything, so that no copy waits on either. The caller
// holds the lock.
func (r *relay) end() {
	for envoy, zone := range r.open {
		_ = envoy.Close()
		if zone != nil {
			_ = zone.Close()
		}
	}
}

// serve takes Envoy's connections until ctx ends.
func (r *relay) serve(ctx context.Context, listener net.Listener) error {
	stop := context.AfterFunc(ctx, func() {
		_ = listener.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.closed = true
		r.end()
	})
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("relay: %w", err)
		}
		target, ok := r.admit(c)
		if !ok {
			_ = c.Close()
			continue
		}
		all.Go(func() { r.carry(ctx, c, target) })
	}
}

func (r *relay) admit(c net.Conn) (target string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.target == "" || len(r.open) >= maxRelayed {
		return "", false
	}
	r.open[c] = nil
	return r.target, true
}

// carry copies in both directions until either end closes.
func (r *relay) carry(ctx context.Context, envoy net.Conn, target string) {
	defer func() {
		_ = envoy.Close()
		r.mu.Lock()
		delete(r.open, envoy)
		r.mu.Unlock()
	}()
	dial, cancel := context.WithTimeout(ctx, relayDialup)
	zone, err := (&net.Dialer{}).DialContext(dial, "tcp", target)
	cancel()
	if err != nil {
		r.log.Debug("zone not reached for envoy", "address", target, "error", err)
		return // Envoy tries again
	}
	if !r.join(envoy, zone, target) {
		_ = zone.Close()
		return
	}
	done := make(chan struct{})
	go func() { // ends when either connection is closed, which happens below
		defer close(done)
		_, _ = io.Copy(zone, envoy)
		_ = zone.Close()
	}()
	_, _ = io.Copy(envoy, zone)
	_ = envoy.Close()
	_ = zone.Close()
	<-done
}

// join makes a connection to the zone the other end of Envoy's, unless it leads to
// where nothing shall lead any more.
func (r *relay) join(envoy, zone net.Conn, target string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.target != target {
		return false
	}
	r.open[envoy] = zone
	return true
}
