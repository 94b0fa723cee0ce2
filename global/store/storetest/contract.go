package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/internal/raced"
	"github.com/tombolo-mesh/tombolo/mesh"
)

func testWrites(t *testing.T, h Harness) {
	s := h.open(t)
	k := key(mesh.KindMeshTimeout, "slow")
	if at, err := s.Head(t.Context()); err != nil || at != (store.Position{}) {
		t.Fatalf("an empty store is at %+v, %v", at, err)
	}
	_, err := s.Get(t.Context(), k)
	wantErr(t, err, store.ErrNotFound)

	before := time.Now().Add(-time.Minute)
	op := put(k, `{ "to":[] ,"x":"é<>"}`)
	op.Resource.Labels = map[string]string{"tombolo.io/mesh": "default", "team": "a \"b\" é", "": ""}
	op.Resource.Status = []byte(`{"n":1}`)
	wantRevision(t, write(t, s, op), 1)
	first := get(t, s, k)
	want := op.Resource
	want.Revision, want.Created, want.Modified = 1, first.Created, first.Created
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("get (-want +got):\n%s", diff)
	}
	if first.Created.Before(before) || first.Created.Location() != time.UTC {
		t.Errorf("created is %s", first.Created)
	}
	// The same again is no change, whatever the times say.
	again := op
	again.Resource.Created, again.Resource.Revision = before, 77
	wantRevision(t, write(t, s, again), 1)
	// Any of labels, spec and status makes one.
	relabelled := op
	relabelled.Resource.Labels = map[string]string{"team": "b"}
	wantRevision(t, write(t, s, relabelled), 2)
	bare := put(k, `{}`)
	wantRevision(t, write(t, s, bare), 3)
	third := get(t, s, k)
	want = mesh.Resource{Key: k, Spec: []byte(`{}`), Revision: 3, Created: first.Created, Modified: third.Modified}
	if diff := cmp.Diff(want, third); diff != "" {
		t.Errorf("get (-want +got):\n%s", diff)
	}
	if third.Modified.Before(first.Modified) {
		t.Errorf("modified %s is before %s", third.Modified, first.Modified)
	}
	// The same name in another zone, mesh or kind is another resource.
	wantRevision(t, write(t, s, drop(mesh.Key{Kind: k.Kind, Mesh: k.Mesh, Zone: "west", Name: k.Name})), 3)
	wantRevision(t, write(t, s, drop(k), drop(k)), 4)
	_, err = s.Get(t.Context(), k)
	wantErr(t, err, store.ErrNotFound)
	wantRevision(t, write(t, s, drop(k)), 4)
	wantRevision(t, write(t, s), 4)
	changes := verify(t, h, s)
	if c := changes[3]; !c.Deleted || c.Author != "user:test" || !cmp.Equal(c.Resource, mesh.Resource{Key: k}) || c.Time.Before(before) {
		t.Errorf("the deletion is %+v", c)
	}
	if c := changes[0]; !cmp.Equal(c.Resource, first) || c.Deleted || !c.Time.Equal(first.Modified) {
		t.Errorf("the creation is %+v, want %+v", c, first)
	}
}

func testPreconditions(t *testing.T, h Harness) {
	s := h.open(t)
	k, other := key(mesh.KindMeshTimeout, "a"), key(mesh.KindMeshTimeout, "b")
	refuse := func(ops ...store.Op) {
		t.Helper()
		_, err := s.Write(t.Context(), "user:test", ops)
		wantErr(t, err, store.ErrConflict)
		if err != nil && !strings.Contains(err.Error(), k.String()) {
			t.Errorf("the error does not name %s: %v", k, err)
		}
	}
	refuse(expect(put(k, `1`), 3))
	refuse(expect(drop(k), 3))
	wantRevision(t, write(t, s, expect(drop(k), 0)), 0)
	wantRevision(t, write(t, s, expect(put(k, `1`), 0)), 1)
	refuse(expect(put(k, `1`), 0)) // also when the content is the same
	wantRevision(t, write(t, s, expect(put(k, `2`), 1)), 2)
	refuse(expect(put(k, `3`), 1))
	refuse(expect(drop(k), 1))
	// A batch is all or nothing, wherever it fails.
	refuse(put(other, `1`), expect(put(k, `3`), 1))
	_, err := s.Get(t.Context(), other)
	wantErr(t, err, store.ErrNotFound)
	// Operations see those before them.
	wantRevision(t, write(t, s, expect(put(other, `1`), 0), expect(put(other, `2`), 3), expect(drop(k), 2)), 5)
	verify(t, h, s)
}

