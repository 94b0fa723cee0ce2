package embedded_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/embedded"
	"github.com/tombolo-mesh/tombolo/global/store/storetest"
)

func TestMain(m *testing.M) {
	storetest.Main(m, func(_ context.Context, spec string) (store.Store, error) {
		path, sealed := strings.CutPrefix(spec, "sealed:")
		s, err := embedded.Open(embedded.Config{Path: path})
		if err != nil || !sealed {
			return s, err
		}
		return storetest.Seal(s)
	})
}

func harness(t *testing.T) storetest.Harness {
	path := filepath.Join(t.TempDir(), "global.db")
	return storetest.Harness{Spec: path, Open: func(t testing.TB) store.Store {
		s, err := embedded.Open(embedded.Config{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}}
}

func TestStore(t *testing.T) { storetest.Run(t, harness) }

func TestSealed(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		h := storetest.Sealed(harness(t))
		h.Spec = "sealed:" + h.Spec
		return h
	})
}

func BenchmarkStore(b *testing.B) {
	storetest.Bench(b, func(b *testing.B) store.Store {
		s, err := embedded.Open(embedded.Config{Path: filepath.Join(b.TempDir(), "global.db")})
		if err != nil {
			b.Fatal(err)
		}
		return s
	})
}
