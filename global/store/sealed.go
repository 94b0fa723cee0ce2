package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// sealed encrypts the specs of secrets on their way into a store and decrypts
// them on every way out. Digests are those of the store below, which sees the
// encrypted form alone.
type sealed struct {
	Store
	ring *Keyring
}

// Sealed wraps a store so that it never sees the spec of a Secret. Call
// CheckSealed first, which says at start what otherwise every read would.
func Sealed(inner Store, ring *Keyring) Store { return &sealed{Store: inner, ring: ring} }

// CheckSealed reports whether every secret of a store can be decrypted with a
// keyring: an error that wraps ErrSealed names the first that cannot.
func CheckSealed(ctx context.Context, inner Store, ring *Keyring) error {
	const size = 100
	for offset, more := 0, true; more; offset += size {
		page, err := inner.List(ctx, Query{Kind: mesh.KindSecret, Offset: offset, Size: size})
		if err != nil {
			return fmt.Errorf("check secrets: %w", err)
		}
		for _, r := range page.Items {
			if _, err := ring.Open(r.Key, r.Spec); err != nil {
				return fmt.Errorf("%w; is this the key file that belongs to this store?", err)
			}
		}
		more = offset+len(page.Items) < page.Total && len(page.Items) > 0
	}
	return nil
}

// Reseal encrypts every secret that is not encrypted with the first key of the
// keyring again, with that key, and returns how many. Each is a change. Once the
// log is compacted past them, the older keys have served.
func Reseal(ctx context.Context, inner Store, ring *Keyring, author string) (int, error) {
	page, err := inner.List(ctx, Query{Kind: mesh.KindSecret})
	if err != nil {
		return 0, fmt.Errorf("reseal: %w", err)
	}
	done := 0
	for _, r := range page.Items {
		if sealedWith(r.Spec) == ring.primary {
			continue
		}
		plain, err := ring.Open(r.Key, r.Spec)
		if err != nil {
			return done, fmt.Errorf("reseal: %w", err)
		}
		was := r.Revision
		if r.Spec, err = ring.Seal(r.Key, plain); err != nil {
			return done, fmt.Errorf("reseal: %w", err)
		}
		_, err = inner.Write(ctx, author, []Op{{Resource: r, IfRevision: &was}})
		switch {
		case errors.Is(err, ErrConflict): // written since, with the first key
		case err != nil:
			return done, fmt.Errorf("reseal: %w", err)
		default:
			done++
		}
	}
	return done, nil
}

func (s *sealed) open(r mesh.Resource) (mesh.Resource, error) {
	if r.Kind != mesh.KindSecret || len(r.Spec) == 0 {
		return r, nil
	}
	spec, err := s.ring.Open(r.Key, r.Spec)
	if err != nil {
		return mesh.Resource{}, err
	}
	r.Spec = spec
	return r, nil
}

// Get implements Store.
func (s *sealed) Get(ctx context.Context, key mesh.Key) (mesh.Resource, error) {
	r, err := s.Store.Get(ctx, key)
	if err != nil {
		return r, err
	}
	return s.open(r)
}

// List implements Store.
func (s *sealed) List(ctx context.Context, q Query) (Page, error) {
	page, err := s.Store.List(ctx, q)
	if err != nil || q.Kind != mesh.KindSecret {
		return page, err
	}
	page.Items = slices.Clone(page.Items)
	for i := range page.Items {
		if page.Items[i], err = s.open(page.Items[i]); err != nil {
			return Page{}, err
		}
	}
	return page, nil
}

// Changes implements Store. A change that was encrypted with a key that is gone
// counts as compacted: who reads the log goes on from a snapshot, which has only
// what is stored now.
func (s *sealed) Changes(ctx context.Context, after mesh.Revision, limit int) ([]mesh.Change, error) {
	changes, err := s.Store.Changes(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	for i := range changes {
		if changes[i].Resource, err = s.open(changes[i].Resource); err != nil {
			return nil, fmt.Errorf("revision %d: %w: %w", changes[i].Revision, ErrCompacted, err)
		}
	}
	return changes, nil
}

// History implements Store. It ends where a change was encrypted with a key that is gone.
func (s *sealed) History(ctx context.Context, key mesh.Key, before mesh.Revision, limit int) ([]mesh.Change, error) {
	changes, err := s.Store.History(ctx, key, before, limit)
	if err != nil {
		return nil, err
	}
	for i := range changes {
		if changes[i].Resource, err = s.open(changes[i].Resource); err != nil {
			return nil, fmt.Errorf("revision %d: %w: %w", changes[i].Revision, ErrCompacted, err)
		}
	}
	return changes, nil
}

// Snapshot implements Store.
func (s *sealed) Snapshot(ctx context.Context) (Position, iter.Seq2[mesh.Resource, error], error) {
	at, all, err := s.Store.Snapshot(ctx)
	if err != nil {
		return at, nil, err
	}
	return at, func(yield func(mesh.Resource, error) bool) {
		for r, err := range all {
			if err == nil {
				r, err = s.open(r)
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}, nil
}

// Write implements Store. A secret whose plain text is what the store has keeps
// its encrypted form, so that putting it again is no change. If someone else
// writes it in between, the put still stores what it was asked to.
func (s *sealed) Write(ctx context.Context, author string, ops []Op) (Position, error) {
	if err := CheckWrite(author, ops); err != nil {
		return Position{}, fmt.Errorf("write: %w", err)
	}
	known := map[mesh.Key]secretForm{}
	out := ops
	for i := range ops {
		k := ops[i].Resource.Key
		if k.Kind != mesh.KindSecret {
			continue
		}
		if ops[i].Delete {
			known[k] = secretForm{}
			continue
		}
		form, ok := known[k]
		if !ok {
			var err error
			if form, err = s.form(ctx, k); err != nil {
				return Position{}, err
			}
		}
		if form.sealed == nil || !bytes.Equal(form.plain, ops[i].Resource.Spec) {
			spec, err := s.ring.Seal(k, ops[i].Resource.Spec)
			if err != nil {
				return Position{}, err
			}
			form = secretForm{plain: ops[i].Resource.Spec, sealed: spec}
		}
		known[k] = form
		if &out[0] == &ops[0] {
			out = slices.Clone(ops) // the caller's stay as they are
		}
		out[i].Resource.Spec = form.sealed
	}
	return s.Store.Write(ctx, author, out)
}

// secretForm is a secret in both forms; empty for one that does not exist.
type secretForm struct{ plain, sealed []byte }

func (s *sealed) form(ctx context.Context, k mesh.Key) (secretForm, error) {
	r, err := s.Store.Get(ctx, k)
	switch {
	case errors.Is(err, ErrNotFound):
		return secretForm{}, nil
	case err != nil:
		return secretForm{}, err
	}
	plain, err := s.ring.Open(k, r.Spec)
	if errors.Is(err, ErrSealed) {
		// A put replaces what nobody can read any more.
		return secretForm{}, nil
	}
	return secretForm{plain: plain, sealed: r.Spec}, err
}
