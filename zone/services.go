package zone

import (
	"cmp"
	"maps"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// Values of fields that the kinds spell as strings.
const (
	stateAvailable   = "Available"
	stateUnavailable = "Unavailable"
	tlsReady         = "Ready"
	tlsNotReady      = "NotReady"
)

// ensureWorkload makes the unit of a workload: its inventory and, but for pods,
// whose services the platform knows, its service.
func (e *engine) ensureWorkload(meshName, workload, namespace string) {
	e.ensure(unitOf("workload", meshName, mesh.NamespacedName(workload, namespace)), stageService, func(e *engine, _ *batch, r ir.Reader) []mesh.Resource {
		if e.cfg.env == mesh.EnvKubernetes {
			return e.deriveInventory(r, meshName, workload, namespace)
		}
		return e.deriveWorkload(r, meshName, workload)
	})
}

// namespaceOf is the namespace of a pod; "" for any other proxy.
func (e *engine) namespaceOf(p *proxy) string {
	if p.pod == nil {
		return ""
	}
	return p.resource.Labels[mesh.LabelNamespace]
}

// deriveInventory counts the pods of a workload.
func (e *engine) deriveInventory(r ir.Reader, meshName, workload, namespace string) []mesh.Resource {
	proxies := ir.SelectProxies(r, meshName, map[string]string{mesh.LabelWorkload: workload, mesh.LabelNamespace: namespace})
	if len(proxies) == 0 {
		return nil
	}
	w := mesh.Resource{Key: mesh.Key{Kind: mesh.KindWorkload, Mesh: meshName, Zone: e.cfg.zone, Name: mesh.NamespacedName(workload, namespace)},
		Labels: map[string]string{mesh.LabelNamespace: namespace, mesh.LabelManagedBy: "tombolo"}}
	w.Labels, _ = mesh.ComputeLabels(w, &mesh.Workload{}, e.cfg.env)
	if len(mesh.ValidateResource(w, &mesh.Workload{})) > 0 {
		return nil // a label that is no name of anything
	}
	w.Spec, w.Status = mustJSON(&mesh.Workload{}), mustJSON(&mesh.WorkloadStatus{DataplaneProxies: countMembers(proxies, nil)})
	return []mesh.Resource{w}
}

// deriveWorkload is one MeshService for each workload, named like it, with the
// ports of all its proxies; unless a file has a service of that name.
func (e *engine) deriveWorkload(r ir.Reader, meshName, workload string) []mesh.Resource {
	proxies := r.List(ir.Query{Kind: mesh.KindDataplane, Mesh: meshName, Index: ir.ByWorkload, Value: workload})
	proxies = slices.DeleteFunc(proxies, func(o *ir.Object) bool { return o.Zone != e.cfg.zone })
	if len(proxies) == 0 {
		return nil
	}
	key := mesh.Key{Kind: mesh.KindWorkload, Mesh: meshName, Zone: e.cfg.zone, Name: workload}
	if len(mesh.ValidateResource(mesh.Resource{Key: key}, &mesh.Workload{})) > 0 {
		return nil // a label that is no name of anything
	}
	out := []mesh.Resource{e.fact(mesh.KindWorkload, meshName, workload, &mesh.Workload{},
		&mesh.WorkloadStatus{DataplaneProxies: countMembers(proxies, nil)})}
	key.Kind = mesh.KindMeshService
	if _, authored := e.files[key]; authored {
		return out
	}
	svc := &mesh.MeshService{Ports: unionPorts(proxies)}
	if len(svc.Ports) == 0 {
		return out
	}
	svc.Selector.DataplaneLabels = &mesh.LabelSelector{MatchLabels: map[string]string{mesh.LabelWorkload: workload}}
	status := describe(svc, proxies)
	return append(out, e.fact(mesh.KindMeshService, meshName, workload, svc, status))
}

// ensureService makes the unit of a service that a file has.
func (e *engine) ensureService(key mesh.Key) {
	e.ensure(unitOf("service", key.Mesh, key.Name), stageService, func(e *engine, _ *batch, r ir.Reader) []mesh.Resource {
		return e.deriveService(r, key)
	})
}

// deriveService completes an authored service with what the zone knows of it.
func (e *engine) deriveService(r ir.Reader, key mesh.Key) []mesh.Resource {
	file, ok := e.files[key]
	if !ok {
		return nil
	}
	spec, err := mesh.DecodeSpec(key.Kind, file.Spec)
	svc, isService := spec.(*mesh.MeshService)
	if err != nil || !isService {
		return nil
	}
	members := ir.ServiceProxies(r, key.Mesh, svc)
	out := file
	out.Status = mustJSON(describe(svc, members))
	out.Spec = mustJSON(svc)
	return []mesh.Resource{out}
}

// unionPorts are the ports of all proxies, sorted; where two disagree on one the
// first proxy counts.
func unionPorts(proxies []*ir.Object) []mesh.ServicePort {
	const maxPorts = 256
	ports := map[uint32]mesh.ServicePort{}
	for _, o := range proxies {
		dp, ok := o.Decoded.(*mesh.Dataplane)
		if !ok {
			continue
		}
		for i := range dp.Networking.Inbound {
			in := &dp.Networking.Inbound[i]
			if _, ok := ports[in.Port]; ok || in.State == mesh.StateIgnored {
				continue
			}
			ports[in.Port] = mesh.ServicePort{Name: in.Name, Port: in.Port, AppProtocol: in.Protocol}
		}
	}
	out := slices.SortedFunc(maps.Values(ports), func(a, b mesh.ServicePort) int { return cmp.Compare(a.Port, b.Port) })
	names := map[string]bool{}
	for i := range out { // a name means one port
		if names[out[i].Name] {
			out[i].Name = ""
		}
		names[out[i].Name] = out[i].Name != ""
	}
	return out[:min(len(out), maxPorts)]
}

// describe writes identities and state into a service and returns its status.
func describe(svc *mesh.MeshService, members []*ir.Object) *mesh.MeshServiceStatus {
	ids := map[string]bool{}
	status := &mesh.MeshServiceStatus{}
	healthy := map[mesh.Key]bool{}
	status.TLS.Status = tlsReady
	for _, p := range svc.Ports {
		n := uint32(0)
		for _, o := range members {
			if serves(o, p) {
				n++
				healthy[o.Key] = true
			}
		}
		status.Ports = append(status.Ports, mesh.PortHealth{Port: p.Port, Healthy: n})
	}
	for _, o := range members {
		id := ir.StatusOf(o).SpiffeID
		if id == "" {
			status.TLS.Status = tlsNotReady
			continue
		}
		ids[id] = true
	}
	svc.Identities = nil
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		svc.Identities = append(svc.Identities, mesh.ServiceIdentity{Type: "SpiffeID", Value: id})
	}
	svc.State = stateUnavailable
	if len(healthy) > 0 {
		svc.State = stateAvailable
	}
	status.DataplaneProxies = countMembers(members, healthy)
	return status
}

