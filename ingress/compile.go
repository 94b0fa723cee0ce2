package ingress

import (
	"cmp"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// Compile says what a class of zone ingresses must do: offer every port of
// every MeshService of its own zone and mesh, by SNI. TLS is passed through, so
// that an ingress needs neither identity nor trust. A service more or less is
// an export more or less, never another listener.
func Compile(r ir.Reader, c *ir.Class) *ir.Proxy {
	p := &ir.Proxy{Class: c, Zone: r.Zone()}
	for _, reason := range c.Unsupported {
		p.Problems = append(p.Problems, ir.Problem{Source: c.Owner(r.Zone()), Reason: reason})
	}
	if len(c.Listeners) > 0 {
		exports(r, p)
	}
	ir.SortProblems(&p.Problems)
	return p
}

func exports(r ir.Reader, p *ir.Proxy) {
	q := ir.Query{Kind: mesh.KindMeshService, Mesh: p.Class.Mesh, Index: ir.ByZone, Value: r.Zone()}
	for _, o := range r.List(q) {
		spec, ok := o.Decoded.(*mesh.MeshService)
		if !ok {
			continue
		}
		for _, port := range spec.Ports {
			sni := mesh.SNI(port.Port, o.Name, o.Zone, o.Mesh)
			p.Exports = append(p.Exports, ir.Export{SNI: sni, Service: o.Key, Port: port.Port})
		}
	}
	slices.SortFunc(p.Exports, func(a, b ir.Export) int { return cmp.Compare(a.SNI, b.SNI) })
	p.Exports = slices.Compact(p.Exports)
}

// CompileEndpoints compiles an endpoint set. Those of exports hold the ready
// instances of this zone; sets of the other kinds are the sidecars' and are
// compiled by ir.CompileEndpoints.
func CompileEndpoints(r ir.Reader, ref ir.EndpointRef) *ir.EndpointSet {
	if ref.Kind != ir.ExportSet {
		return ir.CompileEndpoints(r, ref)
	}
	return &ir.EndpointSet{Name: ref.Name, Hosts: ir.LocalHosts(r, ref.Backend, ref.Port)}
}
