package gateway

import (
	"fmt"
	"regexp"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// HTTP is an HTTPRoute in the common form. Hostnames have no meaning where the
// parent is a Service.
func HTTP(in *gatewayv1.HTTPRoute) Route {
	out := Route{Kind: "HTTPRoute", Meta: in.ObjectMeta, Parents: in.Spec.ParentRefs}
	for i := range in.Spec.Rules {
		rule := &in.Spec.Rules[i]
		r := Rule{Filters: rule.Filters, Backends: rule.BackendRefs}
		for j := range rule.Matches {
			r.Matches = append(r.Matches, httpMatch(&rule.Matches[j]))
		}
		switch {
		case rule.Timeouts != nil:
			r.Problem = "timeouts: not supported; use a MeshTimeout"
		case rule.SessionPersistence != nil:
			r.Problem = "sessionPersistence: not supported"
		case rule.Retry != nil:
			r.Problem = "retry: not supported"
		}
		out.Rules = append(out.Rules, r)
	}
	return out
}

func httpMatch(in *gatewayv1.HTTPRouteMatch) mesh.HTTPMatch {
	var out mesh.HTTPMatch
	if p := in.Path; p != nil && p.Value != nil {
		out.Path = &mesh.PathMatch{Type: mesh.MatchPathPrefix, Value: *p.Value}
		if p.Type != nil {
			out.Path.Type = string(*p.Type)
		}
	}
	if in.Method != nil {
		method := string(*in.Method)
		out.Method = &method
	}
	for _, h := range in.Headers {
		m := mesh.HeaderMatch{Type: mesh.MatchExact, Name: strings.ToLower(string(h.Name)), Value: h.Value}
		if h.Type != nil {
			m.Type = string(*h.Type)
		}
		out.Headers = append(out.Headers, m)
	}
	for _, q := range in.QueryParams {
		m := mesh.QueryMatch{Type: mesh.MatchExact, Name: string(q.Name), Value: q.Value}
		if q.Type != nil {
			m.Type = string(*q.Type)
		}
		out.QueryParams = append(out.QueryParams, m)
	}
	return out
}

// GRPC is a GRPCRoute in the common form: a call is a POST to /service/method.
func GRPC(in *gatewayv1.GRPCRoute) Route {
	out := Route{Kind: "GRPCRoute", Meta: in.ObjectMeta, Parents: in.Spec.ParentRefs}
	for i := range in.Spec.Rules {
		rule := &in.Spec.Rules[i]
		var r Rule
		for j := range rule.Matches {
			r.Matches = append(r.Matches, grpcMatch(&rule.Matches[j]))
		}
		for _, f := range rule.Filters {
			r.Filters = append(r.Filters, grpcFilter(&f))
		}
		for _, b := range rule.BackendRefs {
			ref := gatewayv1.HTTPBackendRef{BackendRef: b.BackendRef}
			for _, f := range b.Filters {
				ref.Filters = append(ref.Filters, grpcFilter(&f))
			}
			r.Backends = append(r.Backends, ref)
		}
		if rule.SessionPersistence != nil {
			r.Problem = "sessionPersistence: not supported"
		}
		out.Rules = append(out.Rules, r)
	}
	return out
}

func grpcFilter(f *gatewayv1.GRPCRouteFilter) gatewayv1.HTTPRouteFilter {
	return gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier,
		ResponseHeaderModifier: f.ResponseHeaderModifier, RequestMirror: f.RequestMirror}
}

func grpcMatch(in *gatewayv1.GRPCRouteMatch) mesh.HTTPMatch {
	out := mesh.HTTPMatch{Path: grpcPath(in.Method)}
	for _, h := range in.Headers {
		m := mesh.HeaderMatch{Type: mesh.MatchExact, Name: strings.ToLower(string(h.Name)), Value: h.Value}
		if h.Type != nil {
			m.Type = string(*h.Type)
		}
		out.Headers = append(out.Headers, m)
	}
	return out
}

func grpcPath(m *gatewayv1.GRPCMethodMatch) *mesh.PathMatch {
	service, method := "", ""
	if m != nil && m.Service != nil {
		service = *m.Service
	}
	if m != nil && m.Method != nil {
		method = *m.Method
	}
	if service == "" && method == "" {
		return &mesh.PathMatch{Type: mesh.MatchPathPrefix, Value: "/"}
	}
	if m.Type != nil && *m.Type == gatewayv1.GRPCMethodMatchRegularExpression {
		any := func(s string) string {
			if s == "" {
				return "[^/]+"
			}
			return "(?:" + s + ")"
		}
		return &mesh.PathMatch{Type: mesh.MatchRegularExpression, Value: fmt.Sprintf("/%s/%s", any(service), any(method))}
	}
	switch {
	case method == "":
		return &mesh.PathMatch{Type: mesh.MatchPathPrefix, Value: "/" + service}
	case service == "":
		return &mesh.PathMatch{Type: mesh.MatchRegularExpression, Value: "/[^/]+/" + regexp.QuoteMeta(method)}
	default:
		return &mesh.PathMatch{Type: mesh.MatchExact, Value: "/" + service + "/" + method}
	}
}
