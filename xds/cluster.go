package xds

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	internalupv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/internal_upstream/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

const (
	// maxConnectionAge bounds how long a connection outlives what was proved at its
	// handshake, where no policy says otherwise. It also bounds for how long calls
	// through a gateway, which balances connections, miss a new instance. HTTP
	// connections end gracefully.
	maxConnectionAge = 10 * time.Minute
	// How long sent bytes may stay unacknowledged before a connection counts as
	// dead: a host that is cut off is noticed without any traffic while idle.
	// Linux, TCP_USER_TIMEOUT.
	unackedDirect  = 1000 * time.Millisecond
	unackedGateway = 3000 * time.Millisecond
	ipprotoTCP     = 6
	tcpUserTimeout = 18
)

// destinationCluster is one port of a service: local hosts directly, hosts of
// other zones through the internal listener. Each peer has its own SNI and pins.
func destinationCluster(d *ir.Destination, p *ir.Proxy) *clusterv3.Cluster {
	c := edsCluster(d.Name)
	var alpn []string
	if d.Protocol.IsHTTP() {
		alpn = []string{"h2"}
		options(c, &httpv3.HttpProtocolOptions{UpstreamProtocolOptions: explicit(http2)})
	}
	for _, peer := range d.Peers {
		tls := clientTLS(peer.SNI, peer.Identities, alpn)
		if peerZone(peer.Name) != p.Zone {
			tls = throughGateway(tls)
		}
		c.TransportSocketMatches = append(c.TransportSocketMatches, &clusterv3.Cluster_TransportSocketMatch{
			Name: peer.Name, Match: fields("peer", peer.Name), TransportSocket: tls,
		})
	}
	// A host whose peer this cluster does not know is verified by nobody's pin.
	c.TransportSocket = clientTLS("", nil, alpn)
	c.OutlierDetection = outliers(3)
	c.UpstreamBindConfig = bindOptions(unackedDirect)
	if p.Class.Transparent != nil {
		c.UpstreamBindConfig.SocketOptions = append(c.UpstreamBindConfig.SocketOptions, meshCall())
	}
	for _, policy := range policies() {
		if policy.destination != nil {
			policy.destination(d, c)
		}
	}
	return c
}

// gatewayCluster is another zone's ingress; TLS passes through it.
func gatewayCluster(g *ir.Gateway) *clusterv3.Cluster {
	c := edsCluster(g.Name)
	c.ConnectTimeout = durationpb.New(time.Second)
	c.OutlierDetection = outliers(2)
	c.UpstreamBindConfig = bindOptions(unackedGateway)
	return c
}

// exportCluster is one port of a local service, as an ingress reaches it.
func exportCluster(e *ir.Export) *clusterv3.Cluster {
	c := edsCluster(e.SNI)
	c.ConnectTimeout = durationpb.New(time.Second)
	c.OutlierDetection = outliers(2)
	c.UpstreamBindConfig = bindOptions(unackedDirect)
	return c
}

// inboundCluster leads to the application.
func inboundCluster(in *ir.Inbound, address string) *clusterv3.Cluster {
	name := InboundName(in.Name)
	c := &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		CommonLbConfig:       lbConfig(),
		LoadAssignment:       single(name, address, in.ServicePort),
	}
	switch in.Protocol {
	case ir.HTTP:
		options(c, &httpv3.HttpProtocolOptions{UpstreamProtocolOptions: explicit(http1)})
	case ir.HTTP2, ir.GRPC:
		options(c, &httpv3.HttpProtocolOptions{UpstreamProtocolOptions: explicit(http2)})
	}
	for _, policy := range policies() {
		if policy.inboundCluster != nil {
			policy.inboundCluster(in, c)
		}
	}
	return c
}

func edsCluster(name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource(15 * time.Second), ServiceName: name},
		LbPolicy:             clusterv3.Cluster_LEAST_REQUEST,
		CommonLbConfig:       lbConfig(),
	}
}

