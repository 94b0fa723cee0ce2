package kube

import (
	"maps"
	"slices"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

const (
	// linger is how long a pod still serves a port after the last Service let go of
	// it: whoever was on the way, or holds a connection, is answered. Endpoint sets
	// leave the port out at once, and its mTLS and permissions stay. What a zone
	// that starts just then never knew does not linger.
	linger = 30 * time.Second
	// maxLingering bounds the ports of a pod that linger at a time.
	maxLingering = 16
)

// lingering is a port of a pod that no Service has any more.
type lingering struct {
	inbound mesh.Inbound
	until   time.Time
}

// linger says which inbounds of a pod outlast the Services that had them, given
// what the pod is by its Services now.
func (p *pod) linger(next *platform.Pod, now time.Time) []mesh.Inbound {
	told := p.told
	if told == nil || next == nil || told.UID != next.UID || told.Resource.Key != next.Resource.Key ||
		next.Spec.Networking.TransparentProxying == nil || len(next.Spec.Networking.Listeners) > 0 {
		clear(p.lingering)
		return nil
	}
	served := map[uint32]bool{}
	for i := range next.Spec.Networking.Inbound {
		served[next.Spec.Networking.Inbound[i].Port] = true
	}
	for _, in := range told.Spec.Networking.Inbound {
		if _, already := p.lingering[in.Port]; served[in.Port] || already || len(p.lingering) >= maxLingering {
			continue
		}
		if p.lingering == nil {
			p.lingering = map[uint32]lingering{}
		}
		p.lingering[in.Port] = lingering{inbound: in, until: now.Add(linger)}
	}
	maps.DeleteFunc(p.lingering, func(port uint32, l lingering) bool { return served[port] || !now.Before(l.until) })
	var out []mesh.Inbound
	for _, port := range slices.Sorted(maps.Keys(p.lingering)) {
		out = append(out, p.lingering[port].inbound)
	}
	return out
}

// outlast adds inbounds that linger to those that Services have; they are not ready.
func outlast(inbounds []mesh.Inbound, notReady []string, former []mesh.Inbound) ([]mesh.Inbound, []string) {
	names := map[string]bool{}
	for i := range inbounds {
		names[inbounds[i].SectionName()] = true
	}
	for _, in := range former {
		if names[in.SectionName()] { // the name is another port's now
			in.Name = ""
		}
		if names[in.SectionName()] {
			continue
		}
		names[in.SectionName()] = true
		inbounds, notReady = append(inbounds, in), append(notReady, in.SectionName())
	}
	slices.Sort(notReady)
	return inbounds, notReady
}

// wane marks the pods of which a port has lingered for long enough.
func (m *model) wane(now time.Time) {
	for p := range m.waning {
		if p.own == nil || len(p.lingering) == 0 {
			delete(m.waning, p)
			continue
		}
		for _, l := range p.lingering {
			if !now.Before(l.until) {
				m.dirtyPods[p] = true
			}
		}
	}
}

// due is when flush has something to say though nothing happens; zero for never.
func (m *model) due() time.Time {
	var first time.Time
	for p := range m.waning {
		for _, l := range p.lingering {
			if first.IsZero() || l.until.Before(first) {
				first = l.until
			}
		}
	}
	return first
}
