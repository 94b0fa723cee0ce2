package ir

import "github.com/tombolo-mesh/tombolo/mesh"

// SetKind says what an EndpointSet is for.
type SetKind uint8

const (
	// DestinationSet holds the hosts of a service as callers of this zone see them.
	DestinationSet SetKind = iota
	// GatewaySet holds the ingress addresses of another zone.
	GatewaySet
	// ExportSet holds the local hosts of a service as the ingress sees them.
	ExportSet
)

// EndpointRef says which EndpointSet to compile. Comparable.
type EndpointRef struct {
	// Name of the set, unique in the zone.
	Name string
	// Kind of set.
	Kind SetKind
	// Mesh it belongs to.
	Mesh string
	// Backend is the service (DestinationSet, ExportSet).
	Backend mesh.Key
	// Port of the backend.
	Port uint32
	// Zone of the gateway (GatewaySet).
	Zone string
}
