package xds

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	commonstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	netstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	snicv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_cluster/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

const tcpProxyType = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"

// inboundListener takes mutual TLS and nothing else: plain text matches no chain
// and is closed.
func inboundListener(in *ir.Inbound, address string) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name: InboundName(in.Name), Address: socketAddress(address, in.Port),
		TrafficDirection: corev3.TrafficDirection_INBOUND,
		ListenerFilters:  []*listenerv3.ListenerFilter{tlsInspector()},
		FilterChains:     []*listenerv3.FilterChain{inboundChain(in, "mtls")},
	}
}

// inboundChain takes mutual TLS of one inbound.
func inboundChain(in *ir.Inbound, chainName string) *listenerv3.FilterChain {
	name := InboundName(in.Name)
	chain := &listenerv3.FilterChain{
		Name:             chainName,
		FilterChainMatch: &listenerv3.FilterChainMatch{TransportProtocol: "tls"},
	}
	if in.Protocol.IsHTTP() {
		chain.TransportSocket = serverTLS(BundlesSecret, []string{"h2", "http/1.1"})
		chain.Filters = []*listenerv3.Filter{inboundHTTP(in)}
	} else {
		// A connection that a tightened permission concerns cannot be picked out;
		// a new name ends all of this port within the drain time.
		if in.Generation > 0 {
			chain.Name = fmt.Sprintf("%s.%d", chainName, in.Generation)
		}
		chain.TransportSocket = serverTLS(CallersName(in.Name), nil)
		chain.Filters = []*listenerv3.Filter{
			extensionFilter(PermissionName(in.Name), tcpRBACType),
			extensionFilter(name, tcpProxyType),
		}
	}
	return chain
}

// inboundTCP carries an inbound's bytes to the application, by ECDS.
func inboundTCP(in *ir.Inbound) *corev3.TypedExtensionConfig {
	name := InboundName(in.Name)
	t := &tcpv3.TcpProxy{
		StatPrefix: name, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: name},
		// The application hears nothing of callers that do not prove an identity.
		UpstreamConnectMode: tcpv3.UpstreamConnectMode_ON_DOWNSTREAM_TLS_HANDSHAKE,
		MaxEarlyDataBytes:   wrapperspb.UInt32(0),
	}
	for _, policy := range policies() {
		if policy.inboundTCP != nil {
			policy.inboundTCP(in, t)
		}
	}
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: pack(t)}
}

// outboundListener takes the application's own calls: on its own host, or handed
// over by the listener where redirected connections arrive.
func outboundListener(o *ir.Outbound) *listenerv3.Listener {
	filter := extensionFilter(o.Name, tcpProxyType)
	if o.Protocol.IsHTTP() {
		filter = outboundHTTP(o)
	}
	l := &listenerv3.Listener{
		Name: OutboundListenerName(o.Address, o.Port), Address: socketAddress(o.Address, o.Port),
		TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		FilterChains:     []*listenerv3.FilterChain{{Name: "outbound", Filters: []*listenerv3.Filter{filter}}},
	}
	if o.Redirected {
		l.BindToPort = wrapperspb.Bool(false)
	}
	return l
}

// outboundTCP spreads the connections of outbounds of one name over their
// backends, by ECDS: open connections stay where they are.
func outboundTCP(o *ir.Outbound) *corev3.TypedExtensionConfig {
	t := &tcpv3.TcpProxy{StatPrefix: o.Name, MaxConnectAttempts: wrapperspb.UInt32(3)}
	weighted := &tcpv3.TcpProxy_WeightedCluster{}
	for _, b := range o.Backends {
		if b.Weight > 0 {
			weighted.Clusters = append(weighted.Clusters, &tcpv3.TcpProxy_WeightedCluster_ClusterWeight{Name: clusterOf(b), Weight: b.Weight})
		}
	}
	switch len(weighted.Clusters) {
	case 0:
		t.ClusterSpecifier = &tcpv3.TcpProxy_Cluster{Cluster: unresolved}
	case 1:
		t.ClusterSpecifier = &tcpv3.TcpProxy_Cluster{Cluster: weighted.Clusters[0].Name}
	default:
		t.ClusterSpecifier = &tcpv3.TcpProxy_WeightedClusters{WeightedClusters: weighted}
	}
	for _, policy := range policies() {
		if policy.outboundTCP != nil {
			policy.outboundTCP(o, t)
		}
	}
	return &corev3.TypedExtensionConfig{Name: o.Name, TypedConfig: pack(t)}
}

