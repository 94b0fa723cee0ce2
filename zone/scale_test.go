package zone

import (
	"fmt"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// BenchmarkChanges is the cost of one change in a zone of 1,000 proxies: 100
// workloads of 10 replicas, each of which calls five others.
func BenchmarkChanges(b *testing.B) {
	const workloads, replicas = 100, 10
	r := newRig(b, "east")
	r.turn(r.push(identityOf(b, "default"), allowAll(b, "default")))
	var joins []func(b *batch)
	for w := range workloads {
		for i := range replicas {
			var out []string
			for k := range 5 {
				out = append(out, fmt.Sprintf(`{"port":%d,"backendRef":{"kind":"MeshService","name":"w%d","port":8080}}`, 20000+k, (w+k+1)%workloads))
			}
			joins = append(joins, r.join(sidecar(b, "default", fmt.Sprintf("w%d-%d", w, i), fmt.Sprint("w", w), fmt.Sprintf("10.%d.%d.1", w, i), httpInbound, out...)))
		}
	}
	r.turn(joins...)
	if n := len(r.e.classes); n != workloads {
		b.Fatal("classes:", n)
	}
	b.Run("join", func(b *testing.B) {
		for b.Loop() {
			r.turn(joins[0])
		}
	})
	b.Run("health", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			r.turn(func(b *batch) {
				r.e.health(b, dataplaneKey("w7-3"), "i-w7-3", [][]string{nil, {"http"}}[i%2])
			})
		}
	})
	for name, change := range map[string]func(i int) mesh.Change{
		"policy of one workload": func(i int) mesh.Change {
			return put(resource(b, mesh.KindMeshTimeout, "default", "", "t", fmt.Sprintf(
				`{"targetRef":{"kind":"Dataplane","labels":{"kuma.io/workload":"w7"}},"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"requestTimeout":"%ds"}}}]}`, 1+i%9)))
		},
		"policy of all": func(i int) mesh.Change {
			return put(resource(b, mesh.KindMeshTimeout, "default", "", "t", fmt.Sprintf(
				`{"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"requestTimeout":"%ds"}}}]}`, 1+i%9)))
		},
	} {
		b.Run(name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				r.turn(r.push(change(i)))
			}
		})
	}
}

// BenchmarkPlan is a plan in a zone of 1,000 proxies that call all of its 100
// services: for one workload, for all of them, and what the loop does for it.
func BenchmarkPlan(b *testing.B) {
	const workloads, replicas = 100, 10
	r := newRig(b, "east")
	r.turn(r.push(identityOf(b, "default"), allowAll(b, "default")))
	var joins []func(b *batch)
	for w := range workloads {
		for i := range replicas {
			var out []string
			for k := range workloads {
				out = append(out, fmt.Sprintf(`{"port":%d,"backendRef":{"kind":"MeshService","name":"w%d","port":8080}}`, 20000+k, k))
			}
			joins = append(joins, r.join(sidecar(b, "default", fmt.Sprintf("w%d-%d", w, i), fmt.Sprint("w", w), fmt.Sprintf("10.%d.%d.1", w, i), httpInbound, out...)))
		}
	}
	r.turn(joins...)
	b.Run("copy", func(b *testing.B) {
		for b.Loop() {
			r.e.copy()
		}
	})
	for name, spec := range map[string]string{
		"one workload": `{"targetRef":{"kind":"Dataplane","labels":{"kuma.io/workload":"w7"}},"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"requestTimeout":"3s"}}}]}`,
		"all":          `{"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"requestTimeout":"3s"}}}]}`,
	} {
		for _, envoy := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s, envoy=%v", name, envoy), func(b *testing.B) {
				change := put(resource(b, mesh.KindMeshTimeout, "default", "", "t", spec))
				for b.Loop() {
					p := plannedBy(b, change)
					p.Envoy = envoy
					out := r.e.copy().engine().preview(p)
					if out.Affected == 0 {
						b.Fatal("no effect")
					}
				}
			})
		}
	}
}
