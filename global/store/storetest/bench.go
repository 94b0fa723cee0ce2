package storetest

import (
	"fmt"
	"testing"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// Bench measures writes and reads of a store; open makes a new one.
func Bench(b *testing.B, open func(b *testing.B) store.Store) {
	const spec = `{"targetRef":{"kind":"Mesh"},"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"requestTimeout":"%ds"}}}]}`
	run := func(name string, fn func(b *testing.B, s store.Store)) {
		b.Run(name, func(b *testing.B) {
			s := open(b)
			defer s.Close()
			b.ReportAllocs()
			fn(b, s)
		})
	}
	run("Write", func(b *testing.B, s store.Store) {
		for i := 0; b.Loop(); i++ {
			write(b, s, put(key(mesh.KindMeshTimeout, "a"), fmt.Sprintf(spec, i)))
		}
	})
	run("WriteConcurrently", func(b *testing.B, s store.Store) {
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				if _, err := s.Write(b.Context(), "user:bench", []store.Op{put(key(mesh.KindMeshTimeout, fmt.Sprint(i%100)), fmt.Sprintf(spec, i))}); err != nil {
					b.Error(err)
				}
			}
		})
	})
	run("WriteBatch1000", func(b *testing.B, s store.Store) {
		ops := make([]store.Op, 1000)
		for i := 0; b.Loop(); i++ {
			for j := range ops {
				ops[j] = put(key(mesh.KindDataplane, fmt.Sprint(j)), fmt.Sprintf(spec, i))
			}
			write(b, s, ops...)
		}
	})
	run("WriteUnchanged1000", func(b *testing.B, s store.Store) {
		ops := make([]store.Op, 1000)
		for j := range ops {
			ops[j] = put(key(mesh.KindDataplane, fmt.Sprint(j)), fmt.Sprintf(spec, j))
		}
		for b.Loop() {
			write(b, s, ops...)
		}
	})
	run("WriteToChange", func(b *testing.B, s store.Store) { // from a write until a watcher has read it
		w := watch(b.Context(), s, nil)
		defer w.end(b)
		for i := 0; b.Loop(); i++ {
			w.reach(b, write(b, s, put(key(mesh.KindMeshTimeout, "a"), fmt.Sprintf(spec, i))).Revision)
		}
	})
	for _, n := range []int{1, 500} {
		run(fmt.Sprintf("Changes%d", n), func(b *testing.B, s store.Store) {
			ops := make([]store.Op, 1000)
			for j := range ops {
				ops[j] = put(key(mesh.KindDataplane, fmt.Sprint(j)), fmt.Sprintf(spec, j))
			}
			write(b, s, ops...)
			for b.Loop() {
				if got, err := s.Changes(b.Context(), mesh.Revision(1000-n), n); err != nil || len(got) != n {
					b.Fatal(len(got), err)
				}
			}
		})
	}
}
