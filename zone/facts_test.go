package zone

import (
	"fmt"
	"slices"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// TestFactsAreToldOnce: each call says what changed since the one before.
func TestFactsAreToldOnce(t *testing.T) {
	f := newFacts()
	trust := func(name, spec string) mesh.Resource {
		return mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTrust, Mesh: "default", Zone: "east", Name: name}, Spec: []byte(spec)}
	}
	a, b := trust("a", "1"), trust("b", "1")
	put := func(r mesh.Resource) { f.update([]mesh.Change{{Resource: r}}, "east") }
	hide := func(names ...string) {
		private := map[mesh.Key]bool{}
		for _, name := range names {
			private[trust(name, "").Key] = true
		}
		f.hide("default", private)
	}
	for i, step := range []struct {
		do   func()
		want []string
	}{
		{func() { put(a); put(b) }, []string{"a=1", "b=1"}},
		{func() {}, nil},
		{func() { put(a) }, nil},
		{func() { put(trust("a", "2")); put(trust("a", "3")) }, []string{"a=3"}},
		{func() { put(trust("c", "1")) }, []string{"c=1"}},
		{func() { f.update([]mesh.Change{{Resource: trust("c", ""), Deleted: true}}, "east") }, []string{"c gone"}},
		{func() { hide("b") }, []string{"b gone"}},
		{func() { hide("a") }, []string{"a gone", "b=1"}},
		{func() { put(trust("a", "4")) }, []string{"a gone"}},
		{func() { hide() }, []string{"a=4"}},
		{func() {
			put(mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTrust, Mesh: "default", Zone: "west", Name: "d"}})
		}, nil},
	} {
		step.do()
		var got []string
		for _, c := range f.Facts() {
			if c.Deleted {
				got = append(got, c.Resource.Name+" gone")
			} else {
				got = append(got, fmt.Sprintf("%s=%s", c.Resource.Name, c.Resource.Spec))
			}
		}
		if slices.Sort(got); !slices.Equal(got, step.want) {
			t.Errorf("step %d: told %v, want %v", i, got, step.want)
		}
	}
}
