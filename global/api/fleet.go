package api

import (
	"context"
	"io"

	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// Fleet is what the API knows of the zones; *sync.Server implements it.
type Fleet interface {
	// Change is the state of a revision now.
	Change(rev mesh.Revision) sync.ChangeStatus
	// WatchChange calls fn with each new state of a revision until fn returns
	// false or ctx ends. The first call is immediate.
	WatchChange(ctx context.Context, rev mesh.Revision, fn func(sync.ChangeStatus) bool) error
	// Zones lists every known zone, sorted by name.
	Zones() []sync.ZoneStatus
	// Inspect asks a zone and copies the answer: "config_dump" of a proxy, for example.
	Inspect(ctx context.Context, zone string, q sync.Question, w io.Writer) error
}