func testBatches(t *testing.T, h Harness) {
	s := h.open(t)
	a, b := key(mesh.KindMeshTimeout, "a"), key(mesh.KindMeshTimeout, "b")
	wantRevision(t, write(t, s, put(a, `1`), put(a, `1`), put(a, `2`), drop(a), put(a, `1`), put(b, `1`), drop(b)), 6)
	if r := get(t, s, a); string(r.Spec) != `1` || r.Revision != 4 {
		t.Errorf("after the batch: %+v", r)
	}
	var ops []store.Op
	for i := range 5000 {
		ops = append(ops, put(key(mesh.KindMeshService, fmt.Sprintf("s%04d", i)), fmt.Sprintf(`{"ports":[{"port":%d}]}`, i+1)))
	}
	wantRevision(t, write(t, s, ops...), 5006)
	wantRevision(t, write(t, s, ops...), 5006)
	verify(t, h, s)
}

func testLists(t *testing.T, h Harness) {
	s := h.open(t)
	var ops []store.Op
	for _, k := range []mesh.Key{
		{Mesh: "b", Name: "x"}, {Mesh: "a", Name: "y", Zone: "west"}, {Mesh: "a", Name: "y"}, {Mesh: "a", Name: "y", Zone: "east"},
		{Mesh: "a", Name: "Z%_"}, {Mesh: "a-1", Name: "x"}, {Mesh: "a", Name: "x-1"}, {Mesh: "a", Name: "x"},
	} {
		k.Kind = mesh.KindMeshService
		op := put(k, `{}`)
		op.Resource.Labels = map[string]string{"mesh": k.Mesh, "one": "1"}
		if k.Zone != "" {
			op.Resource.Labels["zone"] = k.Zone
		}
		ops = append(ops, op)
	}
	ops = append(ops, put(mesh.Key{Kind: mesh.KindMeshService + "X", Mesh: "a", Name: "x"}, `{}`))
	wantRevision(t, write(t, s, ops...), 9)
	none, west := "", "west"
	for _, test := range []struct {
		q    store.Query
		want []string
	}{
		{store.Query{}, []string{"a/Z%_/", "a/x/", "a/x-1/", "a/y/", "a/y/east", "a/y/west", "a-1/x/", "b/x/"}},
		{store.Query{Mesh: "a"}, []string{"a/Z%_/", "a/x/", "a/x-1/", "a/y/", "a/y/east", "a/y/west"}},
		{store.Query{Zone: &none, Mesh: "a"}, []string{"a/Z%_/", "a/x/", "a/x-1/", "a/y/"}},
		{store.Query{Zone: &west}, []string{"a/y/west"}},
		{store.Query{NameContains: "x"}, []string{"a/x/", "a/x-1/", "a-1/x/", "b/x/"}},
		{store.Query{NameContains: "%"}, []string{"a/Z%_/"}},
		{store.Query{Labels: map[string]string{"zone": "east", "one": "1"}}, []string{"a/y/east"}},
		{store.Query{Labels: map[string]string{"zone": ""}}, nil},
		{store.Query{Mesh: "c"}, nil},
	} {
		test.q.Kind = mesh.KindMeshService
		page, err := s.List(t.Context(), test.q)
		if err != nil || page.Total != len(test.want) || page.At != 9 {
			t.Errorf("%+v: total %d at %d, %v", test.q, page.Total, page.At, err)
		}
		if got := names(page.Items); !slices.Equal(got, test.want) {
			t.Errorf("%+v: %v, want %v", test.q, got, test.want)
		}
		for size := 1; size <= 3; size++ { // page by page it is the same
			var got []string
			for q := test.q; len(got) < len(test.want); q.Offset += size {
				q.Size = size
				page, err := s.List(t.Context(), q)
				if err != nil || len(page.Items) == 0 || len(page.Items) > size || page.Total != len(test.want) {
					t.Fatalf("%+v: %d items of %d, %v", q, len(page.Items), page.Total, err)
				}
				got = append(got, names(page.Items)...)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%+v by %d: %v, want %v", test.q, size, got, test.want)
			}
		}
	}
	for _, q := range []store.Query{{}, {Kind: "K", Offset: -1}, {Kind: "K", Size: -1}, {Kind: "K", Mesh: "\x00"}} {
		_, err := s.List(t.Context(), q)
		wantErr(t, err, store.ErrInvalid)
	}
	page, err := s.List(t.Context(), store.Query{Kind: mesh.KindMeshService, Offset: 100})
	if err != nil || page.Total != 8 || len(page.Items) != 0 {
		t.Errorf("past the end: %+v, %v", page, err)
	}
}

