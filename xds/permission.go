package xds

import (
	"fmt"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	"google.golang.org/protobuf/proto"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	tcprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	networkinputv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	sslinputv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/ssl/v3"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// Prefixes of what the permission filters count and record.
const (
	// PermissionStats is before ".allowed" and ".denied" in Envoy's counters.
	PermissionStats = "mtp_"
	shadowStats     = "mtp_shadow_"
	httpRBACType    = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
	tcpRBACType     = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC"
)

// permission is who may call an inbound, by ECDS: the next request on an open
// connection obeys. What no line allows is denied.
func permission(in *ir.Inbound) *corev3.TypedExtensionConfig {
	rules := permissionTree(in.Permission, rbacv3.RBAC_ALLOW)
	var shadow *xdsmatcherv3.Matcher
	if len(in.Permission.AllowWithShadowDeny) > 0 {
		shadow = permissionTree(in.Permission, rbacv3.RBAC_DENY)
	}
	var filter proto.Message = &httprbacv3.RBAC{
		Matcher: rules, ShadowMatcher: shadow,
		RulesStatPrefix: PermissionStats, ShadowRulesStatPrefix: shadowStats,
	}
	if !in.Protocol.IsHTTP() {
		filter = &tcprbacv3.RBAC{
			Matcher: rules, ShadowMatcher: shadow,
			StatPrefix: PermissionStats, ShadowRulesStatPrefix: shadowStats,
		}
	}
	return &corev3.TypedExtensionConfig{Name: PermissionName(in.Name), TypedConfig: pack(filter)}
}

// permissionTree is the first match of deny, shadow deny and allow. Each action
// carries the authored line's name, which the answer and the log repeat.
func permissionTree(p ir.Permission, shadowAction rbacv3.RBAC_Action) *xdsmatcherv3.Matcher {
	var list []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher
	add := func(entries []ir.PermissionMatch, action rbacv3.RBAC_Action) {
		for i := range entries {
			list = append(list, &xdsmatcherv3.Matcher_MatcherList_FieldMatcher{
				Predicate: callerPredicate(entries[i].Match),
				OnMatch:   onMatch(LineName(entries[i].Source), action),
			})
		}
	}
	add(p.Deny, rbacv3.RBAC_DENY)
	add(p.AllowWithShadowDeny, shadowAction)
	add(p.Allow, rbacv3.RBAC_ALLOW)
	m := &xdsmatcherv3.Matcher{OnNoMatch: onMatch("default-deny", rbacv3.RBAC_DENY)}
	if len(list) > 0 {
		m.MatcherType = &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{Matchers: list}}
	}
	return m
}

// LineName is how an authored line is called in Envoy's answers, stats and logs:
// "allow-web#rules[0].default.allow[1]", with "@zone" behind a zone's policy.
func LineName(s ir.Source) string {
	name := s.Key.Name
	if s.Key.Zone != "" {
		name += "@" + s.Key.Zone
	}
	return fmt.Sprintf("%s#%s", name, s.Path)
}

func onMatch(name string, action rbacv3.RBAC_Action) *xdsmatcherv3.Matcher_OnMatch {
	return &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: &xdscorev3.TypedExtensionConfig{
		Name: "envoy.filters.rbac.action", TypedConfig: pack(&rbacv3.Action{Name: name, Action: action}),
	}}}
}

// callerPredicate holds when every given part of the match does. A match without
// any part holds for nobody.
func callerPredicate(m mesh.Match) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	var parts []*xdsmatcherv3.Matcher_MatcherList_Predicate
	if m.SpiffeID != nil {
		value := &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: m.SpiffeID.Value}}
		if m.SpiffeID.Type == "Prefix" {
			value.MatchPattern = &xdsmatcherv3.StringMatcher_Prefix{Prefix: m.SpiffeID.Value}
		}
		parts = append(parts, predicate("envoy.matching.inputs.uri_san", &sslinputv3.UriSanInput{}, value))
	}
	if m.SNI != nil {
		parts = append(parts, predicate("envoy.matching.inputs.server_name", &networkinputv3.ServerNameInput{},
			&xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: m.SNI.Value}}))
	}
	switch len(parts) {
	case 0:
		return predicate("envoy.matching.inputs.uri_san", &sslinputv3.UriSanInput{},
			&xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: nobody}})
	case 1:
		return parts[0]
	}
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{
		AndMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: parts},
	}}
}

func predicate(name string, input proto.Message, value *xdsmatcherv3.StringMatcher) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
		SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input:   &xdscorev3.TypedExtensionConfig{Name: name, TypedConfig: pack(input)},
			Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: value},
		},
	}}
}
