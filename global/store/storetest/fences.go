package storetest

import (
	"errors"
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
)

func raise(t testing.TB, s store.Store, name string) store.Fence {
	t.Helper()
	f, err := s.Raise(t.Context(), name)
	if err != nil {
		t.Fatalf("raise: %v", err)
	}
	return f
}

func fenced(op store.Op, f store.Fence) store.Op {
	op.Fence = &f
	return op
}

// testFences: the newest holder of a name writes, an older one does not; and once
// there is a newer, what it reads is never changed by an older.
func testFences(t *testing.T, h Harness) {
	s := h.open(t)
	other := s
	if h.Shared {
		other = h.open(t)
	}
	k := key("MeshTimeout", "a")
	first := raise(t, s, "zone:east")
	write(t, s, fenced(put(k, `{"n":1}`), first))
	second := raise(t, other, "zone:east")
	if second.Number <= first.Number || second.Name != "zone:east" {
		t.Fatalf("%+v after %+v", second, first)
	}
	raise(t, other, "zone:west") // is none of its business
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(t.Context(), "zone:east", []store.Op{fenced(put(k, `{"n":2}`), first), put(key("MeshTimeout", "b"), `{}`)}); !errors.Is(err, store.ErrFenced) {
		t.Errorf("an older holder writes: %v", err)
	}
	if now, err := s.Head(t.Context()); err != nil || now != head {
		t.Errorf("a fenced batch left something: %v, %v", now, err)
	}
	write(t, other, fenced(put(k, `{"n":3}`), second))

	// Under load: each holder writes until it is fenced; what the next one reads
	// right after it raised the fence is the last of that.
	var writers sync.WaitGroup
	defer writers.Wait()
	for range 10 {
		f := raise(t, other, "zone:east")
		writers.Go(func() {
			for n := 0; ; n++ {
				if _, err := s.Write(t.Context(), "zone:east", []store.Op{fenced(put(k, `{"holder":`+strconv.FormatInt(f.Number, 10)+`,"n":`+strconv.Itoa(n)+`}`), f)}); err != nil {
					if !errors.Is(err, store.ErrFenced) {
						t.Errorf("write: %v", err)
					}
					return
				}
			}
		})
		if f.Number%2 == 0 {
			continue
		}
		next := raise(t, other, "zone:east")
		was := get(t, other, k)
		write(t, other, fenced(put(key("MeshTimeout", "probe"), strconv.FormatInt(next.Number, 10)), next))
		if diff := cmp.Diff(was, get(t, other, k)); diff != "" {
			t.Errorf("an older holder wrote after the fence was raised (-then +now):\n%s", diff)
		}
	}
	raise(t, other, "zone:east")
	var none mesh.Revision
	if _, err := s.Write(t.Context(), "x", []store.Op{expect(put(k, `{}`), none)}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a write without a fence is judged as ever: %v", err)
	}
}
