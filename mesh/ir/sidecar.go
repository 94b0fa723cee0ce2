package ir

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Compile says what a class of sidecars must do. Without an identity there are no
// inbounds and no outbounds, since there is no plain text in the mesh; redirected
// calls to its services are closed. Classes of ingresses are compiled by package
// ingress.
func Compile(r Reader, c *Class) *Proxy { return compile(r, c, nil) }

func compile(r Reader, c *Class, memo *Memo) *Proxy {
	b := newCompiler(r, c)
	b.trust(memo)
	b.proxy.HasIdentity = b.identity()
	if b.proxy.HasIdentity {
		b.inbounds()
		b.outbounds()
	}
	if c.Transparent != nil {
		b.transparent()
	}
	slices.SortFunc(b.proxy.Outbounds, func(x, y Outbound) int {
		return cmp.Or(cmp.Compare(x.Address, y.Address), cmp.Compare(x.Port, y.Port))
	})
	return b.finish()
}

// compiler holds one compile.
type compiler struct {
	r        Reader
	class    *Class
	meta     mesh.ProxyMeta
	proxy    *Proxy
	kinds    []mesh.Kind
	selected map[mesh.KindName][]mesh.Selected
	confs    map[string]Confs
	dests    map[string]*Destination
	gateways map[string]Gateway
	// aliases are the longer SNIs of the services behind an inbound, by its name.
	aliases map[string]map[string]string
	// foreigners are the matches with unknown fields, by policy and path.
	foreigners map[mesh.Key]map[string]bool
}

func newCompiler(r Reader, c *Class) *compiler {
	labels := make(map[string]string, len(c.Labels)+3)
	maps.Copy(labels, c.Labels)
	labels[mesh.LabelMesh], labels[mesh.LabelZone] = c.Mesh, r.Zone()
	if c.Name != "" {
		labels[mesh.LabelDisplayName] = c.Name
	}
	meta := mesh.ProxyMeta{Mesh: c.Mesh, Zone: r.Zone(), Name: c.Name, Labels: labels}
	for _, in := range c.Inbounds {
		meta.Sections = append(meta.Sections, in.Name)
	}
	for _, l := range c.Listeners {
		meta.Sections = append(meta.Sections, l.Name)
	}
	return &compiler{
		r: r, class: c, meta: meta,
		proxy:      &Proxy{Class: c, Zone: r.Zone()},
		kinds:      confKinds(),
		confs:      map[string]Confs{},
		selected:   map[mesh.KindName][]mesh.Selected{},
		dests:      map[string]*Destination{},
		gateways:   map[string]Gateway{},
		aliases:    map[string]map[string]string{},
		foreigners: map[mesh.Key]map[string]bool{},
	}
}

func (b *compiler) finish() *Proxy {
	p := b.proxy
	for _, name := range slices.Sorted(maps.Keys(b.dests)) {
		p.Destinations = append(p.Destinations, *b.dests[name])
	}
	for _, name := range slices.Sorted(maps.Keys(b.gateways)) {
		p.Gateways = append(p.Gateways, b.gateways[name])
	}
	SortProblems(&p.Problems)
	return p
}

// SortProblems orders problems and drops repeated ones.
func SortProblems(list *[]Problem) {
	slices.SortFunc(*list, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Source.String(), b.Source.String()), cmp.Compare(a.Reason, b.Reason))
	})
	*list = slices.Compact(*list)
}

func (b *compiler) problem(source mesh.Key, format string, args ...any) {
	b.proxy.Problems = append(b.proxy.Problems, Problem{Source: source, Reason: fmt.Sprintf(format, args...)})
}

// list reads every resource of a kind in the class's mesh; nothing of another
// mesh is ever read.
func (b *compiler) list(kind mesh.KindName) []mesh.PolicyResource {
	return policyResources(b.objects(kind))
}

func (b *compiler) objects(kind mesh.KindName) []*Object {
	return b.r.List(Query{Kind: kind, Mesh: b.class.Mesh, Index: ByMesh})
}

func policyResources(objects []*Object) []mesh.PolicyResource {
	out := make([]mesh.PolicyResource, len(objects))
	for i, o := range objects {
		out[i] = mesh.PolicyResource(*o)
	}
	return out
}

