package zone

import (
	"context"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

// maxOutcomeProblems bounds what is said of one resource.
const maxOutcomeProblems = 10

// refusedByProxy begins the reason of a problem that a proxy has.
const refusedByProxy = "a proxy refuses "

// view is the engine as a platform reads it.
type view struct{ engine *engine }

var _ platform.View = view{}

// bell tells who asked that something has changed. It costs nothing while nobody asks.
type bell struct {
	mu sync.Mutex
	ch chan struct{}
}

func (b *bell) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// Changed implements platform.View.
func (v view) Changed() <-chan struct{} { return v.engine.moved.wait() }

// State implements platform.View.
func (v view) State(ctx context.Context) (platform.State, error) {
	var out platform.State
	// The operations of a batch run before it is taken: what this sees is the
	// batch before, whole.
	err := v.engine.await(ctx.Done(), &op{looks: true, run: func(*batch) { out = v.engine.state() }})
	return out, err
}

func (e *engine) state() platform.State {
	at := e.position.Load()
	out := platform.State{Known: at != nil && at.Revision > 0, Outcomes: map[mesh.Key]platform.Outcome{}}
	for _, k := range mesh.Kinds() {
		if k.Cluster == mesh.NotInCluster {
			continue
		}
		all := e.world.Resources(k.Name)
		for _, r := range all {
			if r.Zone == "" && (e.synced[r.Key] || hasKey(e.kept, r.Key)) {
				out.Authored = append(out.Authored, r)
			}
		}
		if k.Policy != nil && len(all) > 0 {
			e.outcomes(k, all, out.Outcomes)
		}
	}
	out.Names = map[mesh.Key]mesh.ServiceNames{}
	for _, names := range e.serviceNames {
		maps.Copy(out.Names, names)
	}
	for k := range e.hidden {
		o := out.Outcomes[k]
		o.Hides = true
		out.Outcomes[k] = o
	}
	for _, p := range e.problems() {
		o := out.Outcomes[p.key]
		if strings.HasPrefix(p.reason, refusedByProxy) {
			o.Rejected += p.proxies
		}
		if len(o.Problems) < maxOutcomeProblems {
			o.Problems = append(o.Problems, p.reason)
		}
		out.Outcomes[p.key] = o
	}
	for k, o := range out.Outcomes {
		o.Rejected = min(o.Rejected, o.Affected)
		o.Done = max(0, min(o.Done, o.Affected-o.Rejected))
		out.Outcomes[k] = o
	}
	return out
}

// span is when a batch was published.
type span struct{ from, to time.Time }

// changedPolicies are the policies that a batch changes, which is not taken yet; a
// snapshot has many that it does not. The value says whether it ends.
func (e *engine) changedPolicies(b *batch) map[mesh.Key]bool {
	var out map[mesh.Key]bool
	e.world.View(func(r ir.Reader) {
		for _, list := range [][]mesh.Change{b.changes, b.local} {
			for _, c := range list {
				k, ok := mesh.KindByName(c.Resource.Kind)
				if !ok || k.Policy == nil {
					continue
				}
				if o, had := r.Get(c.Resource.Key); had && !c.Deleted && sameResource(o.Resource, c.Resource) {
					continue
				}
				if out == nil {
					out = map[mesh.Key]bool{}
				}
				out[c.Resource.Key] = c.Deleted
			}
		}
	})
	return out
}

// noteChanged remembers when the batch was published that changed some policies:
// what is published at other times is no concern of theirs.
func (e *engine) noteChanged(policies map[mesh.Key]bool, s span) {
	for k, ended := range policies {
		if ended {
			delete(e.changed, k)
		} else {
			e.changed[k] = s
		}
	}
}

// outcomes counts the proxies that policies of a kind select.
func (e *engine) outcomes(k mesh.Kind, all []mesh.Resource, out map[mesh.Key]platform.Outcome) {
	policies := make([]mesh.PolicyResource, 0, len(all))
	for _, r := range all {
		if spec, err := mesh.DecodeSpec(r.Kind, r.Spec); err == nil {
			policies = append(policies, mesh.PolicyResource{Resource: r, Decoded: spec})
		}
	}
	for id, c := range e.classes {
		if c.ir.Role == ir.Ingress {
			continue
		}
		connected := 0
		for _, p := range c.members {
			if p.presence == present {
				connected++
			}
		}
		if connected == 0 {
			continue
		}
		for _, s := range mesh.SelectPolicies(k.Name, policies, classMeta(c.ir, e.cfg.zone)) {
			o := out[s.Key]
			o.Affected += connected
			o.Done += connected - min(e.tracker.behind(id, e.changed[s.Key]), connected)
			out[s.Key] = o
		}
	}
}

// classMeta is a class as policies select it.
func classMeta(c *ir.Class, zone string) mesh.ProxyMeta {
	labels := make(map[string]string, len(c.Labels)+3)
	maps.Copy(labels, c.Labels)
	labels[mesh.LabelMesh], labels[mesh.LabelZone] = c.Mesh, zone
	if c.Name != "" {
		labels[mesh.LabelDisplayName] = c.Name
	}
	meta := mesh.ProxyMeta{Mesh: c.Mesh, Zone: zone, Name: c.Name, Labels: labels}
	for _, in := range c.Inbounds {
		meta.Sections = append(meta.Sections, in.Name)
	}
	return meta
}

// behind is how many proxies of a group have not confirmed what was published in a
// time.
func (t *tracker) behind(group string, in span) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, p := range t.open[group] {
		if !p.published.Before(in.from) && !p.published.After(in.to) {
			n = max(n, p.behind)
		}
	}
	return n
}

func hasKey(m map[mesh.Key]mesh.Resource, k mesh.Key) bool {
	_, ok := m[k]
	return ok
}