func testManyResources(t *testing.T, h Harness) {
	s := h.open(t)
	n := raced.Size(1000, 10_000)
	var ops []store.Op
	for i := range n {
		op := put(mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "west", Name: fmt.Sprintf("dp-%05d", i)}, `{"networking":{"address":"10.0.0.1"}}`)
		op.Resource.Labels = map[string]string{"app": fmt.Sprint(i % (n / 100))}
		ops = append(ops, op)
	}
	wantRevision(t, write(t, s, ops...), mesh.Revision(n))
	started := time.Now()
	page, err := s.List(t.Context(), store.Query{Kind: mesh.KindDataplane, Labels: map[string]string{"app": "7"}, Offset: 50, Size: 10})
	if err != nil || page.Total != 100 || len(page.Items) != 10 || page.Items[0].Name != fmt.Sprintf("dp-%05d", 50*(n/100)+7) {
		t.Fatalf("page of %d of %d, %v", len(page.Items), page.Total, err)
	}
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("a page took %s", took)
	}
	if _, all := collect(t, s); len(all) != n {
		t.Fatalf("the snapshot has %d", len(all))
	}
}

func testBounds(t *testing.T, h Harness) {
	s := h.open(t)
	k := key(mesh.KindMeshTimeout, "a")
	long := strings.Repeat("n", store.MaxNameBytes+1)
	labels := map[string]string{}
	for i := range store.MaxLabels + 1 {
		labels[fmt.Sprint(i)] = ""
	}
	bad := map[string]store.Op{
		"no kind":             put(mesh.Key{Name: "a"}, `{}`),
		"no name":             drop(mesh.Key{Kind: "A"}),
		"a long name":         drop(key("A", long)),
		"NUL in a name":       put(key("A", "a\x00b"), `{}`),
		"no UTF-8 in a zone":  put(mesh.Key{Kind: "A", Name: "a", Zone: "\xff"}, `{}`),
		"no spec":             put(k, ``),
		"a spec not JSON":     put(k, `{`),
		"a large spec":        put(k, `"`+strings.Repeat("x", store.MaxSpecBytes)+`"`),
		"a status not JSON":   {Resource: mesh.Resource{Key: k, Spec: []byte(`{}`), Status: []byte(`{`)}},
		"many labels":         {Resource: mesh.Resource{Key: k, Spec: []byte(`{}`), Labels: labels}},
		"NUL in a label":      {Resource: mesh.Resource{Key: k, Spec: []byte(`{}`), Labels: map[string]string{"a": "\x00"}}},
		"a large label":       {Resource: mesh.Resource{Key: k, Spec: []byte(`{}`), Labels: map[string]string{"a": strings.Repeat("x", store.MaxLabelBytes+1)}}},
		"a negative revision": expect(put(k, `{}`), -1),
	}
	for name, op := range bad {
		if _, err := s.Write(t.Context(), "user:test", []store.Op{put(k, `1`), op}); !errors.Is(err, store.ErrInvalid) || len(err.Error()) > 1000 {
			t.Errorf("%s: %.1000v, want a short ErrInvalid", name, err)
		}
	}
	_, err := s.Write(t.Context(), "user:test", make([]store.Op, store.MaxOps+1))
	wantErr(t, err, store.ErrInvalid)
	_, err = s.Write(t.Context(), "\xff", []store.Op{put(k, `1`)})
	wantErr(t, err, store.ErrInvalid)
	// The largest that fits does, and a page of changes stays bounded.
	large := []byte(`"` + strings.Repeat("x", store.MaxSpecBytes-2) + `"`)
	for i := range 5 {
		large[1] = byte('a' + i)
		write(t, s, store.Op{Resource: mesh.Resource{Key: k, Spec: slices.Clone(large)}})
	}
	if r := get(t, s, k); !bytes.Equal(r.Spec, large) || r.Revision != 5 {
		t.Errorf("the large spec came back with %d bytes at %d", len(r.Spec), r.Revision)
	}
	changes, err := s.Changes(t.Context(), 0, 100)
	if size := len(changes) * store.MaxSpecBytes; err != nil || size == 0 || size > store.MaxChangesBytes {
		t.Errorf("one page has %d changes, %v", len(changes), err)
	}
	verify(t, h, s)
}

// historyDigest is what the history of randomOps ends with, in every store.
const historyDigest = "bdf26260a3b573848be5fd7cedb77757"

