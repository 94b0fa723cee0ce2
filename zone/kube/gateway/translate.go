package gateway

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// ControllerName is how conditions in a route's status say who wrote them.
const ControllerName gatewayv1.GatewayController = "tombolo.io/mesh-controller"

// Service is what is known of a Service that a route refers to.
type Service struct {
	// Mesh that its proxies are in; empty when none is in a mesh.
	Mesh string
	// Ports by number, with their names.
	Ports map[int32]string
}

// Cluster is what a translation reads of its surroundings.
type Cluster interface {
	// Zone is the cluster's.
	Zone() string
	// Service finds a Service.
	Service(namespace, name string) (Service, bool)
	// Granted reports whether routes of a kind in one namespace may send to a
	// Service of another (a ReferenceGrant there says so).
	Granted(kind, fromNamespace, toNamespace, service string) bool
}

// Route is an HTTPRoute or a GRPCRoute in one form.
type Route struct {
	// Kind is HTTPRoute or GRPCRoute.
	Kind string
	// Meta of the object.
	Meta metav1.ObjectMeta
	// Parents it wants to attach to.
	Parents []gatewayv1.ParentReference
	// Rules in the form of HTTP.
	Rules []Rule
}

// Rule of a Route.
type Rule struct {
	// Matches are alternatives; none matches everything.
	Matches []mesh.HTTPMatch
	// Filters of the rule.
	Filters []gatewayv1.HTTPRouteFilter
	// Backends with weights; empty where a filter answers.
	Backends []gatewayv1.HTTPBackendRef
	// Problem says what in the rule is not supported; empty if all is.
	Problem string
}

// Translation of one route.
type Translation struct {
	// Resources that it means: one for the callers of each role. They have no
	// zone in their key yet.
	Resources []mesh.Resource
	// Status of each parent that is a Service.
	Status []gatewayv1.RouteParentStatus
}

// Translate says what a route means. Parents that are not Services are another
// controller's and left out.
func Translate(r Route, cluster Cluster) Translation {
	t := &translator{route: r, cluster: cluster}
	rules, resolved := t.rules()
	var out Translation
	byRole := map[string]*target{}
	for _, p := range r.Parents {
		if !isService(p) {
			continue
		}
		accepted := t.attach(p, byRole)
		if accepted == nil && t.unsupported != "" {
			accepted = &reason{gatewayv1.RouteReasonUnsupportedValue, t.unsupported}
		}
		out.Status = append(out.Status, status(p, r.Meta.Generation, accepted, resolved))
	}
	if t.unsupported != "" {
		return out
	}
	for _, role := range []string{mesh.RoleProducer, mesh.RoleConsumer} {
		if to := byRole[role]; to != nil {
			out.Resources = append(out.Resources, t.resource(role, to, rules))
		}
	}
	return out
}

type reason struct {
	reason  gatewayv1.RouteConditionReason
	message string
}

// target is the parents of one role.
type target struct {
	mesh string
	to   []mesh.TargetRef
}

type translator struct {
	route       Route
	cluster     Cluster
	unsupported string
}

func isService(p gatewayv1.ParentReference) bool {
	return p.Kind != nil && *p.Kind == "Service" && (p.Group == nil || *p.Group == "" || *p.Group == "core")
}

