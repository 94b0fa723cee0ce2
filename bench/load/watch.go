package load

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Watch times one change at many proxies: when each acknowledged it.
type Watch struct {
	typeURL, name string
	after         int64

	mu      sync.Mutex
	missing map[*Proxy]bool
	acked   map[*Proxy]time.Time
	bytes   int
	count   int
	sent    int
	changed int
	same    int
	done    chan struct{}
}

// watches are those that are open. Proxies look at them without a lock.
type watches struct {
	mu   sync.Mutex
	open atomic.Pointer[[]*Watch]
}

func (w *watches) add(x *Watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := []*Watch{x}
	if old := w.open.Load(); old != nil {
		next = append(next, *old...)
	}
	w.open.Store(&next)
}

func (w *watches) remove(x *Watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var next []*Watch
	for _, o := range *w.open.Load() {
		if o != x {
			next = append(next, o)
		}
	}
	w.open.Store(&next)
}

// answered notes a response that a proxy has acknowledged.
func (w *watches) answered(p *Proxy, r *received, now time.Time) {
	open := w.open.Load()
	if open == nil {
		return
	}
	for _, x := range *open {
		if x.wants(r) {
			x.note(p, r, now)
		}
	}
}

func (x *Watch) wants(r *received) bool {
	if x.name == "" {
		return r.mark > x.after
	}
	if r.typeURL != x.typeURL {
		return false
	}
	_, ok := r.names[x.name]
	return ok
}

func (x *Watch) note(p *Proxy, r *received, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.name != "" && !x.missing[p] {
		return // sent again for another reason
	}
	x.acked[p] = now
	x.bytes += r.size
	x.sent++
	x.changed, x.same = x.changed+r.changed, x.same+r.same
	x.count += len(r.names)
	if x.missing[p] {
		delete(x.missing, p)
		if len(x.missing) == 0 {
			close(x.done)
		}
	}
}

func newWatch(proxies []*Proxy) *Watch {
	x := &Watch{missing: map[*Proxy]bool{}, acked: map[*Proxy]time.Time{}, done: make(chan struct{})}
	for _, p := range proxies {
		x.missing[p] = true
	}
	if len(proxies) == 0 {
		close(x.done)
	}
	return x
}

// Wait returns when every proxy has acknowledged, or with how many have not.
func (x *Watch) Wait(ctx context.Context) (missing int) {
	select {
	case <-x.done:
		return 0
	case <-ctx.Done():
		x.mu.Lock()
		defer x.mu.Unlock()
		return len(x.missing)
	}
}

// Took is the time from a moment to each proxy's last acknowledgement.
func (x *Watch) Took(since time.Time) []time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	out := make([]time.Duration, 0, len(x.acked))
	for _, t := range x.acked {
		out = append(out, t.Sub(since))
	}
	return out
}

// Bytes that the change was on the wire, to all proxies.
func (x *Watch) Bytes() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.bytes
}

// Resources that the change was, for all proxies together.
func (x *Watch) Resources() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.count
}

// Responses in which it came, to all proxies together.
func (x *Watch) Responses() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sent
}

// Content is the bytes of resources that proxies lacked in the version that came, and
// of those that came though they had them, to all together.
func (x *Watch) Content() (changed, same int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.changed, x.same
}