// countMembers counts proxies; with healthy nil, those are healthy of which every
// inbound is ready.
func countMembers(members []*ir.Object, healthy map[mesh.Key]bool) mesh.ProxyCounts {
	c := mesh.ProxyCounts{Total: len(members)}
	for _, o := range members {
		s := ir.StatusOf(o)
		if s.Connected {
			c.Connected++
		}
		if healthy[o.Key] || healthy == nil && s.Connected && !s.Draining && len(s.NotReady) == 0 {
			c.Healthy++
		}
	}
	return c
}

// serves reports whether a proxy takes traffic of a service's port now.
func serves(o *ir.Object, p mesh.ServicePort) bool {
	dp, ok := o.Decoded.(*mesh.Dataplane)
	s := ir.StatusOf(o)
	if !ok || !s.Connected || s.Draining {
		return false
	}
	for i := range dp.Networking.Inbound {
		in := &dp.Networking.Inbound[i]
		if isBehind(p, in) && (in.State == "" || in.State == mesh.StateReady) && (in.Health == nil || in.Health.Ready) &&
			!slices.Contains(s.NotReady, in.SectionName()) {
			return true
		}
	}
	return false
}

func isBehind(p mesh.ServicePort, in *mesh.Inbound) bool {
	switch {
	case p.TargetPort == nil:
		return in.Port == p.Port
	case p.TargetPort.Str != "":
		return in.SectionName() == p.TargetPort.Str
	default:
		return in.Port == p.TargetPort.Int
	}
}