// attach finds the ports that a parent means, or says why it cannot be one.
func (t *translator) attach(p gatewayv1.ParentReference, byRole map[string]*target) *reason {
	namespace := t.route.Meta.Namespace
	role := mesh.RoleProducer
	if p.Namespace != nil && string(*p.Namespace) != namespace {
		namespace, role = string(*p.Namespace), mesh.RoleConsumer
	}
	svc, ok := t.cluster.Service(namespace, string(p.Name))
	if !ok {
		return &reason{gatewayv1.RouteReasonNoMatchingParent, fmt.Sprintf("no Service %s in namespace %s", p.Name, namespace)}
	}
	if svc.Mesh == "" {
		return &reason{gatewayv1.RouteReasonNoMatchingParent, fmt.Sprintf("no pod of Service %s/%s is in a mesh", namespace, p.Name)}
	}
	labels := map[string]string{mesh.LabelDisplayName: string(p.Name), mesh.LabelNamespace: namespace}
	ref := mesh.TargetRef{Kind: mesh.KindMeshService, Labels: labels}
	if p.Port != nil {
		name, ok := svc.Ports[int32(*p.Port)]
		if !ok {
			return &reason{gatewayv1.RouteReasonNoMatchingParent, fmt.Sprintf("Service %s/%s has no port %d", namespace, p.Name, *p.Port)}
		}
		if ref.SectionName = name; name == "" {
			ref.SectionName = fmt.Sprint(*p.Port)
		}
	}
	if p.SectionName != nil { // a port by its name
		name := string(*p.SectionName)
		if !slices.Contains(slices.Collect(maps.Values(svc.Ports)), name) || p.Port != nil && svc.Ports[int32(*p.Port)] != name {
			return &reason{gatewayv1.RouteReasonNoMatchingParent, fmt.Sprintf("Service %s/%s has no such port named %s", namespace, p.Name, name)}
		}
		ref.SectionName = name
	}
	to := byRole[role]
	if to == nil {
		to = &target{mesh: svc.Mesh}
		byRole[role] = to
	}
	if to.mesh != svc.Mesh {
		return &reason{gatewayv1.RouteReasonNoMatchingParent, fmt.Sprintf("Service %s/%s is in mesh %s, and another parent of the route in mesh %s", namespace, p.Name, svc.Mesh, to.mesh)}
	}
	to.to = append(to.to, ref)
	return nil
}

// rules translates every rule. What refers to nothing stays with its weight, so
// that its share fails as Gateway API wants; resolved says what it was.
func (t *translator) rules() (rules []mesh.HTTPRouteRule, resolved *reason) {
	for i := range t.route.Rules {
		in := &t.route.Rules[i]
		at := fmt.Sprintf("rules[%d]", i)
		if in.Problem != "" {
			t.refuse("%s: %s", at, in.Problem)
		}
		rule := mesh.HTTPRouteRule{Matches: in.Matches}
		if len(rule.Matches) == 0 {
			rule.Matches = []mesh.HTTPMatch{{Path: &mesh.PathMatch{Type: mesh.MatchPathPrefix, Value: "/"}}}
		}
		var filters []mesh.HTTPFilter
		answers := false
		for j := range in.Filters {
			f, why := t.filter(&in.Filters[j])
			if why != nil {
				resolved = why
			}
			if f == nil {
				continue
			}
			answers = answers || f.Type == mesh.FilterRequestRedirect
			filters = append(filters, *f)
		}
		if len(filters) > 0 {
			rule.Default.Filters = &filters
		}
		if !answers {
			refs := []mesh.BackendRef{}
			for j := range in.Backends {
				b := &in.Backends[j]
				ref, why := t.backend(&b.BackendRef)
				if why != nil {
					resolved = why
				}
				for k := range b.Filters {
					f, _ := t.filter(&b.Filters[k])
					switch {
					case f == nil:
					case f.RequestHeaderModifier == nil && f.ResponseHeaderModifier == nil:
						t.refuse("%s.backendRefs[%d].filters[%d]: only headers can be changed for a single backend, not %s", at, j, k, f.Type)
					default:
						ref.Filters = append(ref.Filters, mesh.BackendFilter{Type: f.Type, RequestHeaderModifier: f.RequestHeaderModifier, ResponseHeaderModifier: f.ResponseHeaderModifier})
					}
				}
				refs = append(refs, ref)
			}
			rule.Default.BackendRefs = &refs
		}
		rules = append(rules, rule)
	}
	return rules, resolved
}

func (t *translator) refuse(format string, args ...any) {
	if t.unsupported == "" {
		t.unsupported = fmt.Sprintf(format, args...)
	}
}

// nowhere is what a reference that cannot be resolved becomes: no service has it.
const nowhere = "unresolved.invalid"

