package zone

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/xds/delta"
	"github.com/tombolo-mesh/tombolo/zone/agents"
	"github.com/tombolo-mesh/tombolo/zone/disk"
	"github.com/tombolo-mesh/tombolo/zone/world"
)

// copied is an engine between two batches: copies of its tables, in which classes,
// sets and layers still point at each other as in the original. Taking it is all
// that the loop has to do for a fork.
type copied struct {
	fork    *engine
	classes map[*class]*class
	sets    map[*set]*set
	layers  map[*layer]*layer
}

// copy runs in the loop, between two batches. What it copies shallowly is never
// changed in place: compiled proxies, endpoint sets, resources, objects of the
// world, what units stood for.
//
// Every field of engine, class, set, layer, unit, proxy and vips is decided on
// here; a test knows their names.
func (e *engine) copy() *copied {
	f := &engine{
		cfg: e.cfg, log: slog.New(slog.DiscardHandler), metrics: newMetrics(nil), world: e.world.Fork(), session: e.session,
		stopped: make(chan struct{}),
		dirty:   maps.Clone(e.dirty), units: make(map[world.Unit]*unit, len(e.units)),
		proxies: make(map[mesh.Key]*proxy, len(e.proxies)), census: e.census, named: maps.Clone(e.named), classes: make(map[string]*class, len(e.classes)), faulty: maps.Clone(e.faulty), vacant: maps.Clone(e.vacant),
		sets: make(map[string]*set, len(e.sets)), layers: make(map[string]*layer, len(e.layers)), bundles: maps.Clone(e.bundles),
		built: e.built, memo: e.memo, authorities: maps.Clone(e.authorities), domains: maps.Clone(e.domains),
		synced: maps.Clone(e.synced), kept: maps.Clone(e.kept), files: maps.Clone(e.files),
		authored: maps.Clone(e.authored), hidden: maps.Clone(e.hidden), changed: maps.Clone(e.changed), counters: maps.Clone(e.counters),
		given: maps.Clone(e.given), called: maps.Clone(e.called), vips: e.vips.copy(), names: maps.Clone(e.names),
		serviceNames: maps.Clone(e.serviceNames), permissions: maps.Clone(e.permissions),
		quarantines: maps.Clone(e.quarantines), running: e.running,
		unsaved: map[mesh.Key]bool{}, mark: e.mark,
		facts: e.facts.copy(), board: &agents.Board{}, tracker: newTracker(),
	}
	f.cfg.disk, f.cfg.delta, f.cfg.log, f.cfg.registerer = nowhere{}, nobody{}, f.log, nil
	f.cfg.linked, f.cfg.tokensChanged = nil, nil
	f.position.Store(e.position.Load())
	out := &copied{fork: f, classes: make(map[*class]*class, len(e.classes)),
		sets: make(map[*set]*set, len(e.sets)), layers: make(map[*layer]*layer, len(e.layers))}

	units := make([]unit, 0, len(e.units))
	for id, u := range e.units {
		units = append(units, *u)
		f.units[id] = &units[len(units)-1]
	}
	proxies := make([]proxy, 0, len(e.proxies))
	for k, p := range e.proxies {
		proxies = append(proxies, *p)
		next := &proxies[len(proxies)-1]
		if next.control != nil {
			next.control = silent{}
		}
		f.proxies[k] = next
	}
	for id, c := range e.classes {
		next := *c
		f.classes[id], out.classes[c] = &next, &next
	}
	for name, s := range e.sets {
		next := *s
		f.sets[name], out.sets[s] = &next, &next
	}
	for key, l := range e.layers {
		next := *l
		f.layers[key], out.layers[l] = &next, &next
	}
	return out
}

// engine completes a copy outside of the loop: its parts point at each other. It
// is an engine of its own, whose loop nobody runs: process turns it. Nothing that
// it does leaves it.
func (c *copied) engine() *engine {
	for _, x := range c.fork.classes {
		x.members = map[mesh.Key]*proxy{}
		x.layer = c.layers[x.layer]
	}
	for k, p := range c.fork.proxies {
		if p.class = c.classes[p.class]; p.class != nil {
			p.class.members[k] = p
		}
	}
	for _, s := range c.fork.sets {
		s.layers = map[*layer]bool{}
	}
	for _, l := range c.fork.layers {
		sets := make([]*set, len(l.sets))
		for i, s := range l.sets {
			sets[i] = c.sets[s]
			sets[i].layers[l] = true
		}
		l.sets, l.users = sets, map[*class]bool{}
	}
	for _, x := range c.fork.classes {
		if x.layer != nil {
			x.layer.users[x] = true
		}
	}
	return c.fork
}

func (v *vips) copy() *vips {
	return &vips{ranges: v.ranges, of: maps.Clone(v.of), owner: maps.Clone(v.owner), unsaved: maps.Clone(v.unsaved)}
}

func (f *facts) copy() *facts {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := newFacts()
	out.all, out.told, out.names, out.hidden = maps.Clone(f.all), maps.Clone(f.told), maps.Clone(f.names), maps.Clone(f.hidden)
	return out
}

// nowhere is the disk of a fork.
type nowhere struct{}

var _ disk.Store = nowhere{}

// Load implements disk.Store.
func (nowhere) Load() (*disk.State, error) { return &disk.State{}, nil }

// Commit implements disk.Store.
func (nowhere) Commit(disk.Update) error { return nil }

// nobody is to whom a fork publishes.
type nobody struct{}

var _ publisher = nobody{}

func (nobody) Publish(string, int64, bool, ...*delta.Set)               {}
func (nobody) Assign(string, string, *delta.Set)                        {}
func (nobody) Unassign(string)                                          {}
func (nobody) Retire(string)                                            {}
func (nobody) AppendProgress([]delta.Progress, string) []delta.Progress { return nil }
func (nobody) InSync(string) bool                                       { return false }
func (nobody) Rejections() []delta.Rejection                            { return nil }
func (nobody) Verdicts() []delta.Verdict                                { return nil }
func (nobody) LastGood(string) map[delta.Key]delta.Good                 { return nil }
func (nobody) Withhold(string, []delta.Rejection)                       {}

// silent stands for the agent of a proxy in a fork.
type silent struct{}

var _ agents.Control = silent{}

var errFork = errors.New("this proxy is a copy")

func (silent) Resign()                                          {}
func (silent) Terminating()                                     {}
func (silent) Inspect(context.Context, string, io.Writer) error { return errFork }
func (silent) Close(error)                                      {}
