package explain

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tombolo-mesh/tombolo/identity"
	"github.com/tombolo-mesh/tombolo/mesh/ir/effect"
)

// Conclude finds the verdict, once the arrivals are known or cannot be.
func (x *Explanation) Conclude() {
	if !x.Caller.InSync {
		x.Notes = append(x.Notes, x.Caller.Name+" has not confirmed everything that it was sent: for now it may do what was right before")
	}
	if x.Caller.State == "lost" {
		x.Notes = append(x.Notes, x.Caller.Name+" is gone: this is how it was, and is for those like it")
	}
	if x.Verdict.Outcome != "" {
		return
	}
	shares := x.shares()
	x.Verdict = Verdict{Outcome: shares[0].Outcome, Status: shares[0].Status, By: shares[0].By}
	if slices.ContainsFunc(shares, func(s Share) bool { return s.Outcome != shares[0].Outcome || s.Status != shares[0].Status }) {
		x.Verdict = Verdict{Outcome: Mixed}
	} else if slices.ContainsFunc(shares, func(s Share) bool { return *or(s.By, &Origin{}) != *or(shares[0].By, &Origin{}) }) {
		x.Verdict.By = nil
	}
	if len(shares) == 1 {
		x.Verdict.Text = x.subject() + " " + shares[0].Text
		return
	}
	x.Verdict.Shares = shares
	var parts []string
	for _, s := range shares {
		parts = append(parts, Percent(s.Percent)+" "+s.Text)
	}
	x.Verdict.Text = x.subject() + ": " + strings.Join(parts, "; ")
}

// subject is "GET /api from web-1.east to backend.west:8080".
func (x *Explanation) subject() string {
	what := "a connection"
	if x.http() {
		what = x.Call.Method + " " + x.Call.Path
	}
	return fmt.Sprintf("%s from %s to %s", what, x.Caller.Name, x.Destination.Name)
}

func (x *Explanation) http() bool { return x.Destination != nil && x.Destination.Protocol.IsHTTP() }

// status is what an HTTP caller gets; TCP connections are closed.
func (x *Explanation) status(code int) int {
	if x.http() {
		return code
	}
	return 0
}

// shares says what becomes of the calls, largest share first; at least one.
func (x *Explanation) shares() []Share {
	if r := x.Route; r != nil && r.Status != 0 {
		s := Share{Percent: 100, Outcome: Answered, Status: r.Status, By: r.Origin, Text: fmt.Sprintf("is answered with %d by route %s of %s", r.Status, r.Name, r.Origin)}
		if r.Status == 404 {
			s.Outcome, s.Text = NoRoute, fmt.Sprintf("gets 404: no rule takes it, and the rest is not forwarded, by %s", r.Origin)
		}
		return []Share{s}
	}
	var out []Share
	for i := range x.Ways {
		out = append(out, x.wayShares(&x.Ways[i])...)
	}
	if len(out) == 0 {
		s := Share{Percent: 100, Outcome: NoBackend, Status: x.status(500), Text: x.fails(500) + ": no backend is there to take it"}
		if x.Route != nil {
			s.By = x.Route.Origin
		} else if x.Destination != nil {
			s.By = x.Destination.Origin
		}
		if s.By != nil {
			s.Text += ", by " + s.By.String()
		}
		return []Share{s}
	}
	return merged(out)
}

// fails is "gets 503" for a request, "is closed" for a connection.
func (x *Explanation) fails(code int) string {
	if x.http() {
		return fmt.Sprintf("gets %d", code)
	}
	return "is closed"
}

func (x *Explanation) wayShares(w *Way) []Share {
	if w.Cluster == "" {
		s := Share{Percent: w.Percent, Outcome: NoBackend, Status: x.status(500), Text: x.fails(500) + ": a backend was not found"}
		if x.Route != nil && x.Route.Origin != nil {
			s.By = x.Route.Origin
			s.Text += ", by " + s.By.String()
		}
		return []Share{s}
	}
	var out []Share
	for i := range w.Peers {
		if p := &w.Peers[i]; p.Percent > 0 {
			out = append(out, x.peerShares(p, w.Percent*p.Percent/100)...)
		}
	}
	if len(out) == 0 {
		return []Share{{Percent: w.Percent, Outcome: NoEndpoints, Status: x.status(503), Text: x.fails(503) + ": nobody healthy is behind " + w.Backend + whyNobody(w.Peers)}}
	}
	return out
}

// whyNobody says why no host of the peers is ready, the first reasons of it.
func whyNobody(peers []Peer) string {
	if len(peers) == 0 {
		return ": no service with an identity is behind it"
	}
	var reasons []string
	for _, p := range peers {
		for _, h := range p.Hosts {
			if h.State != Ready {
				reasons = append(reasons, strings.TrimSpace(or(h.Proxy, h.Address)+" is "+h.State+" ("+h.Why+")"))
			}
		}
		if len(p.Hosts) == 0 {
			reasons = append(reasons, p.Name+" has no instances")
		}
	}
	const most = 3
	if len(reasons) > most {
		reasons = append(reasons[:most], fmt.Sprintf("and %d more", len(reasons)-most))
	}
	return ": " + strings.Join(reasons, ", ")
}