func (t *translator) backend(b *gatewayv1.BackendRef) (mesh.BackendRef, *reason) {
	namespace := t.route.Meta.Namespace
	weight := uint32(1)
	if b.Weight != nil {
		weight = uint32(max(0, *b.Weight))
	}
	out := mesh.BackendRef{Kind: mesh.KindMeshService, Port: 1, Weight: &weight,
		Labels: map[string]string{mesh.LabelDisplayName: nowhere}}
	if b.Kind != nil && *b.Kind != "Service" || b.Group != nil && *b.Group != "" && *b.Group != "core" {
		return out, &reason{gatewayv1.RouteReasonInvalidKind, fmt.Sprintf("backend %s: only a Service is supported", b.Name)}
	}
	if b.Namespace != nil && string(*b.Namespace) != namespace {
		to := string(*b.Namespace)
		if !t.cluster.Granted(t.route.Kind, namespace, to, string(b.Name)) {
			// A consumer's route may send to the very Service that it is about.
			if !slices.ContainsFunc(t.route.Parents, func(p gatewayv1.ParentReference) bool {
				return isService(p) && p.Name == b.Name && p.Namespace != nil && string(*p.Namespace) == to
			}) {
				return out, &reason{gatewayv1.RouteReasonRefNotPermitted, fmt.Sprintf("no ReferenceGrant of namespace %s permits Service %s", to, b.Name)}
			}
		}
		namespace = to
	}
	svc, ok := t.cluster.Service(namespace, string(b.Name))
	switch {
	case !ok:
		return out, &reason{gatewayv1.RouteReasonBackendNotFound, fmt.Sprintf("no Service %s in namespace %s", b.Name, namespace)}
	case b.Port == nil:
		return out, &reason{gatewayv1.RouteReasonBackendNotFound, fmt.Sprintf("backend %s: a port is required", b.Name)}
	}
	if _, ok := svc.Ports[int32(*b.Port)]; !ok {
		return out, &reason{gatewayv1.RouteReasonBackendNotFound, fmt.Sprintf("Service %s/%s has no port %d", namespace, b.Name, *b.Port)}
	}
	if svc.Mesh == "" {
		return out, &reason{gatewayv1.RouteReasonBackendNotFound, fmt.Sprintf("no pod of Service %s/%s is in a mesh", namespace, b.Name)}
	}
	out.Port = uint32(*b.Port)
	out.Labels = map[string]string{mesh.LabelDisplayName: string(b.Name), mesh.LabelNamespace: namespace, mesh.LabelZone: t.cluster.Zone()}
	return out, nil
}

func (t *translator) filter(f *gatewayv1.HTTPRouteFilter) (*mesh.HTTPFilter, *reason) {
	switch {
	case f.Type == gatewayv1.HTTPRouteFilterRequestHeaderModifier && f.RequestHeaderModifier != nil:
		return &mesh.HTTPFilter{Type: mesh.FilterRequestHeaderModifier, RequestHeaderModifier: headers(f.RequestHeaderModifier)}, nil
	case f.Type == gatewayv1.HTTPRouteFilterResponseHeaderModifier && f.ResponseHeaderModifier != nil:
		return &mesh.HTTPFilter{Type: mesh.FilterResponseHeaderModifier, ResponseHeaderModifier: headers(f.ResponseHeaderModifier)}, nil
	case f.Type == gatewayv1.HTTPRouteFilterRequestRedirect && f.RequestRedirect != nil:
		r := f.RequestRedirect
		out := &mesh.RequestRedirect{Scheme: r.Scheme, Path: rewrite(r.Path), StatusCode: r.StatusCode}
		if r.Hostname != nil {
			host := string(*r.Hostname)
			out.Hostname = &host
		}
		if r.Port != nil {
			port := uint32(*r.Port)
			out.Port = &port
		}
		return &mesh.HTTPFilter{Type: mesh.FilterRequestRedirect, RequestRedirect: out}, nil
	case f.Type == gatewayv1.HTTPRouteFilterURLRewrite && f.URLRewrite != nil:
		out := &mesh.URLRewrite{Path: rewrite(f.URLRewrite.Path)}
		if f.URLRewrite.Hostname != nil {
			host := string(*f.URLRewrite.Hostname)
			out.Hostname = &host
		}
		return &mesh.HTTPFilter{Type: mesh.FilterURLRewrite, URLRewrite: out}, nil
	case f.Type == gatewayv1.HTTPRouteFilterRequestMirror && f.RequestMirror != nil:
		ref, why := t.backend(&gatewayv1.BackendRef{BackendObjectReference: f.RequestMirror.BackendRef})
		if why != nil {
			return nil, why // copies that nobody gets
		}
		ref.Weight = nil
		out := &mesh.RequestMirror{BackendRef: ref}
		out.Percentage = percentage(f.RequestMirror)
		return &mesh.HTTPFilter{Type: mesh.FilterRequestMirror, RequestMirror: out}, nil
	default:
		t.refuse("filters of type %s are not supported", f.Type)
		return nil, nil
	}
}

