package zone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	wire "github.com/tombolo-mesh/tombolo/proto/zonesync"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/zone/disk"
)

// plannedBy is a plan as it travels.
func plannedBy(t testing.TB, changes ...mesh.Change) wire.Plan {
	t.Helper()
	p := wire.Plan{Envoy: true}
	for _, c := range changes {
		p.Changes = append(p.Changes, wire.PlannedOf(c))
	}
	var out wire.Plan
	if err := json.Unmarshal(mustJSON(p), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// plan asks the engine of a rig whose loop does not run.
func (r *rig) plan(changes ...mesh.Change) *wire.Preview {
	r.t.Helper()
	var c *copied
	r.e.process([]*op{{looks: true, run: func(*batch) { c = r.e.copy() }, done: func(error) {}}})
	return c.engine().preview(plannedBy(r.t, changes...))
}

// said are the effects of a preview as lines.
func said(p *wire.Preview) string {
	var b strings.Builder
	for _, e := range p.Effects {
		fmt.Fprintf(&b, "%d %s in %s:", e.Proxies, e.Role, e.Mesh)
		for _, w := range e.Workloads {
			fmt.Fprintf(&b, " %s %v", w.Name, w.Names)
		}
		b.WriteByte('\n')
		for _, l := range e.Lines {
			b.WriteString("  " + l.String() + "\n")
		}
		for _, d := range e.Envoy {
			fmt.Fprintf(&b, "  %s %s %s\n", d.Sign, strings.TrimPrefix(d.TypeURL, "type.googleapis.com/"), d.Name)
		}
	}
	for _, s := range p.Shared {
		for _, l := range s.Lines {
			b.WriteString(s.Mesh + ": " + l.String() + "\n")
		}
	}
	for _, x := range p.Problems {
		fmt.Fprintf(&b, "! %s %s/%s: %s (%d)\n", x.Kind, x.Mesh, x.Name, x.Reason, x.Proxies)
	}
	for _, x := range p.Tells {
		b.WriteString("tells " + x + "\n")
	}
	return b.String()
}

// comparable makes of a preview what two of the same change have in common: keys of
// authorities are born anew each time.
func comparablePreview(p *wire.Preview) string {
	q := *p
	q.Micros, q.Revision = 0, 0
	q.Effects = slices.Clone(q.Effects)
	for i := range q.Effects {
		q.Effects[i].Envoy = slices.Clone(q.Effects[i].Envoy)
		for j := range q.Effects[i].Envoy {
			if q.Effects[i].Envoy[j].TypeURL == xds.SecretType {
				q.Effects[i].Envoy[j].Diff = ""
			}
		}
	}
	text, _ := json.MarshalIndent(q, "", " ")
	return string(text)
}

// trace is all that a plan may not touch, by content and by identity.
func (r *rig) trace() string {
	var b strings.Builder
	e := r.e
	e.world.View(func(reader ir.Reader) {
		for _, k := range mesh.Kinds() {
			for _, m := range []string{"", "default", "other"} {
				for _, o := range reader.List(ir.Query{Kind: k.Name, Mesh: m, Index: ir.ByMesh}) {
					fmt.Fprintf(&b, "%p %s %s %s %v %v\n", o, o.Key, o.Spec, o.Status, o.Labels, reader.Addresses(o.Key))
				}
			}
		}
	})
	objects, units, edges := e.world.Size()
	fmt.Fprintln(&b, objects, units, edges, e.dirty, e.counters, e.mark, *e.position.Load(), e.facts.version(), len(r.out.log), e.named, e.called, e.given, e.synced, e.vips)
	for _, id := range sorted(e.units) {
		fmt.Fprintf(&b, "%s %p %v\n", id, e.units[id], reflect.ValueOf(e.units[id].outputs).Pointer())
	}
	for _, id := range sorted(e.classes) {
		c := e.classes[id]
		fmt.Fprintf(&b, "%s %p %p %p %p %s %q", id, c, c.proxy, c.set, c.layer, c.hash, c.failure)
		for _, k := range sortedKeys(c.members) {
			fmt.Fprintf(&b, " %p", c.members[k])
		}
		fmt.Fprintf(&b, " %d\n", len(c.layer.users))
	}
	for _, name := range sorted(e.sets) {
		s := e.sets[name]
		fmt.Fprintf(&b, "%s %p %p %p %d\n", name, s, s.endpoint, s.resource, len(s.layers))
	}
	for _, k := range sortedKeys(e.proxies) {
		p := *e.proxies[k]
		fmt.Fprintf(&b, "%s %+v\n", k, p)
		fmt.Fprintf(&b, "%v\n", published(r.out, e.proxies[k]))
	}
	state, err := r.file.Load()
	if err != nil {
		r.t.Fatal(err)
	}
	b.Write(mustJSON(state))
	return b.String()
}

func sorted[K ~string, V any](m map[K]V) []K {
	var out []K
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// A plan leaves no trace, and says exactly what happens when its change is made.
func TestPlanIsWhatHappens(t *testing.T) {
	for i := range *metaSeeds {
		seed := *metaFrom + uint64(i)
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			h := newHistory(t, seed, 11)
			effects := 0
			for step := range *metaSteps {
				h.step()
				m := h.pick("default", "default", "default", "other")
				var changes []mesh.Change
				for range 1 + h.rnd.IntN(3) {
					if h.rnd.IntN(4) == 0 {
						changes = append(changes, h.writable(h.remote(m))...)
					} else {
						changes = append(changes, h.writable(h.policy(m))...)
					}
				}
				before := h.trace()
				planned := h.plan(changes...)
				if d := cmp.Diff(before, h.trace()); d != "" {
					t.Fatalf("step %d:%s: the plan left a trace:\n%s", step, h.last, d)
				}
				from := h.e.outcome()
				if err := h.turn(h.push(changes...)); err != nil {
					t.Fatal(err)
				}
				happened := h.e.compare(from, h.e.outcome(), true)
				if d := cmp.Diff(comparablePreview(planned), comparablePreview(happened)); d != "" {
					t.Fatalf("step %d:%s: (-planned +happened):\n%s", step, h.last, d)
				}
				effects += len(planned.Effects) + len(planned.Shared)
				if !h.same(step) {
					return
				}
			}
			if effects == 0 {
				t.Error("no change had an effect")
			}
		})
	}
}

// What the engine and its parts consist of, field by field. Who adds one decides in
// copy what a fork has of it (shared, if nothing ever changes in place what it
// points at), and then here that it is decided.
func TestForksKnowEveryField(t *testing.T) {
	for _, c := range []struct {
		of     reflect.Type
		fields string
	}{
		{reflect.TypeFor[engine](), "cfg log metrics world session ops stopped dirty units proxies census named classes faulty vacant sets layers bundles built memo cold authorities domains synced kept files authored hidden changed counters given called vips names serviceNames permissions quarantines running unsaved mark liveness position moved verifiers members facts board tracker asked planning everyone"},
		{reflect.TypeFor[class](), "ir unit members proxy hash instances set layer compiled refs formerRefs permissions failure"},
		{reflect.TypeFor[set](), "ref unit endpoint hash resource layers"},
		{reflect.TypeFor[layer](), "key sets set users"},
		{reflect.TypeFor[unit](), "id stage specs derive outputs"},
		{reflect.TypeFor[proxy](), "unit node resource spec instance control streams agent envoy notReady presence draining lostAt warm pod decision problems class own group ownSet owns ownResources"},
		{reflect.TypeFor[vips](), "ranges of owner unsaved"},
		{reflect.TypeFor[facts](), "changed mu all told names hidden touched current offered confirmed bell"},
	} {
		var have []string
		for i := range c.of.NumField() {
			have = append(have, c.of.Field(i).Name)
		}
		want := strings.Fields(c.fields)
		slices.Sort(have)
		slices.Sort(want)
		if d := cmp.Diff(want, have); d != "" {
			t.Errorf("%s (-decided +there):\n%s", c.of.Name(), d)
		}
	}
}

var _ disk.Store = nowhere{}

func TestPlanThroughTheLoop(t *testing.T) {
	r := newRig(t, "east")
	r.turn(r.push(identityOf(t, "default"), allowAll(t, "default")))
	r.turn(r.join(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound)), r.join(sidecar(t, "default", "web-2", "web", "10.0.0.2", httpInbound)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.e.run(ctx) }()
	deny := put(resource(t, mesh.KindMeshTrafficPermission, "default", "", "deny", `{"rules":[{"default":{"deny":[{"spiffeID":{"type":"Exact","value":"spiffe://default.west.mesh.local/workload/x"}}]}}]}`))
	var out strings.Builder
	if err := (inspector{r.e}).Inspect(t.Context(), wire.Question{What: wire.WhatPlan, Body: mustJSON(plannedBy(t, deny))}, &out); err != nil {
		t.Fatal(err)
	}
	var p wire.Preview
	if err := json.Unmarshal([]byte(out.String()), &p); err != nil {
		t.Fatal(err)
	}
	want := `2 sidecar in default: web [web-1 web-2]
  + inbound http: deny spiffe://default.west.mesh.local/workload/x [narrows] (MeshTrafficPermission default/deny rules[0].default.deny[0])
  ~ envoy.config.core.v3.TypedExtensionConfig rbac_http
`
	if d := cmp.Diff(want, said(&p)); d != "" {
		t.Error(d)
	}
	if p.Zone != "east" || p.Proxies != 2 || p.Affected != 2 || p.Micros == 0 {
		t.Errorf("%+v", p)
	}
	if !strings.Contains(p.Effects[0].Envoy[0].Diff, "+ ") {
		t.Error("no difference of the resource:", p.Effects[0].Envoy[0].Diff)
	}
	if err := (inspector{r.e}).Inspect(t.Context(), wire.Question{What: wire.WhatPlan, Body: []byte("[")}, &out); err == nil {
		t.Error("nonsense is answered")
	}
	cancel()
	<-done
}

// Plans are worked on beside the loop: under the race detector, nothing that they
// share with it is written, and what proxies have is what it would be without them.
func TestPlansBesideTheLoop(t *testing.T) {
	h := newHistory(t, 5, 13)
	for range 40 {
		h.step()
	}
	var plans sync.WaitGroup
	defer plans.Wait()
	for step := range 30 {
		changes := append(h.policy("default"), h.remote("default")...)
		p := plannedBy(t, changes...)
		c := h.e.copy()
		plans.Go(func() { c.engine().preview(p) })
		h.step()
		if !h.same(step) {
			return
		}
	}
}

// A plan whose asker has left compiles no further, and says so.
func TestAPlanThatNobodyWaitsForEnds(t *testing.T) {
	r := newRig(t, "east")
	r.turn(r.push(identityOf(t, "default"), allowAll(t, "default")))
	const classes = 20
	for i := range classes {
		r.turn(r.join(sidecar(t, "default", fmt.Sprintf("web-%d", i), fmt.Sprintf("web-%d", i), fmt.Sprintf("10.0.0.%d", i+1), httpInbound)))
	}
	deny := put(resource(t, mesh.KindMeshTrafficPermission, "default", "", "deny", `{"rules":[{"default":{"deny":[{"spiffeID":{"type":"Exact","value":"spiffe://default.west.mesh.local/workload/x"}}]}}]}`))
	for patience := range 10 {
		f := r.e.copy().engine()
		asked := 0
		f.cfg.left = func() bool { asked++; return asked > patience }
		out, err := f.guarded(plannedBy(t, deny), slog.New(slog.DiscardHandler))
		if !errors.Is(err, errLeft) || out != nil {
			t.Fatalf("patience %d: %v, %v", patience, out, err)
		}
		if asked > patience+5 {
			t.Errorf("patience %d: it went on to ask %d times", patience, asked)
		}
	}
	f := r.e.copy().engine()
	f.cfg.left = func() bool { return false }
	if out, err := f.guarded(plannedBy(t, deny), slog.New(slog.DiscardHandler)); err != nil || len(out.Effects) == 0 {
		t.Errorf("who waits gets %v, %v", out, err)
	}
}
