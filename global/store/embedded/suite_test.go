package embedded_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/embedded"
	"github.com/tombolo-mesh/tombolo/global/store/storetest"
)

func TestMain(m *testing.M) {
	storetest.Main(m, func(_ context.Context, spec string) (store.Store, error) {
		return embedded.Open(embedded.Config{Path: spec})
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
