package ir

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// anonymous is the readable half of the id of a class without a workload.
const anonymous = "proxy"

// ClassOf splits a Dataplane into what it shares with its replicas and what is
// its own. It returns nil twice for an object that is not a Dataplane.
//
// Health and state do not count (they live in endpoint sets alone), except for
// inbounds with state Ignored, which do not exist. The label display-name and
// those of mesh.InstanceLabel are the proxy's own and left out; see Named for
// proxies that a policy calls by them.
func ClassOf(dp *Object) (*Class, *Instance) {
	spec, ok := dp.Decoded.(*mesh.Dataplane)
	if !ok {
		return nil, nil
	}
	c := &Class{Mesh: dp.Mesh, Labels: map[string]string{}}
	for k, v := range dp.Labels {
		if k = mesh.CanonicalLabel(k); k != mesh.LabelDisplayName && !mesh.InstanceLabel(k) {
			c.Labels[k] = v
		}
	}
	in := &Instance{}
	net := spec.Networking
	if len(net.Listeners) > 0 {
		c.zoneProxy(in, net)
	} else {
		c.sidecar(in, net)
	}
	c.ID = c.id()
	return c, in
}

func (c *Class) sidecar(in *Instance, net mesh.Networking) {
	for _, i := range net.Inbound {
		if i.State == mesh.StateIgnored {
			continue
		}
		class, instance := inboundOf(&i, &net)
		c.Inbounds = append(c.Inbounds, class)
		in.Inbounds = append(in.Inbounds, instance)
	}
	for _, o := range net.Outbound {
		o.Address = or(o.Address, mesh.DefaultOutboundAddress)
		o.BackendRef.Labels = canonicalOrNil(o.BackendRef.Labels)
		c.Outbounds = append(c.Outbounds, o)
	}
	c.Transparent = transparentOf(net.TransparentProxying)
}

func (c *Class) zoneProxy(in *Instance, net mesh.Networking) {
	c.Role = Ingress
	for i, l := range net.Listeners {
		if l.Type != mesh.ListenerIngress {
			c.unsupported("networking.listeners[%d].type: %q is not supported yet: must be %s", i, l.Type, mesh.ListenerIngress)
			continue
		}
		in.Listeners = append(in.Listeners, or(l.Address, net.Address))
		c.Listeners = append(c.Listeners, mesh.Listener{Type: l.Type, Port: l.Port, Name: l.SectionName()})
	}
	if len(net.Inbound) > 0 {
		c.unsupported("networking.inbound: a zone proxy has no application, so no inbounds")
	}
	if len(net.Outbound) > 0 {
		c.unsupported("networking.outbound: a zone proxy has no application, so no outbounds")
	}
}

func (c *Class) unsupported(format string, args ...any) {
	c.Unsupported = append(c.Unsupported, fmt.Sprintf(format, args...))
}

// Owner is the resource that answers for what the Dataplanes of the class say:
// the Workload, or the one Dataplane of a class of its own.
func (c *Class) Owner(zone string) mesh.Key {
	if c.Name != "" {
		name := mesh.NamespacedName(c.Name, c.Labels[mesh.LabelNamespace])
		return mesh.Key{Kind: mesh.KindDataplane, Mesh: c.Mesh, Zone: zone, Name: name}
	}
	return mesh.Key{Kind: mesh.KindWorkload, Mesh: c.Mesh, Zone: zone, Name: or(c.Labels[mesh.LabelWorkload], c.ID)}
}

// Named is a copy of c for one proxy: a class of its own, with the labels that
// only it has. The caller takes it when NamedProxies mentions the proxy.
func (c *Class) Named(dp *Object) *Class {
	n := *c
	n.Name = dp.DisplayName()
	n.Labels = maps.Clone(c.Labels)
	for k, v := range dp.Labels {
		if k = mesh.CanonicalLabel(k); mesh.InstanceLabel(k) {
			n.Labels[k] = v
		}
	}
	n.ID = n.id()
	return &n
}

