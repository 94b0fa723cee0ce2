package xds

import (
	"fmt"
	"regexp"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	previousprioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// outboundRoutes is where the requests to one backend go.
func outboundRoutes(o *ir.Outbound) *routev3.RouteConfiguration {
	host := &routev3.VirtualHost{Name: o.Name, Domains: []string{"*"}}
	for i := range o.Routes {
		host.Routes = append(host.Routes, outboundRoute(&o.Routes[i]))
	}
	return &routev3.RouteConfiguration{Name: o.Name, VirtualHosts: []*routev3.VirtualHost{host}}
}

func outboundRoute(r *ir.Route) *routev3.Route {
	out := &routev3.Route{Name: r.Name, Match: routeMatch(r.Match)}
	var rewrite *mesh.URLRewrite
	for i := range r.Filters {
		f := &r.Filters[i]
		switch {
		case f.RequestRedirect != nil:
			out.Action = &routev3.Route_Redirect{Redirect: redirect(f.RequestRedirect, r.Match)}
		case f.RequestHeaderModifier != nil:
			out.RequestHeadersToAdd = append(out.RequestHeadersToAdd, headers(f.RequestHeaderModifier)...)
			out.RequestHeadersToRemove = append(out.RequestHeadersToRemove, f.RequestHeaderModifier.Remove...)
		case f.ResponseHeaderModifier != nil:
			out.ResponseHeadersToAdd = append(out.ResponseHeadersToAdd, headers(f.ResponseHeaderModifier)...)
			out.ResponseHeadersToRemove = append(out.ResponseHeadersToRemove, f.ResponseHeaderModifier.Remove...)
		case f.URLRewrite != nil:
			rewrite = f.URLRewrite
		}
	}
	if r.Status != 0 {
		out.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: r.Status}}
	}
	if out.Action != nil {
		return out
	}
	action := &routev3.RouteAction{
		ClusterNotFoundResponseCode: routev3.RouteAction_INTERNAL_SERVER_ERROR,
		RetryPolicy:                 safeRetries(),
	}
	backends(action, r.Backends)
	for _, m := range r.Mirrors {
		action.RequestMirrorPolicies = append(action.RequestMirrorPolicies, &routev3.RouteAction_RequestMirrorPolicy{
			Cluster: m.Destination,
			RuntimeFraction: &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{
				Numerator: uint32(m.Percentage * 10_000), Denominator: typev3.FractionalPercent_MILLION,
			}},
		})
	}
	if rewrite != nil {
		rewriteURL(action, rewrite, r.Match)
	}
	for _, policy := range policies() {
		if policy.route != nil {
			policy.route(r, action)
		}
	}
	out.Action = &routev3.Route_Route{Route: action}
	return out
}

// backends spreads requests by weight. A share without a destination gets 500.
func backends(action *routev3.RouteAction, list []ir.WeightedBackend) {
	weighted, filtered := &routev3.WeightedCluster{}, false
	for _, b := range list {
		if b.Weight > 0 {
			cluster := &routev3.WeightedCluster_ClusterWeight{Name: clusterOf(b), Weight: wrapperspb.UInt32(b.Weight)}
			for _, f := range b.Filters {
				if m := f.RequestHeaderModifier; m != nil {
					cluster.RequestHeadersToAdd = append(cluster.RequestHeadersToAdd, headers(m)...)
					cluster.RequestHeadersToRemove = append(cluster.RequestHeadersToRemove, m.Remove...)
				}
				if m := f.ResponseHeaderModifier; m != nil {
					cluster.ResponseHeadersToAdd = append(cluster.ResponseHeadersToAdd, headers(m)...)
					cluster.ResponseHeadersToRemove = append(cluster.ResponseHeadersToRemove, m.Remove...)
				}
			}
			weighted.Clusters = append(weighted.Clusters, cluster)
			filtered = filtered || len(b.Filters) > 0
		}
	}
	switch {
	case len(weighted.Clusters) == 0:
		action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: unresolved}
	case len(weighted.Clusters) == 1 && !filtered:
		action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: weighted.Clusters[0].Name}
	default:
		action.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: weighted}
	}
}

