package global

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/internal/pgtest"
)

// TestTwoInstancesShareADatabase starts both at once on an empty one: there is
// one administrator's token that counts for both, and one default mesh.
func TestTwoInstancesShareADatabase(t *testing.T) {
	dsn := pgtest.Start(t).Database(t)
	keys := "file:" + filepath.Join(t.TempDir(), "shared.key")
	start(t, Config{DataDir: t.TempDir(), SecretsKey: keys}).stop() // makes the shared key file
	one, two := t.TempDir(), t.TempDir()
	type result struct{ g *running }
	results := make(chan result, 2)
	for _, dir := range []string{one, two} {
		g, err := New(Config{DataDir: dir, Postgres: dsn, SecretsKey: keys, APIAddress: "127.0.0.1:0", ZoneAddress: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- g.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		go func() {
			select {
			case <-g.Started():
			case <-time.After(time.Minute):
			}
			results <- result{&running{Global: g, dir: dir}}
		}()
	}
	a, b := (<-results).g, (<-results).g
	if a.APIAddr() == nil || b.APIAddr() == nil {
		t.Fatal("an instance does not start")
	}
	good := 0
	for _, g := range []*running{a, b} {
		if _, err := os.Stat(filepath.Join(g.dir, AdminTokenFile)); err != nil {
			continue
		}
		token := g.file(t, AdminTokenFile)
		if status := a.get(t, "/meshes/default", token); status != b.get(t, "/meshes/default", token) {
			t.Error("the instances disagree about a token")
		} else if status == 200 {
			good++
		} else {
			t.Errorf("an instance keeps a first token that is answered by %d", status)
		}
	}
	if good != 1 {
		t.Errorf("%d of 2 first tokens are good, want that of the instance that came first", good)
	}
}

func TestDatabaseThatIsAwayAtStartIsWaitedFor(t *testing.T) {
	g, err := New(Config{DataDir: t.TempDir(), Postgres: "postgres://nobody@127.0.0.1:1/nothing", APIAddress: "127.0.0.1:0", ZoneAddress: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	if err := g.Run(ctx); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("gave up before it was told: %v", err)
	}
}

// TestAdminTokenFromTheDatabase: who has the database and the keys gets a token while
// global runs; who has other keys does not.
func TestAdminTokenFromTheDatabase(t *testing.T) {
	dsn := pgtest.Start(t).Database(t)
	keys := "file:" + filepath.Join(t.TempDir(), "shared.key")
	g := start(t, Config{DataDir: t.TempDir(), Postgres: dsn, SecretsKey: keys})
	raw, err := AdminToken(t.Context(), Config{DataDir: t.TempDir(), Postgres: dsn, SecretsKey: keys})
	if err != nil {
		t.Fatal(err)
	}
	if got := g.get(t, "/meshes/default", raw); got != 200 {
		t.Error("the token is answered by", got)
	}
	if _, err := AdminToken(t.Context(), Config{DataDir: t.TempDir(), Postgres: dsn}); err == nil {
		t.Error("a token without the keys")
	}
}

func TestAdvertised(t *testing.T) {
	for address, want := range map[string]string{"10.0.0.5": "10.0.0.5:1", "fd00::5": "[fd00::5]:1", "[fd00::5]": "[fd00::5]:1", "a.example:7": "a.example:7", "[fd00::5]:7": "[fd00::5]:7"} {
		if got := withPort(address, "1"); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
	for _, c := range []struct {
		listener, from, want string
	}{
		{"10.0.0.5:5685", "10.0.0.9", "10.0.0.5:5685"},
		{"[::]:5685", "10.0.0.9", "10.0.0.9:5685"},
		{"0.0.0.0:5685", "fd00::9", "[fd00::9]:5685"},
		{"[::]:5685", "", "127.0.0.1:5685"},
	} {
		listener, err := net.ResolveTCPAddr("tcp", c.listener)
		if err != nil {
			t.Fatal(err)
		}
		if got := advertised(listener, net.ParseIP(c.from)); got != c.want {
			t.Errorf("listening at %s, database reached from %q: %s, want %s", c.listener, c.from, got, c.want)
		}
	}
}
