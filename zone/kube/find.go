package kube

import "github.com/tombolo-mesh/tombolo/mesh"

// Found is what a route may want to know of a Service.
type Found struct {
	// Mesh that its pods are in; empty when none has a sidecar.
	Mesh string
	// Ports by number, with their names.
	Ports map[int32]string
}

// Service finds a Service of the cluster.
func (p *Platform) Service(namespace, name string) (Found, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ns := p.model.namespaces[namespace]
	if ns == nil || ns.services[name] == nil || ns.services[name].own == nil {
		return Found{}, false
	}
	s := ns.services[name]
	out := Found{Ports: make(map[int32]string, len(s.own.Ports))}
	for _, port := range s.own.Ports {
		out.Ports[int32(port.Port)] = port.Name
	}
	for k := range s.told {
		if k.Kind == mesh.KindMeshService {
			out.Mesh = k.Mesh
		}
	}
	return out, true
}
