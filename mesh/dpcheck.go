package mesh

import (
	"cmp"
	"net/netip"
	"strconv"
	"time"
)

// Bounds of a Dataplane.
const (
	maxInbounds      = 256
	maxOutbounds     = 1024
	maxListeners     = 16
	maxReachable     = 1024
	minProbeInterval = 50 * time.Millisecond
	maxThreshold     = 1000
)

// Validate implements Spec.
func (s *Dataplane) Validate() Problems {
	var out Problems
	out.In("networking", s.Networking.problems())
	return out
}

func (n *Networking) problems() Problems {
	var out Problems
	out.ip("address", n.Address)
	out.count("inbound", len(n.Inbound), 0, maxInbounds)
	out.count("outbound", len(n.Outbound), 0, maxOutbounds)
	out.count("listeners", len(n.Listeners), 0, maxListeners)
	names, bound := claims{}, claims{}
	for i := range n.Inbound {
		in, at := &n.Inbound[i], indexPath("inbound", i)
		out.In(at, in.problems(n))
		names.take(&out, at+".name", in.SectionName(), "a name is used once")
		bound.take(&out, at+".port", addrPort(or(in.Address, n.Address), in.Port), "an address is bound once")
	}
	for i := range n.Outbound {
		o, at := &n.Outbound[i], indexPath("outbound", i)
		out.ipOrNone(at+".address", o.Address)
		out.port(at+".port", o.Port)
		out.In(at+".backendRef", backendRef(&o.BackendRef, true, false))
		bound.take(&out, at+".port", addrPort(or(o.Address, DefaultOutboundAddress), o.Port), "an address is bound once")
	}
	for i := range n.Listeners {
		l, at := &n.Listeners[i], indexPath("listeners", i)
		out.oneOf(at+".type", l.Type, ListenerIngress, ListenerEgress)
		out.ipOrNone(at+".address", l.Address)
		out.port(at+".port", l.Port)
		out.label(at+".name", l.Name)
		out.oneOfOrNone(at+".state", l.State, StateReady, StateNotReady)
		names.take(&out, at+".name", l.SectionName(), "a name is used once")
		bound.take(&out, at+".port", addrPort(or(l.Address, n.Address), l.Port), "an address is bound once")
	}
	if n.Admin != nil {
		out.portOrNone("admin.port", n.Admin.Port)
	}
	if n.TransparentProxying != nil {
		out.In("transparentProxying", n.TransparentProxying.problems())
		out.In("", n.redirectProblems())
	}
	return out
}

func (t *TransparentProxying) problems() Problems {
	var out Problems
	out.portOrNone("redirectPortInbound", t.RedirectPortInbound)
	out.portOrNone("redirectPortOutbound", t.RedirectPortOutbound)
	if t.InboundPort() == t.OutboundPort() {
		out.Addf("redirectPortOutbound", "must not be %d, which is where inbound connections arrive", t.OutboundPort())
	}
	out.oneOfOrNone("ipFamilyMode", t.IPFamilyMode, FamilyDualStack, FamilyIPv4)
	if r := t.ReachableBackends; r != nil {
		out.count("reachableBackends.refs", len(r.Refs), 0, maxReachable)
		for i := range r.Refs {
			out.In(indexPath("reachableBackends.refs", i), r.Refs[i].problems())
		}
	}
	return out
}

func (r *ReachableBackend) problems() Problems {
	var out Problems
	out.oneOf("kind", string(r.Kind), string(KindMeshService), string(KindMeshMultiZoneService))
	if r.Name == "" && r.Namespace == "" && len(r.Labels) == 0 {
		out.Addf("labels", "are required, or a name: an empty selection would mean every service")
	}
	out.labelPairs("labels", r.Labels)
	if r.Name != "" {
		out.add("name", CheckName(r.Name))
	}
	out.label("namespace", r.Namespace)
	for _, k := range sortedKeys(r.Labels) {
		switch c := CanonicalLabel(k); {
		case c == LabelDisplayName && r.Name != "":
			out.Addf("name", "must be absent where labels say %s", k)
		case c == LabelNamespace && r.Namespace != "":
			out.Addf("namespace", "must be absent where labels say %s", k)
		}
	}
	out.portOrNone("port", r.Port)
	return out
}

