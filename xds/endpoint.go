package xds

import (
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// overprovisioning says when traffic spills to the next priority: once fewer
// than half of the hosts of one are healthy.
const overprovisioning = 200

// loadAssignment groups hosts by priority and zone, in the order given.
func loadAssignment(set *ir.EndpointSet) *endpointv3.ClusterLoadAssignment {
	cla := &endpointv3.ClusterLoadAssignment{
		ClusterName: set.Name,
		Policy:      &endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: wrapperspb.UInt32(overprovisioning)},
	}
	var group *endpointv3.LocalityLbEndpoints
	for i := range set.Hosts {
		h := &set.Hosts[i]
		if group == nil || group.Priority != h.Priority || group.Locality.Zone != h.Zone {
			group = &endpointv3.LocalityLbEndpoints{Locality: &corev3.Locality{Zone: h.Zone}, Priority: h.Priority}
			cla.Endpoints = append(cla.Endpoints, group)
		}
		group.LbEndpoints = append(group.LbEndpoints, lbEndpoint(h))
	}
	return cla
}

func lbEndpoint(h *ir.Host) *endpointv3.LbEndpoint {
	e := &endpointv3.Endpoint{Hostname: h.Peer, Address: socketAddress(h.Address, h.Port)}
	metadata := map[string]*structpb.Struct{}
	if h.Peer != "" {
		metadata["envoy.transport_socket_match"] = fields("peer", h.Peer)
	}
	if h.Gateway != "" {
		metadata[metadataNamespace] = fields("cluster", h.Gateway)
		e.Address = &corev3.Address{Address: &corev3.Address_EnvoyInternalAddress{EnvoyInternalAddress: &corev3.EnvoyInternalAddress{
			AddressNameSpecifier: &corev3.EnvoyInternalAddress_ServerListenerName{ServerListenerName: RemotePeersListener},
			EndpointId:           h.Peer,
		}}}
	}
	lb := &endpointv3.LbEndpoint{
		HostIdentifier:      &endpointv3.LbEndpoint_Endpoint{Endpoint: e},
		LoadBalancingWeight: wrapperspb.UInt32(max(h.Weight, 1)),
	}
	if len(metadata) > 0 {
		lb.Metadata = &corev3.Metadata{FilterMetadata: metadata}
	}
	return lb
}

// single is the assignment of a static cluster with one host.
func single(cluster, address string, port uint32) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{ClusterName: cluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{
		LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: socketAddress(address, port)},
		}}},
	}}}
}

func socketAddress(address string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: address, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}
