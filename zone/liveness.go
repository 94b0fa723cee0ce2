package zone

import (
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Rules of doubt: when within doubtWindow at least doubtLeast proxies, and more
// than half of those that were there, vanish without a goodbye, then it is
// probably the zone that cannot see. Those beyond keep their place for a while.
const (
	doubtWindow = 2 * time.Second
	doubtLeast  = 3
)

// liveness has the deadlines of proxies whose streams are not there.
type liveness struct {
	// losses in the window, with how many were there before the first of them.
	losses []time.Time
	before int
	// presumed proxies count as connected until then.
	presumed map[mesh.Key]time.Time
	// leases of lost proxies end then.
	leases map[mesh.Key]time.Time
}

// timer fires at the next deadline, if there is one: an idle zone has none.
func (l *liveness) timer() (due <-chan time.Time, stop func()) {
	var next time.Time
	for _, deadlines := range []map[mesh.Key]time.Time{l.presumed, l.leases} {
		for _, t := range deadlines {
			if next.IsZero() || t.Before(next) {
				next = t
			}
		}
	}
	if next.IsZero() {
		return nil, func() {}
	}
	t := time.NewTimer(max(0, time.Until(next)))
	return t.C, func() { t.Stop() }
}

// back forgets the deadlines of a proxy that returned, or that left for good.
func (l *liveness) back(k mesh.Key) {
	delete(l.presumed, k)
	delete(l.leases, k)
}

func (l *liveness) presume(k mesh.Key, until time.Time) {
	if l.presumed == nil {
		l.presumed = map[mesh.Key]time.Time{}
	}
	l.presumed[k] = until
}

func (l *liveness) lease(k mesh.Key, until time.Time) {
	if l.leases == nil {
		l.leases = map[mesh.Key]time.Time{}
	}
	l.leases[k] = until
}

// doubted notes a loss and says whether it shall not be believed yet.
func (l *liveness) doubted(now time.Time, connected int) bool {
	for len(l.losses) > 0 && now.Sub(l.losses[0]) > doubtWindow {
		l.losses = l.losses[1:]
	}
	if len(l.losses) == 0 {
		l.before = connected
	}
	l.losses = append(l.losses, now)
	return len(l.losses) >= doubtLeast && 2*len(l.losses) > l.before
}

// vanish takes a proxy whose stream broke out of endpoint sets, at once, unless
// too many others vanished with it.
func (e *engine) vanish(b *batch, p *proxy) {
	if p.presence == lost {
		return // it was believed before, and what is lost comes back by joining alone
	}
	key := p.resource.Key
	connected := 0
	for _, x := range e.proxies {
		if x.connected() && (x.pod == nil || x.control != nil || x == p || x.presence == presumed) {
			connected++
		}
	}
	if e.liveness.doubted(b.now, connected) {
		e.metrics.doubted.Inc()
		e.log.Warn("more than half of the proxies vanished at once; this one keeps its place for now", "proxy", key.String(), "for", e.cfg.doubt)
		e.count(p, presumed)
		e.liveness.presume(key, b.now.Add(e.cfg.doubt))
		return
	}
	e.lose(b, p)
}

func (e *engine) lose(b *batch, p *proxy) {
	key := p.resource.Key
	e.count(p, lost)
	p.lostAt = b.now.UTC()
	e.liveness.back(key)
	if p.pod != nil {
		e.liveness.lease(key, b.now.Add(e.cfg.retake))
	} else {
		e.liveness.lease(key, b.now.Add(e.cfg.lease))
	}
	e.dirty[p.unit] = true
	b.saveLate[p.resource.Key] = true
}

// expire believes and forgets what is due.
func (e *engine) expire(b *batch) {
	for _, k := range sortedKeys(e.liveness.presumed) {
		if p := e.proxies[k]; p != nil && !e.liveness.presumed[k].After(b.now) {
			e.log.Info("proxy did not come back", "proxy", k.String())
			e.lose(b, p)
		}
	}
	for _, k := range sortedKeys(e.liveness.leases) {
		if p := e.proxies[k]; p != nil && !e.liveness.leases[k].After(b.now) {
			if p.pod != nil {
				e.retake(p)
				continue
			}
			e.log.Info("proxy forgotten", "proxy", k.String(), "lease", e.cfg.lease)
			e.forget(b, p)
		}
	}
}
