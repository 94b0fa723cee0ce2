package global

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// running is a global in this process.
type running struct {
	*Global
	dir  string
	stop func()
}

func start(t *testing.T, cfg Config) *running {
	t.Helper()
	cfg.APIAddress, cfg.ZoneAddress = "127.0.0.1:0", "127.0.0.1:0"
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	stopped := false
	r := &running{Global: g, dir: cfg.DataDir, stop: func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(60 * time.Second):
			t.Error("Run does not end")
		}
	}}
	t.Cleanup(r.stop)
	select {
	case <-g.Started():
	case err := <-done:
		t.Fatalf("Run: %v", err)
	case <-time.After(60 * time.Second):
		t.Fatal("it does not start")
	}
	return r
}

func (r *running) file(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func (r *running) trust(t *testing.T) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(r.file(t, CAFile))) {
		t.Fatal("no certificate in " + CAFile)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
}

func (r *running) get(t *testing.T, path, token string) int {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: r.trust(t)}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), "GET", r.file(t, AddressFile)+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestFirstStartAndRestart(t *testing.T) {
	dir := t.TempDir()
	g := start(t, Config{DataDir: dir})
	admin, ca := g.file(t, AdminTokenFile), g.file(t, CAFile)
	for _, name := range []string{AdminTokenFile, SecretsKeyFile, StoreFile} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, err %v; want mode 0600", name, st.Mode(), err)
		}
	}
	for path, want := range map[string]int{"/readyz": 200, "/meshes/default": 401} {
		if got := g.get(t, path, ""); got != want {
			t.Errorf("%s without a token: %d, want %d", path, got, want)
		}
	}
	if got := g.get(t, "/meshes/default/meshidentities/default", admin); got != 200 {
		t.Errorf("the default mesh has no identity: %d", got)
	}
	g.stop()
	// What the file holds does not show a key.
	raw, err := os.ReadFile(filepath.Join(dir, StoreFile))
	if err != nil || strings.Contains(string(raw), "PRIVATE KEY") || strings.Contains(string(raw), "UFJJVkFURSBLRVk") {
		t.Errorf("the store shows a private key, err %v", err)
	}
	again := start(t, Config{DataDir: dir})
	if again.file(t, AdminTokenFile) != admin || again.file(t, CAFile) != ca {
		t.Error("a restart changed the administrator's token or the authority")
	}
	if got := again.get(t, "/meshes/default", admin); got != 200 {
		t.Errorf("the first token after a restart: %d", got)
	}
	again.stop()
	third := start(t, Config{DataDir: dir, NewAdminToken: true})
	if fresh := third.file(t, AdminTokenFile); fresh == admin || third.get(t, "/meshes", fresh) != 200 {
		t.Error("--new-admin-token gave no other, good token")
	}
}

func TestWrongSecretsKeyIsSaidAtStart(t *testing.T) {
	dir := t.TempDir()
	start(t, Config{DataDir: dir}).stop()
	if err := os.Remove(filepath.Join(dir, SecretsKeyFile)); err != nil {
		t.Fatal(err)
	}
	g, err := New(Config{DataDir: dir, APIAddress: "127.0.0.1:0", ZoneAddress: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := g.Run(ctx); err == nil || !strings.Contains(err.Error(), "key") {
		t.Errorf("started with another key: %v", err)
	}
}

func TestNoDefaultMesh(t *testing.T) {
	g := start(t, Config{DataDir: t.TempDir(), NoDefaultMesh: true})
	if got := g.get(t, "/meshes/default", g.file(t, AdminTokenFile)); got != 404 {
		t.Errorf("status %d", got)
	}
}

func TestZonesNeedAZoneToken(t *testing.T) {
	g := start(t, Config{DataDir: t.TempDir()})
	conn, err := grpc.NewClient(g.ZoneAddr().String(), grpc.WithTransportCredentials(credentials.NewTLS(g.trust(t))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for name, token := range map[string]string{"none": "", "nonsense": "x", "a user's": g.file(t, AdminTokenFile)} {
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token), 60*time.Second)
		stream, err := zonesyncv1.NewZoneSyncClient(conn).Sync(ctx)
		if err == nil {
			_ = stream.Send(&zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Hello{Hello: &zonesyncv1.Hello{Zone: "east", Capabilities: 1}}})
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s token: %v", name, err)
		}
		cancel()
	}
}

func TestStopsWithinABoundWhileWatched(t *testing.T) {
	g := start(t, Config{DataDir: t.TempDir()})
	transport := &http.Transport{TLSClientConfig: g.trust(t)}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), "GET", g.file(t, AddressFile)+"/changes/1/status?watch=true&timeout=1h", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+g.file(t, AdminTokenFile))
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	began := time.Now()
	g.stop()
	if took := time.Since(began); took > shutdownTime {
		t.Errorf("stopped after %s", took)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no directory": {},
		"address":      {DataDir: "x", APIAddress: "nonsense"},
		"half a pair":  {DataDir: "x", CertFile: "cert.pem"},
		"no address":   {DataDir: "x", AdvertiseAddress: "0.0.0.0:5685"},
		"negative":     {DataDir: "x", HistorySize: -1},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	g, err := New(Config{DataDir: t.TempDir(), APIAddress: "127.0.0.1:0", ZoneAddress: "192.0.2.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("an address that is not of this machine: %v", err)
	}
}
