package delta

import (
	"runtime"
	"testing"
	"time"
)

// TestCrowd: two thousand proxies are served, hear of a change, and leave nothing
// behind.
func TestCrowd(t *testing.T) {
	before := runtime.NumGoroutine()
	began := time.Now()
	c := newCrowd(t, 2000, 20)
	t.Logf("in sync after %v", time.Since(began).Round(time.Millisecond))
	for _, typeURL := range []string{routeType, endpointType, clusterType, listenerType} {
		began := time.Now()
		c.change(typeURL)
		t.Logf("%s of all changed within %v", short(typeURL), time.Since(began).Round(time.Millisecond))
	}
	c.server.mu.Lock()
	if n := len(c.server.names.sets); n != 1 {
		t.Errorf("%d sets of names for what all subscribed to", n)
	}
	for _, n := range c.server.nodes {
		for _, typ := range n.stream.types {
			if len(typ.over)+len(typ.flying)+len(typ.dirty)+len(typ.flights) > 0 {
				t.Errorf("%s keeps exceptions of %s in sync", n.id, short(typ.typeURL))
			}
			if len(typ.names.added)+len(typ.names.lost) > 0 {
				t.Errorf("%s keeps names of %s of its own", n.id, short(typ.typeURL))
			}
		}
	}
	c.server.mu.Unlock()
	c.stop()
	if n := c.server.Connected(); n != 0 {
		t.Errorf("%d nodes connected after the end", n)
	}
	c.server.mu.Lock()
	if n := len(c.server.names.sets); n > 0 {
		t.Errorf("%d sets of names kept after the end", n)
	}
	c.server.mu.Unlock()
	for deadline := time.Now().Add(60 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}