// randomOps are batches that mean the same to every store.
func randomOps() [][]store.Op {
	rng := rand.New(rand.NewPCG(1, 2))
	var batches [][]store.Op
	for range 60 {
		var ops []store.Op
		for range rng.IntN(6) {
			k := mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Name: fmt.Sprintf("s%d", rng.IntN(8)), Zone: []string{"", "west"}[rng.IntN(2)]}
			op := put(k, fmt.Sprintf(`{"n": %d}`, rng.IntN(3)))
			switch rng.IntN(5) {
			case 0:
				op = drop(k)
			case 1:
				op.Resource.Labels = map[string]string{"é": fmt.Sprint(rng.IntN(2)), "b": "<"}
			case 2:
				op.Resource.Status = []byte(`{"ok":true}`)
			case 3:
				op = expect(op, mesh.Revision(rng.IntN(3)))
			}
			ops = append(ops, op)
		}
		batches = append(batches, ops)
	}
	return batches
}

func testHistory(t *testing.T, h Harness) {
	s := h.open(t)
	refused := 0
	for _, ops := range randomOps() {
		switch _, err := s.Write(t.Context(), "user:test", ops); {
		case errors.Is(err, store.ErrConflict):
			refused++
		case err != nil:
			t.Fatal(err)
		}
	}
	at, err := s.Head(t.Context())
	if err != nil || at.Digest != historyDigest {
		t.Errorf("the history ends at %+v (%v), want digest %s", at, err, historyDigest)
	}
	if refused == 0 {
		t.Error("no batch was refused")
	}
	for _, rev := range []mesh.Revision{-1, at.Revision + 1} {
		_, err := s.DigestAt(t.Context(), rev)
		wantErr(t, err, store.ErrNotFound)
		_, err = s.Changes(t.Context(), rev, 10)
		wantErr(t, err, store.ErrNotFound)
	}
	if d, err := s.DigestAt(t.Context(), 0); err != nil || d != "" {
		t.Errorf("digest at 0 is %q, %v", d, err)
	}
	if c, err := s.Changes(t.Context(), at.Revision, 10); err != nil || len(c) != 0 {
		t.Errorf("changes after the last: %v, %v", c, err)
	}
	if c, err := s.Changes(t.Context(), 3, 2); err != nil || len(c) != 2 || c[0].Revision != 4 || c[1].Revision != 5 {
		t.Errorf("two changes after 3: %v, %v", c, err)
	}
	if c, err := s.Changes(t.Context(), 3, 0); err != nil || len(c) != int(at.Revision-3) {
		t.Errorf("all changes after 3: %d, %v", len(c), err)
	}
	verify(t, h, s)
}

func testResourceHistory(t *testing.T, h Harness) {
	s := h.open(t)
	ctx := t.Context()
	a, b := key(mesh.KindMeshTimeout, "a"), key(mesh.KindMeshTimeout, "b")
	var want []mesh.Revision // of a, newest first
	for i := range 5 {
		at := write(t, s, put(b, fmt.Sprint(i)), put(a, fmt.Sprint(i)))
		want = append([]mesh.Revision{at.Revision}, want...)
	}
	at := write(t, s, store.Op{Delete: true, Resource: mesh.Resource{Key: a}})
	want = append([]mesh.Revision{at.Revision}, want...)
	read := func(before mesh.Revision, limit int) (revs []mesh.Revision) {
		list, err := s.History(ctx, a, before, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			if c.Resource.Key != a || c.Deleted != (c.Revision == at.Revision) {
				t.Errorf("a change of another: %+v", c)
			}
			revs = append(revs, c.Revision)
		}
		return revs
	}
	if got := read(at.Revision+1, 0); !slices.Equal(got, want) {
		t.Errorf("history is %v, want %v", got, want)
	}
	if got := read(at.Revision, 2); !slices.Equal(got, want[1:3]) {
		t.Errorf("two before the last are %v, want %v", got, want[1:3])
	}
	if got := read(1, 0); len(got) != 0 {
		t.Errorf("before the first: %v", got)
	}
	if begin, err := s.Begin(ctx); err != nil || begin != 0 {
		t.Errorf("the log begins after %d, %v", begin, err)
	}
	if err := s.Compact(ctx, want[2]); err != nil {
		t.Fatal(err)
	}
	if begin, err := s.Begin(ctx); err != nil || begin != want[2] {
		t.Errorf("the compacted log begins after %d, %v, want %d", begin, err, want[2])
	}
	if got := read(at.Revision+1, 0); !slices.Equal(got, want[:2]) {
		t.Errorf("what is left is %v, want %v", got, want[:2])
	}
	// Changes that were written together are those of one author and time.
	list, err := s.Changes(ctx, want[2], 0)
	if err != nil || len(list) != 3 {
		t.Fatalf("%v, %v", list, err)
	}
	if !list[0].Time.Equal(list[1].Time) || list[1].Time.Equal(list[2].Time) {
		t.Errorf("times of writes: %v %v %v", list[0].Time, list[1].Time, list[2].Time)
	}
}