// lbConfig: no panic mode (it would send traffic to hosts known dead), and no
// merge window (it would delay ejection after every endpoint change).
func lbConfig() *clusterv3.Cluster_CommonLbConfig {
	return &clusterv3.Cluster_CommonLbConfig{
		HealthyPanicThreshold: &typev3.Percent{Value: 0},
		UpdateMergeWindow:     durationpb.New(0),
	}
}

// outliers ejects a host after a few failures of the network or of the sidecar
// in front of the application, and tries it again soon. Answers of the
// application itself (a 500) do not count.
func outliers(consecutive uint32) *clusterv3.OutlierDetection {
	return &clusterv3.OutlierDetection{
		SplitExternalLocalOriginErrors:         true,
		ConsecutiveLocalOriginFailure:          wrapperspb.UInt32(consecutive),
		EnforcingConsecutiveLocalOriginFailure: wrapperspb.UInt32(100),
		ConsecutiveGatewayFailure:              wrapperspb.UInt32(consecutive),
		EnforcingConsecutiveGatewayFailure:     wrapperspb.UInt32(100),
		EnforcingConsecutive_5Xx:               wrapperspb.UInt32(0),
		EnforcingSuccessRate:                   wrapperspb.UInt32(0),
		EnforcingLocalOriginSuccessRate:        wrapperspb.UInt32(0),
		EnforcingFailurePercentage:             wrapperspb.UInt32(0),
		MaxEjectionPercent:                     wrapperspb.UInt32(100),
		Interval:                               durationpb.New(250 * time.Millisecond),
		BaseEjectionTime:                       durationpb.New(500 * time.Millisecond),
		MaxEjectionTime:                        durationpb.New(10 * time.Second),
	}
}

func bindOptions(unacked time.Duration) *corev3.BindConfig {
	return &corev3.BindConfig{SocketOptions: []*corev3.SocketOption{{
		Description: "TCP_USER_TIMEOUT",
		Level:       ipprotoTCP, Name: tcpUserTimeout,
		Value: &corev3.SocketOption_IntValue{IntValue: unacked.Milliseconds()},
		State: corev3.SocketOption_STATE_PREBIND,
	}}}
}

// throughGateway hands the name of the gateway's cluster to the internal listener.
func throughGateway(tls *corev3.TransportSocket) *corev3.TransportSocket {
	return socket("envoy.transport_sockets.internal_upstream", &internalupv3.InternalUpstreamTransport{
		PassthroughMetadata: []*internalupv3.InternalUpstreamTransport_MetadataValueSource{{
			Kind: &metadatav3.MetadataKind{Kind: &metadatav3.MetadataKind_Host_{Host: &metadatav3.MetadataKind_Host{}}},
			Name: metadataNamespace,
		}},
		TransportSocket: tls,
	})
}

type httpVersion uint8

const (
	http1 httpVersion = iota
	http2
)

func explicit(v httpVersion) *httpv3.HttpProtocolOptions_ExplicitHttpConfig_ {
	e := &httpv3.HttpProtocolOptions_ExplicitHttpConfig{}
	if v == http2 {
		e.ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{AllowConnect: true}}
	} else {
		e.ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}}
	}
	return &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: e}
}

const httpOptionsKey = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

func options(c *clusterv3.Cluster, o *httpv3.HttpProtocolOptions) {
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptionsKey: pack(o)}
}

// amendOptions changes the HTTP options of a cluster; TCP clusters have none.
func amendOptions(c *clusterv3.Cluster, change func(*corev3.HttpProtocolOptions)) {
	packed, ok := c.TypedExtensionProtocolOptions[httpOptionsKey]
	if !ok {
		return
	}
	o := &httpv3.HttpProtocolOptions{}
	if err := packed.UnmarshalTo(o); err != nil {
		return
	}
	if o.CommonHttpProtocolOptions == nil {
		o.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{}
	}
	change(o.CommonHttpProtocolOptions)
	options(c, o)
}

func socket(name string, config proto.Message) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: name, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(config)}}
}

func fields(key, value string) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{key: structpb.NewStringValue(value)}}
}
