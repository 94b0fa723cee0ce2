package ir

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// CompileEndpoints compiles a set of kind DestinationSet or GatewaySet; those of
// kind ExportSet are the ingress's and compiled there. Sets are shared by every
// class that refers to them, and are the only place where the health and number
// of instances are read: those never make a class dirty.
//
// A set whose service is gone is empty. Hosts of services without identities
// are left out, as their peers are: nobody could verify them.
func CompileEndpoints(r Reader, ref EndpointRef) *EndpointSet {
	set := &EndpointSet{Name: ref.Name}
	switch ref.Kind {
	case GatewaySet:
		set.Hosts = gatewayHosts(r, ref.Mesh, ref.Zone)
	case DestinationSet:
		set.Hosts = destinationHosts(r, ref)
	}
	set.Hosts = sortHosts(set.Hosts)
	return set
}

// LocalHosts are the ready instances of this zone behind one port of a service
// of this zone, sorted, none twice. They say nothing of who they must prove to be.
func LocalHosts(r Reader, service mesh.Key, port uint32) []Host {
	o, ok := r.Get(service)
	if !ok || o.Zone != r.Zone() {
		return nil
	}
	var hosts []Host
	for _, m := range membersOf(r, o, port) {
		hosts = append(hosts, localHosts(r, m)...)
	}
	return sortHosts(hosts)
}

// destinationHosts has local hosts first and, for the services of other zones,
// one host each behind that zone's gateway, weighted by healthy instances. A
// MeshMultiZoneService is local first; a MeshService has hosts of one zone only.
func destinationHosts(r Reader, ref EndpointRef) []Host {
	o, ok := r.Get(ref.Backend)
	if !ok {
		return nil
	}
	remote := uint32(0)
	if ref.Backend.Kind == mesh.KindMeshMultiZoneService {
		remote = 1
	}
	var hosts []Host
	for _, m := range membersOf(r, o, ref.Port) {
		p := m.peer()
		switch {
		case len(p.Identities) == 0:
		case m.local(r):
			for _, h := range localHosts(r, m) {
				h.Peer = p.Name
				hosts = append(hosts, h)
			}
		default:
			if c := remoteCandidate(r, m); c.Out == "" {
				h := c.Host
				h.Priority, h.Peer = remote, p.Name
				hosts = append(hosts, h)
			}
		}
	}
	return hosts
}

// maxWeight bounds what another zone may claim; Envoy's sum of weights is 32 bits.
const maxWeight = 1 << 16

// healthyInstances is what the owning zone says of the port; 1 while it says nothing.
func healthyInstances(m member) uint32 {
	var status mesh.MeshServiceStatus
	if len(m.service.Status) == 0 || json.Unmarshal(m.service.Status, &status) != nil {
		return 1
	}
	for _, p := range status.Ports {
		if p.Port == m.port.Port {
			return min(p.Healthy, maxWeight)
		}
	}
	return 1
}

// Candidate is an inbound behind a service of this zone.
type Candidate struct {
	// Proxy is its Dataplane, and Inbound the section of it.
	Proxy   mesh.Key
	Inbound string
	// Host that calls go to; empty when the address cannot be one.
	Host Host
	// Out says why calls do not go there; empty when they do.
	Out string
}

// Candidates are the inbounds behind one port of a MeshService, those that get no
// calls included. A service of another zone is one candidate without a proxy.
func Candidates(r Reader, service mesh.Key, port uint32) []Candidate {
	o, ok := r.Get(service)
	if !ok {
		return nil
	}
	var out []Candidate
	for _, m := range membersOf(r, o, port) {
		if m.local(r) {
			eachCandidate(r, m, func(c Candidate) { out = append(out, c) })
		} else {
			out = append(out, remoteCandidate(r, m))
		}
	}
	return out
}

// remoteCandidate is a service of another zone, behind that zone's gateway.
func remoteCandidate(r Reader, m member) Candidate {
	zone := m.service.Zone
	c := Candidate{Host: Host{Zone: zone, Weight: healthyInstances(m), Gateway: GatewayName(m.service.Mesh, zone)}}
	switch {
	case c.Host.Weight == 0 || m.spec.State == mesh.StateUnavailable:
		c.Out = "zone " + zone + " reports no healthy instance"
	case !hasGateway(r, m.service.Mesh, zone):
		c.Out = "zone " + zone + " has no usable MeshZoneAddress"
	}
	return c
}

// localHosts are the ready inbounds behind a service of this zone.
func localHosts(r Reader, m member) []Host {
	var hosts []Host
	eachCandidate(r, m, func(c Candidate) {
		if c.Out == "" {
			hosts = append(hosts, c.Host)
		}
	})
	return hosts
}