// remotePeersListener takes connections for hosts behind gateways and leads each
// to the gateway that the host's metadata names.
func remotePeersListener() *listenerv3.Listener {
	state := &netstatev3.Config{OnNewConnection: []*commonstatev3.FilterStateValue{{
		Key: &commonstatev3.FilterStateValue_ObjectKey{ObjectKey: "envoy.tcp_proxy.cluster"},
		Value: &commonstatev3.FilterStateValue_FormatString{
			FormatString: format("%DYNAMIC_METADATA(" + metadataNamespace + ":cluster)%"),
		},
	}}}
	proxy := &tcpv3.TcpProxy{
		StatPrefix: RemotePeersListener, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: unresolved},
		MaxConnectAttempts: wrapperspb.UInt32(3), IdleTimeout: durationpb.New(0),
	}
	return &listenerv3.Listener{
		Name:              RemotePeersListener,
		ListenerSpecifier: &listenerv3.Listener_InternalListener{InternalListener: &listenerv3.Listener_InternalListenerConfig{}},
		FilterChains: []*listenerv3.FilterChain{{Name: "gateways", Filters: []*listenerv3.Filter{
			filter("envoy.filters.network.set_filter_state", state),
			filter("envoy.filters.network.tcp_proxy", proxy),
		}}},
	}
}

// ingressListener passes TLS on by its server name. The wildcard is a guard: with
// any other name a caller could reach clusters that are not services.
func ingressListener(p *ir.Proxy, i int, address string) *listenerv3.Listener {
	l := p.Class.Listeners[i]
	proxy := &tcpv3.TcpProxy{
		StatPrefix: "ingress", ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: unresolved},
		MaxConnectAttempts: wrapperspb.UInt32(3), IdleTimeout: durationpb.New(0),
	}
	return &listenerv3.Listener{
		Name: IngressListenerName(l), Address: socketAddress(address, l.Port),
		TrafficDirection: corev3.TrafficDirection_INBOUND,
		ListenerFilters:  []*listenerv3.ListenerFilter{tlsInspector()},
		FilterChains: []*listenerv3.FilterChain{{
			Name: "services",
			FilterChainMatch: &listenerv3.FilterChainMatch{
				TransportProtocol: "tls", ServerNames: []string{mesh.SNIWildcard(p.Zone, p.Class.Mesh)},
			},
			Filters: []*listenerv3.Filter{
				filter("envoy.filters.network.sni_cluster", &snicv3.SniCluster{}),
				filter("envoy.filters.network.tcp_proxy", proxy),
			},
		}},
	}
}

// IngressListenerName names the listener of a zone proxy.
func IngressListenerName(l mesh.Listener) string {
	if l.Name != "" {
		return "ingress_" + l.Name
	}
	return fmt.Sprintf("ingress_%d", l.Port)
}

func tlsInspector() *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{
		Name:       "envoy.filters.listener.tls_inspector",
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(&tlsinspectorv3.TlsInspector{})},
	}
}

func filter(name string, config proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(config)}}
}

// extensionFilter is a network filter whose configuration comes by ECDS. Without
// one, a new listener waits and a live one keeps what it has.
func extensionFilter(name, typeURL string) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_ConfigDiscovery{ConfigDiscovery: discovered(typeURL)}}
}

func discovered(typeURL string) *corev3.ExtensionConfigSource {
	return &corev3.ExtensionConfigSource{ConfigSource: adsSource(0 * time.Second), TypeUrls: []string{typeURL}}
}

func format(s string) *corev3.SubstitutionFormatString {
	return &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: inline(s)}}
}

func clusterOf(b ir.WeightedBackend) string {
	if b.Destination == "" {
		return unresolved
	}
	return b.Destination
}
