package mesh

import (
	"encoding/json"
	"strings"
	"time"
)

// Revision numbers the changes of one store: gapless, in commit order, starting
// at 1. Zero means "before the first change".
type Revision int64

// Key identifies a resource. It is comparable and never changes meaning.
type Key struct {
	// Kind is the kind's name.
	Kind KindName
	// Mesh is the mesh's name; empty for kinds of global scope.
	Mesh string
	// Zone is the zone that owns the resource; empty when it was authored at global.
	Zone string
	// Name is the name its author gave it.
	Name string
}

// String is the canonical text form, for logs: "MeshService/default/west/backend".
func (k Key) String() string {
	return strings.Join([]string{string(k.Kind), k.Mesh, k.Zone, k.Name}, "/")
}

// Resource is one stored thing: the authored bytes, verbatim, with what the
// system knows about them. Values are immutable once they cross a room.
type Resource struct {
	Key
	// Labels, keys in canonical form (see CanonicalLabel), authored and computed.
	Labels map[string]string
	// Spec is the authored spec as JSON, verbatim. Decode with DecodeSpec.
	Spec json.RawMessage
	// Status is what the owning zone reports as JSON; empty when there is none.
	Status json.RawMessage
	// Revision of the last change, as numbered by the store it was read from.
	Revision Revision
	// Created and Modified are UTC.
	Created, Modified time.Time
}

// Change is one committed change: what a store hands out and a zone replays.
type Change struct {
	// Revision that this change has.
	Revision Revision
	// Deleted is set when the resource is gone; then only Key is meaningful in Resource.
	Deleted bool
	// Resource after the change.
	Resource Resource
	// Author is who made it: "user:admin", "zone:west".
	Author string
	// Time of the commit, UTC.
	Time time.Time
}
