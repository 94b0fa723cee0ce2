package zone

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"reflect"
	"runtime/debug"
	"slices"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/effect"
	wire "github.com/tombolo-mesh/tombolo/proto/zonesync"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/xds/delta"
)

// Bounds of a preview.
const (
	// maxPlanned bounds the groups of effects, the lines of one, and the problems.
	maxPlanned = 1000
	// maxPlaces bounds the places of one line.
	maxPlaces = 50
	// maxDiffs bounds the resources of Envoy of one group that are compared line by line.
	maxDiffs = 200
	// planWorkers compile for a plan: the live engine has the rest of the machine.
	planWorkers = 1
)

// plan answers what a change would do: it forks the engine, lets the fork take the
// change exactly as the engine would, and says how the two differ.
func (i inspector) plan(ctx context.Context, q wire.Question, w io.Writer) error {
	var p wire.Plan
	if err := json.Unmarshal(q.Body, &p); err != nil {
		return fmt.Errorf("plan: the body is no list of changes: %w", err)
	}
	// One at a time: a fork is as large as what the change reaches.
	select {
	case i.e.planning <- struct{}{}:
		defer func() { <-i.e.planning }()
	case <-ctx.Done():
		return ctx.Err()
	}
	began := time.Now()
	var c *copied
	if err := i.e.await(ctx.Done(), &op{looks: true, run: func(*batch) { c = i.e.copy() }}); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx) // the asker has left while the loop was busy
	}
	fork := c.engine()
	fork.cfg.left = func() bool { return ctx.Err() != nil }
	out, err := fork.guarded(p, i.e.log)
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	out.Micros = time.Since(began).Microseconds()
	return json.NewEncoder(w).Encode(out)
}

// guarded is preview, of which a defect ends the plan and not the zone.
func (f *engine) guarded(p wire.Plan, log *slog.Logger) (out *wire.Preview, err error) {
	err = contained(log, func() { out = f.preview(p) })
	if err == nil && out == nil {
		err = errLeft
	}
	return out, err
}

// contained runs what a fork does: it shares nothing that it may change, so a defect ends
// the question and not the zone.
func contained(log *slog.Logger, run func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			log.Error("a plan failed", "panic", r, "stack", string(debug.Stack()))
			err = errors.New("the zone cannot preview this change; its log says why")
		}
	}()
	run()
	return nil
}

// errLeft ends a preview that nobody waits for.
var errLeft = errors.New("who asked has left")

// preview takes a change into a fork and says what became another; nil, when who asked
// has left.
func (f *engine) preview(p wire.Plan) *wire.Preview {
	f.cfg.workers = planWorkers
	f.adoptEveryone()
	f.process(nil) // what the loop had not come to yet is no effect of the change
	if f.isLeft() {
		return nil
	}
	before := f.outcome()
	at := f.position.Load().Revision
	f.foresee(p.Changes)
	if f.isLeft() {
		return nil
	}
	out := f.compare(before, f.outcome(), p.Envoy)
	out.Revision = at
	return out
}

// foresee takes a change into a fork.
func (f *engine) foresee(planned []wire.PlannedChange) {
	changes := make([]mesh.Change, len(planned))
	for i := range planned {
		changes[i] = planned[i].Change()
	}
	next := *f.position.Load()
	next.Revision = max(next.Revision, 1) // global asks, so there is one
	f.process([]*op{{run: func(b *batch) { f.take(b, next, f.mark, changes) }, done: func(error) {}}})
}

// adoptEveryone gives pods a class whose agents are with other instances of the
// zone, so that whichever instance is asked answers for all.
func (f *engine) adoptEveryone() {
	f.everyone = true
	for _, p := range f.proxies {
		if p.class == nil {
			f.dirty[p.unit] = true
		}
	}
}

// outcome is everything that an engine came to.
type outcome struct {
	proxies  map[mesh.Key]result
	sets     map[string]*ir.EndpointSet
	names    map[string]*ir.NameTable
	problems []problem
	facts    map[mesh.Key]mesh.Resource
}

// result is what one proxy has. It is comparable: proxies of which both results are
// the same have the same effects.
type result struct {
	class *ir.Class
	proxy *ir.Proxy
	hash  string
	// resources of Envoy, as they are sent.
	resources *resources
	spiffeID  string
	identity  mesh.Key
}

