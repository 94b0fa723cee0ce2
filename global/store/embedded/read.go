package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"

	bolt "go.etcd.io/bbolt"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/internal/bell"
	"github.com/tombolo-mesh/tombolo/global/store/internal/record"
	"github.com/tombolo-mesh/tombolo/global/store/internal/spool"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key mesh.Key) (r mesh.Resource, err error) {
	err = s.view(ctx, "get", func(tx *bolt.Tx) error {
		v := tx.Bucket([]byte(bucketResources)).Get(resourceKey(key))
		if v == nil {
			return fmt.Errorf("%s: %w", key, store.ErrNotFound)
		}
		r, err = record.Resource(v)
		return err
	})
	return r, err
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, q store.Query) (page store.Page, err error) {
	if err := q.Check(); err != nil {
		return page, fmt.Errorf("list: %w", err)
	}
	prefix := append([]byte(q.Kind), 0)
	if q.Mesh != "" {
		prefix = append(append(prefix, q.Mesh...), 0)
	}
	err = s.view(ctx, "list", func(tx *bolt.Tx) error {
		at, err := head(tx)
		if err != nil {
			return err
		}
		page.At = at.Revision
		c := tx.Bucket([]byte(bucketResources)).Cursor()
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
			match, err := matches(q, k, v)
			if err != nil {
				return err
			}
			if !match {
				continue
			}
			page.Total++
			if page.Total <= q.Offset || q.Size > 0 && len(page.Items) == q.Size {
				continue
			}
			r, err := record.Resource(v)
			if err != nil {
				return err
			}
			page.Items = append(page.Items, r)
		}
		return nil
	})
	return page, err
}

// matches looks at the key first and decodes only what the query asks about.
func matches(q store.Query, k, v []byte) (bool, error) {
	if q.Zone != nil || q.NameContains != "" {
		parts := bytes.SplitN(k, []byte{0}, 4)
		if len(parts) != 4 {
			return false, errors.New("corrupt key")
		}
		if q.Zone != nil && string(parts[3]) != *q.Zone || !strings.Contains(string(parts[2]), q.NameContains) {
			return false, nil
		}
	}
	if len(q.Labels) == 0 {
		return true, nil
	}
	have, err := record.Labels(v)
	if err != nil {
		return false, err
	}
	for name, want := range q.Labels {
		if got, ok := have[name]; !ok || got != want {
			return false, nil
		}
	}
	return true, nil
}

// Head implements store.Store.
func (s *Store) Head(ctx context.Context) (at store.Position, err error) {
	err = s.view(ctx, "head", func(tx *bolt.Tx) error { at, err = head(tx); return err })
	return at, err
}

// DigestAt implements store.Store.
func (s *Store) DigestAt(ctx context.Context, rev mesh.Revision) (d store.Digest, err error) {
	err = s.view(ctx, "digest", func(tx *bolt.Tx) error {
		first, last, err := bounds(tx, rev)
		switch {
		case err != nil:
			return err
		case rev == first.Revision:
			d = first.Digest
			return nil
		case rev == last.Revision:
			d = last.Digest
			return nil
		}
		k := revisionKey(rev)
		at, err := position(k, tx.Bucket([]byte(bucketChanges)).Get(k))
		d = at.Digest
		return err
	})
	return d, err
}

// bounds of the history, which must contain rev.
func bounds(tx *bolt.Tx, rev mesh.Revision) (first, last store.Position, err error) {
	if first, err = compacted(tx); err != nil {
		return first, last, err
	}
	if last, err = head(tx); err != nil {
		return first, last, err
	}
	return first, last, store.CheckBounds(rev, first.Revision, last.Revision)
}

// Changes implements store.Store.
func (s *Store) Changes(ctx context.Context, after mesh.Revision, limit int) (changes []mesh.Change, err error) {
	limit = store.ChangesLimit(limit)
	err = s.view(ctx, "changes", func(tx *bolt.Tx) error {
		if _, _, err := bounds(tx, after); err != nil {
			return err
		}
		c := tx.Bucket([]byte(bucketChanges)).Cursor()
		next, size := after+1, 0
		for k, v := c.Seek(revisionKey(next)); k != nil && len(changes) < limit; k, v = c.Next() {
			if size += len(v); size > store.MaxChangesBytes && len(changes) > 0 {
				return nil
			}
			if len(v) < digestSize || binary.BigEndian.Uint64(k) != uint64(next) {
				return fmt.Errorf("revision %d is missing from the change log", next)
			}
			change, err := record.Change(v[digestSize:])
			if err != nil {
				return fmt.Errorf("revision %d: %w", next, err)
			}
			changes = append(changes, change)
			next++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return changes, nil
}

// Snapshot implements store.Store. What it reads leaves the transaction at once
// (see package spool), since an open one would keep the file from shrinking and,
// past a size, from growing.
func (s *Store) Snapshot(ctx context.Context) (at store.Position, all iter.Seq2[mesh.Resource, error], err error) {
	sp := &spool.Spool{Dir: s.dir}
	err = s.view(ctx, "snapshot", func(tx *bolt.Tx) error {
		if at, err = head(tx); err != nil {
			return err
		}
		c := tx.Bucket([]byte(bucketResources)).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if err := sp.AddRecord(v); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
	if err == nil {
		all, err = sp.All()
	}
	if err != nil {
		sp.Discard()
		return store.Position{}, nil, err
	}
	return at, all, nil
}

// Wait implements store.Store.
func (s *Store) Wait(ctx context.Context, rev mesh.Revision) error {
	err := s.bell.Wait(ctx, rev)
	if errors.Is(err, bell.ErrClosed) {
		return fmt.Errorf("wait: the store is closed: %w", store.ErrUnavailable)
	}
	return err
}
