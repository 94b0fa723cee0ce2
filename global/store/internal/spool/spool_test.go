package spool

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
)

func TestSpool(t *testing.T) {
	for _, test := range []struct{ count, size int }{{0, 0}, {3, 10}, {40, 1 << 20}, {1, 3 * memory}} {
		t.Run(fmt.Sprintf("%d of %d bytes", test.count, test.size), func(t *testing.T) {
			s := &Spool{Dir: t.TempDir()}
			spec := bytes.Repeat([]byte("x"), test.size)
			for i := range test.count {
				if err := s.Add(mesh.Resource{Key: mesh.Key{Kind: "K", Name: fmt.Sprint(i)}, Spec: spec}); err != nil {
					t.Fatal(err)
				}
			}
			if len(s.buf) > memory {
				t.Errorf("%d bytes in memory", len(s.buf))
			}
			if large := test.count*test.size > memory; large != (s.file != nil) {
				t.Errorf("a file: %v", s.file != nil)
			}
			if left, err := os.ReadDir(s.Dir); err != nil || len(left) > 0 {
				t.Errorf("the file has a name: %v, %v", left, err)
			}
			all, err := s.All()
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for r, err := range all {
				if err != nil || r.Name != fmt.Sprint(n) || !bytes.Equal(r.Spec, spec) {
					t.Fatalf("resource %d is %s, %d bytes, %v", n, r.Name, len(r.Spec), err)
				}
				n++
			}
			if n != test.count {
				t.Errorf("%d of %d", n, test.count)
			}
			for _, err := range all {
				if err == nil {
					t.Error("it can be read twice")
				}
			}
		})
	}
}

func TestBrokenOff(t *testing.T) {
	s := &Spool{Dir: t.TempDir()}
	for range 8 {
		if err := s.Add(mesh.Resource{Key: mesh.Key{Kind: "K", Name: "n"}, Spec: make([]byte, 1<<20)}); err != nil {
			t.Fatal(err)
		}
	}
	file := s.file
	all, err := s.All()
	if err != nil {
		t.Fatal(err)
	}
	for range all {
		break
	}
	if _, err := file.Stat(); err == nil {
		t.Error("the file is still open")
	}
}
