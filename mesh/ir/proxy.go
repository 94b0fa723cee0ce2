package ir

import (
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Role is what a proxy is for.
type Role uint8

const (
	// Sidecar stands beside one application.
	Sidecar Role = iota
	// Ingress carries traffic of other zones into this one.
	Ingress
)

// Protocol of a port.
type Protocol string

const (
	// TCP is opaque.
	TCP Protocol = "tcp"
	// HTTP is HTTP/1.1 to the application.
	HTTP Protocol = "http"
	// HTTP2 is HTTP/2 with prior knowledge to the application.
	HTTP2 Protocol = "http2"
	// GRPC is HTTP2 with gRPC semantics.
	GRPC Protocol = "grpc"
)

// IsHTTP reports whether requests are seen one by one.
func (p Protocol) IsHTTP() bool { return p != TCP && p != "" }

// Class is the input of a compile: what its proxies have in common. Proxies of
// one class differ only in addresses and identity document.
type Class struct {
	// Mesh of the proxies.
	Mesh string
	// ID is a stable digest of the fields below, for example "web-3f9a2c41d07e".
	ID string
	// Labels of the Dataplanes, canonical keys, without those that are unique to
	// an instance.
	Labels map[string]string
	// Name is set when a policy or service selects by name and the class
	// therefore has one member; usually empty.
	Name string
	// Role of the proxies.
	Role Role
	// Inbounds without addresses.
	Inbounds []ClassInbound
	// Outbounds as authored.
	Outbounds []mesh.Outbound
	// Transparent is set where the kernel redirects the application's traffic.
	Transparent *Transparent `json:",omitempty"`
	// Listeners of a zone ingress, without addresses and state.
	Listeners []mesh.Listener
	// Unsupported says what else the Dataplanes ask for, which is left out: the
	// path and the reason. It becomes problems.
	Unsupported []string
}

// Transparent is how redirected traffic arrives, with defaults filled in.
type Transparent struct {
	// InboundPort and OutboundPort are where redirected connections arrive.
	InboundPort, OutboundPort uint32
	// IPv4Only: the other family is not redirected, and may not even exist.
	IPv4Only bool
	// Reachable limits the services that can be called; nil means all of the mesh.
	Reachable *[]mesh.ReachableBackend
}

// ClassInbound is an inbound without its addresses.
type ClassInbound struct {
	Name        string
	Port        uint32
	ServicePort uint32
	Protocol    Protocol
}

// Instance is what one proxy has of its own: the addresses that its listeners
// and inbound clusters use. Parallel to Class.Inbounds and Class.Listeners.
type Instance struct {
	// Inbounds: where Envoy listens, where the application does.
	Inbounds []InstanceInbound
	// Listeners: where a zone proxy listens.
	Listeners []string
}

// InstanceInbound has the addresses (IPs) of one inbound.
type InstanceInbound struct {
	Address        string
	ServiceAddress string
}

// Proxy is what a class must do.
type Proxy struct {
	// Class that was compiled.
	Class *Class
	// Zone that compiled it.
	Zone string
	// HasIdentity: a MeshIdentity selects the class. Without one a sidecar gets
	// neither inbounds nor outbounds: there is no plain text in the mesh. An
	// ingress passes TLS through and needs none; there it is always false.
	HasIdentity bool
	// Inbounds of a sidecar, parallel to Class.Inbounds.
	Inbounds []Inbound
	// Outbounds of a sidecar, sorted by address and port. Those of one name have
	// the same routes and backends.
	Outbounds []Outbound
	// Passthrough: redirected connections to addresses of no outbound go where
	// they wanted to, as they are; otherwise they are closed.
	Passthrough bool
	// Destinations that outbounds refer to, by name, sorted.
	Destinations []Destination
	// Gateways (ingresses of other zones) that destinations refer to, sorted by name.
	Gateways []Gateway
	// Exports of an ingress: one per local service port, sorted by SNI.
	Exports []Export
	// Trust of the mesh: the bundles that peers are verified against.
	Trust []TrustBundle
	// Problems found on the way, for the status of the resource they name,
	// sorted. Hash and Equal do not see them.
	Problems []Problem `json:"-"`
}

// Problem is something that a compile could not honour.
type Problem struct {
	// Source is the resource at fault.
	Source mesh.Key
	// Reason for the operator: "to[0].rules[0].backendRefs[1]: no MeshService …".
	Reason string
}

// Source says which authored line produced something; it becomes part of Envoy
// names where that helps attribution and explanation.
type Source struct {
	// Key of the policy.
	Key mesh.Key
	// Path inside its spec, for example "rules[0].default.allow[1]".
	Path string
	// Revision of the policy. It is for explanations only: Hash and Equal do not
	// see it, and nothing that is sent to a proxy may contain it.
	Revision mesh.Revision `json:"-"`
}

// Inbound is one inbound's behaviour.
type Inbound struct {
	ClassInbound
	// Permission decides who may call; it fails closed.
	Permission Permission
	// Timeouts towards the application.
	Timeouts Timeouts
	// Matched timeouts for some callers, most specific first.
	Matched []MatchedTimeouts
	// Confs are the effective `rules` configurations for every caller.
	Confs Confs
	// Rules are the `rules` configurations for some callers: kinds in the order
	// of mesh.Kinds, within a kind the most specific match first.
	Rules []MatchedConf
	// Generation grows when the permission of a TCP inbound is tightened.
	Generation uint64
}

// Permission lists matchers: deny, then shadow deny (allowed), then allow; else denied.
type Permission struct {
	Deny, AllowWithShadowDeny, Allow []PermissionMatch
}

// PermissionMatch is one match and where it was authored.
type PermissionMatch struct {
	mesh.Match
	Source Source
}

// MatchedTimeouts are timeouts for the callers that match.
type MatchedTimeouts struct {
	mesh.Match
	Timeouts Timeouts
}

// Timeouts are effective: every field is set, 0 disables (Connect never is 0).
type Timeouts struct {
	Connect, Idle, Request, StreamIdle, MaxStream, MaxConnection, RequestHeaders time.Duration
	// Sources of the values, lowest priority first.
	Sources []Source
}

// Outbound is a listener for the application's calls.
type Outbound struct {
	// Name is the KRI of the backend and port it leads to.
	Name string
	// Address and Port to listen on.
	Address string
	Port    uint32
	// Redirected: nothing listens at the address; the kernel redirects
	// connections to it.
	Redirected bool
	// Protocol of the backend's port.
	Protocol Protocol
	// Routes of HTTP protocols in matching order; the last one matches everything.
	Routes []Route
	// Backends of TCP.
	Backends []WeightedBackend
	// Timeouts of the downstream side.
	Timeouts Timeouts
	// Confs are the effective `to` configurations for the backend addressed.
	Confs Confs
	// Source of Backends; zero when they are the backend addressed itself.
	Source Source
}

// Route is one HTTP rule of an outbound.
type Route struct {
	// Name is stable: the policy's name and the digest of its matches.
	Name string
	// Match of the request.
	Match mesh.HTTPMatch
	// Filters to apply.
	Filters []mesh.HTTPFilter
	// Mirrors are resolved RequestMirror filters.
	Mirrors []Mirror
	// Status answers requests at once, when it is not 0.
	Status uint32
	// Backends with weights; none resolved: requests get 500.
	Backends []WeightedBackend
	// Timeouts of requests on this route.
	Timeouts Timeouts
	// Confs are the effective `to` configurations for this route.
	Confs Confs
	// Source of the rule; zero for the default route.
	Source Source
}

// Mirror copies requests to a destination.
type Mirror struct {
	Destination string
	Percentage  float64
}

// WeightedBackend is a share of traffic. An unresolved backend has an empty
// Destination; its share gets 500 (HTTP) or a closed connection (TCP).
type WeightedBackend struct {
	Destination string
	Weight      uint32
	// Filters of the requests of this share, on top of the route's.
	Filters []mesh.BackendFilter
}

// Destination is a cluster: one port of a MeshService or MeshMultiZoneService
// as this class sees it.
type Destination struct {
	// Name is the KRI of the backend and port; also the name of its EndpointSet.
	Name string
	// Protocol of the port.
	Protocol Protocol
	// Backend is the service, and Port the port of it, that this cluster is for.
	Backend mesh.Key
	Port    uint32
	// Peers that may answer: one per (service, zone), sorted by name.
	Peers []Peer
	// Confs are the effective `to` configurations for this destination.
	Confs Confs
	// Timeouts of upstream connections.
	Timeouts Timeouts
}

// Peer is one (service, zone): it has its own SNI and its own pinned identities,
// and hosts refer to it by name.
type Peer struct {
	// Name, for example "backend.west".
	Name string
	// SNI to ask for.
	SNI string
	// Identities (SPIFFE IDs) that it may prove, sorted; never empty: a peer
	// without identities is left out, since it could not be verified.
	Identities []string
}

// Gateway is the ingress of another zone.
type Gateway struct {
	// Name of cluster and EndpointSet, for example "gateway_default_west".
	Name string
	// Zone that it leads to.
	Zone string
}

// Export is a service port that an ingress offers to other zones.
type Export struct {
	// SNI under which it is offered; also the cluster's and EndpointSet's name.
	SNI string
	// Service is its key.
	Service mesh.Key
	// Port of the service.
	Port uint32
}

// TrustBundle has the authorities of one trust domain.
type TrustBundle struct {
	// TrustDomain, for example "default.west.mesh.local".
	TrustDomain string
	// PEM of every authority, in sorted order, without duplicates.
	PEM string
}

// EndpointSet is the hosts behind one name; shared by every class of the mesh
// that refers to it. It changes with health and scale, and with nothing else.
type EndpointSet struct {
	// Name as in Destination, Gateway or Export.
	Name string
	// Hosts sorted by priority, zone, address, port.
	Hosts []Host
}

// Host is one endpoint.
type Host struct {
	// Address (an IP in canonical form) and Port; for a host behind a gateway
	// both are zero.
	Address string
	Port    uint32
	// Zone where it is.
	Zone string
	// Priority 0 is used first.
	Priority uint32
	// Weight within its priority, at least 1.
	Weight uint32
	// Peer of Destination that it is; empty behind gateways and exports.
	Peer string
	// Gateway through which it is reached; empty for a direct host.
	Gateway string
}
