package sync

import (
	"context"
	"io"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// Position is a point in global's history.
type Position struct {
	Revision mesh.Revision
	Digest   string
}

// Replica is the zone's copy of what global pushed. Both writes return after the
// change is durable and visible to the world, and are all or nothing.
type Replica interface {
	// Position of the copy; zero when there is none.
	Position() Position
	// Replace everything by a snapshot.
	Replace(to Position, resources []mesh.Resource) error
	// Apply changes in order; to may be ahead of the last one.
	Apply(to Position, changes []mesh.Change) error
}

// Facts is what the zone tells of itself.
type Facts interface {
	// Facts are the resources that the zone owns and that changed since the last call,
	// each as it is now; of the first call, all of them. They are immutable.
	Facts() []mesh.Change
	// FactsChanged receives (capacity 1, coalesced) after they changed.
	FactsChanged() <-chan struct{}
	// FactsConfirmed tells that global holds, durably, exactly what the calls of Facts
	// returned, except what it refused. It is called by the goroutine that calls Facts.
	FactsConfirmed(sequence uint64)
}

// Reports is where progress comes from.
type Reports interface {
	// Report is the newest progress; it replaces what is unsent.
	Report() *zonesyncv1.Report
	// ReportChanged receives (capacity 1, coalesced) after it changed.
	ReportChanged() <-chan struct{}
}

// Inspector answers questions of global about proxies of this zone.
type Inspector interface {
	// Inspect writes the answer; see InspectRequest for the questions.
	Inspect(ctx context.Context, q zonesync.Question, w io.Writer) error
}
