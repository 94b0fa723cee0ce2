package sync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	gosync "sync"
	"sync/atomic"
	"time"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// MemStore is a store in memory for tests of the protocol. It can be away, and
// be replaced by a backup of itself.
type MemStore struct {
	mu        gosync.Mutex
	state     memState
	down      bool
	wake      chan struct{}
	Reads     int // of changes
	fences    map[string]int64
	Snapshots atomic.Int64
	Writes    atomic.Int64
}

type memState struct {
	resources map[mesh.Key]mesh.Resource
	log       []mesh.Change
	digests   []store.Digest
	compacted mesh.Revision
}

// NewMemStore returns an empty store.
func NewMemStore() *MemStore {
	return &MemStore{state: memState{resources: map[mesh.Key]mesh.Resource{}, digests: []store.Digest{""}}, wake: make(chan struct{}), fences: map[string]int64{}}
}

func (s *MemStore) bump() { close(s.wake); s.wake = make(chan struct{}) }

func (s *MemStore) lock() (func(), error) {
	s.mu.Lock()
	if s.down {
		s.mu.Unlock()
		return nil, fmt.Errorf("memory: %w", store.ErrUnavailable)
	}
	return s.mu.Unlock, nil
}

// SetDown makes every call fail, or not.
func (s *MemStore) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	s.bump()
}

// Backup returns a function that restores what the store holds now.
func (s *MemStore) Backup() (restore func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	copied := memState{maps.Clone(s.state.resources), slices.Clone(s.state.log), slices.Clone(s.state.digests), s.state.compacted}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.state = copied
		s.bump()
	}
}

// Get implements store.Store.
func (s *MemStore) Get(_ context.Context, key mesh.Key) (mesh.Resource, error) {
	unlock, err := s.lock()
	if err != nil {
		return mesh.Resource{}, err
	}
	defer unlock()
	r, ok := s.state.resources[key]
	if !ok {
		return r, store.ErrNotFound
	}
	return r, nil
}

func (s *MemStore) sorted() []mesh.Resource {
	return slices.SortedFunc(maps.Values(s.state.resources), func(a, b mesh.Resource) int { return strings.Compare(a.Key.String(), b.Key.String()) })
}

// List implements store.Store.
func (s *MemStore) List(_ context.Context, q store.Query) (store.Page, error) {
	unlock, err := s.lock()
	if err != nil {
		return store.Page{}, err
	}
	defer unlock()
	var p store.Page
	for _, r := range s.sorted() {
		if r.Kind == q.Kind && (q.Zone == nil || *q.Zone == r.Zone) {
			p.Items = append(p.Items, r)
		}
	}
	p.Total, p.At = len(p.Items), mesh.Revision(len(s.state.log))
	return p, nil
}

// Write implements store.Store.
func (s *MemStore) Write(_ context.Context, author string, ops []store.Op) (store.Position, error) {
	unlock, err := s.lock()
	if err != nil {
		return store.Position{}, err
	}
	defer unlock()
	s.Writes.Add(1)
	if err := store.CheckWrite(author, ops); err != nil {
		return store.Position{}, err
	}
	for _, op := range ops {
		if op.Fence != nil && s.fences[op.Fence.Name] != op.Fence.Number {
			return store.Position{}, fmt.Errorf("%s: %w", op.Fence.Name, store.ErrFenced)
		}
		if op.IfRevision != nil && s.state.resources[op.Resource.Key].Revision != *op.IfRevision {
			return store.Position{}, fmt.Errorf("%s: %w", op.Resource.Key, store.ErrConflict)
		}
	}
	for _, op := range ops {
		old, exists := s.state.resources[op.Resource.Key]
		if op.Delete && !exists || !op.Delete && exists && maps.Equal(old.Labels, op.Resource.Labels) &&
			string(old.Spec) == string(op.Resource.Spec) && string(old.Status) == string(op.Resource.Status) {
			continue
		}
		r := op.Resource
		r.Revision = mesh.Revision(len(s.state.log) + 1)
		r.Created, r.Modified = time.Unix(1, 0).UTC(), time.Now().UTC()
		c := mesh.Change{Revision: r.Revision, Deleted: op.Delete, Resource: r, Author: author, Time: time.Now()}
		if op.Delete {
			c.Resource = mesh.Resource{Key: r.Key}
			delete(s.state.resources, r.Key)
		} else {
			s.state.resources[r.Key] = r
		}
		text, _ := json.Marshal(c)
		sum := sha256.Sum256(append([]byte(s.state.digests[len(s.state.digests)-1]), text...))
		s.state.log = append(s.state.log, c)
		s.state.digests = append(s.state.digests, store.Digest(hex.EncodeToString(sum[:16])))
	}
	s.bump()
	return s.head(), nil
}

