package ir

import (
	"net"
	"net/netip"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// transparentOf fills in defaults, so that who writes them out has no other class.
func transparentOf(t *mesh.TransparentProxying) *Transparent {
	if t == nil {
		return nil
	}
	out := &Transparent{InboundPort: t.InboundPort(), OutboundPort: t.OutboundPort(), IPv4Only: t.IPFamilyMode == mesh.FamilyIPv4}
	if t.ReachableBackends == nil {
		return out
	}
	refs := []mesh.ReachableBackend{}
	for _, r := range t.ReachableBackends.Refs {
		labels := mesh.CanonicalLabels(r.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		if r.Name != "" {
			labels[mesh.LabelDisplayName] = r.Name
		}
		if r.Namespace != "" {
			labels[mesh.LabelNamespace] = r.Namespace
		}
		refs = append(refs, mesh.ReachableBackend{Kind: r.Kind, Labels: labels, Port: r.Port})
	}
	out.Reachable = &refs
	return out
}

// transparent adds an outbound for each port of every reachable service at each
// of its addresses. Explicit outbounds come first; of services that claim one
// address the oldest has it. A service that nobody has proved yet gets its
// outbounds too, which refuse: passing through would be plain text.
func (b *compiler) transparent() {
	b.proxy.Passthrough = true
	taken := map[string]string{} // who has an address
	for i := range b.proxy.Outbounds {
		o := &b.proxy.Outbounds[i]
		taken[listenAt(o.Address, o.Port)] = "an explicit outbound of the proxies " + b.class.ID
	}
	for _, target := range b.reachable() {
		var lead *Outbound // the addresses of a port share what they lead to
		for _, address := range b.r.Addresses(target.key()) {
			if !b.class.Transparent.redirects(address) {
				continue
			}
			at := listenAt(address, target.port.Port)
			if owner, ok := taken[at]; ok {
				b.problem(target.key(), "%s is already the address of %s: it is not called there", at, owner)
				continue
			}
			taken[at] = target.key().String()
			if lead == nil {
				lead = b.redirected(target)
			}
			o := *lead
			o.Address, o.Port = address, target.port.Port
			b.proxy.Outbounds = append(b.proxy.Outbounds, o)
		}
	}
}

// redirected is an outbound to a service without its address.
func (b *compiler) redirected(target *backend) *Outbound {
	o := &Outbound{Redirected: true}
	if b.proxy.HasIdentity {
		b.lead(o, target)
		return o
	}
	o.Name, o.Protocol, o.Timeouts = target.name(), TCP, outboundTimeouts(nil)
	return o
}

// reachable are the ports that the class may call, those of older services first.
func (b *compiler) reachable() []*backend {
	var out []*backend
	if b.class.Transparent.Reachable == nil {
		for _, kind := range []mesh.KindName{mesh.KindMeshService, mesh.KindMeshMultiZoneService} {
			for _, o := range b.r.List(Query{Kind: kind, Mesh: b.class.Mesh, Index: ByMesh}) {
				out = appendPorts(out, o, 0)
			}
		}
		return oldestFirst(out)
	}
	for i, ref := range *b.class.Transparent.Reachable {
		before := len(out)
		for _, o := range selectByLabels(b.r, ref.Kind, b.class.Mesh, ref.Labels) {
			out = appendPorts(out, o, ref.Port)
		}
		if len(out) == before {
			b.problem(b.class.Owner(b.r.Zone()), "networking.transparentProxying.reachableBackends.refs[%d]: no %s has these labels and port", i, ref.Kind)
		}
	}
	return slices.CompactFunc(oldestFirst(out), func(x, y *backend) bool { return x.key() == y.key() && x.port.Port == y.port.Port })
}

func appendPorts(list []*backend, o *Object, only uint32) []*backend {
	for _, p := range portsOf(o) {
		if only == 0 || p.Port == only {
			list = append(list, &backend{object: o, port: p})
		}
	}
	return list
}

func oldestFirst(list []*backend) []*backend {
	slices.SortStableFunc(list, func(x, y *backend) int {
		if c := older(x.object, y.object); c != 0 {
			return c
		}
		return int(x.port.Port) - int(y.port.Port)
	})
	return list
}

// redirects reports whether connections to an address arrive at all.
func (t *Transparent) redirects(address string) bool {
	a, err := netip.ParseAddr(address)
	return err == nil && (a.Unmap().Is4() || !t.IPv4Only)
}

func listenAt(address string, port uint32) string { return net.JoinHostPort(address, number(port)) }
