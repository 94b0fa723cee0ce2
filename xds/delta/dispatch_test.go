package delta

import (
	"runtime"
	"testing"
	"testing/synctest"
)

// TestHeldUp: peers that answer what they do not take hold up whoever sends to them, and
// nobody else.
func TestHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := 2*runtime.GOMAXPROCS(0) + 1
		c := newCrowd(t, stuck+10, 5)
		for _, p := range c.peers[:stuck] {
			p.stuck.Store(true)
		}
		c.change(routeType) // until everybody has answered it
		c.stop()
		synctest.Wait()
		d := &c.server.dispatch
		if len(d.running)+len(d.queue) > 0 {
			t.Errorf("%d dispatchers, and %d streams in the queue, are left", len(d.running), len(d.queue))
		}
	})
}

func TestQueueIsInOrderAndLetsGo(t *testing.T) {
	var d dispatch
	all := make([]*stream, 100)
	for i := range all {
		all[i] = &stream{}
	}
	next, most := 0, 0
	for i := range 10_000 {
		d.queue = append(d.queue, all[i%len(all)])
		if i < len(all)/2 {
			continue
		}
		if got := d.pop(); got != all[next%len(all)] {
			t.Fatalf("pop %d is another stream", next)
		}
		next, most = next+1, max(most, cap(d.queue))
	}
	if most > 4*len(all) {
		t.Errorf("a queue of %d took room for %d", len(all)/2, most)
	}
	for d.pop() != nil {
		next++
	}
	if next != 10_000 {
		t.Errorf("%d of 10,000 came out", next)
	}
	for i, st := range d.queue[:cap(d.queue)] {
		if st != nil {
			t.Errorf("the empty queue holds on to a stream, at %d", i)
			break
		}
	}
}
