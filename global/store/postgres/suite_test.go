package postgres_test

import (
	"context"
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/postgres"
	"github.com/tombolo-mesh/tombolo/global/store/storetest"
	"github.com/tombolo-mesh/tombolo/internal/pgtest"
)

func TestMain(m *testing.M) {
	storetest.Main(m, func(ctx context.Context, spec string) (store.Store, error) {
		dsn, sealed := strings.CutPrefix(spec, "sealed:")
		s, err := postgres.Open(ctx, postgres.Config{DSN: dsn})
		if err != nil || !sealed {
			return s, err
		}
		return storetest.Seal(s)
	})
}

func open(t testing.TB, dsn string) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func harness(server *pgtest.Server) func(t *testing.T) storetest.Harness {
	kill := false
	return func(t *testing.T) storetest.Harness {
		dsn := server.Database(t)
		return storetest.Harness{Spec: dsn, Shared: true,
			Open: func(t testing.TB) store.Store { return open(t, dsn) },
			Outage: func(t testing.TB) func() {
				kill = !kill
				end := server.Terminate
				if kill {
					end = server.Kill
				}
				if err := end(); err != nil {
					t.Fatal(err)
				}
				return func() {
					if err := server.Restart(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}}
	}
}

func TestStore(t *testing.T) { storetest.Run(t, harness(pgtest.Start(t))) }

func TestSealed(t *testing.T) {
	plain := harness(pgtest.Start(t))
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		h := storetest.Sealed(plain(t))
		h.Spec = "sealed:" + h.Spec
		return h
	})
}

func BenchmarkStore(b *testing.B) {
	server := pgtest.Start(b)
	storetest.Bench(b, func(b *testing.B) store.Store { return open(b, server.Database(b)) })
}
