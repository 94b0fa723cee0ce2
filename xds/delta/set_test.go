package delta

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestSetWith: however a set came to be, it has what it should have, differs from others
// in what it should, and does not change.
func TestSetWith(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	type content map[Key]string
	type made struct {
		set  *Set
		want content
	}
	types := []string{clusterType, endpointType}
	resource := func() *Resource {
		// Few at first, so that pages are outgrown.
		return res(types[rnd.IntN(2)], fmt.Sprint("r", rnd.IntN(3000)), fmt.Sprint(rnd.IntN(3)))
	}
	check := func(m made) {
		t.Helper()
		if m.set.Len() != len(m.want) {
			t.Fatalf("%d resources, want %d", m.set.Len(), len(m.want))
		}
		seen := 0
		for _, typeURL := range types {
			m.set.of(typeURL).each(func(r *Resource) {
				seen++
				if m.want[Key{typeURL, r.Name}] != r.Version {
					t.Fatalf("%s is %s, want %q", r.Name, r.Version, m.want[Key{typeURL, r.Name}])
				}
			})
		}
		for k, version := range m.want {
			if r := m.set.Get(k.TypeURL, k.Name); r == nil || r.Version != version {
				t.Fatalf("%s is %v, want %s", k.Name, r, version)
			}
		}
		if seen != len(m.want) {
			t.Fatalf("%d resources are visited, want %d", seen, len(m.want))
		}
	}
	all := []made{{NewSet(nil), content{}}, {nil, content{}}}
	for range 400 {
		from := all[max(0, len(all)-1-rnd.IntN(3))]
		next := made{want: content{}}
		for k, v := range from.want {
			next.want[k] = v
		}
		var more []*Resource
		for range rnd.IntN(20) {
			r := resource()
			more = append(more, r)
			next.want[Key{r.TypeURL, r.Name}] = r.Version
		}
		next.set = from.set.With(more...)
		check(next)
		check(from)
		other := all[rnd.IntN(len(all))]
		for _, pair := range [][2]made{{from, next}, {next, from}, {other, next}} {
			var want []Key
			for k, v := range pair[0].want {
				if pair[1].want[k] != v {
					want = append(want, k)
				}
			}
			for k := range pair[1].want {
				if _, had := pair[0].want[k]; !had {
					want = append(want, k)
				}
			}
			slices.SortFunc(want, compareKeys)
			if got := pair[0].set.Diff(pair[1].set); !slices.Equal(got, want) {
				t.Fatalf("%d keys differ, want %d", len(got), len(want))
			}
		}
		if all = append(all, next); len(all) > 20 {
			all = slices.Delete(all, 2, 3)
		}
	}
	last := all[len(all)-1]
	if n := len(last.set.of(clusterType).pages); n < 8 {
		t.Errorf("%d resources are in %d pages: nothing of this was tested", last.set.Len(), n)
	}
	next := last.set.With(res(clusterType, "r1", "other"))
	changed := 0
	for i, p := range next.of(clusterType).pages {
		if p != last.set.of(clusterType).pages[i] {
			changed++
		}
	}
	if changed != 1 || next.of(endpointType) != last.set.of(endpointType) {
		t.Errorf("one resource replaced %d pages", changed)
	}
}
