package ir

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Text says the whole of p in lines for people and golden files. It is
// deterministic and has no revisions in it.
func (p *Proxy) Text() string {
	var w writer
	role := "sidecar"
	if p.Class.Role == Ingress {
		role = "ingress"
	}
	w.line(0, "%s %s, mesh %s, zone %s, identity %t", role, p.Class.ID, p.Class.Mesh, p.Zone, p.HasIdentity)
	if t := p.Class.Transparent; t != nil {
		families, rest := "both families", "is closed"
		if t.IPv4Only {
			families = "IPv4"
		}
		if p.Passthrough {
			rest = "passes through"
		}
		w.line(0, "redirected: inbound to %d, outbound to %d, %s; what is no outbound's %s", t.InboundPort, t.OutboundPort, families, rest)
	}
	for i := range p.Inbounds {
		w.inbound(&p.Inbounds[i])
	}
	for i := range p.Outbounds {
		w.outbound(&p.Outbounds[i])
	}
	for i := range p.Destinations {
		w.destination(&p.Destinations[i])
	}
	for _, g := range p.Gateways {
		w.line(0, "gateway %s to %s", g.Name, g.Zone)
	}
	for _, e := range p.Exports {
		w.line(0, "export %s: %s port %d", e.SNI, e.Service, e.Port)
	}
	for _, t := range p.Trust {
		sum := sha256.Sum256([]byte(t.PEM))
		w.line(0, "trust %s: %d certificates, sha256 %s", t.TrustDomain, strings.Count(t.PEM, "BEGIN CERTIFICATE"), hex.EncodeToString(sum[:6]))
	}
	for _, x := range p.Problems {
		w.line(0, "problem %s: %s", x.Source, x.Reason)
	}
	return w.b.String()
}

// Text says the hosts in lines for people and golden files.
func (s *EndpointSet) Text() string {
	var w writer
	w.line(0, "endpoints %s", s.Name)
	for _, h := range s.Hosts {
		at := net.JoinHostPort(h.Address, number(h.Port))
		if h.Gateway != "" {
			at = "through " + h.Gateway
		}
		if h.Peer != "" {
			at += " as " + h.Peer
		}
		w.line(1, "%s, zone %s, priority %d, weight %d", at, h.Zone, h.Priority, h.Weight)
	}
	return w.b.String()
}

type writer struct{ b strings.Builder }

func (w *writer) line(depth int, format string, args ...any) {
	w.b.WriteString(strings.Repeat("  ", depth))
	fmt.Fprintf(&w.b, format, args...)
	w.b.WriteByte('\n')
}

func (w *writer) inbound(in *Inbound) {
	generation := ""
	if in.Generation > 0 {
		generation = fmt.Sprintf(", generation %d", in.Generation)
	}
	w.line(0, "inbound %s: %s, port %d to %d%s", in.Name, in.Protocol, in.Port, in.ServicePort, generation)
	for _, m := range in.Permission.Deny {
		w.line(1, "deny %s%s", matchText(m.Match), from(m.Source))
	}
	for _, m := range in.Permission.AllowWithShadowDeny {
		w.line(1, "allow, shadow deny %s%s", matchText(m.Match), from(m.Source))
	}
	for _, m := range in.Permission.Allow {
		w.line(1, "allow %s%s", matchText(m.Match), from(m.Source))
	}
	w.line(1, "deny everyone else")
	w.timeouts(1, "timeouts", in.Timeouts)
	for _, m := range in.Matched {
		w.timeouts(1, "timeouts for "+matchText(m.Match), m.Timeouts)
	}
	w.confs(1, in.Confs)
	for _, m := range in.Rules {
		w.line(1, "conf for %s: %s %s%s", matchText(m.Match), m.Kind, jsonText(m.Conf), from(m.Source))
	}
}

func (w *writer) outbound(o *Outbound) {
	what := "outbound"
	if o.Redirected {
		what = "redirected outbound"
	}
	w.line(0, "%s %s %s: %s", what, net.JoinHostPort(o.Address, number(o.Port)), o.Protocol, o.Name)
	w.timeouts(1, "timeouts", o.Timeouts)
	w.confs(1, o.Confs)
	w.backends(1, o.Backends, o.Source)
	for i := range o.Routes {
		r := &o.Routes[i]
		w.line(1, "route %s: %s%s", r.Name, jsonText(r.Match), from(r.Source))
		if r.Status != 0 {
			w.line(2, "answers %d", r.Status)
		}
		for _, f := range r.Filters {
			w.line(2, "filter %s", jsonText(f))
		}
		for _, m := range r.Mirrors {
			w.line(2, "mirror %g%% to %s", m.Percentage, m.Destination)
		}
		w.backends(2, r.Backends, Source{})
		w.timeouts(2, "timeouts", r.Timeouts)
		w.confs(2, r.Confs)
	}
}

func (w *writer) destination(d *Destination) {
	w.line(0, "destination %s: %s", d.Name, d.Protocol)
	w.timeouts(1, "timeouts", d.Timeouts)
	w.confs(1, d.Confs)
	for _, p := range d.Peers {
		w.line(1, "peer %s, SNI %s, may prove %s", p.Name, p.SNI, strings.Join(p.Identities, ", "))
	}
}

func (w *writer) backends(depth int, list []WeightedBackend, source Source) {
	for _, x := range list {
		w.line(depth, "%d to %s%s", x.Weight, or(x.Destination, "nowhere"), from(source))
		for _, f := range x.Filters {
			w.line(depth+1, "filter %s", jsonText(f))
		}
	}
}

// timeouts are said where a policy sets them; elsewhere the built-in ones hold.
func (w *writer) timeouts(depth int, what string, t Timeouts) {
	if len(t.Sources) == 0 {
		return
	}
	w.line(depth, "%s connect %s idle %s request %s streamIdle %s maxStream %s maxConnection %s requestHeaders %s%s", what,
		t.Connect, t.Idle, t.Request, t.StreamIdle, t.MaxStream, t.MaxConnection, t.RequestHeaders, from(t.Sources...))
}

func (w *writer) confs(depth int, confs Confs) {
	for _, c := range confs {
		w.line(depth, "conf %s %s%s", c.Kind, jsonText(c.Conf), from(c.Sources...))
	}
}

func from(sources ...Source) string {
	var parts []string
	for _, s := range sources {
		if s.Key != (mesh.Key{}) {
			parts = append(parts, s.Key.String()+" "+s.Path)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

func matchText(m mesh.Match) string {
	var parts []string
	if m.SpiffeID != nil {
		parts = append(parts, "spiffeID "+m.SpiffeID.Type+" "+m.SpiffeID.Value)
	}
	if m.SNI != nil {
		parts = append(parts, "sni "+m.SNI.Value)
	}
	return strings.Join(parts, " and ")
}

func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
