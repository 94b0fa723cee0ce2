package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/postgres"
	"github.com/tombolo-mesh/tombolo/internal/pgtest"
	"github.com/tombolo-mesh/tombolo/mesh"
)

func op(name, spec string) store.Op {
	return store.Op{Resource: mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: name}, Spec: []byte(spec)}}
}

func exec(t testing.TB, dsn, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func openWith(t *testing.T, dsn string, timeout time.Duration) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Config{DSN: dsn + "&connect_timeout=60", Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestDSNErrorsKeepThePassword(t *testing.T) {
	server := pgtest.Start(t)
	u, err := url.Parse(server.DSN)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("tombolo", "hunter2")
	for _, dsn := range []string{
		"", "postgres://u:hunter2@[", "postgres://u:hunter2@h:port/d", "postgres://u:hunter2@127.0.0.1:1/d?sslmode=hunter2",
		"user=u password=hunter2 port=x", "hunter2", "postgres://u:hunter2@127.0.0.1:1/d", "postgres://u:hunter2@127.0.0.1:1/d?connect_timeout=x",
		u.String(),
	} {
		for name, fn := range map[string]func() error{
			"open": func() error {
				s, err := postgres.Open(t.Context(), postgres.Config{DSN: dsn})
				if err == nil {
					s.Close()
				}
				return err
			},
			"migrate": func() error { _, _, err := postgres.Migrate(t.Context(), dsn); return err },
		} {
			if err := fn(); err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s %q: %v", name, dsn, err)
			}
		}
	}
	if _, err := postgres.Open(t.Context(), postgres.Config{DSN: u.String()}); err == nil || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a wrong password is nothing to wait for: %v", err)
	}
	_, err = postgres.Open(t.Context(), postgres.Config{DSN: "postgres://u:p@127.0.0.1:1/d"})
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("nothing listens: %v, want ErrUnavailable", err)
	}
}