// Raise implements store.Store.
func (s *MemStore) Raise(_ context.Context, name string) (store.Fence, error) {
	unlock, err := s.lock()
	if err != nil {
		return store.Fence{}, err
	}
	defer unlock()
	s.fences[name]++
	return store.Fence{Name: name, Number: s.fences[name]}, nil
}

func (s *MemStore) head() store.Position {
	return store.Position{Revision: mesh.Revision(len(s.state.log)), Digest: s.state.digests[len(s.state.log)]}
}

// Head implements store.Store.
func (s *MemStore) Head(context.Context) (store.Position, error) {
	unlock, err := s.lock()
	if err != nil {
		return store.Position{}, err
	}
	defer unlock()
	return s.head(), nil
}

// DigestAt implements store.Store.
func (s *MemStore) DigestAt(_ context.Context, rev mesh.Revision) (store.Digest, error) {
	unlock, err := s.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	if rev < s.state.compacted {
		return "", store.ErrCompacted
	}
	if int(rev) >= len(s.state.digests) {
		return "", store.ErrNotFound
	}
	return s.state.digests[rev], nil
}

// Changes implements store.Store.
func (s *MemStore) Changes(_ context.Context, after mesh.Revision, limit int) ([]mesh.Change, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	s.Reads++
	if after < s.state.compacted {
		return nil, store.ErrCompacted
	}
	if int(after) >= len(s.state.log) {
		return nil, nil
	}
	return slices.Clone(s.state.log[after:min(int(after)+limit, len(s.state.log))]), nil
}

// Begin implements store.Store.
func (s *MemStore) Begin(context.Context) (mesh.Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.compacted, nil
}

// History implements store.Store.
func (s *MemStore) History(_ context.Context, key mesh.Key, before mesh.Revision, limit int) ([]mesh.Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []mesh.Change
	for _, c := range slices.Backward(s.state.log[s.state.compacted:min(int(before)-1, len(s.state.log))]) {
		if c.Resource.Key == key && len(out) < store.ChangesLimit(limit) {
			out = append(out, c)
		}
	}
	return out, nil
}

// Snapshot implements store.Store.
func (s *MemStore) Snapshot(context.Context) (store.Position, iter.Seq2[mesh.Resource, error], error) {
	unlock, err := s.lock()
	if err != nil {
		return store.Position{}, nil, err
	}
	defer unlock()
	s.Snapshots.Add(1)
	all := s.sorted()
	return s.head(), func(yield func(mesh.Resource, error) bool) {
		for _, r := range all {
			if !yield(r, nil) {
				return
			}
		}
	}, nil
}

// Wait implements store.Store.
func (s *MemStore) Wait(ctx context.Context, rev mesh.Revision) error {
	s.mu.Lock()
	wake, down, head := s.wake, s.down, mesh.Revision(len(s.state.log))
	s.mu.Unlock()
	if down {
		return fmt.Errorf("memory: %w", store.ErrUnavailable)
	}
	if head > rev {
		return nil
	}
	select {
	case <-wake:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Compact implements store.Store.
func (s *MemStore) Compact(_ context.Context, rev mesh.Revision) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.compacted = rev
	return nil
}

// Close implements store.Store.
func (s *MemStore) Close() error { return nil }

var _ store.Store = (*MemStore)(nil)
