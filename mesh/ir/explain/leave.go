package explain

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/effect"
)

// Departure is what the zone of the caller has on record.
type Departure struct {
	// Caller is the proxy that stands for the source.
	Caller Proxy
	// Compiled is what its class must do.
	Compiled *ir.Proxy
	// Names that it resolves by itself; may be nil.
	Names *ir.NameTable
	// Sets are the endpoint sets of Compiled, by name.
	Sets map[string]*ir.EndpointSet
	// Candidates of a MeshService's port, as ir.Candidates has them.
	Candidates func(service mesh.Key, port uint32) []ir.Candidate
	// Services of the mesh, to tell a name that is unknown from one without an outbound.
	Services []mesh.Key
	// Ejected reports whether the caller's Envoy leaves out a host of a cluster; nil
	// when it could not be asked.
	Ejected func(cluster string, h ir.Host) bool
}

// Leave makes the way of a call as far as its zone knows it; verdict and arrivals
// are still empty. An error is a *Problem: what was asked for is not one call.
func Leave(d *Departure, call Call) (*Explanation, error) {
	x := &Explanation{Call: call, Caller: d.Caller}
	for _, t := range d.Compiled.Trust {
		x.Caller.TrustDomains = append(x.Caller.TrustDomains, t.TrustDomain)
	}
	if !d.Compiled.HasIdentity || d.Caller.Identity == "" {
		x.Verdict = Verdict{Outcome: NoIdentity, Text: d.Caller.Name + " has no identity: no MeshIdentity selects it, so that it has neither inbounds nor outbounds; nothing is sent in plain text"}
		return x, nil
	}
	list, err := d.outbounds(x)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		x.Verdict = Verdict{Outcome: UnknownName, Text: d.unknown(call)}
		return x, nil
	}
	lead := list[0]
	x.Call.Port = portOf(lead)
	x.Destination = d.destination(list)
	backends := lead.Backends
	if lead.Protocol.IsHTTP() {
		backends = x.route(lead)
		if x.Route != nil && x.Route.Status != 0 {
			return x, nil
		}
	}
	var sum uint64
	for _, b := range backends {
		sum += uint64(b.Weight)
	}
	for _, b := range backends {
		if b.Weight > 0 {
			x.Ways = append(x.Ways, d.way(b, 100*float64(b.Weight)/float64(sum)))
		}
	}
	return x, nil
}

// route finds the rule that takes the request and returns its backends.
func (x *Explanation) route(o *ir.Outbound) []ir.WeightedBackend {
	req := x.Call.request()
	var tried []Tried
	for i := range o.Routes {
		r := &o.Routes[i]
		why := misses(r.Match, &req)
		if why != "" {
			tried = append(tried, Tried{Name: r.Name, Match: effect.Request(r.Match), Why: why, Origin: OriginOf(r.Source)})
			continue
		}
		x.Route = &Route{Name: r.Name, Match: effect.Request(r.Match), Origin: OriginOf(r.Source), Tried: tried,
			Status: int(r.Status), Settings: settingsOf(r.Timeouts, r.Confs)}
		for _, f := range r.Filters {
			x.Route.Actions = append(x.Route.Actions, effect.Text(f))
			if f.RequestRedirect != nil && x.Route.Status == 0 {
				x.Route.Status = 302
				if f.RequestRedirect.StatusCode != nil {
					x.Route.Status = *f.RequestRedirect.StatusCode
				}
			}
		}
		for _, m := range r.Mirrors {
			x.Route.Actions = append(x.Route.Actions, fmt.Sprintf("%g%% copied to %s", m.Percentage, effect.Place(m.Destination)))
		}
		return r.Backends
	}
	x.Route = &Route{Name: "", Match: "no route", Tried: tried, Status: 404}
	return nil
}