// redirectProblems are those of ports that redirected traffic needs for itself.
func (n *Networking) redirectProblems() Problems {
	var out Problems
	if len(n.Listeners) > 0 {
		out.Addf("transparentProxying", "must be absent beside listeners: a zone proxy has no application whose traffic could be redirected")
	}
	t, ports := n.TransparentProxying, claims{}
	taken := func(field string, port uint32) {
		if port != 0 && (port == t.InboundPort() || port == t.OutboundPort()) {
			out.Addf(field, "must not be %d, where redirected connections arrive", port)
		}
	}
	for i := range n.Inbound {
		at := indexPath("inbound", i) + ".port"
		taken(at, n.Inbound[i].Port)
		if n.Inbound[i].Port != 0 {
			ports.take(&out, at, strconv.FormatUint(uint64(n.Inbound[i].Port), 10), "redirected connections are told apart by port alone")
		}
	}
	for i := range n.Outbound {
		taken(indexPath("outbound", i)+".port", n.Outbound[i].Port)
	}
	return out
}

// InboundPort is where redirected inbound connections arrive.
func (t *TransparentProxying) InboundPort() uint32 {
	return cmp.Or(t.RedirectPortInbound, DefaultRedirectInbound)
}

// OutboundPort is where redirected outbound connections arrive.
func (t *TransparentProxying) OutboundPort() uint32 {
	return cmp.Or(t.RedirectPortOutbound, DefaultRedirectOutbound)
}

func (in *Inbound) problems(n *Networking) Problems {
	var out Problems
	out.label("name", in.Name)
	out.ipOrNone("address", in.Address)
	out.port("port", in.Port)
	out.ipOrNone("serviceAddress", in.ServiceAddress)
	out.portOrNone("servicePort", in.ServicePort)
	out.oneOfOrNone("protocol", in.Protocol, protocols()...)
	out.oneOfOrNone("state", in.State, StateReady, StateNotReady, StateIgnored)
	// Redirected connections arrive elsewhere, so that both may have one address.
	if in.Port != 0 && n.TransparentProxying == nil && addrPort(or(in.Address, n.Address), in.Port) == addrPort(n.Application(in)) {
		out.Addf("serviceAddress", "with servicePort it is where the proxy itself listens; the application must listen elsewhere")
	}
	if p := in.ServiceProbe; p != nil {
		for _, d := range []struct {
			field string
			value *Duration
		}{{"serviceProbe.interval", p.Interval}, {"serviceProbe.timeout", p.Timeout}} {
			if d.value != nil && d.value.Duration < minProbeInterval {
				out.Addf(d.field, "must be at least %s, not %s", minProbeInterval, d.value)
			}
		}
		out.threshold("serviceProbe.unhealthyThreshold", p.UnhealthyThreshold)
		out.threshold("serviceProbe.healthyThreshold", p.HealthyThreshold)
	}
	return out
}

// SectionName is how the inbound is named by targetRef.sectionName: its name, or its port.
func (in *Inbound) SectionName() string { return or(in.Name, strconv.FormatUint(uint64(in.Port), 10)) }

// Application is where the application behind one of the inbounds listens.
func (n *Networking) Application(in *Inbound) (string, uint32) {
	port := in.ServicePort
	if port == 0 {
		port = in.Port
	}
	switch {
	case in.ServiceAddress != "":
		return in.ServiceAddress, port
	case n.TransparentProxying != nil:
		return or(in.Address, n.Address), port
	case port != in.Port:
		return n.Address, port
	}
	return DefaultOutboundAddress, port
}

// SectionName is how the listener is named by targetRef.sectionName: its name, or its port.
func (l *Listener) SectionName() string { return or(l.Name, strconv.FormatUint(uint64(l.Port), 10)) }

// DefaultOutboundAddress is where outbounds listen, and where applications are
// looked for, if nothing else is said.
const DefaultOutboundAddress = "127.0.0.1"

func (p *Problems) threshold(field string, n *uint32) {
	if n != nil && (*n < 1 || *n > maxThreshold) {
		p.Addf(field, "must be 1 to %d, not %d", maxThreshold, *n)
	}
}

// label checks an optional RFC 1035 label.
func (p *Problems) label(field, s string) {
	if s != "" {
		p.add(field, CheckDNSLabel(s))
	}
}

// claims notices what is used twice.
type claims map[string]string

func (c claims) take(p *Problems, field, value, rule string) {
	if value == "" {
		return
	}
	if first, taken := c[value]; taken {
		p.Addf(field, "%s is already used by %s; %s", value, first, rule)
		return
	}
	c[value] = field
}

// addrPort is comparable; "" if either is not valid (which is reported elsewhere).
func addrPort(address string, port uint32) string {
	a, err := netip.ParseAddr(address)
	if err != nil || port == 0 || port > 65535 {
		return ""
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(port)).String()
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