func (f *engine) outcome() *outcome {
	out := &outcome{proxies: make(map[mesh.Key]result, len(f.proxies)), sets: make(map[string]*ir.EndpointSet, len(f.sets)),
		names: maps.Clone(f.names), problems: f.problems(), facts: f.facts.whole()}
	all := map[*class]*resources{}
	for k, p := range f.proxies {
		if p.class == nil || p.presence == lost {
			continue
		}
		if all[p.class] == nil {
			all[p.class] = &resources{shared: p.class.set}
		}
		r := result{class: p.class.ir, proxy: p.class.proxy, hash: p.class.hash, resources: all[p.class]}
		if p.decision != nil {
			r.spiffeID, r.identity = p.decision.SpiffeID, p.decision.Source
		}
		out.proxies[k] = r
	}
	for name, s := range f.sets {
		out.sets[name] = s.endpoint
	}
	for _, c := range f.classes {
		if c.failure != "" {
			out.problems = append(out.problems, problem{key: c.ir.Owner(f.cfg.zone), reason: "the configuration cannot be built, and the last one stays: " + c.failure, proxies: len(c.members)})
		}
	}
	return out
}

// compare says how two outcomes of a fork differ.
func (f *engine) compare(before, after *outcome, envoy bool) *wire.Preview {
	out := &wire.Preview{Zone: f.cfg.zone, Revision: f.position.Load().Revision, Proxies: len(before.proxies)}
	f.compareProxies(out, before, after, envoy)
	f.compareShared(out, before, after)
	f.compareProblems(out, before, after)
	out.Tells = told(before.facts, after.facts)
	return out
}

// step is a way from one result to another.
type step struct{ from, to result }

func (f *engine) compareProxies(out *wire.Preview, before, after *outcome, envoy bool) {
	steps := map[step][]mesh.Key{}
	for _, k := range sortedKeys(before.proxies) {
		s := step{before.proxies[k], after.proxies[k]}
		if s.from.hash != s.to.hash || s.from.spiffeID != s.to.spiffeID {
			steps[s] = append(steps[s], k)
		}
	}
	groups := map[string]*wire.PlannedEffect{}
	var diffs *differ
	if envoy {
		diffs = &differ{known: map[[2]*delta.Resource]string{}}
	}
	for _, s := range slices.SortedFunc(maps.Keys(steps), func(a, b step) int {
		return cmp.Or(cmp.Compare(a.from.class.Mesh, b.from.class.Mesh), compareKeys(steps[a][0], steps[b][0]))
	}) {
		lines := s.lines(f.cfg.zone)
		if len(lines) == 0 {
			continue
		}
		out.Affected += len(steps[s])
		f.group(out, groups, s, lines, steps[s], diffs)
	}
	for _, k := range slices.Sorted(maps.Keys(groups)) {
		out.Effects = append(out.Effects, *groups[k])
	}
	slices.SortStableFunc(out.Effects, func(a, b wire.PlannedEffect) int {
		return cmp.Or(cmp.Compare(a.Mesh, b.Mesh), cmp.Compare(b.Role, a.Role), cmp.Compare(b.Proxies, a.Proxies), cmp.Compare(a.Workloads[0].Name, b.Workloads[0].Name))
	})
	if n := len(out.Effects); n > maxPlanned {
		out.Omitted += n - maxPlanned
		out.Effects = out.Effects[:maxPlanned]
	}
}

// group files proxies with those on whom the change has the same effects.
func (f *engine) group(out *wire.Preview, groups map[string]*wire.PlannedEffect, s step, lines []effect.Line, keys []mesh.Key, diffs *differ) {
	role := "sidecar"
	if s.from.class.Role == ir.Ingress {
		role = "ingress"
	}
	if n := len(lines); n > maxPlanned {
		out.Omitted += n - maxPlanned
		lines = lines[:maxPlanned]
	}
	key := s.from.class.Mesh + " " + role + " " + string(mustJSON(lines))
	if diffs != nil {
		key += " " + s.from.class.ID // each class has resources of its own
	}
	g := groups[key]
	if g == nil {
		g = &wire.PlannedEffect{Mesh: s.from.class.Mesh, Role: role, Lines: bounded(lines)}
		if diffs != nil {
			g.Envoy = diffs.compare(s.from.resources, s.to.resources)
		}
		groups[key] = g
	}
	name := cmp.Or(s.from.class.Labels[mesh.LabelWorkload], s.from.class.ID)
	if ns := s.from.class.Labels[mesh.LabelNamespace]; ns != "" {
		name = mesh.NamespacedName(name, ns)
	}
	at, ok := slices.BinarySearchFunc(g.Workloads, name, func(w wire.PlannedWorkload, n string) int { return cmp.Compare(w.Name, n) })
	if !ok {
		g.Workloads = slices.Insert(g.Workloads, at, wire.PlannedWorkload{Name: name})
	}
	w := &g.Workloads[at]
	g.Proxies += len(keys)
	w.Proxies += len(keys)
	for _, k := range keys[:min(len(keys), maxNames-min(maxNames, len(w.Names)))] {
		w.Names = append(w.Names, k.Name)
	}
}