// outbounds finds what the destination means: outbounds of one port of one
// service, or the one at an address.
func (d *Departure) outbounds(x *Explanation) ([]*ir.Outbound, error) {
	call := x.Call
	var list []*ir.Outbound
	if ip, err := netip.ParseAddr(call.Destination); err == nil {
		for i := range d.Compiled.Outbounds {
			if o := &d.Compiled.Outbounds[i]; sameAddress(o.Address, ip) && (call.Port == 0 || o.Port == call.Port) {
				list = append(list, o)
			}
		}
		return onePort(call, list, func(o *ir.Outbound) uint32 { return o.Port })
	}
	services := map[mesh.Key][]*ir.Outbound{}
	for i := range d.Compiled.Outbounds {
		o := &d.Compiled.Outbounds[i]
		if key, _, ok := serviceOf(o.Name); ok {
			services[key] = append(services[key], o)
		}
	}
	keys := make([]mesh.Key, 0, len(services))
	for k := range services {
		keys = append(keys, k)
	}
	found, others := d.named(call.Destination, keys)
	switch {
	case len(found) == 0:
		return nil, nil
	case len(found) > 1:
		return nil, &Problem{Field: "destination", Reason: fmt.Sprintf("%q is several: say %s", call.Destination, strings.Join(exact(found), " or "))}
	case len(others) > 0:
		x.Notes = append(x.Notes, fmt.Sprintf("%q was taken for %s; there is also %s", call.Destination, exact(found)[0], strings.Join(exact(others), ", ")))
	}
	list = services[found[0]]
	if call.Port != 0 {
		list = slices.DeleteFunc(slices.Clone(list), func(o *ir.Outbound) bool { return portOf(o) != call.Port })
		if len(list) == 0 {
			return nil, &Problem{Field: "port", Unknown: true, Reason: fmt.Sprintf("%s cannot call port %d of %s; it can call %s", d.Caller.Name, call.Port,
				found[0].RESTName(), strings.Join(ports(services[found[0]], portOf), ", "))}
		}
	}
	return onePort(call, list, portOf)
}

// onePort makes sure that all outbounds have one port.
func onePort(call Call, list []*ir.Outbound, port func(*ir.Outbound) uint32) ([]*ir.Outbound, error) {
	if all := ports(list, port); len(all) > 1 {
		return nil, &Problem{Field: "port", Reason: fmt.Sprintf("%s has several: say one of %s", call.Destination, strings.Join(all, ", "))}
	}
	return list, nil
}

func ports(list []*ir.Outbound, port func(*ir.Outbound) uint32) []string {
	var all []uint32
	for _, o := range list {
		all = append(all, port(o))
	}
	slices.Sort(all)
	var out []string
	for _, p := range slices.Compact(all) {
		out = append(out, number(p))
	}
	return out
}

