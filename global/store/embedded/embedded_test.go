package embedded_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/embedded"
	"github.com/tombolo-mesh/tombolo/mesh"
)

func TestOneProcessAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "global.db")
	s, err := embedded.Open(embedded.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.Open(embedded.Config{Path: path, LockTimeout: 10 * time.Millisecond}); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("second open: %v, want ErrUnavailable", err)
	}
	r := mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"}, Spec: []byte(`{}`)}
	at, err := s.Write(t.Context(), "user:admin", []store.Op{{Resource: r}})
	if err != nil || at.Revision != 1 {
		t.Fatalf("write: %v %v", at, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), r.Key); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("get after close: %v, want ErrUnavailable", err)
	}
	s, err = embedded.Open(embedded.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if head, err := s.Head(t.Context()); err != nil || head != at {
		t.Fatalf("head after reopen: %v %v, want %v", head, err, at)
	}
}

// A compacted log has gone from the file, and its pages are free for the next changes.
func TestCompactionEmptiesTheBucket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "global.db")
	s, err := embedded.Open(embedded.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	var ops []store.Op
	for i := range 3000 {
		ops = append(ops, store.Op{Resource: mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"}, Spec: fmt.Appendf(nil, `"%1000d"`, i)}})
	}
	if _, err := s.Write(t.Context(), "user:test", ops); err != nil {
		t.Fatal(err)
	}
	if err := s.Compact(t.Context(), 2990); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		if n := tx.Bucket([]byte("changes")).Stats().KeyN; n != 10 {
			t.Errorf("%d changes are left in the file, want 10", n)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if free := db.Stats().FreePageN; free < 500 {
		t.Errorf("%d pages are free", free)
	}
}

func TestForeignFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "global.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.Open(embedded.Config{Path: path}); err == nil || !strings.Contains(err.Error(), path) || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a file that is none: %v", err)
	}
	if _, err := embedded.Open(embedded.Config{Path: filepath.Join(path, "x")}); err == nil {
		t.Error("a folder that is a file")
	}
}

// Writes of one author are told apart by their times, also when the clock stands
// still or is set back.
func TestTimesGrow(t *testing.T) {
	now := time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)
	s, err := embedded.Open(embedded.Config{Path: filepath.Join(t.TempDir(), "global.db"), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 4 {
		var ops []store.Op
		for _, name := range []string{"a", "b"} {
			ops = append(ops, store.Op{Resource: mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: name}, Spec: fmt.Appendf(nil, "%d", i)}})
		}
		if _, err := s.Write(t.Context(), "user:test", ops); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			now = now.Add(-time.Hour)
		}
	}
	list, err := s.Changes(t.Context(), 0, 100)
	if err != nil || len(list) != 8 {
		t.Fatal(list, err)
	}
	for i := 1; i < len(list); i++ {
		if together := list[i].Time.Equal(list[i-1].Time); together != (i%2 == 1) || list[i].Time.Before(list[i-1].Time) {
			t.Errorf("revision %d is of %s, the one before of %s", list[i].Revision, list[i].Time, list[i-1].Time)
		}
	}
}