// lines of effect of a step.
func (s step) lines(zone string) []effect.Line {
	var out []effect.Line
	if s.from.spiffeID != s.to.spiffeID {
		l := effect.Line{Sign: effect.Changed, Area: effect.Identity, Bearing: effect.Alters, Text: fmt.Sprintf("identity %s → %s", cmp.Or(s.from.spiffeID, "none"), cmp.Or(s.to.spiffeID, "none"))}
		if key := cmp.Or(s.to.identity, s.from.identity); key != (mesh.Key{}) {
			l.Causes = []effect.Cause{effect.CauseOf(ir.Source{Key: key})}
		}
		out = append(out, l)
	}
	if s.from.hash == s.to.hash {
		return out
	}
	return append(out, effect.Diff(s.from.proxy, s.to.proxy)...)
}

// bounded keeps the first places of each line.
func bounded(lines []effect.Line) []effect.Line {
	for i := range lines {
		if n := len(lines[i].At); n > maxPlaces {
			lines[i].At = append(slices.Clone(lines[i].At[:maxPlaces]), fmt.Sprintf("and %d more", n-maxPlaces))
		}
	}
	return lines
}

// compareShared compares endpoint sets that both outcomes have, and names. Sets
// that come or go are said by the destinations that come or go.
func (f *engine) compareShared(out *wire.Preview, before, after *outcome) {
	lines := map[string][]effect.Line{}
	for _, name := range slices.Sorted(maps.Keys(before.sets)) {
		a, b := before.sets[name], after.sets[name]
		if s := f.sets[name]; s != nil && a != nil && b != nil && a != b {
			lines[s.ref.Mesh] = append(lines[s.ref.Mesh], effect.EndpointSets(a, b)...)
		}
	}
	for meshName := range after.names {
		if a, b := before.names[meshName], after.names[meshName]; a != b {
			lines[meshName] = append(lines[meshName], effect.Names(a, b)...)
		}
	}
	for _, meshName := range slices.Sorted(maps.Keys(lines)) {
		list := lines[meshName]
		if len(list) == 0 {
			continue
		}
		if n := len(list); n > maxPlanned {
			out.Omitted += n - maxPlanned
			list = list[:maxPlanned]
		}
		out.Shared = append(out.Shared, wire.SharedEffect{Mesh: meshName, Lines: bounded(list)})
	}
}

func (f *engine) compareProblems(out *wire.Preview, before, after *outcome) {
	type id struct {
		key    mesh.Key
		reason string
	}
	had := map[id]bool{}
	for _, p := range before.problems {
		had[id{p.key, p.reason}] = true
	}
	for _, p := range after.problems {
		if had[id{p.key, p.reason}] {
			continue
		}
		if len(out.Problems) == maxPlanned {
			out.Omitted++
			continue
		}
		out.Problems = append(out.Problems, wire.PlannedProblem{Kind: p.key.Kind, Mesh: p.key.Mesh, Name: p.key.RESTName(), Reason: p.reason, Proxies: p.proxies})
	}
}

// told names what the zone would tell other zones otherwise.
func told(before, after map[mesh.Key]mesh.Resource) []string {
	across := map[mesh.KindName]bool{}
	for _, k := range mesh.Kinds() {
		across[k.Name] = k.Flow.Has(mesh.AcrossZones)
	}
	var out []string
	for _, k := range sortedKeys(after) {
		if old, had := before[k]; across[k.Kind] && (!had || !reflect.DeepEqual(old.Spec, after[k].Spec)) {
			out = append(out, k.String())
		}
	}
	for _, k := range sortedKeys(before) {
		if _, is := after[k]; across[k.Kind] && !is {
			out = append(out, k.String())
		}
	}
	slices.Sort(out)
	return out[:min(len(out), maxPlanned)]
}

// resourceTypes in the order in which Envoy gets them.
func resourceTypes() []string {
	return []string{xds.ClusterType, xds.EndpointType, xds.ListenerType, xds.RouteType, xds.ExtensionType, xds.SecretType}
}