// policies selects those of a kind that apply to the class, once a compile.
func (b *compiler) policies(kind mesh.KindName) []mesh.Selected {
	s, ok := b.selected[kind]
	if !ok {
		var all []mesh.PolicyResource
		q := Query{Kind: kind, Mesh: b.class.Mesh, Index: ByMesh}
		for _, o := range Select(b.r, q, func(o *Object) bool { return mesh.Selects((*mesh.PolicyResource)(o), b.meta) }) {
			all = append(all, mesh.PolicyResource(*o))
		}
		s = mesh.SelectPolicies(kind, all, b.meta)
		b.selected[kind] = s
	}
	return s
}

func (b *compiler) identity() bool {
	who := mesh.IdentitySubject{Mesh: b.meta.Mesh, Zone: b.meta.Zone, Name: b.meta.Name, Labels: b.meta.Labels}
	decision, problems := mesh.IdentityFor(b.list(mesh.KindMeshIdentity), who)
	if decision != nil {
		return true
	}
	at := mesh.Key{Kind: mesh.KindMesh, Name: b.class.Mesh}
	for _, p := range problems {
		b.problem(at, "proxies %s have no identity: %s: %s", b.class.ID, p.Field, p.Reason)
	}
	if len(problems) == 0 {
		b.problem(at, "proxies %s have no identity: no MeshIdentity selects them; they get neither inbounds nor outbounds", b.class.ID)
	}
	return false
}

func (b *compiler) inbounds() {
	for _, in := range b.class.Inbounds {
		x := Inbound{ClassInbound: in, Permission: b.permission(in)}
		x.Confs, x.Rules = b.inboundConfs(in)
		x.Timeouts, x.Matched = inboundTimeouts(x.Confs, x.Rules)
		if !in.Protocol.IsHTTP() {
			x.Generation = b.r.Counter(TightenCounter(b.class.ID, in.Name))
		}
		b.proxy.Inbounds = append(b.proxy.Inbounds, x)
	}
}

// TightenCounter names the counter that Inbound.Generation is read from.
func TightenCounter(classID, inbound string) string { return TightenPrefix + classID + "/" + inbound }

// TightenPrefix begins the names of such counters, which only grow.
const TightenPrefix = "tighten/"

func (b *compiler) outbounds() {
	seen := map[string]bool{}
	for i, o := range b.class.Outbounds {
		listen := o.Address + ":" + number(o.Port)
		if seen[listen] {
			b.problem(b.class.Owner(b.r.Zone()), "networking.outbound[%d]: %s is taken by an earlier outbound", i, listen)
			continue
		}
		seen[listen] = true
		b.proxy.Outbounds = append(b.proxy.Outbounds, b.outbound(i, o))
	}
}

func (b *compiler) outbound(i int, o mesh.Outbound) Outbound {
	out := Outbound{Address: o.Address, Port: o.Port}
	target, err := resolve(b.r, b.class.Mesh, o.BackendRef)
	if err != nil {
		b.problem(b.class.Owner(b.r.Zone()), "networking.outbound[%d].backendRef: %v", i, err)
		out.Name = "unresolved_" + o.Address + "_" + number(o.Port)
		out.Protocol = TCP
		out.Timeouts = outboundTimeouts(nil)
		return out
	}
	b.lead(&out, target)
	return out
}

// lead makes an outbound one to a backend.
func (b *compiler) lead(out *Outbound, target *backend) {
	dest := destinationOf(target)
	out.Name, out.Protocol = target.name(), target.protocol()
	out.Confs = b.confsOf(target)
	out.Timeouts = outboundTimeouts(out.Confs)
	if out.Protocol.IsHTTP() {
		out.Routes = b.routes(target, dest, out.Confs)
		return
	}
	out.Backends, out.Source = b.tcpBackends(target, dest)
}

// destinationOf is a service's port as `to` items see it.
func destinationOf(t *backend) mesh.Destination {
	k := t.key()
	return mesh.Destination{Kind: k.Kind, Name: t.object.DisplayName(), Zone: k.Zone, Labels: labelsOf(t.object),
		Port: t.port.Port, SectionName: t.port.Name}
}

