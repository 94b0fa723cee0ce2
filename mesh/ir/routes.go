package ir

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Filter types with a meaning here; the others travel as they are.
const (
	filterMirror   = "RequestMirror"
	filterRedirect = "RequestRedirect"
)

// defaultRoute is the name of the route that the IR appends.
const defaultRoute = "default"

// routes of an HTTP port: the rules of MeshHTTPRoutes in matching order, then a
// route for everything else to the destination itself, unless a rule already
// matches everything. Without any MeshHTTPRoute, the weights of a MeshTCPRoute
// hold for requests instead of connections.
func (b *compiler) routes(t *backend, dest mesh.Destination, confs Confs) []Route {
	rules := mesh.HTTPRules(b.policies(mesh.KindMeshHTTPRoute), dest)
	var out []Route
	seen := map[string]bool{}
	all := false
	for _, m := range mesh.SortHTTPRules(rules) {
		if err := knownHTTPMatch(m.Match); err != nil {
			b.problem(m.Rule.Source.Key, "%s: a match is left out: %v", m.Rule.Source.Path, err)
			continue
		}
		name, key := routeName(m.Rule.Source.Key, m.Match)
		if seen[key] || all {
			b.problem(m.Rule.Source.Key, "%s: requests with %s never get here: a match that is tried earlier takes them all", m.Rule.Source.Path, key)
			continue
		}
		seen[key] = true
		all = matchesAll(m.Match)
		out = append(out, b.route(name, m, t, dest))
	}
	if all {
		return out
	}
	last := Route{Name: defaultRoute, Timeouts: outboundTimeouts(confs), Confs: confs}
	unmatched, source := mesh.HTTPUnmatched(b.policies(mesh.KindMeshHTTPRoute), dest)
	if len(rules) == 0 {
		last.Backends, last.Source = b.tcpBackends(t, dest)
	} else if unmatched != mesh.UnmatchedForward { // a value that is not known here is not for forwarding either
		last.Status, last.Source = 404, Source(source)
	} else {
		last.Backends = []WeightedBackend{{Destination: b.use(t), Weight: 1}}
	}
	return append(out, last)
}

func (b *compiler) route(name string, m mesh.HTTPRuleMatch, t *backend, dest mesh.Destination) Route {
	source := Source(m.Rule.Source)
	out := Route{Name: name, Match: m.Match, Source: source}
	dest.Route, dest.RouteLabels = &source.Key, b.routeLabels(source.Key)
	out.Confs = b.outboundConfs(dest)
	out.Timeouts = outboundTimeouts(out.Confs)
	redirects, broken := false, false
	if filters := m.Rule.Conf.Filters; filters != nil {
		for i, f := range *filters {
			switch {
			case !knownFilter(f):
				b.problem(source.Key, "%s.default.filters[%d]: type %q is not known or has no configuration: such requests get 500", source.Path, i, f.Type)
				broken = true
				continue
			case f.Type == filterMirror:
				b.mirror(&out, i, f.RequestMirror)
				continue
			case f.Type == filterRedirect:
				redirects = true
			}
			out.Filters = append(out.Filters, f)
		}
	}
	switch refs := m.Rule.Conf.BackendRefs; {
	case broken: // half of what was asked for must not pass for the whole
		out.Filters, out.Mirrors = nil, nil
	case redirects: // answered here
	case refs == nil:
		out.Backends = []WeightedBackend{{Destination: b.use(t), Weight: 1}}
	default:
		out.Backends = b.backends(*refs, source)
	}
	return out
}

// backendOf resolves a reference of a route as the route's author may mean it.
func (b *compiler) backendOf(route mesh.Key, ref mesh.BackendRef) (*backend, error) {
	for _, s := range b.policies(route.Kind) {
		if s.Key != route {
			continue
		}
		whole, err := mesh.BackendOf(&s.Resource, ref)
		if err != nil {
			return nil, err
		}
		ref = whole
	}
	return resolve(b.r, b.class.Mesh, ref)
}

func (b *compiler) routeLabels(key mesh.Key) map[string]string {
	for _, s := range b.policies(mesh.KindMeshHTTPRoute) {
		if s.Key == key {
			return labelsOf(&Object{Resource: s.Resource})
		}
	}
	return nil
}

// mirror resolves a RequestMirror; one that cannot be resolved copies nothing.
func (b *compiler) mirror(to *Route, i int, m *mesh.RequestMirror) {
	t, err := b.backendOf(to.Source.Key, m.BackendRef)
	if err != nil {
		b.problem(to.Source.Key, "%s.default.filters[%d].requestMirror.backendRef: %v", to.Source.Path, i, err)
		return
	}
	percentage := 100.0
	if m.Percentage != nil {
		percentage = min(max(float64(*m.Percentage), 0), 100)
	}
	if percentage > 0 {
		to.Mirrors = append(to.Mirrors, Mirror{Destination: b.use(t), Percentage: percentage})
	}
}

// routeName is stable over the life of a match, whatever becomes of the others.
// The key identifies the match alone.
func routeName(policy mesh.Key, m mesh.HTTPMatch) (name, key string) {
	text, err := json.Marshal(m)
	if err != nil { // a match has only strings
		text = []byte(err.Error())
	}
	sum := sha256.Sum256(append([]byte(policy.String()+"\n"), text...))
	return policy.Name + "-" + hex.EncodeToString(sum[:6]), string(text)
}

// matchesAll reports whether no request can miss the match.
func matchesAll(m mesh.HTTPMatch) bool {
	anyPath := m.Path == nil || m.Path.Type == mesh.MatchPathPrefix && slices.Contains([]string{"", "/"}, m.Path.Value)
	return anyPath && m.Method == nil && len(m.Headers) == 0 && len(m.QueryParams) == 0
}
