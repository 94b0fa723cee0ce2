package ingress

import (
	"cmp"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

const (
	listenerIngress = "ZoneIngress"
	maxSNI          = 253
)

// Compile says what a class of zone ingresses must do: offer every port of
// every MeshService of its own zone and mesh, by SNI. TLS is passed through, so
// that an ingress needs neither identity nor trust. A service more or less is
// an export more or less, never another listener.
func Compile(r ir.Reader, c *ir.Class) *ir.Proxy {
	p := &ir.Proxy{Class: c, Zone: r.Zone()}
	serves := false
	for _, l := range c.Listeners {
		if l.Type == listenerIngress {
			serves = true
			continue
		}
		problem(p, self(r, c), "networking.listeners: listener "+l.Name+" has type "+l.Type+", which is not supported yet: must be "+listenerIngress)
	}
	if len(c.Inbounds) > 0 || len(c.Outbounds) > 0 {
		problem(p, self(r, c), "networking: a zone proxy has no inbounds and outbounds of its own; they are left out")
	}
	if serves {
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
			if len(sni) > maxSNI {
				problem(p, o.Key, "its SNI "+sni+" is longer than a server name may be; it is not offered to other zones")
				continue
			}
			p.Exports = append(p.Exports, ir.Export{SNI: sni, Service: o.Key, Port: port.Port})
		}
	}
	slices.SortFunc(p.Exports, func(a, b ir.Export) int { return cmp.Compare(a.SNI, b.SNI) })
	p.Exports = slices.Compact(p.Exports)
}

// CompileEndpoints compiles an endpoint set of any kind; see ir.CompileEndpoints.
func CompileEndpoints(r ir.Reader, ref ir.EndpointRef) *ir.EndpointSet {
	return ir.CompileEndpoints(r, ref)
}

func problem(p *ir.Proxy, source mesh.Key, reason string) {
	p.Problems = append(p.Problems, ir.Problem{Source: source, Reason: reason})
}

// self is the resource to blame for what the class's Dataplanes say.
func self(r ir.Reader, c *ir.Class) mesh.Key {
	name := c.Name
	if name == "" {
		name = c.ID
	}
	return mesh.Key{Kind: mesh.KindDataplane, Mesh: c.Mesh, Zone: r.Zone(), Name: name}
}