func TestMigrate(t *testing.T) {
	server := pgtest.Start(t)
	dsn := server.Database(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	migrated := 0
	for range 5 { // instances that start at once
		wg.Go(func() {
			from, to, err := postgres.Migrate(t.Context(), dsn)
			if err != nil || to < 1 {
				t.Errorf("migrate: %d to %d, %v", from, to, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if from != to {
				migrated++
			}
		})
		wg.Go(func() {
			s, err := postgres.Open(t.Context(), postgres.Config{DSN: dsn})
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			s.Close()
		})
	}
	wg.Wait()
	if migrated > 1 {
		t.Errorf("%d of them migrated", migrated)
	}
	exec(t, dsn, "update tombolo_schema_version set version = 99")
	_, _, err := postgres.Migrate(t.Context(), dsn)
	if err == nil || !strings.Contains(err.Error(), "version 99") || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a newer schema: %v", err)
	}
	latin := server.Database(t)
	name := latin[strings.LastIndex(latin, "/")+1 : strings.Index(latin, "?")]
	exec(t, dsn, "create database latin_"+name+" encoding 'SQL_ASCII' template template0")
	_, err = postgres.Open(t.Context(), postgres.Config{DSN: strings.Replace(latin, name, "latin_"+name, 1)})
	if err == nil || !strings.Contains(err.Error(), "SQL_ASCII") {
		t.Errorf("a database that is not UTF8: %v", err)
	}
}

// A commit whose answer is lost is neither success nor certain failure.
func TestAnswerOfCommitIsLost(t *testing.T) {
	server := pgtest.Start(t)
	dsn := server.Database(t)
	p := newProxy(t, dsn)
	s, direct := openWith(t, p.dsn, time.Minute), openWith(t, dsn, time.Minute)
	if _, err := s.Write(t.Context(), "user:test", []store.Op{op("a", `1`)}); err != nil {
		t.Fatal(err)
	}
	p.set([]byte("COMMIT\x00"), false) // the database's answer
	if at, err := s.Write(t.Context(), "user:test", []store.Op{op("a", `2`)}); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("write: %+v, %v, want ErrUnavailable", at, err)
	}
	p.set(nil, false)
	if r, err := direct.Get(t.Context(), op("a", "").Resource.Key); err != nil || string(r.Spec) != `2` {
		t.Fatalf("the test did not cut after the commit: %s, %v", r.Spec, err)
	}
	// Doing it again makes no second change.
	if at, err := s.Write(t.Context(), "user:test", []store.Op{op("a", `2`)}); err != nil || at.Revision != 2 {
		t.Errorf("again: %+v, %v, want revision 2", at, err)
	}
}

// A database that takes connections and says nothing is away, too.
func TestDatabaseHangs(t *testing.T) {
	server := pgtest.Start(t)
	p := newProxy(t, server.Database(t))
	s := openWith(t, p.dsn, 300*time.Millisecond)
	// A machine that is busy may need longer than that for a write now and then.
	written := func(spec string) {
		t.Helper()
		var err error
		for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); {
			if _, err = s.Write(t.Context(), "user:test", []store.Op{op("a", spec)}); !errors.Is(err, store.ErrUnavailable) {
				break
			}
		}
		if err != nil {
			t.Fatalf("write: %v", err)
		}
	}
	written(`1`)
	p.set(nil, true)
	started := time.Now()
	_, err := s.Write(t.Context(), "user:test", []store.Op{op("a", `2`)})
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("write: %v, want ErrUnavailable", err)
	}
	if _, err := s.Head(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("head: %v, want ErrUnavailable", err)
	}
	if took := time.Since(started); took > 60*time.Second {
		t.Errorf("two calls took %s", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Head(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("head with a deadline: %v", err)
	}
	p.set(nil, false)
	p.cutAll()
	written(`3`)
}

// Connections that broke in the pool cost nobody an error.
func TestBrokenConnectionsAreReplaced(t *testing.T) {
	server := pgtest.Start(t)
	p := newProxy(t, server.Database(t))
	s := openWith(t, p.dsn, time.Minute)
	for i := range 5 {
		p.cutAll()
		if _, err := s.Write(t.Context(), "user:test", []store.Op{op("a", fmt.Sprint(i))}); err != nil {
			t.Errorf("write: %v", err)
		}
		p.cutAll()
		if r, err := s.Get(t.Context(), op("a", "").Resource.Key); err != nil || string(r.Spec) != fmt.Sprint(i) {
			t.Errorf("get: %s, %v", r.Spec, err)
		}
	}
}

// Without a connection that listens, watchers are slower and still complete.
func TestNobodyHearsTheDoorbell(t *testing.T) {
	server := pgtest.Start(t)
	dsn := server.Database(t)
	p := newProxy(t, dsn)
	p.set([]byte("listen "), false) // no such statement passes
	deaf, other := openWith(t, p.dsn, time.Minute), openWith(t, dsn, time.Minute)
	for i := range 3 {
		at, err := other.Write(t.Context(), "user:test", []store.Op{op("a", fmt.Sprint(i))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		if err := deaf.Wait(ctx, at.Revision-1); err != nil {
			t.Errorf("wait: %v", err)
		}
		cancel()
		if c, err := deaf.Changes(t.Context(), at.Revision-1, 10); err != nil || len(c) != 1 {
			t.Errorf("changes: %v, %v", c, err)
		}
	}
}

// A false doorbell wakes someone at most for a moment.
func TestFalseDoorbell(t *testing.T) {
	server := pgtest.Start(t)
	dsn := server.Database(t)
	s := openWith(t, dsn, time.Minute)
	exec(t, dsn, "do $$ begin perform pg_notify('tombolo_' || 'head'::regclass::oid, '999999'); perform pg_notify('tombolo_' || 'head'::regclass::oid, 'x'); end $$")
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for { // it goes back to waiting by itself
		bounded, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
		err := s.Wait(bounded, 0)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Write(t.Context(), "user:test", []store.Op{op("a", `1`)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(ctx, 0); err != nil {
		t.Errorf("wait: %v", err)
	}
}

// Stores in two schemas of one database have nothing to do with each other.
func TestSchemas(t *testing.T) {
	server := pgtest.Start(t)
	dsn := server.Database(t)
	exec(t, dsn, "create schema one; create schema two")
	one, two := openWith(t, dsn+"&search_path=one", time.Minute), openWith(t, dsn+"&search_path=two", time.Minute)
	for i := range 3 {
		if at, err := one.Write(t.Context(), "user:test", []store.Op{op("a", fmt.Sprint(i))}); err != nil || at.Revision != mesh.Revision(i+1) {
			t.Fatalf("%+v, %v", at, err)
		}
	}
	if at, err := two.Head(t.Context()); err != nil || at.Revision != 0 {
		t.Errorf("the other schema is at %+v, %v", at, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := two.Wait(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the other schema's store was woken: %v", err)
	}
}

// Acknowledged is durable also where the database's default says otherwise.
func TestSynchronousCommit(t *testing.T) {
	server := pgtest.Start(t)
	dsn := server.Database(t)
	exec(t, dsn, "do $$ begin execute format('alter database %I set synchronous_commit = off', current_database()); end $$")
	s := openWith(t, dsn, time.Minute)
	at, err := s.Write(t.Context(), "user:test", []store.Op{op("a", `1`)})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Head(t.Context()); err != nil || got != at {
		t.Errorf("after a crash the head is %+v, %v, want %+v", got, err, at)
	}
}

func TestCompactionEmptiesTheTable(t *testing.T) {
	server := pgtest.Start(t)
	dsn := server.Database(t)
	s := openWith(t, dsn, time.Minute)
	for i := range 5 {
		if _, err := s.Write(t.Context(), "user:test", []store.Op{op("a", fmt.Sprint(i))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Compact(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	exec(t, dsn, "do $$ begin assert (select array_agg(revision order by revision) from changes) = array[4, 5]::bigint[]; end $$")
}

func TestUnixSocket(t *testing.T) {
	server := pgtest.Start(t)
	s := openWith(t, server.SocketDSN, time.Minute)
	if _, err := s.Write(t.Context(), "user:test", []store.Op{op("a", `1`)}); err != nil {
		t.Fatal(err)
	}
}

// Writes of one author are told apart by their times, also when the database's clock
// was set back.
func TestTimesGrow(t *testing.T) {
	dsn := pgtest.Start(t).Database(t)
	s := openWith(t, dsn, time.Minute)
	write := func(name string) {
		t.Helper()
		if _, err := s.Write(t.Context(), "user:test", []store.Op{op(name, "{}")}); err != nil {
			t.Fatal(err)
		}
	}
	write("a")
	exec(t, dsn, "update changes set time = '2126-01-01 00:00:00Z'")
	write("b")
	list, err := s.Changes(t.Context(), 0, 10)
	if err != nil || len(list) != 2 || !list[1].Time.Equal(list[0].Time.Add(time.Microsecond)) {
		t.Errorf("%+v, %v", list, err)
	}
}
