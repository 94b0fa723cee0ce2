package zone

import (
	"fmt"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// BenchmarkServices is the cost of one change in a zone whose proxies reach every
// one of many services: what a change costs must not grow with them.
func BenchmarkServices(outer *testing.B) {
	for _, services := range []int{250, 1000} {
		const classes = 20
		r := newRig(outer, "east")
		r.turn(r.push(identityOf(outer, "default"), allowAll(outer, "default")))
		var joins []func(b *batch)
		for s := range services {
			joins = append(joins, r.join(sidecar(outer, "default", fmt.Sprintf("w%d-0", s), fmt.Sprint("w", s), fmt.Sprintf("10.1.%d.%d", s/200, s%200), httpInbound)))
		}
		for c := range classes {
			joins = append(joins, r.join(resource(outer, mesh.KindDataplane, "default", "east", fmt.Sprintf("c%d-0", c), fmt.Sprintf(
				`{"networking":{"address":"10.2.1.%d","transparentProxying":{},"inbound":[%s]}}`, c, httpInbound), "kuma.io/workload", fmt.Sprint("c", c))))
		}
		r.turn(joins...)
		r.turn(func(*batch) {
			nodes := map[string]bool{}
			for _, p := range r.e.proxies {
				nodes[p.node] = true
			}
			r.e.warm(nodes)
		})
		i := 0
		for name, change := range map[string]func(b *testing.B){
			"health": func(b *testing.B) {
				r.turn(func(b *batch) { r.e.health(b, dataplaneKey("w7-0"), "i-w7-0", [][]string{nil, {"http"}}[i%2]) })
			},
			"service comes and goes": func(b *testing.B) {
				join := r.join(sidecar(outer, "default", fmt.Sprintf("n%d-0", i), fmt.Sprint("n", i), "10.3.1.1", httpInbound))
				r.turn(join)
				r.turn(func(b *batch) { r.e.leave(b, dataplaneKey(fmt.Sprintf("n%d-0", i)), fmt.Sprintf("i-n%d-0", i), true) })
			},
			"policy of one workload": func(b *testing.B) {
				r.turn(r.push(put(resource(b, mesh.KindMeshTimeout, "default", "", "t", fmt.Sprintf(
					`{"targetRef":{"kind":"Dataplane","labels":{"kuma.io/workload":"w7"}},"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"requestTimeout":"%ds"}}}]}`, 1+i%9)))))
			},
			"policy of all": func(b *testing.B) {
				r.turn(r.push(put(resource(b, mesh.KindMeshTimeout, "default", "", "t", fmt.Sprintf(
					`{"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"requestTimeout":"%ds"}}}]}`, 1+i%9)))))
			},
		} {
			outer.Run(fmt.Sprintf("%s/services=%d", name, services), func(b *testing.B) {
				for b.Loop() {
					i++
					change(b)
				}
			})
		}
	}
}
