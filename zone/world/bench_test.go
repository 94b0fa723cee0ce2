package world_test

import (
	"fmt"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/zone/world"
)

// BenchmarkApply is the cost of one change under many units: those that select
// others, and one that is concerned.
func BenchmarkApply(b *testing.B) {
	for _, units := range []int{100, 1600} {
		b.Run(fmt.Sprintf("units=%d", units), func(b *testing.B) {
			w := world.New("east")
			for i := range units {
				name := fmt.Sprint("service-", i)
				w.Apply(put(service(name, "east", `{}`)))
				w.Read(world.Unit(fmt.Sprint("u", i)), func(r ir.Reader) {
					r.Get(mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "east", Name: name})
					ir.Select(r, query(ir.ByMesh, ""), func(o *ir.Object) bool { return o.Name == name })
				})
			}
			for i := 0; b.Loop(); i++ {
				res := w.Apply(put(service("service-7", "east", fmt.Sprintf(`{"ports":[{"port":%d}]}`, 1+i%2))))
				if len(res.Dirty) != 1 {
					b.Fatal("dirty:", res.Dirty)
				}
			}
		})
	}
}
