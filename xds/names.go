package xds

import (
	"fmt"
	"strings"
)

// Names that are fixed in every proxy.
const (
	// IdentitySecret is the workload's certificate and key, from the agent's socket.
	IdentitySecret = "identity"
	// BundlesSecret is the mesh's trust, from the zone.
	BundlesSecret = "bundles"
	// AgentCluster is the static cluster of the agent's SDS socket.
	AgentCluster = "agent_sds"
	// RemotePeersListener is the internal listener through which hosts behind
	// gateways are reached, so that each has a health of its own.
	RemotePeersListener = "remote_peers"
	// InboundListener and OutboundListener are where redirected connections
	// arrive, and PassthroughCluster leads to where they wanted to go.
	InboundListener    = "inbound"
	OutboundListener   = "outbound"
	PassthroughCluster = "passthrough"
	// UndeliveredHeader marks answers of a sidecar whose application was never
	// reached; such requests are safe to send again, whatever their method.
	UndeliveredHeader = "x-tombolo-undelivered"

	metadataNamespace = "tombolo"
	unresolved        = "unresolved"
)

// InboundName names the listener, route and cluster of an own inbound.
func InboundName(section string) string { return "self_inbound_dp_" + section }

// OutboundListenerName names the listener of an outbound.
func OutboundListenerName(address string, port uint32) string {
	return fmt.Sprintf("outbound_%s_%d", address, port)
}

// PermissionName names the permission of an inbound.
func PermissionName(section string) string { return "rbac_" + section }

// CallersName names the trust of a TCP inbound.
func CallersName(section string) string { return "callers_" + section }

// OfInbound says that a resource belongs to what a proxy takes calls with.
func OfInbound(name string) bool {
	for _, prefix := range []string{InboundName(""), PermissionName(""), CallersName("")} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return name == InboundListener
}

// peerZone is the zone in a peer's name, "<service>.<zone>".
func peerZone(peer string) string { return peer[strings.LastIndexByte(peer, '.')+1:] }
