package zone

import (
	"fmt"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// BenchmarkSlope is the cost of one instance that changes its health, in zones of
// which one measure is 1, 4 and 16 times as large: services, the proxies that call all
// of them, and policies that stand by. None of them may show.
func BenchmarkSlope(outer *testing.B) {
	type size struct{ services, proxies, policies int }
	base := size{60, 60, 60}
	for _, c := range []struct {
		name string
		of   func(x int) size
	}{
		{"services", func(x int) size { return size{base.services * x, base.proxies, base.policies} }},
		{"proxies", func(x int) size { return size{base.services, base.proxies * x, base.policies} }},
		{"policies", func(x int) size { return size{base.services, base.proxies, base.policies * x} }},
	} {
		for _, x := range []int{1, 4, 16} {
			outer.Run(fmt.Sprintf("%s=%dx", c.name, x), func(b *testing.B) {
				const classes = 10
				n := c.of(x)
				r := newRig(b, "east")
				changes := []mesh.Change{identityOf(b, "default"), allowAll(b, "default")}
				for i := range n.policies {
					changes = append(changes, put(resource(b, mesh.KindMeshTimeout, "default", "", fmt.Sprint("t", i), fmt.Sprintf(
						`{"targetRef":{"kind":"Dataplane","labels":{"kuma.io/workload":"w%d"}},"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"requestTimeout":"%ds"}}}]}`, i%n.services, 1+i%9))))
				}
				r.turn(r.push(changes...))
				var joins []func(b *batch)
				for s := range n.services {
					joins = append(joins, r.join(sidecar(b, "default", fmt.Sprintf("w%d-0", s), fmt.Sprint("w", s), fmt.Sprintf("10.1.%d.%d", s/200, s%200), httpInbound)))
				}
				for p := range n.proxies {
					joins = append(joins, r.join(resource(b, mesh.KindDataplane, "default", "east", fmt.Sprintf("c%d-%d", p%classes, p), fmt.Sprintf(
						`{"networking":{"address":"10.2.%d.%d","transparentProxying":{},"inbound":[%s]}}`, p/200, p%200, httpInbound), "kuma.io/workload", fmt.Sprint("c", p%classes))))
				}
				r.turn(joins...)
				r.turn(func(*batch) {
					nodes := map[string]bool{}
					for _, p := range r.e.proxies {
						nodes[p.node] = true
					}
					r.e.warm(nodes)
				})
				for i := 0; b.Loop(); i++ {
					r.turn(func(b *batch) { r.e.health(b, dataplaneKey("w7-0"), "i-w7-0", [][]string{{"http"}, nil}[i%2]) })
				}
			})
		}
	}
}