// use makes a backend a destination of the proxy and returns its name.
func (b *compiler) use(t *backend) string {
	name := t.name()
	if b.dests[name] != nil {
		return name
	}
	d := &Destination{Name: name, Protocol: t.protocol(), Backend: t.key(), Port: t.port.Port}
	b.dests[name] = d
	d.Confs = b.confsOf(t)
	d.Timeouts = outboundTimeouts(d.Confs)
	for _, m := range membersOf(b.r, t.object, t.port.Port) {
		k := m.service.Key
		p := m.peer()
		if len(p.Identities) == 0 {
			b.problem(k, "has no identities, so that nobody can verify it: it is left out of %s", name)
			continue
		}
		d.Peers = append(d.Peers, p)
		if !m.local(b.r) {
			b.gateway(k)
		}
	}
	slices.SortFunc(d.Peers, func(x, y Peer) int { return cmp.Compare(x.Name, y.Name) })
	return name
}

// gateway makes the ingress of a remote service's zone one of the proxy's.
func (b *compiler) gateway(service mesh.Key) {
	name := GatewayName(service.Mesh, service.Zone)
	hosts, problems := gatewayAddresses(b.r, service.Mesh, service.Zone)
	if len(hosts) == 0 {
		b.problem(service, "zone %s has no usable MeshZoneAddress in mesh %s: it cannot be reached from zone %s", service.Zone, service.Mesh, b.r.Zone())
	}
	if _, ok := b.gateways[name]; !ok {
		b.gateways[name] = Gateway{Name: name, Zone: service.Zone}
		b.proxy.Problems = append(b.proxy.Problems, problems...)
	}
}

// backends resolves weighted references. What cannot be resolved keeps its share.
func (b *compiler) backends(refs []mesh.BackendRef, source Source) []WeightedBackend {
	var out []WeightedBackend
	for i, ref := range refs {
		weight := uint32(1)
		if ref.Weight != nil {
			weight = *ref.Weight
		}
		if weight == 0 {
			continue
		}
		name, filters := "", []mesh.BackendFilter(nil)
		if t, err := b.backendOf(source.Key, ref); err != nil {
			b.problem(source.Key, "%s.default.backendRefs[%d]: %v", source.Path, i, err)
		} else if !knownBackendFilters(ref.Filters) {
			b.problem(source.Key, "%s.default.backendRefs[%d].filters: a type is not known or has no configuration: requests to this backend get 500", source.Path, i)
		} else {
			name, filters = b.use(t), ref.Filters
		}
		at := slices.IndexFunc(out, func(w WeightedBackend) bool {
			return w.Destination == name && len(w.Filters)+len(filters) == 0
		})
		if at < 0 {
			out = append(out, WeightedBackend{Destination: name, Weight: weight, Filters: filters})
			continue
		}
		out[at].Weight = addWeights(out[at].Weight, weight)
	}
	fitWeights(out)
	return out
}

func addWeights(a, b uint32) uint32 {
	const most = 1<<32 - 1
	return uint32(min(uint64(a)+uint64(b), most))
}

// fitWeights halves weights until their sum has 32 bits, which is what Envoy takes.
func fitWeights(list []WeightedBackend) {
	for {
		var sum uint64
		for _, w := range list {
			sum += uint64(w.Weight)
		}
		if sum < 1<<32 {
			return
		}
		for i := range list {
			list[i].Weight = max(list[i].Weight/2, 1)
		}
	}
}

func (b *compiler) tcpBackends(t *backend, dest mesh.Destination) ([]WeightedBackend, Source) {
	rule, ok := mesh.TCPRule(b.policies(mesh.KindMeshTCPRoute), dest)
	if !ok || rule.Conf.BackendRefs == nil {
		return []WeightedBackend{{Destination: b.use(t), Weight: 1}}, Source{}
	}
	source := Source(rule.Source)
	return b.backends(*rule.Conf.BackendRefs, Source{Key: source.Key, Path: source.Path + ".rules[0]", Revision: source.Revision}), source
}
