package delta

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestNamesAreSets: whatever streams subscribe to and give up, each has what it
// would have had alone, they hold equal sets once, and nothing is kept after them.
func TestNamesAreSets(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	r := newRegistry()
	type holder struct {
		names
		want map[string]struct{}
	}
	holders := make([]holder, 4)
	for i := range holders {
		holders[i].want = map[string]struct{}{}
	}
	for step := range 20_000 {
		h := &holders[random.IntN(len(holders))]
		name := fmt.Sprint("n", random.IntN(40))
		switch random.IntN(12) {
		default:
			h.add(name)
			h.want[name] = struct{}{}
		case 0, 1, 2, 3:
			h.remove(name)
			delete(h.want, name)
		case 4:
			for i := range 40 {
				h.add(fmt.Sprint("n", i))
				h.want[fmt.Sprint("n", i)] = struct{}{}
			}
		case 5:
			r.release(&h.names)
			clear(h.want)
		}
		if random.IntN(3) > 0 {
			exactly := random.IntN(2) > 0
			if r.share(&h.names, exactly); exactly && len(h.added)+len(h.lost) > 0 || h.len() < exact && h.len() > 0 && h.shared == nil {
				t.Fatalf("step %d: %d names, %d added and %d lost after sharing", step, h.len(), len(h.added), len(h.lost))
			}
		}
		if got := slices.Sorted(h.all()); !slices.Equal(got, slices.Sorted(maps.Keys(h.want))) || h.len() != len(got) {
			t.Fatalf("step %d: %d: %v, want %v", step, h.len(), got, h.want)
		}
		for i := range 40 {
			name := fmt.Sprint("n", i)
			if _, want := h.want[name]; h.has(name) != want {
				t.Fatalf("step %d: has %s: %v", step, name, !want)
			}
		}
		for i := range holders {
			a := &holders[i]
			for j := range i {
				if b := &holders[j]; a.shared != b.shared && a.shared != nil && b.shared != nil && maps.Equal(a.shared.set, b.shared.set) {
					t.Fatalf("step %d: an equal set is held twice", step)
				}
			}
		}
	}
	for i := range holders {
		r.release(&holders[i].names)
	}
	if len(r.sets) > 0 {
		t.Errorf("%d sets are kept that nobody holds", len(r.sets))
	}
}

// TestNamesOfOneKey: two sets that only look equal are not taken for one another.
func TestNamesOfOneKey(t *testing.T) {
	r := newRegistry()
	var a, b, c names
	a.add("a")
	r.share(&a, true)
	b.add("b")
	r.share(&b, true)
	r.release(&b)
	r.sets[namesKey{1, a.shared.key.sum}].set = map[string]struct{}{"other": {}} // as if it had the sum of "a"
	c.add("a")
	r.share(&c, true)
	if !c.has("a") || c.has("other") || c.shared == a.shared {
		t.Error("took another set for its own")
	}
	r.release(&c)
	if r.sets[a.shared.key] != a.shared {
		t.Error("who shares with nobody took the other's place")
	}
	r.release(&a)
	if len(r.sets) > 0 {
		t.Errorf("%d sets are kept that nobody holds", len(r.sets))
	}
}