func eachCandidate(r Reader, m member, yield func(Candidate)) {
	for _, dp := range ServiceProxies(r, m.service.Mesh, m.spec) {
		spec, ok := dp.Decoded.(*mesh.Dataplane)
		if !ok {
			continue
		}
		status := StatusOf(dp)
		for i := range spec.Networking.Inbound {
			in := &spec.Networking.Inbound[i]
			class, instance := inboundOf(in, &spec.Networking)
			if !isTarget(m.port, class) {
				continue
			}
			c := Candidate{Proxy: dp.Key, Inbound: class.Name, Out: outOf(in, class.Name, status)}
			if ip, err := netip.ParseAddr(instance.Address); err == nil && ip.Zone() == "" {
				c.Host = Host{Address: ip.Unmap().String(), Port: class.Port, Zone: r.Zone(), Weight: 1}
			} else if c.Out == "" { // one bad address would make Envoy refuse the whole set
				c.Out = "its address is no IP address"
			}
			yield(c)
		}
	}
}

// isTarget reports whether an inbound is what a service's port leads to.
func isTarget(p mesh.ServicePort, in ClassInbound) bool {
	switch {
	case p.TargetPort == nil:
		return in.Port == p.Port
	case p.TargetPort.Str != "":
		return in.Name == p.TargetPort.Str
	default:
		return in.Port == p.TargetPort.Int
	}
}

// outOf says why an inbound gets no calls; "" when it does.
func outOf(in *mesh.Inbound, name string, status mesh.DataplaneStatus) string {
	switch {
	case !status.Connected:
		return "not connected: its agent's stream is gone"
	case status.Draining:
		return "draining: it is about to stop"
	case in.State != "" && in.State != mesh.StateReady:
		return "its inbound has state " + in.State
	case in.Health != nil && !in.Health.Ready:
		return "its inbound is declared not ready"
	case slices.Contains(status.NotReady, name):
		return "not ready: its application does not answer, or its Envoy is not configured yet"
	}
	return ""
}

// StatusOf decodes what the zone knows of a proxy. What cannot be read is a
// proxy that is not connected.
func StatusOf(dp *Object) mesh.DataplaneStatus {
	var s mesh.DataplaneStatus
	if len(dp.Status) == 0 || json.Unmarshal(dp.Status, &s) != nil {
		return mesh.DataplaneStatus{}
	}
	return s
}

// GatewayName is the name of the cluster and endpoint set of a zone's ingress.
func GatewayName(meshName, zone string) string { return "gateway_" + meshName + "_" + zone }

// gatewayAddresses are the ingresses of a zone: those that can be dialled, and
// what is wrong with the others, by their keys. Envoy takes IP addresses here.
func gatewayAddresses(r Reader, meshName, zone string) ([]Host, []Problem) {
	var hosts []Host
	var problems []Problem
	for _, o := range r.List(Query{Kind: mesh.KindMeshZoneAddress, Mesh: meshName, Index: ByZone, Value: zone}) {
		a, ok := o.Decoded.(*mesh.MeshZoneAddress)
		if !ok {
			continue
		}
		ip, err := netip.ParseAddr(a.Address)
		switch {
		case err != nil || ip.Zone() != "":
			problems = append(problems, Problem{Source: o.Key, Reason: fmt.Sprintf("address: %q must be an IP address; DNS names are not supported yet", a.Address)})
		case a.Port == 0 || a.Port >= 1<<16:
			problems = append(problems, Problem{Source: o.Key, Reason: fmt.Sprintf("port: %d must be 1 to 65535", a.Port)})
		default:
			hosts = append(hosts, Host{Address: ip.Unmap().String(), Port: a.Port, Zone: zone, Weight: 1})
		}
	}
	return hosts, problems
}

// gatewayHosts are the ingress addresses of a zone.
func gatewayHosts(r Reader, meshName, zone string) []Host {
	hosts, _ := gatewayAddresses(r, meshName, zone)
	return hosts
}

func hasGateway(r Reader, meshName, zone string) bool {
	return len(gatewayHosts(r, meshName, zone)) > 0
}

// sortHosts orders hosts and leaves one of each address: Envoy would merge them
// without a word.
func sortHosts(hosts []Host) []Host {
	slices.SortFunc(hosts, func(a, b Host) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Zone, b.Zone),
			cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port),
			cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Peer, b.Peer))
	})
	return slices.CompactFunc(hosts, func(a, b Host) bool {
		return a.Address == b.Address && a.Port == b.Port && a.Gateway == b.Gateway && (a.Address != "" || a.Peer == b.Peer)
	})
}

// EndpointRefs lists every set that the proxy's destinations, gateways and
// exports need, sorted by name.
func EndpointRefs(p *Proxy) []EndpointRef {
	refs := make([]EndpointRef, 0, len(p.Destinations)+len(p.Gateways)+len(p.Exports))
	for _, d := range p.Destinations {
		refs = append(refs, EndpointRef{Name: d.Name, Kind: DestinationSet, Mesh: d.Backend.Mesh, Backend: d.Backend, Port: d.Port})
	}
	for _, g := range p.Gateways {
		refs = append(refs, EndpointRef{Name: g.Name, Kind: GatewaySet, Mesh: p.Class.Mesh, Zone: g.Zone})
	}
	for _, e := range p.Exports {
		refs = append(refs, EndpointRef{Name: e.SNI, Kind: ExportSet, Mesh: e.Service.Mesh, Backend: e.Service, Port: e.Port})
	}
	slices.SortFunc(refs, func(a, b EndpointRef) int { return cmp.Compare(a.Name, b.Name) })
	return slices.Compact(refs)
}