// safeRetries sends a request again, elsewhere, when it surely never reached an
// application: safe for every method.
func safeRetries() *routev3.RetryPolicy {
	return &routev3.RetryPolicy{
		RetryOn:    "connect-failure,refused-stream,reset-before-request,retriable-headers",
		NumRetries: wrapperspb.UInt32(3),
		RetriableHeaders: []*routev3.HeaderMatcher{{
			Name: UndeliveredHeader, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: exactly("true")},
		}},
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name:       "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: pack(&previoushostsv3.PreviousHostsPredicate{})},
		}},
		HostSelectionRetryMaxAttempts: 3,
		RetryPriority: &routev3.RetryPolicy_RetryPriority{
			Name:       "envoy.retry_priorities.previous_priorities",
			ConfigType: &routev3.RetryPolicy_RetryPriority_TypedConfig{TypedConfig: pack(&previousprioritiesv3.PreviousPrioritiesConfig{UpdateFrequency: 2})},
		},
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{
			BaseInterval: durationpb.New(5e6), MaxInterval: durationpb.New(100e6),
		},
	}
}

// inboundRoutes leads every request to the application.
func inboundRoutes(in *ir.Inbound) *routev3.RouteConfiguration {
	name := InboundName(in.Name)
	host := &routev3.VirtualHost{Name: name, Domains: []string{"*"}, Routes: []*routev3.Route{inboundRoute(in, "default")}}
	for _, policy := range policies() {
		if policy.inboundRoutes != nil {
			policy.inboundRoutes(in, host)
		}
	}
	return &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{host}}
}

func inboundRoute(in *ir.Inbound, name string) *routev3.Route {
	return &routev3.Route{
		Name:  name,
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: InboundName(in.Name)},
		}},
	}
}

func matchedRouteName(i int) string { return fmt.Sprintf("matched_%d", i) }

// callerMatch narrows an inbound route to some callers.
func callerMatch(m *routev3.RouteMatch, caller mesh.Match) {
	state := func(key string, value *matcherv3.StringMatcher) *matcherv3.FilterStateMatcher {
		return &matcherv3.FilterStateMatcher{Key: key, Matcher: &matcherv3.FilterStateMatcher_StringMatch{StringMatch: value}}
	}
	if id := caller.SpiffeID; id != nil {
		value := exactly(id.Value)
		if id.Type == "Prefix" {
			value = prefixed(id.Value)
		}
		m.FilterState = append(m.FilterState, state(peerState, value))
	}
	if caller.SNI != nil {
		m.FilterState = append(m.FilterState, state(sniState, exactly(caller.SNI.Value)))
	}
}

// routeMatch says a match in Envoy's words. User strings are quoted, but for
// regular expressions, which validation has compiled.
func routeMatch(m mesh.HTTPMatch) *routev3.RouteMatch {
	out := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
	if m.Path != nil {
		switch m.Path.Type {
		case "Exact":
			out.PathSpecifier = &routev3.RouteMatch_Path{Path: m.Path.Value}
		case "RegularExpression":
			out.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: regex(m.Path.Value)}
		case "PathPrefix":
			// A prefix of whole segments: /a matches /a and /a/b, not /ab.
			if p := strings.TrimRight(m.Path.Value, "/"); p != "" {
				out.PathSpecifier = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: p}
			}
		}
	}
	if m.Method != nil {
		out.Headers = append(out.Headers, header(":method", exactly(*m.Method)))
	}
	for _, h := range m.Headers {
		switch h.Type {
		case "Present", "Absent":
			out.Headers = append(out.Headers, &routev3.HeaderMatcher{
				Name: h.Name, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: h.Type == "Present"},
			})
		case "Prefix":
			out.Headers = append(out.Headers, header(h.Name, prefixed(h.Value)))
		case "RegularExpression":
			out.Headers = append(out.Headers, header(h.Name, matching(h.Value)))
		default:
			out.Headers = append(out.Headers, header(h.Name, exactly(h.Value)))
		}
	}
	for _, q := range m.QueryParams {
		value := exactly(q.Value)
		if q.Type == "RegularExpression" {
			value = matching(q.Value)
		}
		out.QueryParameters = append(out.QueryParameters, &routev3.QueryParameterMatcher{
			Name: q.Name, QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_StringMatch{StringMatch: value},
		})
	}
	return out
}

