package explain

import (
	"cmp"
	"net"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// maxProxies bounds the proxies of a server that are named.
const maxProxies = 10

// Landing is what the zone of a service has on record of it.
type Landing struct {
	// Zone and the revision that it is at.
	Zone string
	At   mesh.Revision
	// Instances behind the service's port.
	Instances []Instance
	// Ingress of the zone; nil when calls come from the zone itself.
	Ingress *Ingress
}

// Instance is one candidate with the proxy that it is.
type Instance struct {
	ir.Candidate
	// Compiled is what its class must do; nil when the zone has nothing.
	Compiled *ir.Proxy
	// Identity that it proves; empty when it has none.
	Identity string
	// Ejected: the proxy that picks hosts, the caller's or the ingress's, leaves it out.
	Ejected bool
}

// Arrive says what becomes of a call at its service.
func Arrive(l *Landing, call Arriving) *Arrival {
	out := &Arrival{Zone: l.Zone, At: l.At, Ingress: l.Ingress}
	type kind struct{ class, inbound, identity string }
	at := map[kind]int{}
	for _, in := range l.Instances {
		k := kind{inbound: in.Inbound, identity: in.Identity}
		if in.Compiled != nil {
			k.class = in.Compiled.Class.ID
		}
		i, ok := at[k]
		if !ok {
			i = len(out.Servers)
			at[k] = i
			out.Servers = append(out.Servers, serverOf(&in, call))
		}
		s := &out.Servers[i]
		s.Count++
		if len(s.Proxies) < maxProxies {
			s.Proxies = append(s.Proxies, in.Proxy.RESTName())
		}
		if in.Out == "" && !in.Ejected {
			s.Ready++
		}
	}
	slices.SortStableFunc(out.Servers, func(a, b Server) int { return cmp.Compare(b.Ready, a.Ready) })
	return out
}

// serverOf says what an inbound does with a call.
func serverOf(in *Instance, call Arriving) Server {
	s := Server{Inbound: in.Inbound, Identity: in.Identity}
	if in.Compiled == nil {
		s.Fault = "the zone has no configuration for it"
		return s
	}
	s.Class = in.Compiled.Class.ID
	for _, t := range in.Compiled.Trust {
		s.TrustDomains = append(s.TrustDomains, t.TrustDomain)
	}
	i := slices.IndexFunc(in.Compiled.Inbounds, func(x ir.Inbound) bool { return x.Name == in.Inbound })
	switch {
	case !in.Compiled.HasIdentity || in.Identity == "":
		s.Fault = "it has no identity: no MeshIdentity selects it, so that it takes no calls"
	case i < 0:
		s.Fault = "its configuration has no inbound " + in.Inbound
	}
	if i < 0 {
		return s
	}
	x := &in.Compiled.Inbounds[i]
	s.Port, s.Protocol = x.Port, x.Protocol
	s.Permission = Decide(x.Permission, call.Caller, call.SNI)
	s.Settings = inboundSettings(x, call)
	return s
}

// inboundSettings are those for one caller: the first match of a kind counts.
func inboundSettings(in *ir.Inbound, call Arriving) Settings {
	limits := in.Timeouts
	for _, m := range in.Matched {
		if Matches(m.Match, call.Caller, call.SNI) {
			limits = m.Timeouts
			break
		}
	}
	confs := slices.Clone(in.Confs)
	taken := map[mesh.KindName]bool{}
	for _, m := range in.Rules {
		if taken[m.Kind] || !Matches(m.Match, call.Caller, call.SNI) {
			continue
		}
		taken[m.Kind] = true
		confs = append(confs, ir.EffectiveConf{Kind: m.Kind, Conf: m.Conf, Sources: []ir.Source{m.Source}})
	}
	return settingsOf(limits, confs)
}

// HostsOf are candidates as hosts of an endpoint set.
func HostsOf(instances []Instance) []Host {
	var out []Host
	for _, in := range instances {
		h := Host{Address: net.JoinHostPort(in.Host.Address, number(in.Host.Port)), Proxy: in.Proxy.RESTName(), Weight: in.Host.Weight, State: Ready}
		switch {
		case in.Out != "":
			h.State, h.Why = Out, in.Out
		case in.Ejected:
			h.State, h.Why = Ejected, "the ingress's Envoy found it failing and tries it again soon"
		}
		out = append(out, h)
	}
	return out
}
