package embedded

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/internal/record"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// Write implements store.Store.
func (s *Store) Write(ctx context.Context, author string, ops []store.Op) (store.Position, error) {
	if err := store.CheckWrite(author, ops); err != nil {
		return store.Position{}, fmt.Errorf("write: %w", err)
	}
	w := &write{author: author, ops: ops}
	if err := s.writes.Do(ctx, w); err != nil {
		return store.Position{}, fmt.Errorf("write: %w", err)
	}
	if w.err != nil {
		return store.Position{}, wrap("write", w.err)
	}
	return w.position, nil
}

// commit runs a group of writes in one transaction. Each succeeds or fails by
// itself, unless the file fails, which fails them all.
func (s *Store) commit(group []*write) {
	at, err := s.commitGroup(group)
	if err != nil {
		for _, w := range group {
			if w.err == nil {
				w.err = err
			}
		}
		return
	}
	s.bell.Ring(at)
}

func (s *Store) commitGroup(group []*write) (mesh.Revision, error) {
	s.fencing.Lock()
	defer s.fencing.Unlock()
	tx, err := s.db.Begin(true)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	at, err := head(tx)
	if err != nil {
		return 0, err
	}
	resources := tx.Bucket([]byte(bucketResources))
	plan := store.NewPlanner(at, s.now(), func(k mesh.Key) (mesh.Resource, bool, error) {
		v := resources.Get(resourceKey(k))
		if v == nil {
			return mesh.Resource{}, false, nil
		}
		r, err := record.Resource(v)
		return r, err == nil, err
	})
	plan.Fences(s.fences)
	if _, v := tx.Bucket([]byte(bucketChanges)).Cursor().Last(); v != nil {
		last, err := record.Change(v[digestSize:])
		if err != nil {
			return 0, err
		}
		plan.After(last.Time)
	}
	for _, w := range group {
		w.position, w.err = plan.Add(w.author, w.ops)
	}
	if len(plan.Entries()) == 0 {
		return at.Revision, nil
	}
	if err := apply(tx, plan); err != nil {
		return 0, err
	}
	if err := tx.Commit(); err != nil {
		// A sync that failed may still have reached the disk.
		return 0, fmt.Errorf("commit: %w: %w", store.ErrUnavailable, err)
	}
	return plan.Position().Revision, nil
}

func apply(tx *bolt.Tx, plan *store.Planner) error {
	changes, resources := tx.Bucket([]byte(bucketChanges)), tx.Bucket([]byte(bucketResources))
	changes.FillPercent = 0.95 // appended only
	for _, e := range plan.Entries() {
		v, err := hex.AppendDecode(nil, []byte(e.Digest))
		if err != nil || len(v) != digestSize {
			return errors.Join(errors.New("bad digest"), err)
		}
		if err := changes.Put(revisionKey(e.Change.Revision), record.AppendChange(v, e.Change)); err != nil {
			return err
		}
	}
	put, gone := plan.Final()
	for _, r := range put {
		if err := resources.Put(resourceKey(r.Key), record.AppendResource(nil, r)); err != nil {
			return err
		}
	}
	for _, k := range gone {
		if err := resources.Delete(resourceKey(k)); err != nil {
			return err
		}
	}
	return nil
}

// Raise implements store.Store.
func (s *Store) Raise(_ context.Context, name string) (store.Fence, error) {
	s.fencing.Lock()
	defer s.fencing.Unlock()
	s.fences[name]++
	return store.Fence{Name: name, Number: s.fences[name]}, nil
}

// Compact implements store.Store. It works in steps, so that writers get their turn.
func (s *Store) Compact(ctx context.Context, rev mesh.Revision) error {
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("compact: %w", err)
		}
		more := false
		err := s.db.Update(func(tx *bolt.Tx) (err error) { more, err = compactStepTo(tx, rev); return err })
		if err != nil || !more {
			return wrap("compact", err)
		}
	}
}

func compactStepTo(tx *bolt.Tx, rev mesh.Revision) (more bool, err error) {
	at, err := head(tx)
	if err != nil {
		return false, err
	}
	if rev > at.Revision {
		return false, fmt.Errorf("revision %d, the last is %d: %w", rev, at.Revision, store.ErrNotFound)
	}
	from, err := compacted(tx)
	if err != nil || rev <= from.Revision {
		return false, err
	}
	to := min(rev, from.Revision+compactStep)
	changes := tx.Bucket([]byte(bucketChanges))
	last := changes.Get(revisionKey(to))
	if len(last) < digestSize {
		return false, fmt.Errorf("revision %d is missing from the change log", to)
	}
	boundary := append(revisionKey(to), last[:digestSize]...)
	if err := tx.Bucket([]byte(bucketMeta)).Put([]byte(keyCompacted), boundary); err != nil {
		return false, err
	}
	for r := from.Revision + 1; r <= to; r++ {
		if err := changes.Delete(revisionKey(r)); err != nil {
			return false, err
		}
	}
	return to < rev, nil
}