// named finds the services that a name means best, and those that it could mean
// as well.
func (d *Departure) named(name string, keys []mesh.Key) (best, others []mesh.Key) {
	kind := mesh.KindName("")
	if k, rest, ok := strings.Cut(name, "/"); ok {
		for _, full := range []mesh.KindName{mesh.KindMeshService, mesh.KindMeshMultiZoneService} {
			if strings.EqualFold(k, string(full)) {
				kind = full
			}
		}
		if name = rest; kind == "" { // as kubectl says it
			name = mesh.NamespacedName(rest, k)
		}
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	rank := 0
	if d.Names != nil {
		if n, ok := d.Names.Find(name); ok && slices.Contains(keys, n.Service) {
			return []mesh.Key{n.Service}, nil
		}
	}
	name, own := clusterName(name)
	for _, k := range keys {
		if kind != "" && k.Kind != kind || own && k.Zone != d.Compiled.Zone {
			continue
		}
		r := d.rank(name, k)
		switch {
		case r == 0:
		case r > rank:
			others = append(others, best...)
			best, rank = []mesh.Key{k}, r
		case r == rank:
			best = append(best, k)
		default:
			others = append(others, k)
		}
	}
	byName := func(a, b mesh.Key) int { return cmp.Compare(a.String(), b.String()) }
	slices.SortFunc(best, byName)
	slices.SortFunc(others, byName)
	return best, others
}

// clusterName is the name of a Service in the names that a cluster gives it, "backend.shop"
// of "backend.shop.svc.cluster.local": one of the own cluster.
func clusterName(name string) (service string, own bool) {
	for _, suffix := range []string{".svc.cluster.local", ".svc"} {
		if service, own = strings.CutSuffix(name, suffix); own {
			return service, own
		}
	}
	return name, false
}

// rank is how well a name means a service; 0 is not at all.
func (d *Departure) rank(name string, k mesh.Key) int {
	object, _, _ := strings.Cut(k.Name, ".")
	switch {
	case name == k.RESTName():
		return 4
	case name == k.Name && k.Zone == d.Compiled.Zone:
		return 3
	case name == object && k.Zone == d.Compiled.Zone:
		return 2
	case name == k.Name || name == object:
		return 1
	}
	return 0
}

// unknown says why nothing leads to the destination.
func (d *Departure) unknown(call Call) string {
	known, _ := d.named(call.Destination, d.Services)
	transparent := d.Compiled.Class.Transparent
	switch {
	case len(known) > 0 && transparent != nil && transparent.Reachable != nil:
		return fmt.Sprintf("%s is a service, but not among the reachableBackends of %s", known[0].RESTName(), d.Caller.Name)
	case len(known) > 0 && transparent == nil:
		return fmt.Sprintf("%s is a service, but %s has no outbound to it: its Dataplane lists it in networking.outbound", known[0].RESTName(), d.Caller.Name)
	case len(known) > 0:
		return fmt.Sprintf("%s is a service, but it has no address in zone %s yet", known[0].RESTName(), d.Compiled.Zone)
	case transparent != nil && d.Compiled.Passthrough:
		return fmt.Sprintf("no service of the mesh that %s may call is %q: if DNS knows the name, the connection passes through as it is, outside of the mesh", d.Caller.Name, call.Destination)
	case transparent != nil:
		return fmt.Sprintf("no service of the mesh that %s may call is %q: the connection is closed", d.Caller.Name, call.Destination)
	}
	return fmt.Sprintf("no service of the mesh that %s may call is %q", d.Caller.Name, call.Destination)
}

func (d *Departure) destination(list []*ir.Outbound) *Destination {
	o := list[0]
	out := &Destination{Name: effect.Place(o.Name), Port: portOf(o), Protocol: o.Protocol, Resource: o.Name, Redirected: o.Redirected,
		Settings: settingsOf(o.Timeouts, o.Confs), Origin: OriginOf(o.Source)}
	for _, x := range list {
		out.Listeners = append(out.Listeners, net.JoinHostPort(x.Address, number(x.Port)))
	}
	key, _, ok := serviceOf(o.Name)
	if !ok {
		return out
	}
	out.Kind = key.Kind
	if d.Names != nil {
		for _, n := range d.Names.Names {
			if n.Service == key {
				out.Hostnames = append(out.Hostnames, n.Name)
			}
		}
	}
	return out
}

// way is a share of the calls.
func (d *Departure) way(b ir.WeightedBackend, percent float64) Way {
	out := Way{Backend: effect.Place(b.Destination), Cluster: b.Destination, Percent: percent}
	for _, f := range b.Filters {
		out.Actions = append(out.Actions, effect.Text(f))
	}
	i := slices.IndexFunc(d.Compiled.Destinations, func(x ir.Destination) bool { return x.Name == b.Destination })
	if i < 0 {
		return out
	}
	dest := &d.Compiled.Destinations[i]
	out.Settings = settingsOf(dest.Timeouts, dest.Confs)
	var hosts []ir.Host
	if set := d.Sets[dest.Name]; set != nil {
		hosts = set.Hosts
	}
	shares := d.spread(dest.Name, hosts)
	for _, p := range dest.Peers {
		out.Peers = append(out.Peers, d.peer(dest, p, hosts, shares))
	}
	return out
}

// peer collects the hosts of one service of one zone.
func (d *Departure) peer(dest *ir.Destination, p ir.Peer, hosts []ir.Host, shares []share) Peer {
	at := strings.LastIndexByte(p.Name, '.')
	out := Peer{Name: p.Name, Zone: p.Name[at+1:], SNI: p.SNI, Identities: p.Identities, Port: dest.Port}
	out.Service = mesh.Key{Kind: mesh.KindMeshService, Mesh: dest.Backend.Mesh, Zone: out.Zone, Name: p.Name[:max(at, 0)]}
	candidates := d.Candidates(out.Service, dest.Port)
	first, ready := uint32(0), 0
	for i, h := range hosts {
		if h.Peer != p.Name {
			continue
		}
		host := Host{Address: net.JoinHostPort(h.Address, number(h.Port)), Priority: h.Priority, Weight: h.Weight, State: Ready, Percent: shares[i].percent}
		if h.Gateway != "" {
			host.Address = "through the ingress of zone " + out.Zone
		}
		for _, c := range candidates {
			if c.Proxy.Name != "" && c.Host.Address == h.Address && c.Host.Port == h.Port {
				host.Proxy = c.Proxy.RESTName()
			}
		}
		if shares[i].ejected {
			host.State, host.Why = Ejected, "the caller's Envoy found it failing and tries it again soon"
		} else {
			ready++
		}
		first = h.Priority
		out.Percent += host.Percent
		out.Hosts = append(out.Hosts, host)
	}
	inSet := len(out.Hosts)
	for _, c := range candidates {
		if c.Out == "" {
			continue
		}
		h := Host{State: Out, Why: c.Out, Address: "through the ingress of zone " + out.Zone}
		if c.Proxy.Name != "" {
			h.Proxy, h.Address = c.Proxy.RESTName(), net.JoinHostPort(c.Host.Address, number(c.Host.Port))
		}
		out.Hosts = append(out.Hosts, h)
	}
	out.Why = whyPeer(d, &out, hosts, shares, inSet, ready, first)
	if out.Zone != d.Compiled.Zone {
		out.Gateway = d.gateway(dest.Backend.Mesh, out.Zone)
	}
	return out
}

// whyPeer says why a peer gets its share.
func whyPeer(d *Departure, p *Peer, hosts []ir.Host, shares []share, inSet, ready int, priority uint32) string {
	better, usable := 0, 0
	for i, h := range hosts {
		if h.Priority < priority {
			better++
			if !shares[i].ejected {
				usable++
			}
		}
	}
	switch {
	case inSet == 0:
		return "nobody of it is ready"
	case ready == 0:
		return "all of it is ejected"
	case p.Percent == 0:
		return "standby: " + plural(usable, "ready host") + " of zone " + d.Compiled.Zone + " come first"
	case priority == 0:
		return "first choice"
	case better == 0:
		return "failover: nobody in zone " + d.Compiled.Zone + " is ready"
	default:
		return fmt.Sprintf("failover: %d of %s in zone %s are ejected", better-usable, plural(better, "host"), d.Compiled.Zone)
	}
}

func (d *Departure) gateway(meshName, zone string) *Gateway {
	name := ir.GatewayName(meshName, zone)
	out := &Gateway{Cluster: name}
	set := d.Sets[name]
	if set == nil {
		return out
	}
	shares := d.spread(name, set.Hosts)
	for i, h := range set.Hosts {
		host := Host{Address: net.JoinHostPort(h.Address, number(h.Port)), Priority: h.Priority, Weight: h.Weight, State: Ready, Percent: shares[i].percent}
		if shares[i].ejected {
			host.State, host.Why = Ejected, "the caller's Envoy found it failing and tries it again soon"
		}
		out.Hosts = append(out.Hosts, host)
	}
	return out
}

// share of calls that a host gets.
type share struct {
	percent float64
	ejected bool
}

// Overprovisioning is how much of a priority may be missing, in percent of its
// hosts, before calls go on to the next: 200 is half of them.
const Overprovisioning = 200

// spread shares calls over hosts as Envoy does: over priorities by how many of
// their hosts are healthy, within one by weight.
func (d *Departure) spread(cluster string, hosts []ir.Host) []share {
	out := make([]share, len(hosts))
	type level struct {
		hosts, healthy int
		weight         uint64
		load           float64
	}
	levels := map[uint32]*level{}
	var order []uint32
	for i, h := range hosts {
		l := levels[h.Priority]
		if l == nil {
			l = &level{}
			levels[h.Priority] = l
			order = append(order, h.Priority)
		}
		l.hosts++
		if out[i].ejected = d.Ejected != nil && d.Ejected(cluster, h); !out[i].ejected {
			l.healthy++
			l.weight += uint64(max(h.Weight, 1))
		}
	}
	slices.Sort(order)
	total := 0.0
	for _, p := range order {
		l := levels[p]
		l.load = min(100, Overprovisioning*float64(l.healthy)/float64(l.hosts))
		total = min(100, total+l.load)
	}
	left := 100.0
	for _, p := range order {
		l := levels[p]
		if total > 0 {
			l.load = min(left, l.load*100/total)
			left -= l.load
		}
	}
	for i, h := range hosts {
		if l := levels[h.Priority]; !out[i].ejected && l.weight > 0 {
			out[i].percent = l.load * float64(max(h.Weight, 1)) / float64(l.weight)
		}
	}
	return out
}

// serviceOf reads a KRI of a service's port.
func serviceOf(name string) (key mesh.Key, port uint32, ok bool) {
	f := strings.Split(name, "_") // kri_<short>_<mesh>_<zone>_<namespace>_<name>_<port>: no part has a "_"
	if len(f) != 7 || f[0] != "kri" {
		return key, 0, false
	}
	n, err := strconv.ParseUint(f[6], 10, 16)
	if err != nil {
		return key, 0, false
	}
	key = mesh.Key{Kind: mesh.KindMeshService, Mesh: f[2], Zone: f[3], Name: mesh.NamespacedName(f[5], f[4])}
	if f[1] == "mzsvc" {
		key.Kind = mesh.KindMeshMultiZoneService
	}
	return key, uint32(n), true
}

// portOf is the service's port that an outbound is for, its own when it leads nowhere.
func portOf(o *ir.Outbound) uint32 {
	if _, p, ok := serviceOf(o.Name); ok {
		return p
	}
	return o.Port
}

// exact are names that mean one service each.
func exact(keys []mesh.Key) []string {
	var out []string
	for _, k := range keys {
		out = append(out, strings.ToLower(string(k.Kind))+"/"+k.RESTName())
	}
	return out
}

func sameAddress(s string, ip netip.Addr) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Unmap() == ip.Unmap()
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