func rewriteURL(action *routev3.RouteAction, u *mesh.URLRewrite, match mesh.HTTPMatch) {
	if u.Hostname != nil {
		action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: *u.Hostname}
	}
	if u.Path == nil {
		return
	}
	switch {
	case u.Path.ReplaceFullPath != nil:
		action.RegexRewrite = replaceAll(*u.Path.ReplaceFullPath)
	case u.Path.ReplacePrefixMatch != nil:
		action.RegexRewrite = replacePrefix(match, *u.Path.ReplacePrefixMatch)
	}
}

func redirect(r *mesh.RequestRedirect, match mesh.HTTPMatch) *routev3.RedirectAction {
	out := &routev3.RedirectAction{ResponseCode: routev3.RedirectAction_FOUND}
	if r.Scheme != nil {
		out.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: *r.Scheme}
	}
	if r.Hostname != nil {
		out.HostRedirect = *r.Hostname
	}
	if r.Port != nil {
		out.PortRedirect = *r.Port
	}
	if r.Path != nil {
		switch {
		case r.Path.ReplaceFullPath != nil:
			out.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: *r.Path.ReplaceFullPath}
		case r.Path.ReplacePrefixMatch != nil:
			out.PathRewriteSpecifier = &routev3.RedirectAction_RegexRewrite{RegexRewrite: replacePrefix(match, *r.Path.ReplacePrefixMatch)}
		}
	}
	if r.StatusCode != nil {
		switch *r.StatusCode {
		case 301:
			out.ResponseCode = routev3.RedirectAction_MOVED_PERMANENTLY
		case 303:
			out.ResponseCode = routev3.RedirectAction_SEE_OTHER
		case 307:
			out.ResponseCode = routev3.RedirectAction_TEMPORARY_REDIRECT
		case 308:
			out.ResponseCode = routev3.RedirectAction_PERMANENT_REDIRECT
		}
	}
	return out
}

// replacePrefix swaps the matched prefix for another and keeps the rest, with
// exactly one slash between them.
func replacePrefix(match mesh.HTTPMatch, to string) *matcherv3.RegexMatchAndSubstitute {
	from := ""
	if match.Path != nil {
		from = strings.TrimRight(match.Path.Value, "/")
	}
	to = strings.TrimRight(to, "/")
	if to == "" {
		// "/a" -> "/" must not leave an empty path.
		return &matcherv3.RegexMatchAndSubstitute{Pattern: regex("^" + regexp.QuoteMeta(from) + "/?([^?]*)"), Substitution: `/\1`}
	}
	return &matcherv3.RegexMatchAndSubstitute{Pattern: regex("^" + regexp.QuoteMeta(from)), Substitution: quoteSubstitution(to)}
}

func replaceAll(to string) *matcherv3.RegexMatchAndSubstitute {
	return &matcherv3.RegexMatchAndSubstitute{Pattern: regex("^[^?]*"), Substitution: quoteSubstitution(to)}
}

func quoteSubstitution(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }

func headers(m *mesh.HeaderModifier) []*corev3.HeaderValueOption {
	var out []*corev3.HeaderValueOption
	add := func(list []mesh.HeaderValue, action corev3.HeaderValueOption_HeaderAppendAction) {
		for _, h := range list {
			out = append(out, &corev3.HeaderValueOption{
				Header:       &corev3.HeaderValue{Key: h.Name, Value: strings.ReplaceAll(h.Value, "%", "%%")},
				AppendAction: action,
			})
		}
	}
	add(m.Set, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
	add(m.Add, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
	return out
}

func header(name string, value *matcherv3.StringMatcher) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: value}}
}

func prefixed(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: s}}
}

func matching(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: regex(s)}}
}

func regex(s string) *matcherv3.RegexMatcher { return &matcherv3.RegexMatcher{Regex: s} }
