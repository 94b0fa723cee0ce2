package store

import (
	"context"
	"errors"
	"iter"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Errors that callers branch on; wrap them with what was attempted.
var (
	// ErrNotFound: no such resource.
	ErrNotFound = errors.New("not found")
	// ErrConflict: a precondition of a write did not hold.
	ErrConflict = errors.New("conflict")
	// ErrCompacted: the change log no longer reaches back to the revision asked for.
	ErrCompacted = errors.New("revision is no longer in the change log")
	// ErrUnavailable: the database does not answer; the outcome of a write may be unknown.
	ErrUnavailable = errors.New("store unavailable")
	// ErrFenced: another raised the fence of a write since.
	ErrFenced = errors.New("a newer holder writes now")
)

// Digest identifies the history up to a revision: each change's digest covers
// its content and the digest before it. Equal digests at a revision mean equal
// histories; a restored backup shows as a different one. Lower-case hex, 32 characters.
type Digest string

// Op is one write of a batch.
type Op struct {
	// Delete removes the resource; then only its Key is read.
	Delete bool
	// Resource to put. Revision, Created and Modified are ignored.
	Resource mesh.Resource
	// IfRevision, when not nil, must equal the current revision; 0 means "does not exist".
	IfRevision *mesh.Revision
	// Fence, when not nil, must be the last that was raised of its name; else the
	// batch fails with ErrFenced.
	Fence *Fence
}

// Fence is a holder of a name, under which only the newest holder may write.
type Fence struct {
	// Name of what is written, of at most MaxNameBytes.
	Name string
	// Number of the holder; later ones have larger numbers.
	Number int64
}

// Query selects resources of a kind.
type Query struct {
	// Kind, required.
	Kind mesh.KindName
	// Mesh; empty lists all meshes.
	Mesh string
	// Zone, when not nil, is the owner to list ("" for global).
	Zone *string
	// NameContains filters by substring of the name.
	NameContains string
	// Labels that must all be equal, canonical keys.
	Labels map[string]string
	// Offset and Size page through the result ordered by mesh, name, zone. Size 0 means all.
	Offset, Size int
}

// Page is a part of a list.
type Page struct {
	// Items of this page.
	Items []mesh.Resource
	// Total that match.
	Total int
	// At is the revision the list was read at.
	At mesh.Revision
}

// Position is a point in the history.
type Position struct {
	// Revision of the last change; 0 for an empty store.
	Revision mesh.Revision
	// Digest at that revision; empty at 0.
	Digest Digest
}

// Store keeps resources. All methods are safe for concurrent use and return
// ErrUnavailable (wrapped) when the database is away.
type Store interface {
	// Get reads one resource, or ErrNotFound.
	Get(ctx context.Context, key mesh.Key) (mesh.Resource, error)
	// List reads a page, consistent at one revision.
	List(ctx context.Context, q Query) (Page, error)
	// Write applies all ops or none, in order, each as a change of its own, and
	// returns the position after the last. A put that changes nothing (same labels,
	// spec and status) and a delete of what is absent make no change. ErrConflict
	// names the key. When it returns nil the batch is durable.
	Write(ctx context.Context, author string, ops []Op) (Position, error)
	// Raise makes the next holder of a name, across all instances. When it returns,
	// every write of an older holder is either in the store, visible to what is
	// read next, or fails.
	Raise(ctx context.Context, name string) (Fence, error)
	// Head is the position of the last committed change.
	Head(ctx context.Context) (Position, error)
	// DigestAt is the digest of the history at a revision, or ErrCompacted, or
	// ErrNotFound for a revision that was never reached.
	DigestAt(ctx context.Context, rev mesh.Revision) (Digest, error)
	// Changes reads up to limit changes after a revision, in order without gaps, or ErrCompacted.
	Changes(ctx context.Context, after mesh.Revision, limit int) ([]mesh.Change, error)
	// Begin is the revision that the change log begins after: the last that was
	// compacted, 0 when none was.
	Begin(ctx context.Context) (mesh.Revision, error)
	// History reads up to limit changes of one resource before a revision, newest
	// first, as far as the log reaches back. A limit of 0 is MaxChanges.
	History(ctx context.Context, key mesh.Key, before mesh.Revision, limit int) ([]mesh.Change, error)
	// Snapshot reads every resource, consistent at the position returned. The
	// sequence is bounded in memory and must be drained or broken off.
	Snapshot(ctx context.Context) (Position, iter.Seq2[mesh.Resource, error], error)
	// Wait blocks until a change after rev is committed, by any instance, or ctx
	// ends. It may return early; callers read Changes. A lost notification costs
	// at most the implementation's own poll (1 s) and never a change.
	Wait(ctx context.Context, rev mesh.Revision) error
	// Compact drops changes up to and including rev from the log.
	Compact(ctx context.Context, rev mesh.Revision) error
	// Close releases the store.
	Close() error
}
