package embedded_test

import (
	"errors"
	"path/filepath"
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
