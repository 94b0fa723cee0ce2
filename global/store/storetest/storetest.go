// Package storetest is the suite that every store passes. In flow ways to open
// a store, out flow the failures of a test.
//
// It covers what store.Store promises, faults included: concurrent writers,
// watchers that must see every revision once and in order, a process killed in
// the middle of writes, and a database that goes away and comes back.
package storetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// limit is how long anything in the suite may take before it counts as hung.
const limit = 60 * time.Second

// Harness is one empty place to store things, made for one test.
type Harness struct {
	// Open opens the place; the test closes what it opened.
	Open func(t testing.TB) store.Store
	// Shared: several may have it open at the same time.
	Shared bool
	// Raw is the store below a wrapper that changes specs; nil if there is none.
	// Digests are those of the raw store.
	Raw func(store.Store) store.Store
	// Spec is what Main's open needs to open the same place in another process.
	Spec string
	// Outage takes the database away and returns what brings it back; nil when
	// there is no database to take away.
	Outage func(t testing.TB) (restore func())
}

// Run runs the suite; open makes a new place for each test.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, h Harness)
	}{
		{"puts and deletes", testWrites},
		{"preconditions", testPreconditions},
		{"batches", testBatches},
		{"fences", testFences},
		{"lists", testLists},
		{"a long list", testManyResources},
		{"bounds", testBounds},
		{"history", testHistory},
		{"history of a resource", testResourceHistory},
		{"compaction", testCompaction},
		{"waiting", testWait},
		{"reopening", testReopen},
		{"concurrent writers", testConcurrentWriters},
		{"watchers", testWatchers},
		{"snapshots while writing", testSnapshots},
		{"lists while writing", testListsWhileWriting},
		{"a slow reader of a snapshot", testSlowSnapshot},
		{"secrets", testSecrets},
		{"killed while writing", testKill},
		{"the database goes away", testOutage},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func (h Harness) open(t testing.TB) store.Store {
	t.Helper()
	s := h.Open(t)
	t.Cleanup(func() { _ = s.Close() }) // the test may have closed it
	return s
}

func (h Harness) raw(s store.Store) store.Store {
	if h.Raw == nil {
		return s
	}
	return h.Raw(s)
}

func key(kind mesh.KindName, name string) mesh.Key {
	return mesh.Key{Kind: kind, Mesh: "default", Name: name}
}

func put(k mesh.Key, spec string) store.Op {
	return store.Op{Resource: mesh.Resource{Key: k, Spec: []byte(spec)}}
}

func drop(k mesh.Key) store.Op {
	return store.Op{Delete: true, Resource: mesh.Resource{Key: k}}
}

func expect(op store.Op, rev mesh.Revision) store.Op {
	op.IfRevision = &rev
	return op
}

func write(t testing.TB, s store.Store, ops ...store.Op) store.Position {
	t.Helper()
	at, err := s.Write(t.Context(), "user:test", ops)
	if err != nil {
		t.Fatalf("write: %v", err)
	}
	return at
}

func get(t testing.TB, s store.Store, k mesh.Key) mesh.Resource {
	t.Helper()
	r, err := s.Get(t.Context(), k)
	if err != nil {
		t.Fatalf("get %s: %v", k, err)
	}
	return r
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
	}
}

func wantRevision(t testing.TB, at store.Position, want mesh.Revision) {
	t.Helper()
	if at.Revision != want || want > 0 && len(at.Digest) != 32 {
		t.Errorf("position is %+v, want revision %d", at, want)
	}
}

