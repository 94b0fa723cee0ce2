package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// increment raises a shared counter with a precondition, as often as it takes.
func increment(ctx context.Context, s store.Store, k mesh.Key) error {
	for {
		r, err := s.Get(ctx, k)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(r.Spec))
		if err != nil {
			return err
		}
		_, err = s.Write(ctx, "user:test", []store.Op{expect(put(k, strconv.Itoa(n+1)), r.Revision)})
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

func testConcurrentWriters(t *testing.T, h Harness) {
	stores := []store.Store{h.open(t)}
	if h.Shared {
		stores = append(stores, h.open(t))
	}
	counter := key(mesh.KindMeshTimeout, "counter")
	write(t, stores[0], put(counter, `0`))
	const writers, each = 12, 20
	var seen sync.Map
	var wg sync.WaitGroup
	for w := range writers {
		s := stores[w%len(stores)]
		wg.Go(func() {
			for i := range each {
				if err := increment(t.Context(), s, counter); err != nil {
					t.Errorf("increment: %v", err)
					return
				}
				own := key(mesh.KindMeshService, fmt.Sprint("w", w))
				at, err := s.Write(t.Context(), "user:test", []store.Op{put(own, strconv.Itoa(2*i)), put(own, strconv.Itoa(2*i+1))})
				if err != nil {
					t.Errorf("write: %v", err)
					return
				}
				if who, taken := seen.LoadOrStore(at.Revision, w); taken {
					t.Errorf("revision %d was given to %v and %d", at.Revision, who, w)
				}
				if d, err := s.DigestAt(t.Context(), at.Revision); err != nil || d != at.Digest {
					t.Errorf("digest at %d is %s, %v, the write said %s", at.Revision, d, err, at.Digest)
				}
			}
		})
	}
	wg.Wait()
	if r := get(t, stores[0], counter); string(r.Spec) != strconv.Itoa(writers*each) {
		t.Errorf("the counter is %s, want %d", r.Spec, writers*each)
	}
	if changes := verify(t, h, stores[0]); len(changes) != 1+3*writers*each {
		t.Errorf("%d changes, want %d", len(changes), 1+3*writers*each)
	}
}

func testWatchers(t *testing.T, h Harness) {
	s := h.open(t)
	watched := []store.Store{s, s}
	if h.Shared {
		watched = append(watched, h.open(t))
	}
	var watchers []*watcher
	for _, w := range watched {
		watchers = append(watchers, watch(t.Context(), w, nil))
	}
	const writers, each = 4, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				ops := []store.Op{put(key(mesh.KindMeshService, fmt.Sprint(w)), strconv.Itoa(i)), put(key(mesh.KindMeshTimeout, fmt.Sprint(w)), strconv.Itoa(i))}
				if _, err := s.Write(t.Context(), "user:test", ops); err != nil {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, w := range watchers {
		w.reach(t, 2*writers*each)
	}
	// One by one, each write wakes every watcher, soon.
	started := time.Now()
	for i := range 20 {
		at := write(t, s, put(key(mesh.KindMeshTimeout, "single"), strconv.Itoa(i)))
		for _, w := range watchers {
			w.reach(t, at.Revision)
		}
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("20 writes took %s to be seen: something polls", took)
	}
	for _, w := range watchers {
		w.end(t)
	}
}

func testSnapshots(t *testing.T, h Harness) {
	s := h.open(t)
	a, b := key(mesh.KindMeshService, "a"), key(mesh.KindMeshTimeout, "b")
	write(t, s, put(a, `0`), put(b, `0`))
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 1; ctx.Err() == nil; i++ {
			if _, err := s.Write(t.Context(), "user:test", []store.Op{put(a, strconv.Itoa(i)), put(b, strconv.Itoa(i))}); err != nil {
				t.Errorf("write: %v", err)
				return
			}
		}
	})
	for range 30 {
		at, all := collect(t, s)
		if string(all[a].Spec) != string(all[b].Spec) || all[b].Revision != at.Revision {
			t.Fatalf("torn snapshot at %d: %s at %d, %s at %d", at.Revision, all[a].Spec, all[a].Revision, all[b].Spec, all[b].Revision)
		}
		if d, err := s.DigestAt(t.Context(), at.Revision); err != nil || d != at.Digest {
			t.Fatalf("digest of the snapshot is %s, at %d it is %s, %v", at.Digest, at.Revision, d, err)
		}
	}
	stop()
	wg.Wait()
}

