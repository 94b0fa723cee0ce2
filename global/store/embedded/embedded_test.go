package embedded_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// A compacted log gives its room back to the next changes.
func TestCompactionBoundsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "global.db")
	s, err := embedded.Open(embedded.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	filler := strings.Repeat("x", 1000)
	var first int64
	for round := range 8 {
		var ops []store.Op
		for i := range 3000 {
			ops = append(ops, store.Op{Resource: mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"}, Spec: fmt.Appendf(nil, `"%d %d %s"`, round, i, filler)}})
		}
		at, err := s.Write(t.Context(), "user:test", ops)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Compact(t.Context(), at.Revision); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if first == 0 {
			first = info.Size()
		}
		if info.Size() > 3*first {
			t.Fatalf("round %d: the file has %d bytes, after the first round it had %d", round, info.Size(), first)
		}
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