// NamedProxies is the set of Dataplanes (display names) that some policy,
// identity or service of the mesh selects by name, or some policy or identity by a
// label that replicas do not share. Those cannot share a class,
// since the policy means one of the replicas. What it reads is recorded.
func NamedProxies(r Reader, meshName string) map[string]bool {
	names := map[string]bool{}
	add := func(labels map[string]string) {
		if name := mesh.CanonicalLabels(labels)[mesh.LabelDisplayName]; name != "" {
			names[name] = true
		}
	}
	addSelected := func(labels map[string]string) {
		add(labels)
		for k := range labels {
			if !mesh.InstanceLabel(k) {
				continue
			}
			for _, o := range SelectProxies(r, meshName, labels) {
				names[o.DisplayName()] = true
			}
			return
		}
	}
	for _, k := range mesh.Kinds() {
		if k.Policy == nil {
			continue
		}
		for _, o := range Select(r, Query{Kind: k.Name, Mesh: meshName, Index: ByMesh}, namesProxies) {
			addSelected(o.Decoded.(mesh.Policy).TopTarget().Labels)
		}
	}
	for _, o := range r.List(Query{Kind: mesh.KindMeshIdentity, Mesh: meshName, Index: ByMesh}) {
		if id, ok := o.Decoded.(*mesh.MeshIdentity); ok && id.Selector != nil && id.Selector.Dataplane != nil {
			addSelected(id.Selector.Dataplane.MatchLabels)
		}
	}
	for _, o := range Select(r, Query{Kind: mesh.KindMeshService, Mesh: meshName, Index: ByZone, Value: r.Zone()}, namesProxies) {
		svc := o.Decoded.(*mesh.MeshService)
		if svc.Selector.DataplaneRef != nil {
			names[svc.Selector.DataplaneRef.Name] = true
		}
		if svc.Selector.DataplaneLabels != nil {
			add(svc.Selector.DataplaneLabels.MatchLabels)
		}
	}
	return names
}

// namesProxies reports whether a policy or service selects single proxies.
func namesProxies(o *Object) bool {
	var labels map[string]string
	switch spec := o.Decoded.(type) {
	case *mesh.MeshService:
		if spec.Selector.DataplaneRef != nil {
			return true
		}
		return spec.Selector.DataplaneLabels != nil && mesh.CanonicalLabels(spec.Selector.DataplaneLabels.MatchLabels)[mesh.LabelDisplayName] != ""
	case mesh.Policy:
		if ref := spec.TopTarget(); ref != nil && ref.Kind == mesh.KindDataplane {
			labels = ref.Labels
		}
	}
	for k := range labels {
		if mesh.InstanceLabel(k) || mesh.CanonicalLabel(k) == mesh.LabelDisplayName {
			return true
		}
	}
	return false
}

func inboundOf(i *mesh.Inbound, net *mesh.Networking) (ClassInbound, InstanceInbound) {
	app, port := net.Application(i)
	return ClassInbound{Name: i.SectionName(), Port: i.Port, ServicePort: port, Protocol: protocolOf(i.Protocol)},
		InstanceInbound{Address: or(i.Address, net.Address), ServiceAddress: app}
}

// id digests everything that is not the id: "web-3f9a2c41d07e".
func (c *Class) id() string {
	n := *c
	n.ID = ""
	b, err := json.Marshal(n)
	if err != nil { // a Class has only strings and numbers
		b = []byte(err.Error())
	}
	sum := sha256.Sum256(b)
	return workloadName(c.Labels[mesh.LabelWorkload]) + "-" + hex.EncodeToString(sum[:6])
}

// workloadName is the readable half of a class id: labels are hostile input.
func workloadName(s string) string {
	const maxLabel = 63
	if s == "" || len(s) > maxLabel || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return anonymous
	}
	return s
}

// protocolOf is tolerant: what is unknown is opaque.
func protocolOf(s string) Protocol {
	switch p := Protocol(s); p {
	case HTTP, HTTP2, GRPC:
		return p
	default:
		return TCP
	}
}

// labelsOf are the labels of an object with the ones that follow from its key.
func labelsOf(o *Object) map[string]string {
	have := o.Labels
	if have[mesh.LabelDisplayName] != "" && (o.Zone == "" || have[mesh.LabelZone] == o.Zone) && have[mesh.LabelMesh] == o.Mesh {
		return have
	}
	out := make(map[string]string, len(have)+3)
	maps.Copy(out, have)
	out[mesh.LabelDisplayName] = or(have[mesh.LabelDisplayName], o.Name)
	out[mesh.LabelMesh] = o.Mesh
	if o.Zone != "" {
		out[mesh.LabelZone] = o.Zone
	}
	return out
}

func canonicalOrNil(labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return nil
	}
	return mesh.CanonicalLabels(labels)
}

func or(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
