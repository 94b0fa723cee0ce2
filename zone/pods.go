package zone

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

// sink is the engine as a platform sees it.
type sink struct{ e *engine }

var _ platform.Sink = sink{}

// Apply implements platform.Sink.
func (s sink) Apply(ctx context.Context, in platform.Batch) error {
	return s.e.do(ctx.Done(), func(b *batch) { s.e.takePlatform(b, in) })
}

// Recall implements platform.Sink.
func (s sink) Recall(ctx context.Context) (map[string]uint64, error) {
	var out map[string]uint64
	err := s.e.do(ctx.Done(), func(*batch) { out = maps.Clone(s.e.counters) })
	return out, err
}

// takePlatform files what a platform told.
func (e *engine) takePlatform(b *batch, in platform.Batch) {
	for _, k := range sortedKeys(in.Resources) {
		e.takeResource(b, k, in.Resources[k], in.Authored)
	}
	for k, pod := range in.Pods {
		e.takePod(b, k, pod)
	}
	e.giveAddresses(in.Addresses)
	for name, n := range in.Remember {
		if e.counters[name] == n {
			continue
		}
		if e.counters == nil {
			e.counters = map[string]uint64{}
		}
		e.counters[name] = n
		// It may follow: until it is on disk, what it says can be seen again.
		if b.late.Counters == nil {
			b.late.Counters = map[string]uint64{}
		}
		b.late.Counters[name] = n
	}
}

// takeResource files a resource of one of the two sources, or its end. Of two with
// the same key the authored one counts; the other waits in e.hidden.
func (e *engine) takeResource(b *batch, k mesh.Key, r *mesh.Resource, authored bool) {
	theirs, is := e.authored[k], e.files[k]
	switch {
	case !authored && theirs && r == nil:
		delete(e.hidden, k)
	case !authored && theirs:
		e.tellHidden(k)
		e.hidden[k] = *r
	case !authored:
		e.setResource(b, k, r)
	case r != nil:
		if !theirs && is.Kind != "" {
			e.tellHidden(k)
			e.hidden[k] = is
		}
		e.authored[k] = true
		e.setResource(b, k, r)
	case theirs:
		delete(e.authored, k)
		if other, ok := e.hidden[k]; ok {
			r = &other
			delete(e.hidden, k)
		}
		e.setResource(b, k, r)
	}
}

func (e *engine) tellHidden(k mesh.Key) {
	if _, known := e.hidden[k]; !known {
		e.log.Warn("a resource was authored under the name of one that the platform makes; the authored one counts", "resource", k.String())
	}
}

func (e *engine) setResource(b *batch, k mesh.Key, r *mesh.Resource) {
	old, was := e.files[k]
	switch {
	case r == nil && !was, r != nil && was && sameResource(old, *r):
	case r == nil:
		delete(e.files, k)
		e.declared(b, k, mesh.Resource{}, false)
	default:
		e.files[k] = *r
		e.declared(b, k, *r, true)
	}
}

// takePod makes a pod a member, or what it is now.
func (e *engine) takePod(b *batch, k mesh.Key, pod *platform.Pod) {
	p := e.proxies[k]
	if pod == nil {
		if p != nil {
			e.dismiss(b, p, errors.New("its pod is gone"))
			e.forget(b, p)
		}
		return
	}
	switch {
	case p == nil:
		p = e.member(pod.Resource, pod.Spec)
	case p.pod != nil && p.pod.UID != pod.UID:
		e.dismiss(b, p, errors.New("another pod has its name now"))
		e.count(p, present)
		p.draining, p.lostAt, p.instance, p.warm = false, time.Time{}, "", false
		e.liveness.back(k)
	}
	if control := p.control; control != nil && pod.Draining && (p.pod == nil || !p.pod.Draining) {
		// It is out of endpoint sets with this batch; those who are connected, through
		// ingresses of other zones above all, have to be sent away.
		b.after = append(b.after, control.Terminating)
	}
	p.pod, p.resource, p.spec = pod, pod.Resource, pod.Spec
	p.draining = p.draining || pod.Draining
	e.dirty[p.unit] = true
}

// dismiss ends the stream of a pod's agent.
func (e *engine) dismiss(b *batch, p *proxy, reason error) {
	if control := p.control; control != nil {
		b.after = append(b.after, func() { control.Close(reason) })
	}
	p.control, p.streams = nil, 0
}

// retake believes the API server again about a pod whose stream broke.
func (e *engine) retake(p *proxy) {
	key := p.resource.Key
	e.liveness.back(key)
	e.count(p, present)
	p.lostAt, p.draining = time.Time{}, p.pod.Draining
	e.dirty[p.unit] = true
	if p.pod.Ready && !p.draining {
		e.log.Info("proxy counts again: its pod is ready", "proxy", key.String())
	}
}