func (x *Explanation) peerShares(p *Peer, percent float64) []Share {
	fail := func(o Outcome, text string) []Share {
		return []Share{{Percent: percent, Outcome: o, Status: x.status(503), Text: x.fails(503) + ": " + text}}
	}
	if g := p.Gateway; g != nil && !slices.ContainsFunc(g.Hosts, func(h Host) bool { return h.State == Ready }) {
		return fail(NoEndpoints, "no ingress of zone "+p.Zone+" can be reached")
	}
	a := p.Arrival
	if a == nil {
		return []Share{{Percent: percent, Outcome: Undecided, Text: "arrives at " + p.Name + ", of which nothing is known: " + or(p.Unanswered, "zone "+p.Zone+" was not asked")}}
	}
	if a.Ingress != nil && !a.Ingress.Exported {
		return fail(NoEndpoints, "no ingress of zone "+p.Zone+" offers "+p.SNI)
	}
	ready := 0
	for _, s := range a.Servers {
		ready += s.Ready
	}
	if ready == 0 {
		return fail(NoEndpoints, "zone "+p.Zone+" has no ready instance of "+p.Name)
	}
	var out []Share
	for i := range a.Servers {
		if s := &a.Servers[i]; s.Ready > 0 {
			out = append(out, x.serverShare(p, s, percent*float64(s.Ready)/float64(ready)))
		}
	}
	return out
}

func (x *Explanation) serverShare(p *Peer, s *Server, percent float64) Share {
	out := Share{Percent: percent}
	if fault := x.handshake(p, s); fault != "" {
		out.Outcome, out.Status, out.Text = Untrusted, x.status(503), x.fails(503)+" at "+p.Name+": "+fault
		return out
	}
	d := &s.Permission
	at := "inbound " + s.Inbound + " of " + p.Name
	refused := x.status(403)
	if refused != 0 && !s.Protocol.IsHTTP() { // it sees no requests, and closes the connection
		refused = 503
	}
	switch {
	case d.Decision == DefaultDeny && d.Allows == 0:
		out.Outcome, out.Status = Denied, refused
		out.Text = fmt.Sprintf("%s, denied at %s: no MeshTrafficPermission allows anybody there (default deny)", x.fails(refused), at)
	case d.Decision == DefaultDeny:
		out.Outcome, out.Status = Denied, refused
		out.Text = fmt.Sprintf("%s, denied at %s: none of its %s speaks of %s (default deny)", x.fails(refused), at, plural(d.Lines, "line"), x.Caller.Identity)
	case !d.lets():
		out.Outcome, out.Status, out.By = Denied, refused, d.Origin
		out.Text = fmt.Sprintf("%s, denied at %s by %s: %s %s", x.fails(refused), at, d.Origin, d.Decision, d.Who)
	default:
		out.Outcome, out.By = Allowed, d.Origin
		out.Text = fmt.Sprintf("is allowed at %s by %s: %s %s", at, d.Origin, d.Decision, d.Who)
		if d.Decision == effect.ShadowDeny {
			out.Text += " (counted as if denied)"
		}
	}
	return out
}

// handshake says why two proxies do not trust each other; "" when they do.
func (x *Explanation) handshake(p *Peer, s *Server) string {
	domain := func(id string) string {
		parsed, err := identity.ParseID(id)
		if err != nil {
			return ""
		}
		return parsed.TrustDomain().String()
	}
	switch {
	case s.Fault != "":
		return s.Fault
	case !slices.Contains(p.Identities, s.Identity):
		return fmt.Sprintf("it proves %s, which is none of the identities that the service has: %s", s.Identity, strings.Join(p.Identities, ", "))
	case !slices.Contains(x.Caller.TrustDomains, domain(s.Identity)):
		return fmt.Sprintf("%s does not trust %s", x.Caller.Name, domain(s.Identity))
	case !slices.Contains(s.TrustDomains, domain(x.Caller.Identity)):
		return fmt.Sprintf("it does not trust %s, the caller's domain", domain(x.Caller.Identity))
	}
	return ""
}

// merged adds up shares that say the same, the largest first.
func merged(list []Share) []Share {
	var out []Share
	for _, s := range list {
		i := slices.IndexFunc(out, func(o Share) bool { return o.Outcome == s.Outcome && o.Status == s.Status && o.Text == s.Text })
		if i < 0 {
			out = append(out, s)
			continue
		}
		out[i].Percent += s.Percent
	}
	slices.SortStableFunc(out, func(a, b Share) int {
		switch {
		case a.Percent > b.Percent:
			return -1
		case a.Percent < b.Percent:
			return 1
		}
		return 0
	})
	return out
}

// Percent is "33.3%".
func Percent(p float64) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", math.Round(p*10)/10), ".0") + "%"
}
