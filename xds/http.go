package xds

import (
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	commonstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	httpstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

const (
	hcmName = "envoy.filters.network.http_connection_manager"
	// Filter state by which inbound routes tell callers apart.
	peerState = "tombolo.peer"
	sniState  = "tombolo.sni"

	deniedLog = "[%START_TIME%] denied %REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% from %DOWNSTREAM_PEER_URI_SAN% " +
		"at %DOWNSTREAM_REMOTE_ADDRESS% sni %REQUESTED_SERVER_NAME% by %DYNAMIC_METADATA(envoy.filters.http.rbac:" + PermissionStats + "enforced_effective_policy_id)%\n"
)

// inboundHTTP is constant: permission comes by ECDS, routes with timeouts by RDS.
func inboundHTTP(in *ir.Inbound) *listenerv3.Filter {
	name := InboundName(in.Name)
	m := manager(name, name)
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
	m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Uri: true}
	m.LocalReplyConfig = undelivered()
	m.AccessLog = []*accesslogv3.AccessLog{denials()}
	m.HttpFilters = []*hcmv3.HttpFilter{
		callerState(),
		{Name: PermissionName(in.Name), ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: discovered(httpRBACType)}},
	}
	m.HttpFilters = append(m.HttpFilters, end(in.Protocol)...)
	for _, policy := range policies() {
		if policy.inboundHTTP != nil {
			policy.inboundHTTP(in, m)
		}
	}
	return filter(hcmName, m)
}

func outboundHTTP(o *ir.Outbound) *listenerv3.Filter {
	m := manager(o.Name, o.Name)
	m.HttpFilters = end(o.Protocol)
	for _, policy := range policies() {
		if policy.outboundHTTP != nil {
			policy.outboundHTTP(o, m)
		}
	}
	return filter(hcmName, m)
}

// manager has what both directions share. Timeouts of routes replace the ones here.
func manager(statPrefix, routes string) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix: statPrefix,
		CodecType:  hcmv3.HttpConnectionManager_AUTO,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource: adsSource(0), RouteConfigName: routes,
		}},
		NormalizePath:     wrapperspb.Bool(true),
		StreamIdleTimeout: durationpb.New(0),
		// Upgrades (WebSocket) cross the mesh as extended CONNECT.
		Http2ProtocolOptions:      &corev3.Http2ProtocolOptions{AllowConnect: true},
		UpgradeConfigs:            []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		GenerateRequestId:         wrapperspb.Bool(true),
		PreserveExternalRequestId: true,
		HttpProtocolOptions:       &corev3.Http1ProtocolOptions{EnableTrailers: true},
		UseRemoteAddress:          wrapperspb.Bool(false),
		SkipXffAppend:             true,
	}
}

// end is the end of a chain of filters. What gRPC says of a call stands in the trailers
// of an answer of 200, which nothing but this filter counts. Behind the permission: what
// that denies is counted there.
func end(p ir.Protocol) []*hcmv3.HttpFilter {
	if p != ir.GRPC {
		return []*hcmv3.HttpFilter{router()}
	}
	return []*hcmv3.HttpFilter{
		{Name: "envoy.filters.http.grpc_stats", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&grpcstatsv3.FilterConfig{
			// By service and method there is no bound on how many counters callers make.
			PerMethodStatSpecifier: &grpcstatsv3.FilterConfig_StatsForAllMethods{StatsForAllMethods: wrapperspb.Bool(false)},
		})}},
		router(),
	}
}

func router() *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{
		TypedConfig: pack(&routerv3.Router{SuppressEnvoyHeaders: true}),
	}}
}

// callerState lets routes match on who calls and by which name.
func callerState() *hcmv3.HttpFilter {
	value := func(key, text string) *commonstatev3.FilterStateValue {
		return &commonstatev3.FilterStateValue{
			Key:         &commonstatev3.FilterStateValue_ObjectKey{ObjectKey: key},
			FactoryKey:  "envoy.string",
			SkipIfEmpty: true,
			Value:       &commonstatev3.FilterStateValue_FormatString{FormatString: format(text)},
		}
	}
	return &hcmv3.HttpFilter{Name: "tombolo.caller", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&httpstatev3.Config{
		OnRequestHeaders: []*commonstatev3.FilterStateValue{
			value(peerState, "%DOWNSTREAM_PEER_URI_SAN%"),
			value(sniState, "%REQUESTED_SERVER_NAME%"),
		},
		ClearRouteCache: true,
	})}}
}

// undelivered marks answers that Envoy made because the application could not be
// reached, so that the caller's side may send the request elsewhere.
func undelivered() *hcmv3.LocalReplyConfig {
	return &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{{
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
			ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{"UF", "UH", "UO"}},
		}},
		HeadersToAdd: []*corev3.HeaderValueOption{{
			Header:       &corev3.HeaderValue{Key: UndeliveredHeader, Value: "true"},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}},
	}}}
}

// denials logs what the permission refused, with the line that decided.
func denials() *accesslogv3.AccessLog {
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.stdout",
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_MetadataFilter{MetadataFilter: &accesslogv3.MetadataFilter{
			Matcher: &matcherv3.MetadataMatcher{
				Filter: "envoy.filters.http.rbac",
				Path: []*matcherv3.MetadataMatcher_PathSegment{{
					Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: PermissionStats + "enforced_engine_result"},
				}},
				Value: &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: exactly("denied")}},
			},
			MatchIfKeyNotFound: wrapperspb.Bool(false),
		}}},
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: pack(&streamv3.StdoutAccessLog{
			AccessLogFormat: &streamv3.StdoutAccessLog_LogFormat{LogFormat: format(deniedLog)},
		})},
	}
}

func exactly(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}