// A list is of one moment: what it counts, what it has and where it was read agree.
func testListsWhileWriting(t *testing.T, h Harness) {
	s := h.open(t)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				k := key(mesh.KindMeshTimeout, fmt.Sprintf("%d-%d", w, i%7))
				ops := []store.Op{put(k, strconv.Itoa(i))}
				if i%3 == 0 {
					ops = []store.Op{drop(k)}
				}
				if _, err := s.Write(t.Context(), "user:test", ops); err != nil {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	for range 400 {
		page, err := s.List(t.Context(), store.Query{Kind: mesh.KindMeshTimeout})
		if err != nil {
			t.Fatal(err)
		}
		var last mesh.Revision
		for _, r := range page.Items {
			last = max(last, r.Revision)
		}
		if page.Total != len(page.Items) || last > page.At {
			t.Fatalf("a list at %d has %d of %d, the newest at %d", page.At, len(page.Items), page.Total, last)
		}
	}
	stop()
	wg.Wait()
}

// A reader that does not read must not hold up writers, nor other readers.
func testSlowSnapshot(t *testing.T, h Harness) {
	s := h.open(t)
	filler := make([]byte, 1<<20)
	for i := range filler {
		filler[i] = 'x'
	}
	const n = 8
	for i := range n {
		write(t, s, put(key(mesh.KindMeshService, fmt.Sprint(i)), `"`+string(filler)+`"`))
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var slow []func() int
	for range 20 {
		_, all, err := s.Snapshot(ctx)
		if err != nil {
			t.Fatal(err)
		}
		slow = append(slow, func() (got int) {
			for r, err := range all {
				if err != nil || len(r.Spec) != len(filler)+2 {
					t.Errorf("%s: %d bytes, %v", r.Key, len(r.Spec), err)
				}
				got++
				if _, err := s.Write(ctx, "user:test", []store.Op{put(key(mesh.KindMeshTimeout, "t"), fmt.Sprint(got))}); err != nil {
					t.Errorf("write while reading: %v", err)
				}
			}
			return got
		})
	}
	write(t, s, put(key(mesh.KindMeshService, "new"), `1`))
	for _, read := range slow[:2] {
		if got := read(); got != n {
			t.Errorf("the snapshot has %d resources, want the %d of its time", got, n)
		}
	}
}

// A secret that is put again unchanged is no change, and reads give what was put.
func testSecrets(t *testing.T, h Harness) {
	s := h.open(t)
	k := key(mesh.KindSecret, "token")
	put1 := put(k, `{"data":"c2VjcmV0"}`)
	put1.Resource.Labels = map[string]string{"tombolo.io/mesh": "default"}
	wantRevision(t, write(t, s, put1, put1), 1)
	wantRevision(t, write(t, s, put1), 1)
	wantRevision(t, write(t, s, put(k, `{"data":"b3RoZXI="}`), put1), 3)
	wantRevision(t, write(t, s, drop(k), put1), 5)
	relabelled := put1
	relabelled.Resource.Labels = nil
	wantRevision(t, write(t, s, relabelled), 6)
	spec := func(where string, r mesh.Resource) {
		t.Helper()
		if string(r.Spec) != `{"data":"c2VjcmV0"}` {
			t.Errorf("%s: %s", where, r.Spec)
		}
	}
	spec("get", get(t, s, k))
	page, err := s.List(t.Context(), store.Query{Kind: mesh.KindSecret})
	if err != nil || len(page.Items) != 1 {
		t.Fatalf("list: %+v, %v", page, err)
	}
	spec("list", page.Items[0])
	_, all := collect(t, s)
	spec("snapshot", all[k])
	changes := readChanges(t, s, 0, 6)
	spec("change", changes[0].Resource)
	spec("change", changes[5].Resource)
	if string(changes[1].Resource.Spec) != `{"data":"b3RoZXI="}` || !changes[3].Deleted {
		t.Errorf("changes: %+v", changes)
	}
	verify(t, h, s)
}

// testOutage takes the database away twice, under writers and watchers.
func testOutage(t *testing.T, h Harness) {
	if h.Outage == nil {
		t.Skip("there is no database to take away")
	}
	s, other := h.open(t), h.open(t)
	watchers := []*watcher{watch(t.Context(), s, nil), watch(t.Context(), other, nil)}
	ctx, stop := context.WithCancel(t.Context())
	var acked sync.Map
	var failed, succeeded atomic.Int64
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				k := key(mesh.KindMeshService, fmt.Sprintf("w%d-%d", w, i))
				at, err := s.Write(t.Context(), "user:test", []store.Op{put(k, strconv.Itoa(i))})
				switch {
				case err == nil:
					acked.Store(k, at)
					succeeded.Add(1)
				case errors.Is(err, store.ErrUnavailable):
					failed.Add(1)
				default:
					t.Errorf("write: %v, want ErrUnavailable", err)
					return
				}
				select {
				case <-time.After(2 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	for range 2 {
		more(t, &succeeded)
		restore := h.Outage(t)
		more(t, &failed)
		unavailable(t, s)
		restore()
		more(t, &succeeded)
	}
	stop()
	wg.Wait()
	at, err := other.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range watchers {
		w.reach(t, at.Revision)
		w.end(t)
	}
	changes := verify(t, h, s)
	acked.Range(func(k, at any) bool {
		p := at.(store.Position)
		if p.Revision > mesh.Revision(len(changes)) || changes[p.Revision-1].Resource.Key != k.(mesh.Key) {
			t.Errorf("%v was acknowledged at %d and is not there", k, p.Revision)
		}
		return true
	})
}

// more waits until a counter has grown.
func more(t *testing.T, n *atomic.Int64) {
	t.Helper()
	want := n.Load() + 20
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(limit); n.Load() < want; {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("nothing moves")
		}
	}
}

// unavailable checks that reads fail, and that they do so soon.
func unavailable(t *testing.T, s store.Store) {
	t.Helper()
	started := time.Now()
	_, err := s.Get(t.Context(), key(mesh.KindMeshService, "w0-0"))
	wantErr(t, err, store.ErrUnavailable)
	_, err = s.Changes(t.Context(), 0, 1)
	wantErr(t, err, store.ErrUnavailable)
	_, _, err = s.Snapshot(t.Context())
	wantErr(t, err, store.ErrUnavailable)
	_, err = s.List(t.Context(), store.Query{Kind: mesh.KindMeshService})
	wantErr(t, err, store.ErrUnavailable)
	wantErr(t, s.Compact(t.Context(), 1), store.ErrUnavailable)
	if took := time.Since(started); took > 30*time.Second {
		t.Errorf("five calls without a database took %s", took)
	}
}
