package world_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/zone/world"
)

// actor does the same random things to any world that it is given.
type actor struct{ rng *rand.Rand }

// step is one thing to do: a batch, or a unit that reads anew.
type step func(w *world.World) []world.Unit

func (a *actor) step() step {
	name := func() string { return fmt.Sprintf("s%d", a.rng.IntN(12)) }
	zone := func() string { return []string{"east", "west"}[a.rng.IntN(2)] }
	key := mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: zone(), Name: name()}
	unit := world.Unit(fmt.Sprintf("u%d", a.rng.IntN(10)))
	counter := fmt.Sprintf("c%d", a.rng.IntN(3))
	value := fmt.Sprintf(`{"ports":[{"port":%d}]}`, 1+a.rng.IntN(5))
	n := uint64(a.rng.IntN(4))
	switch a.rng.IntN(8) {
	case 0:
		return func(w *world.World) []world.Unit { return w.Apply(del(key)).Dirty }
	case 1:
		return func(w *world.World) []world.Unit {
			return w.Apply(world.Batch{Counters: map[string]uint64{counter: n}}).Dirty
		}
	case 2:
		return func(w *world.World) []world.Unit {
			return w.Apply(world.Batch{Addresses: map[mesh.Key][]string{key: {fmt.Sprintf("10.0.0.%d", n)}}}).Dirty
		}
	case 3:
		return func(w *world.World) []world.Unit { w.Forget(unit); return nil }
	case 4:
		q, port := query(ir.ByMesh, ""), uint32(1+a.rng.IntN(5))
		return func(w *world.World) []world.Unit {
			w.Read(unit, func(r ir.Reader) {
				ir.Select(r, q, func(o *ir.Object) bool {
					svc, ok := o.Decoded.(*mesh.MeshService)
					return ok && len(svc.Ports) > 0 && svc.Ports[0].Port == port
				})
			})
			return nil
		}
	case 5:
		q := query(ir.ByZone, key.Zone)
		return func(w *world.World) []world.Unit {
			w.Read(unit, func(r ir.Reader) {
				r.Get(key)
				r.List(q)
				r.Counter(counter)
				r.Addresses(key)
			})
			return nil
		}
	default:
		r := service(key.Name, key.Zone, value, mesh.LabelDisplayName, name())
		return func(w *world.World) []world.Unit { return w.Apply(put(r)).Dirty }
	}
}

// contents is everything that a reader can see.
func contents(w *world.World) string {
	var b strings.Builder
	w.View(func(r ir.Reader) {
		queries := []ir.Query{query(ir.ByMesh, ""), query(ir.ByZone, "east"), query(ir.ByZone, "west")}
		for i := range 12 {
			queries = append(queries, query(ir.ByDisplayName, fmt.Sprintf("s%d", i)))
		}
		for _, q := range queries {
			fmt.Fprintf(&b, "%s %s:", q.Index, q.Value)
			for _, o := range r.List(q) {
				fmt.Fprintf(&b, " %s=%s %v", o.Key, o.Spec, r.Addresses(o.Key))
			}
			b.WriteByte('\n')
		}
		for i := range 3 {
			fmt.Fprintln(&b, r.Counter(fmt.Sprintf("c%d", i)))
		}
	})
	return b.String()
}

// A fork goes its own way, and so does the world that it comes from: both are, to
// the last dirty unit, like worlds that were never forked.
func TestForksAreApart(t *testing.T) {
	for seed := range uint64(300) {
		a := &actor{rng: rand.New(rand.NewPCG(seed, 1))}
		origin, likeOrigin, likeFork := world.New("east"), world.New("east"), world.New("east")
		for range 60 {
			s := a.step()
			s(origin)
			s(likeOrigin)
			s(likeFork)
		}
		fork := origin.Fork()
		for i := range 80 {
			w, like := origin, likeOrigin
			if a.rng.IntN(2) == 0 {
				w, like = fork, likeFork
			}
			s := a.step()
			if d := cmp.Diff(s(like), s(w)); d != "" {
				t.Fatalf("seed %d, step %d: dirty units (-alone +forked):\n%s", seed, i, d)
			}
		}
		if d := cmp.Diff(contents(likeOrigin), contents(origin)); d != "" {
			t.Fatalf("seed %d: the origin:\n%s", seed, d)
		}
		if d := cmp.Diff(contents(likeFork), contents(fork)); d != "" {
			t.Fatalf("seed %d: the fork:\n%s", seed, d)
		}
	}
}
