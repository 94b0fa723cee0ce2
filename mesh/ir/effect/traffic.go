package effect

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// places learns what people call destinations.
func (d *differ) places() {
	d.names = map[string]string{}
	for _, p := range []*ir.Proxy{d.old, d.next} {
		for i := range p.Destinations {
			dest := &p.Destinations[i]
			d.names[dest.Name] = dest.Backend.RESTName() + ":" + number(dest.Port)
		}
	}
}

// place is how people call a backend's port; its KRI when nothing else is known.
func (d *differ) place(name string) string {
	if name == "" {
		return "nowhere"
	}
	if n, ok := d.names[name]; ok {
		return n
	}
	// kri_<short>_<mesh>_<zone>_<namespace>_<name>_<section>: no part has a "_".
	if f := strings.Split(name, "_"); len(f) == 7 && f[0] == "kri" {
		return strings.Join(slices.DeleteFunc([]string{f[5], f[4], f[3]}, func(s string) bool { return s == "" }), ".") + ":" + f[6]
	}
	return name
}

func (d *differ) inbounds() {
	key := func(in ir.Inbound) string { return in.Name }
	before, after := byKey(d.old.Inbounds, key), byKey(d.next.Inbounds, key)
	for _, name := range keysOf(before, after) {
		at := "inbound " + name
		switch was, is := before[name], after[name]; {
		case is == nil:
			d.add(Line{Sign: Removed, Area: Inbound, At: []string{at}, Text: portText(was), Bearing: Narrows})
		case was == nil:
			d.add(Line{Sign: Added, Area: Inbound, At: []string{at}, Text: portText(is)})
			d.lines = append(d.lines, Permissions(at, ir.Permission{}, is.Permission)...)
			d.confs(at, nil, is.Confs, false)
		default:
			d.inbound(at, was, is)
		}
	}
	if d.old.Passthrough != d.next.Passthrough {
		sign := Removed
		if d.next.Passthrough {
			sign = Added
		}
		d.add(Line{Sign: sign, Area: Outbound, Text: "calls to addresses outside of the mesh pass through"})
	}
}

func portText(in *ir.Inbound) string {
	text := "port " + number(in.Port) + ", " + string(in.Protocol)
	if in.ServicePort != in.Port && in.ServicePort != 0 {
		text += ", to the application's " + number(in.ServicePort)
	}
	return text
}

func (d *differ) inbound(at string, was, is *ir.Inbound) {
	if a, b := portText(was), portText(is); a != b {
		d.add(Line{Sign: Changed, Area: Inbound, At: []string{at}, Text: a + " → " + b})
	}
	d.lines = append(d.lines, Permissions(at, was.Permission, is.Permission)...)
	if is.Generation != was.Generation {
		d.add(Line{Sign: Changed, Area: Permission, At: []string{at}, Text: "open TCP connections are cut once"})
	}
	d.timeouts(at, was.Timeouts, is.Timeouts)
	d.confs(at, was.Confs, is.Confs, sameValues(was.Timeouts, is.Timeouts))
	d.rules(at, was.Rules, is.Rules, d.matched(at, was, is))
}

// matched compares the timeouts of some callers with those they had: their own, or
// the ones of everybody. It returns the matches of which something was said.
func (d *differ) matched(at string, was, is *ir.Inbound) map[string]bool {
	said := map[string]bool{}
	key := func(m ir.MatchedTimeouts) string { return text(m.Match) }
	before, after := byKey(was.Matched, key), byKey(is.Matched, key)
	for _, k := range keysOf(before, after) {
		from, to := was.Timeouts, is.Timeouts
		m := cmp.Or(after[k], before[k])
		if before[k] != nil {
			from = before[k].Timeouts
		}
		if after[k] != nil {
			to = after[k].Timeouts
		}
		said[k] = !sameValues(from, to)
		d.timeouts(at+" for "+Who(m.Match), from, to)
	}
	return said
}

