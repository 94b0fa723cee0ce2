package store

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Entry is one line of the change log.
type Entry struct {
	// Change that was made.
	Change mesh.Change
	// Digest of the history up to it.
	Digest Digest
}

// Planner works out what batches of writes do to a store, inside a transaction
// that the implementation holds. It does no I/O of its own: the implementation
// says how to read, and then writes Entries and Final. That way every store
// gives the same answers.
type Planner struct {
	at      Position
	now     time.Time
	read    func(mesh.Key) (mesh.Resource, bool, error)
	fences  map[string]int64
	state   map[mesh.Key]*mesh.Resource
	entries []Entry
}

// NewPlanner starts at a position. Times are cut to microseconds, which every
// store keeps. The read function says what the store holds for a key.
func NewPlanner(at Position, now time.Time, read func(mesh.Key) (mesh.Resource, bool, error)) *Planner {
	return &Planner{at: at, now: now.UTC().Truncate(time.Microsecond), read: read, state: map[mesh.Key]*mesh.Resource{}}
}

// After says when the last batch was committed that is in the store. The next one has
// a later time, whatever the clock says: it may have been set back, or be that of
// another instance.
func (p *Planner) After(last time.Time) {
	if next := last.UTC().Truncate(time.Microsecond).Add(time.Microsecond); p.now.Before(next) {
		p.now = next
	}
}

// Fences says which holder of each name is the newest; without it there is none.
func (p *Planner) Fences(newest map[string]int64) { p.fences = newest }

// Add plans one batch, after those before it. On an error the batch has no
// effect and the planner can go on with the next. Each batch has a time of its
// own, a microsecond after the one before at least, so that the changes that were
// written together are those of one author and time.
func (p *Planner) Add(author string, ops []Op) (Position, error) {
	batch := Planner{at: p.at, now: p.now, read: p.current, state: map[mesh.Key]*mesh.Resource{}}
	for i := range ops {
		if f := ops[i].Fence; f != nil && p.fences[f.Name] != f.Number {
			return Position{}, fmt.Errorf("holder %d of %s, the newest is %d: %w", f.Number, f.Name, p.fences[f.Name], ErrFenced)
		}
		if err := batch.op(author, &ops[i]); err != nil {
			return Position{}, err
		}
	}
	if len(batch.entries) > 0 {
		p.now = p.now.Add(time.Microsecond)
	}
	maps.Copy(p.state, batch.state)
	p.entries = append(p.entries, batch.entries...)
	p.at = batch.at
	return p.at, nil
}

func (p *Planner) current(key mesh.Key) (mesh.Resource, bool, error) {
	if r, ok := p.state[key]; ok {
		if r == nil {
			return mesh.Resource{}, false, nil
		}
		return *r, true, nil
	}
	return p.read(key)
}

func (p *Planner) op(author string, op *Op) error {
	old, exists, err := p.current(op.Resource.Key)
	if err != nil {
		return err
	}
	if op.IfRevision != nil && *op.IfRevision != old.Revision {
		return conflict(op.Resource.Key, old.Revision, *op.IfRevision)
	}
	change := mesh.Change{Revision: p.at.Revision + 1, Author: author, Time: p.now}
	switch {
	case op.Delete && !exists, !op.Delete && exists && SameContent(old, op.Resource):
		return nil
	case op.Delete:
		change.Deleted = true
		change.Resource = mesh.Resource{Key: op.Resource.Key}
		p.state[op.Resource.Key] = nil
	default:
		r := op.Resource
		r.Revision, r.Created, r.Modified = change.Revision, p.now, p.now
		if exists {
			r.Created = old.Created
		}
		change.Resource = r
		p.state[r.Key] = &r
	}
	p.at = Position{Revision: change.Revision, Digest: NextDigest(p.at.Digest, change)}
	p.entries = append(p.entries, Entry{Change: change, Digest: p.at.Digest})
	return nil
}

func conflict(key mesh.Key, have, want mesh.Revision) error {
	switch {
	case want == 0:
		return fmt.Errorf("%s exists already, at revision %d: %w", key, have, ErrConflict)
	case have == 0:
		return fmt.Errorf("%s does not exist, revision %d was expected: %w", key, want, ErrConflict)
	}
	return fmt.Errorf("%s is at revision %d, revision %d was expected: %w", key, have, want, ErrConflict)
}

// Position after everything that was planned.
func (p *Planner) Position() Position { return p.at }

// Entries are the changes to log, in order.
func (p *Planner) Entries() []Entry { return p.entries }

// Final returns the state to store, sorted by key: resources to put and keys to delete.
func (p *Planner) Final() (put []mesh.Resource, gone []mesh.Key) {
	for k, r := range p.state {
		if r == nil {
			gone = append(gone, k)
		} else {
			put = append(put, *r)
		}
	}
	slices.SortFunc(put, func(a, b mesh.Resource) int { return CompareKeys(a.Key, b.Key) })
	slices.SortFunc(gone, CompareKeys)
	return put, gone
}

// SameContent reports whether two resources have the same labels, spec and status.
func SameContent(a, b mesh.Resource) bool {
	return bytes.Equal(a.Spec, b.Spec) && bytes.Equal(a.Status, b.Status) && maps.Equal(a.Labels, b.Labels)
}

// CompareKeys orders keys by kind, mesh, name and zone, which is the order of
// lists and snapshots.
func CompareKeys(a, b mesh.Key) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Mesh, b.Mesh), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Zone, b.Zone))
}