// verify checks that the log is gapless, that digests follow from it, and that
// the resources are what it says. Returns the changes.
func verify(t testing.TB, h Harness, s store.Store) []mesh.Change {
	t.Helper()
	raw := h.raw(s)
	at, all, err := raw.Snapshot(t.Context())
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	have := map[mesh.Key]mesh.Resource{}
	for r, err := range all {
		if err != nil {
			t.Fatalf("snapshot: %v", err)
		}
		have[r.Key] = r
	}
	changes := readChanges(t, raw, 0, at.Revision)
	want := map[mesh.Key]mesh.Resource{}
	var digest store.Digest
	for i, c := range changes {
		if c.Revision != mesh.Revision(i+1) {
			t.Fatalf("change %d has revision %d", i+1, c.Revision)
		}
		digest = store.NextDigest(digest, c)
		if got, err := raw.DigestAt(t.Context(), c.Revision); err != nil || got != digest {
			t.Fatalf("digest at %d is %s (%v), want %s", c.Revision, got, err, digest)
		}
		if c.Deleted {
			delete(want, c.Resource.Key)
		} else {
			want[c.Resource.Key] = c.Resource
		}
	}
	if digest != at.Digest {
		t.Fatalf("digest of the snapshot is %s, want %s", at.Digest, digest)
	}
	// Byte by byte would take cmp seconds for large specs.
	if diff := cmp.Diff(want, have, cmp.Comparer(func(a, b json.RawMessage) bool { return bytes.Equal(a, b) })); diff != "" {
		t.Fatalf("resources differ from the replayed log (-log +resources):\n%s", diff)
	}
	return changes
}

func readChanges(t testing.TB, s store.Store, after, to mesh.Revision) []mesh.Change {
	t.Helper()
	var all []mesh.Change
	for after < to {
		part, err := s.Changes(t.Context(), after, 500)
		if err != nil || len(part) == 0 {
			t.Fatalf("changes after %d: %d, %v", after, len(part), err)
		}
		for _, c := range part {
			if after = c.Revision; after <= to {
				all = append(all, c)
			}
		}
	}
	return all
}

// watcher follows a store and complains when it misses, repeats or reorders.
type watcher struct {
	seen chan mesh.Revision // the newest, coalesced
	done chan error
	stop context.CancelFunc
}

// watch follows s until stopped; a store that is away is asked again.
func watch(ctx context.Context, s store.Store, handle func(mesh.Change)) *watcher {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{seen: make(chan mesh.Revision, 1), done: make(chan error, 1), stop: cancel}
	go func() { w.done <- w.follow(ctx, s, handle) }()
	return w
}

func (w *watcher) follow(ctx context.Context, s store.Store, handle func(mesh.Change)) error {
	var at mesh.Revision
	for {
		if err := s.Wait(ctx, at); err != nil {
			return ignoreEnd(ctx, err)
		}
		changes, err := s.Changes(ctx, at, 100)
		switch {
		case errors.Is(err, store.ErrUnavailable) && ctx.Err() == nil:
			// A watcher of a database that is away asks again, with a pause.
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		case err != nil:
			return ignoreEnd(ctx, err)
		}
		for _, c := range changes {
			if c.Revision != at+1 {
				return fmt.Errorf("revision %d came after %d", c.Revision, at)
			}
			at = c.Revision
			if handle != nil {
				handle(c)
			}
		}
		select {
		case <-w.seen:
		default:
		}
		w.seen <- at
	}
}

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// reach waits until the watcher saw a revision, and fails when it saw more or erred.
func (w *watcher) reach(t testing.TB, rev mesh.Revision) {
	t.Helper()
	end := time.After(limit)
	for at := mesh.Revision(0); at < rev; {
		select {
		case at = <-w.seen:
			if at > rev {
				t.Fatalf("the watcher saw revision %d, the last is %d", at, rev)
			}
		case err := <-w.done:
			t.Fatalf("the watcher ended: %v", err)
		case <-end:
			t.Fatalf("the watcher is at %d, not %d", at, rev)
		}
	}
}

// end stops the watcher.
func (w *watcher) end(t testing.TB) {
	t.Helper()
	w.stop()
	if err := <-w.done; err != nil {
		t.Errorf("watcher: %v", err)
	}
}

func names(items []mesh.Resource) []string {
	out := make([]string, len(items))
	for i, r := range items {
		out[i] = r.Mesh + "/" + r.Name + "/" + r.Zone
	}
	return out
}

func collect(t testing.TB, s store.Store) (store.Position, map[mesh.Key]mesh.Resource) {
	t.Helper()
	at, all, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[mesh.Key]mesh.Resource{}
	var order []mesh.Key
	for r, err := range all {
		if err != nil {
			t.Fatal(err)
		}
		out[r.Key] = r
		order = append(order, r.Key)
	}
	if !slices.IsSortedFunc(order, store.CompareKeys) || len(order) != len(out) {
		t.Errorf("the snapshot is not in order, or repeats")
	}
	return at, out
}