// rules compares the configurations for some callers, but timeouts of those in said.
func (d *differ) rules(at string, was, is []ir.MatchedConf, said map[string]bool) {
	key := func(m ir.MatchedConf) string { return string(m.Kind) + " " + text(m.Match) }
	before, after := byKey(was, key), byKey(is, key)
	for _, k := range keysOf(before, after) {
		a, b := before[k], after[k]
		var from, to any
		var sources []ir.Source
		m := cmp.Or(b, a)
		if m.Kind == mesh.KindMeshTimeout && said[text(m.Match)] {
			continue
		}
		if a != nil {
			from, sources = a.Conf, []ir.Source{a.Source}
		}
		if b != nil {
			to, sources = b.Conf, []ir.Source{b.Source}
		}
		for _, c := range fields(from, to) {
			d.add(Line{Sign: c.sign, Area: areaOf(m.Kind), At: []string{at + " for " + Who(m.Match)}, Text: c.label(m.Kind), Causes: causes(sources...)})
		}
	}
	order := func(list []ir.MatchedConf) (out []string) {
		for _, m := range list {
			out = append(out, key(m))
		}
		return out
	}
	if reordered(order(was), order(is)) {
		d.add(Line{Sign: Changed, Area: Conf, At: []string{at}, Text: "rules for some callers count in another order"})
	}
}

func (d *differ) outbounds() {
	addresses := func(p *ir.Proxy) map[string][]string {
		out := map[string][]string{}
		for i := range p.Outbounds {
			o := &p.Outbounds[i]
			at := net.JoinHostPort(o.Address, number(o.Port))
			if o.Redirected {
				at += " (redirected)"
			}
			out[o.Name] = append(out[o.Name], at)
		}
		return out
	}
	key := func(o ir.Outbound) string { return o.Name }
	before, after := byKey(d.old.Outbounds, key), byKey(d.next.Outbounds, key)
	from, to := addresses(d.old), addresses(d.next)
	for _, name := range keysOf(before, after) {
		at := "to " + d.place(name)
		switch was, is := before[name], after[name]; {
		case was == nil:
			d.add(Line{Sign: Added, Area: Outbound, At: []string{at}, Text: "can be called at " + strings.Join(to[name], ", ")})
			d.backends(at, nil, is.Backends, is.Source)
			d.routes(at, nil, is.Routes)
		case is == nil:
			d.add(Line{Sign: Removed, Area: Outbound, At: []string{at}, Text: "can be called at " + strings.Join(from[name], ", ")})
		default:
			d.moved(at, from[name], to[name])
			d.outbound(at, was, is)
		}
	}
}

func (d *differ) moved(at string, was, is []string) {
	for _, a := range was {
		if !slices.Contains(is, a) {
			d.add(Line{Sign: Removed, Area: Outbound, At: []string{at}, Text: "can be called at " + a})
		}
	}
	for _, a := range is {
		if !slices.Contains(was, a) {
			d.add(Line{Sign: Added, Area: Outbound, At: []string{at}, Text: "can be called at " + a})
		}
	}
}

func (d *differ) outbound(at string, was, is *ir.Outbound) {
	if was.Protocol != is.Protocol {
		d.add(Line{Sign: Changed, Area: Outbound, At: []string{at}, Text: fmt.Sprintf("protocol %s → %s", was.Protocol, is.Protocol)})
	}
	d.backends(at, was.Backends, is.Backends, cmp.Or(is.Source, was.Source))
	d.routes(at, was.Routes, is.Routes)
	d.timeouts(at, was.Timeouts, is.Timeouts)
	d.confs(at, was.Confs, is.Confs, sameValues(was.Timeouts, is.Timeouts))
}

func (d *differ) backends(at string, was, is []ir.WeightedBackend, source ir.Source) {
	from, to := d.shares(was), d.shares(is)
	switch {
	case from == to:
	case was == nil:
		d.add(Line{Sign: Added, Area: Route, At: []string{at}, Text: "goes to " + to, Causes: causes(source)})
	default:
		d.add(Line{Sign: Changed, Area: Route, At: []string{at}, Text: "goes to " + from + " → " + to, Causes: causes(source)})
	}
}