func testCompaction(t *testing.T, h Harness) {
	s := h.open(t)
	const n = 12_000 // more than a step of every store
	for from := 0; from < n; from += 3000 {
		var ops []store.Op
		for i := from; i < from+3000; i++ {
			ops = append(ops, put(key(mesh.KindMeshTimeout, "a"), fmt.Sprint(i)))
		}
		write(t, s, ops...)
	}
	ctx := t.Context()
	boundary, err := s.DigestAt(ctx, n-10)
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, s.Compact(ctx, n+1), store.ErrNotFound)
	for range 2 { // the second time there is nothing to do
		if err := s.Compact(ctx, n-10); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Compact(ctx, 5); err != nil {
		t.Errorf("an older revision: %v", err)
	}
	// Who is exactly at the boundary can go on.
	if d, err := s.DigestAt(ctx, n-10); err != nil || d != boundary {
		t.Errorf("digest at the boundary: %s, %v, want %s", d, err, boundary)
	}
	if c, err := s.Changes(ctx, n-10, 100); err != nil || len(c) != 10 || c[0].Revision != n-9 {
		t.Errorf("changes after the boundary: %d, %v", len(c), err)
	}
	for _, rev := range []mesh.Revision{0, 1, n - 11} {
		_, err := s.DigestAt(ctx, rev)
		wantErr(t, err, store.ErrCompacted)
		_, err = s.Changes(ctx, rev, 100)
		wantErr(t, err, store.ErrCompacted)
	}
	// With nothing left in the log, the numbers and digests still go on.
	if err := s.Compact(ctx, n); err != nil {
		t.Fatal(err)
	}
	last, err := s.Head(ctx)
	if err != nil || last.Revision != n {
		t.Fatalf("head is %+v, %v", last, err)
	}
	if c, err := s.Changes(ctx, n, 100); err != nil || len(c) != 0 {
		t.Errorf("changes after the last: %v, %v", c, err)
	}
	at := write(t, s, put(key(mesh.KindMeshTimeout, "a"), `"last"`))
	c, err := s.Changes(ctx, n, 100)
	if err != nil || len(c) != 1 {
		t.Fatalf("changes: %v, %v", c, err)
	}
	if want := store.NextDigest(last.Digest, c[0]); at.Digest != want || at.Revision != n+1 {
		t.Errorf("position is %+v, want digest %s", at, want)
	}
}

func testWait(t *testing.T, h Harness) {
	s := h.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Wait(ctx, 0) }()
	cancel()
	wantErr(t, <-done, context.Canceled)
	at := write(t, s, put(key(mesh.KindMeshTimeout, "a"), `1`))
	if err := s.Wait(t.Context(), at.Revision-1); err != nil {
		t.Errorf("wait for what is there: %v", err)
	}
	go func() { done <- s.Wait(t.Context(), at.Revision) }()
	write(t, s, put(key(mesh.KindMeshTimeout, "a"), `2`))
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(limit):
		t.Fatal("wait does not return")
	}
	go func() { done <- s.Wait(t.Context(), at.Revision+1) }()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantErr(t, <-done, store.ErrUnavailable)
	_, err := s.Write(t.Context(), "user:test", []store.Op{put(key(mesh.KindMeshTimeout, "a"), `3`)})
	wantErr(t, err, store.ErrUnavailable)
	_, err = s.Head(t.Context())
	wantErr(t, err, store.ErrUnavailable)
}

func testReopen(t *testing.T, h Harness) {
	s := h.open(t)
	for i := range 3 {
		write(t, s, put(key(mesh.KindMeshTimeout, fmt.Sprint(i)), `{}`))
	}
	at, before := collect(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = h.open(t)
	again, after := collect(t, s)
	if again != at || !maps.EqualFunc(before, after, func(a, b mesh.Resource) bool { return cmp.Equal(a, b) }) {
		t.Errorf("after reopening %+v is %+v", at, again)
	}
	wantRevision(t, write(t, s, put(key(mesh.KindMeshTimeout, "3"), `{}`)), 4)
	verify(t, h, s)
}
