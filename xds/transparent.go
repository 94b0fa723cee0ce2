package xds

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	origdstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/xds/delta"
)

const (
	// A connection that passes through gets as long as a patient application would
	// wait itself; what it reaches has no outlier detection.
	passthroughConnect = 10 * time.Second
	// unlimited replaces Envoy's limit of 1,024 connections by cluster: the mesh
	// does not ration what is none of it.
	unlimited = 1<<32 - 1
	// Linux, SO_PRIORITY. The highest that needs no privilege.
	solSocket        = 1
	soPriority       = 12
	meshCallPriority = 6
)

// redirectedOutbound is where the application's redirected connections arrive.
// It hands each to the listener at the address that was called; the rest passes
// through. Its own fields are constant: a change would cost every connection.
func redirectedOutbound(p *ir.Proxy) *listenerv3.Listener {
	t := p.Class.Transparent
	rest := refuse()
	if p.Passthrough {
		rest = &listenerv3.FilterChain{Name: PassthroughCluster, Filters: []*listenerv3.Filter{filter("envoy.filters.network.tcp_proxy", &tcpv3.TcpProxy{
			StatPrefix: PassthroughCluster, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: PassthroughCluster},
			// The application's connections live as long as without a proxy; peers that are
			// gone are found by keepalive.
			IdleTimeout: durationpb.New(0),
		})}}
	}
	// Who calls the port itself is not redirected: passing it through would call it again.
	self := refuse()
	self.Name, self.FilterChainMatch = "self", &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(t.OutboundPort)}
	return &listenerv3.Listener{
		Name: OutboundListener, Address: anyAddress(t, t.OutboundPort),
		TrafficDirection:   corev3.TrafficDirection_OUTBOUND,
		UseOriginalDst:     wrapperspb.Bool(true), // adds the listener filter itself
		FilterChains:       []*listenerv3.FilterChain{self},
		DefaultFilterChain: rest,
	}
}

// redirectedInbound is where redirected connections of others arrive: a chain for
// each inbound, told apart by port, and nothing for other ports or for plain text. It
// hands nothing over: an outbound may have this very host's address, and a
// stranger who reached it would call with the identity of this proxy.
func redirectedInbound(p *ir.Proxy) *listenerv3.Listener {
	t := p.Class.Transparent
	l := &listenerv3.Listener{
		Name: InboundListener, Address: anyAddress(t, t.InboundPort),
		TrafficDirection:   corev3.TrafficDirection_INBOUND,
		ListenerFilters:    []*listenerv3.ListenerFilter{originalDestination(), tlsInspector()},
		DefaultFilterChain: refuse(),
	}
	for i := range p.Inbounds {
		in := &p.Inbounds[i]
		chain := inboundChain(in, InboundName(in.Name))
		chain.FilterChainMatch.DestinationPort = wrapperspb.UInt32(in.Port)
		l.FilterChains = append(l.FilterChains, chain)
	}
	return l
}

// Closed stands in for a listener that redirected connections are handed to and that
// Envoy refuses: nothing listens there else, and what is redirected would pass through
// as it is, in plain text. It closes them. Nil for every other resource.
func Closed(r *delta.Resource) *delta.Resource {
	var l listenerv3.Listener
	if r.TypeURL != ListenerType || proto.Unmarshal(r.Body, &l) != nil || l.BindToPort == nil || l.BindToPort.Value {
		return nil
	}
	closed, err := resourceOf(&listenerv3.Listener{
		Name: l.Name, Address: l.Address, BindToPort: l.BindToPort,
		TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		FilterChains:     []*listenerv3.FilterChain{refuse()},
	})
	if err != nil {
		return nil
	}
	return closed
}

// refuse closes connections, and counts them.
func refuse() *listenerv3.FilterChain {
	return &listenerv3.FilterChain{Name: "refused", Filters: []*listenerv3.Filter{filter("envoy.filters.network.tcp_proxy", &tcpv3.TcpProxy{
		StatPrefix: "refused", ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: unresolved},
	})}}
}

// passthroughCluster leads to wherever a redirected connection wanted to go.
func passthroughCluster() *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 PassthroughCluster,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST},
		LbPolicy:             clusterv3.Cluster_CLUSTER_PROVIDED,
		ConnectTimeout:       durationpb.New(passthroughConnect),
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections: wrapperspb.UInt32(unlimited), MaxPendingRequests: wrapperspb.UInt32(unlimited),
		}}},
		UpstreamConnectionOptions: &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
			KeepaliveTime: wrapperspb.UInt32(300), KeepaliveInterval: wrapperspb.UInt32(30), KeepaliveProbes: wrapperspb.UInt32(4),
		}},
	}
}

// meshCall marks connections to other proxies, for the kernel of this host alone.
// Where one ends at this very host, because the application calls a service that
// it is part of, the redirect leads it to the inbound listener; what this proxy
// opens to its own application has no mark and goes there straight.
func meshCall() *corev3.SocketOption {
	return &corev3.SocketOption{
		Description: "SO_PRIORITY: a call by way of the mesh",
		Level:       solSocket, Name: soPriority,
		Value: &corev3.SocketOption_IntValue{IntValue: meshCallPriority},
		State: corev3.SocketOption_STATE_PREBIND,
	}
}

// anyAddress is a port on every address of the families that are redirected.
func anyAddress(t *ir.Transparent, port uint32) *corev3.Address {
	if t.IPv4Only {
		return socketAddress("0.0.0.0", port)
	}
	a := socketAddress("::", port)
	a.GetSocketAddress().Ipv4Compat = true
	return a
}

func originalDestination() *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{
		Name:       "envoy.filters.listener.original_dst",
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(&origdstv3.OriginalDst{})},
	}
}