func percentage(m *gatewayv1.HTTPRequestMirrorFilter) *mesh.Decimal {
	switch {
	case m.Percent != nil:
		d := mesh.Decimal(*m.Percent)
		return &d
	case m.Fraction != nil:
		of := int32(100)
		if m.Fraction.Denominator != nil && *m.Fraction.Denominator > 0 {
			of = *m.Fraction.Denominator
		}
		d := mesh.Decimal(100 * float64(m.Fraction.Numerator) / float64(of))
		return &d
	}
	return nil
}

func headers(h *gatewayv1.HTTPHeaderFilter) *mesh.HeaderModifier {
	values := func(list []gatewayv1.HTTPHeader) []mesh.HeaderValue {
		var out []mesh.HeaderValue
		for _, v := range list {
			out = append(out, mesh.HeaderValue{Name: string(v.Name), Value: v.Value})
		}
		return out
	}
	return &mesh.HeaderModifier{Set: values(h.Set), Add: values(h.Add), Remove: h.Remove}
}

func rewrite(p *gatewayv1.HTTPPathModifier) *mesh.PathRewrite {
	if p == nil {
		return nil
	}
	return &mesh.PathRewrite{Type: string(p.Type), ReplaceFullPath: p.ReplaceFullPath, ReplacePrefixMatch: p.ReplacePrefixMatch}
}

// resource is the route as the mesh knows it.
func (t *translator) resource(role string, to *target, rules []mesh.HTTPRouteRule) mesh.Resource {
	spec := &mesh.MeshHTTPRoute{}
	for _, ref := range to.to {
		spec.To = append(spec.To, mesh.HTTPRouteTo{TargetRef: ref, Rules: rules, Unmatched: mesh.UnmatchedNotFound})
	}
	name := strings.ToLower(t.route.Kind) + "-" + t.route.Meta.Name
	if role == mesh.RoleConsumer {
		name += "-consumer"
	}
	text, err := json.Marshal(spec)
	if err != nil { // made of strings and numbers
		text = nil
	}
	return mesh.Resource{
		Key:     mesh.Key{Kind: mesh.KindMeshHTTPRoute, Mesh: to.mesh, Name: name + "." + t.route.Meta.Namespace},
		Labels:  map[string]string{mesh.LabelNamespace: t.route.Meta.Namespace},
		Spec:    text,
		Created: t.route.Meta.CreationTimestamp.Time,
	}
}

// status is what a route's status says of a parent.
func status(p gatewayv1.ParentReference, generation int64, accepted, resolved *reason) gatewayv1.RouteParentStatus {
	condition := func(kind gatewayv1.RouteConditionType, good gatewayv1.RouteConditionReason, bad *reason) metav1.Condition {
		c := metav1.Condition{Type: string(kind), Status: metav1.ConditionTrue, Reason: string(good), ObservedGeneration: generation}
		if bad != nil {
			c.Status, c.Reason, c.Message = metav1.ConditionFalse, string(bad.reason), bad.message
		}
		return c
	}
	return gatewayv1.RouteParentStatus{ParentRef: p, ControllerName: ControllerName, Conditions: []metav1.Condition{
		condition(gatewayv1.RouteConditionAccepted, gatewayv1.RouteReasonAccepted, accepted),
		condition(gatewayv1.RouteConditionResolvedRefs, gatewayv1.RouteReasonResolvedRefs, resolved),
	}}
}