// shares says where calls go: "90% backend.east:80, 10% v2.east:80".
func (d *differ) shares(list []ir.WeightedBackend) string {
	var sum uint64
	for _, w := range list {
		sum += uint64(w.Weight)
	}
	var out []string
	for _, w := range list {
		s := d.place(w.Destination)
		if len(list) > 1 && sum > 0 {
			s = strconv.FormatFloat(100*float64(w.Weight)/float64(sum), 'g', 4, 64) + "% " + s
		}
		if len(w.Filters) > 0 {
			s += " " + text(w.Filters)
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return "nowhere"
	}
	return strings.Join(out, ", ")
}

func (d *differ) routes(at string, was, is []ir.Route) {
	key := func(r ir.Route) string { return r.Name }
	before, after := byKey(was, key), byKey(is, key)
	for _, name := range keysOf(before, after) {
		switch a, b := before[name], after[name]; {
		case a == nil:
			if b.Source.Key == (mesh.Key{}) && was == nil {
				continue // the default route of a new outbound says nothing more
			}
			d.add(Line{Sign: Added, Area: Route, At: []string{at}, Text: d.routeText(b), Causes: causes(b.Source)})
		case b == nil:
			d.add(Line{Sign: Removed, Area: Route, At: []string{at}, Text: d.routeText(a), Causes: causes(a.Source)})
		default:
			d.route(at, a, b)
		}
	}
	order := func(list []ir.Route) (out []string) {
		for _, r := range list {
			out = append(out, r.Name)
		}
		return out
	}
	if reordered(order(was), order(is)) {
		d.add(Line{Sign: Changed, Area: Route, At: []string{at}, Text: "routes are tried in another order"})
	}
}

func (d *differ) route(at string, was, is *ir.Route) {
	switch a, b := d.action(was), d.action(is); {
	case text(was.Match) != text(is.Match):
		d.add(Line{Sign: Changed, Area: Route, At: []string{at}, Text: d.routeText(was) + " → " + d.routeText(is), Causes: causes(is.Source)})
	case a != b:
		d.add(Line{Sign: Changed, Area: Route, At: []string{at}, Text: matchText(is.Match) + ": " + a + " → " + b, Causes: causes(is.Source)})
	}
	if is.Source.Key != (mesh.Key{}) {
		at += " " + matchText(is.Match)
	}
	d.timeouts(at, was.Timeouts, is.Timeouts)
	d.confs(at, was.Confs, is.Confs, sameValues(was.Timeouts, is.Timeouts))
}

func (d *differ) routeText(r *ir.Route) string { return matchText(r.Match) + ": " + d.action(r) }

// action is what becomes of requests of a route.
func (d *differ) action(r *ir.Route) string {
	var parts []string
	if r.Status != 0 {
		parts = append(parts, "answers "+number(r.Status))
	}
	if len(r.Backends) > 0 || r.Status == 0 && !redirects(r.Filters) {
		parts = append(parts, "goes to "+d.shares(r.Backends))
	}
	for _, f := range r.Filters {
		if f.Type != "RequestMirror" {
			parts = append(parts, text(f))
		}
	}
	for _, m := range r.Mirrors {
		parts = append(parts, fmt.Sprintf("%g%% copied to %s", m.Percentage, d.place(m.Destination)))
	}
	return strings.Join(parts, ", ")
}

func redirects(filters []mesh.HTTPFilter) bool {
	return slices.ContainsFunc(filters, func(f mesh.HTTPFilter) bool { return f.RequestRedirect != nil })
}

// matchText is "GET /api/…, header x-beta=1", or "requests" for all of them.
func matchText(m mesh.HTTPMatch) string {
	var parts []string
	if m.Method != nil {
		parts = append(parts, *m.Method)
	}
	if p := m.Path; p != nil {
		switch p.Type {
		case mesh.MatchPathPrefix:
			parts = append(parts, strings.TrimSuffix(p.Value, "/")+"/…")
		case mesh.MatchRegularExpression:
			parts = append(parts, "path ~ "+p.Value)
		default:
			parts = append(parts, p.Value)
		}
	}
	for _, h := range m.Headers {
		parts = append(parts, strings.TrimSpace("header "+h.Name+" "+cmp.Or(h.Type, mesh.MatchExact)+" "+h.Value))
	}
	for _, q := range m.QueryParams {
		parts = append(parts, strings.TrimSpace("query "+q.Name+" "+cmp.Or(q.Type, mesh.MatchExact)+" "+q.Value))
	}
	if len(parts) == 0 {
		return "requests"
	}
	return strings.Join(parts, " ")
}

func (d *differ) destinations() {
	key := func(x ir.Destination) string { return x.Name }
	before, after := byKey(d.old.Destinations, key), byKey(d.next.Destinations, key)
	for _, name := range keysOf(before, after) {
		at := "to " + d.place(name)
		switch was, is := before[name], after[name]; {
		case was == nil:
			d.add(Line{Sign: Added, Area: Destination, At: []string{at}, Text: "is a destination, answered by " + peerNames(is.Peers)})
		case is == nil:
			d.add(Line{Sign: Removed, Area: Destination, At: []string{at}, Text: "is a destination, answered by " + peerNames(was.Peers)})
		default:
			d.destination(at, was, is)
		}
	}
	gateway := func(g ir.Gateway) string { return g.Zone }
	from, to := byKey(d.old.Gateways, gateway), byKey(d.next.Gateways, gateway)
	for _, zone := range keysOf(from, to) {
		switch {
		case from[zone] == nil:
			d.add(Line{Sign: Added, Area: Destination, Text: "calls services of zone " + zone + " through its ingress"})
		case to[zone] == nil:
			d.add(Line{Sign: Removed, Area: Destination, Text: "calls services of zone " + zone + " through its ingress"})
		case *from[zone] != *to[zone]:
			d.add(Line{Sign: Changed, Area: Destination, Text: "calls services of zone " + zone + " through another ingress"})
		}
	}
}

func peerNames(peers []ir.Peer) string {
	var out []string
	for _, p := range peers {
		out = append(out, p.Name)
	}
	if len(out) == 0 {
		return "nobody"
	}
	return strings.Join(out, ", ")
}

func (d *differ) destination(at string, was, is *ir.Destination) {
	if was.Protocol != is.Protocol {
		d.add(Line{Sign: Changed, Area: Destination, At: []string{at}, Text: fmt.Sprintf("protocol %s → %s", was.Protocol, is.Protocol)})
	}
	if was.Backend != is.Backend || was.Port != is.Port {
		d.add(Line{Sign: Changed, Area: Destination, At: []string{at}, Text: fmt.Sprintf("means %s port %d → %s port %d", was.Backend, was.Port, is.Backend, is.Port)})
	}
	peer := func(p ir.Peer) string { return p.Name }
	before, after := byKey(was.Peers, peer), byKey(is.Peers, peer)
	for _, name := range keysOf(before, after) {
		switch a, b := before[name], after[name]; {
		case a == nil:
			d.add(Line{Sign: Added, Area: Destination, At: []string{at}, Text: name + " may answer, as " + strings.Join(b.Identities, " or ")})
		case b == nil:
			d.add(Line{Sign: Removed, Area: Destination, At: []string{at}, Text: name + " may answer, as " + strings.Join(a.Identities, " or ")})
		case !slices.Equal(a.Identities, b.Identities):
			d.add(Line{Sign: Changed, Area: Destination, At: []string{at}, Text: name + " may answer as " + strings.Join(a.Identities, " or ") + " → " + strings.Join(b.Identities, " or ")})
		case a.SNI != b.SNI:
			d.add(Line{Sign: Changed, Area: Destination, At: []string{at}, Text: name + " is asked for by SNI " + a.SNI + " → " + b.SNI})
		}
	}
	d.timeouts(at, was.Timeouts, is.Timeouts)
	d.confs(at, was.Confs, is.Confs, sameValues(was.Timeouts, is.Timeouts))
}

// ingress compares what a zone offers to the others.
func (d *differ) ingress() {
	key := func(e ir.Export) string { return e.SNI }
	before, after := byKey(d.old.Exports, key), byKey(d.next.Exports, key)
	for _, sni := range keysOf(before, after) {
		switch a, b := before[sni], after[sni]; {
		case a == nil:
			d.add(Line{Sign: Added, Area: Destination, Text: fmt.Sprintf("other zones reach %s:%d", b.Service.RESTName(), b.Port)})
		case b == nil:
			d.add(Line{Sign: Removed, Area: Destination, Text: fmt.Sprintf("other zones reach %s:%d", a.Service.RESTName(), a.Port)})
		case *a != *b:
			d.add(Line{Sign: Changed, Area: Destination, Text: fmt.Sprintf("other zones reach by SNI %s %s:%d → %s:%d", sni, a.Service.RESTName(), a.Port, b.Service.RESTName(), b.Port)})
		}
	}
}

// reordered reports whether what both lists have comes in another order.
func reordered(a, b []string) bool {
	common := func(list, other []string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return !slices.Contains(other, s) })
	}
	return !slices.Equal(common(a, b), common(b, a))
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
