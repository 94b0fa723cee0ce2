package ir

import "github.com/tombolo-mesh/tombolo/mesh"

// Object is a resource of the world with its spec decoded. It is immutable.
type Object struct {
	mesh.Resource
	// Decoded spec; the pointer type that the kind declares, for example *mesh.MeshService.
	Decoded mesh.Spec
}

// Index names a secondary index of the world.
type Index string

const (
	// ByMesh holds every object of a kind in a mesh; Value is empty.
	ByMesh Index = "mesh"
	// ByDisplayName holds objects by label display-name (the name, if absent).
	ByDisplayName Index = "display-name"
	// ByWorkload holds Dataplanes by label workload.
	ByWorkload Index = "workload"
	// ByZone holds objects by the zone that owns them.
	ByZone Index = "zone"
	// ByLabel holds the Dataplanes of a namespace by one label; see LabelValue.
	ByLabel Index = "label"
)

// Query lists objects of one kind in one mesh by an index.
type Query struct {
	Kind  mesh.KindName
	Mesh  string
	Index Index
	Value string
}

// Reader is the only way a compile sees the world. Every call is recorded, the
// ones that find nothing too; what changes an answer makes the compile dirty.
type Reader interface {
	// Zone is the name of the zone that compiles.
	Zone() string
	// Get finds one object.
	Get(key mesh.Key) (*Object, bool)
	// List returns the matching objects, sorted by Key.String().
	List(q Query) []*Object
	// Counter reads a persisted counter of the zone (0 when absent). The engine
	// bumps "tighten/<class id>/<inbound name>" when a permission of a TCP
	// inbound is tightened, so that open connections are cut.
	Counter(name string) uint64
	// Addresses at which proxies of this zone call a service by itself, in
	// canonical form, IPv4 first: its ClusterIPs, or the virtual addresses that the
	// zone gave it. Empty: it is reached by explicit outbounds alone.
	Addresses(service mesh.Key) []string
}

// Accept is a pure predicate on objects: the same object, the same answer, for as
// long as who gave it depends on what it read.
type Accept func(*Object) bool

// Selector is a Reader that records what a predicate accepts, in place of all that
// a query finds: an object that it accepts neither before nor after a change makes
// nobody dirty.
type Selector interface {
	Reader
	// Select is List, of what is accepted.
	Select(q Query, accept Accept) []*Object
}

// Select lists the objects of a query that are accepted. A Reader that is no
// Selector depends on all of them.
func Select(r Reader, q Query, accept Accept) []*Object {
	if s, ok := r.(Selector); ok {
		return s.Select(q, accept)
	}
	var out []*Object
	for _, o := range r.List(q) {
		if accept(o) {
			out = append(out, o)
		}
	}
	return out
}
