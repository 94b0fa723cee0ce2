package embedded

import (
	"context"
	"fmt"
	"math"

	bolt "go.etcd.io/bbolt"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/internal/record"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// Begin implements store.Store.
func (s *Store) Begin(ctx context.Context) (rev mesh.Revision, err error) {
	err = s.view(ctx, "begin", func(tx *bolt.Tx) error {
		at, err := compacted(tx)
		rev = at.Revision
		return err
	})
	return rev, err
}

// History implements store.Store. It looks at every change back to those it
// finds, at their keys alone: a log of one machine is short.
func (s *Store) History(ctx context.Context, key mesh.Key, before mesh.Revision, limit int) (changes []mesh.Change, err error) {
	limit = store.ChangesLimit(limit)
	err = s.view(ctx, "history", func(tx *bolt.Tx) error {
		c := tx.Bucket([]byte(bucketChanges)).Cursor()
		back := c.Prev
		if k, _ := c.Seek(revisionKey(min(before, math.MaxInt64))); k == nil {
			back = c.Last // all of them are before
		}
		k, v := back()
		size := 0
		for n := 0; k != nil && len(changes) < limit; k, v = c.Prev() {
			if n++; n%1024 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			if len(v) < digestSize {
				return fmt.Errorf("revision %x is missing from the change log", k)
			}
			of, err := record.ChangeKey(v[digestSize:])
			if err != nil {
				return fmt.Errorf("revision %x: %w", k, err)
			}
			if of != key {
				continue
			}
			if size += len(v); size > store.MaxChangesBytes && len(changes) > 0 {
				return nil
			}
			change, err := record.Change(v[digestSize:])
			if err != nil {
				return fmt.Errorf("revision %x: %w", k, err)
			}
			changes = append(changes, change)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return changes, nil
}
