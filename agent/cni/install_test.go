package cni

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// node is a node's folders and an API server.
type node struct {
	cfg    Config
	status atomic.Int64 // of the DaemonSet
	body   atomic.Value
	pods   atomic.Value // annotations by path
	asked  atomic.Int64
	url    string
}

func newNode(t *testing.T) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{}
	n.status.Store(http.StatusOK)
	n.body.Store(`{"metadata":{}}`)
	n.pods.Store(map[string]string{})
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.asked.Add(1)
		if r.Header.Get("Authorization") != "Bearer secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Path == "/apis/apps/v1/namespaces/tombolo-system/daemonsets/tombolo-cni" {
			w.WriteHeader(int(n.status.Load()))
			_, _ = w.Write([]byte(n.body.Load().(string)))
			return
		}
		body, ok := n.pods.Load().(map[string]string)[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	n.url = server.URL
	n.cfg = Config{
		NetDir: filepath.Join(dir, "net.d"), BinDir: filepath.Join(dir, "bin"), Binary: filepath.Join(dir, "agent"),
		LogFile: filepath.Join(dir, "log", "cni.log"), LogDir: filepath.Join(dir, "log"), ServiceAccount: filepath.Join(dir, "sa"), APIServer: server.URL,
		DaemonSet: "tombolo-system/tombolo-cni", Interval: time.Second, Log: slog.New(slog.DiscardHandler),
	}
	n.cfg.NodeNetDir = n.cfg.NetDir
	for _, d := range []string{n.cfg.NetDir, n.cfg.ServiceAccount} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, n.cfg.Binary, "#!/bin/true\n", 0o600)
	write(t, filepath.Join(n.cfg.ServiceAccount, "token"), "secret\n", 0o600)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	write(t, filepath.Join(n.cfg.ServiceAccount, "ca.crt"), string(ca), 0o600)
	return n
}

// run starts the daemon; stop ends it and returns its error.
func (n *node) run(t *testing.T) (i *Installer, stop func() error) {
	t.Helper()
	i, err := New(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- i.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { _ = stop() })
	return i, stop
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (n *node) list() string { return filepath.Join(n.cfg.NetDir, "10-k8s.conflist") }

func (n *node) isChained() bool {
	data, err := os.ReadFile(n.list())
	return err == nil && strings.Contains(string(data), Name)
}

func TestDaemon(t *testing.T) {
	n := newNode(t)
	i, stop := n.run(t)
	until(t, "says why it is not ready", func() bool {
		err := i.Ready()
		return err != nil && strings.Contains(err.Error(), "no network configuration")
	})
	write(t, n.list(), pretty, 0o644)
	until(t, "chained when the configuration comes", func() bool { return n.isChained() && i.Ready() == nil })

	binary := filepath.Join(n.cfg.BinDir, Name)
	if info, err := os.Stat(binary); err != nil || info.Mode().Perm() != 0o755 || read(t, binary) != read(t, n.cfg.Binary) {
		t.Errorf("binary: %v, %v", info, err)
	}
	if client, err := apiOf(filepath.Join(n.cfg.NetDir, kubeconfigName)); err != nil || client.server != n.url || client.token != "secret" {
		t.Errorf("kubeconfig: %+v, %v", client, err)
	}
	var entry struct {
		Plugins []Entry `json:"plugins"`
	}
	if err := json.Unmarshal([]byte(read(t, n.list())), &entry); err != nil {
		t.Fatal(err)
	}
	got := entry.Plugins[len(entry.Plugins)-1]
	if !got.Capabilities[capability] || got.Kubeconfig != filepath.Join(n.cfg.NetDir, kubeconfigName) || got.LogFile != n.cfg.LogFile || len(got.ExcludeNamespaces) != 1 {
		t.Errorf("entry %+v", got)
	}

	write(t, n.list(), strings.Replace(pretty, "ptp", "calico", 1), 0o644)
	until(t, "chained again after somebody rewrote it", n.isChained)
	if !strings.Contains(read(t, n.list()), "calico") {
		t.Error("their change is lost")
	}
	if err := os.Remove(binary); err != nil {
		t.Fatal(err)
	}
	until(t, "the binary is back", func() bool { return exists(binary) })
	write(t, filepath.Join(n.cfg.ServiceAccount, "token"), "fresh", 0o600)
	until(t, "the token is refreshed", func() bool {
		client, err := apiOf(filepath.Join(n.cfg.NetDir, kubeconfigName))
		return err == nil && client.token == "fresh"
	})
	write(t, filepath.Join(n.cfg.ServiceAccount, "token"), "secret", 0o600)

	before := read(t, n.list())
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if read(t, n.list()) != before || !exists(binary) {
		t.Error("a restart changed something")
	}
	if strings.Contains(names(t, n.cfg.NetDir), "-tombolo-") {
		t.Errorf("temporary files: %s", names(t, n.cfg.NetDir))
	}
}

func TestUpgrade(t *testing.T) {
	n := newNode(t)
	write(t, n.list(), pretty, 0o644)
	i, stop := n.run(t)
	until(t, "ready", func() bool { return i.Ready() == nil })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	// The same size: contents are compared.
	write(t, n.cfg.Binary, "#!/bin/tru3\n", 0o600)
	i, _ = n.run(t)
	until(t, "ready", func() bool { return i.Ready() == nil })
	if got := read(t, filepath.Join(n.cfg.BinDir, Name)); got != "#!/bin/tru3\n" {
		t.Errorf("binary %q", got)
	}
}

// TestNoFight: somebody undoes each repair at once.
func TestNoFight(t *testing.T) {
	n := newNode(t)
	write(t, n.list(), pretty, 0o644)
	n.run(t)
	var undone int
	began, deadline := time.Now(), time.After(time.Minute)
	for undone < 5 { // one at once, the others 0.1, 0.2, 0.4, 0.8 s later
		select {
		case <-deadline:
			t.Fatalf("chained %d times", undone)
		case <-time.After(time.Millisecond):
			if n.isChained() {
				undone++
				write(t, n.list(), pretty, 0o644)
			}
		}
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("chained %d times in %s", undone, took)
	}
}

func TestLeaving(t *testing.T) {
	for _, tc := range []struct {
		name    string
		before  int // status of the DaemonSet while the daemon runs
		after   int // and when it ends
		body    string
		removed bool
	}{
		{name: "restart", before: 200, after: 200},
		{name: "deleted", before: 200, after: 404, removed: true},
		{name: "being deleted", before: 200, after: 200, body: `{"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"}}`, removed: true},
		{name: "rights withdrawn", before: 200, after: 403, removed: true},
		{name: "never had rights", before: 403, after: 403},
		{name: "API server fails", before: 200, after: 500},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			write(t, n.list(), pretty, 0o644)
			n.status.Store(int64(tc.before))
			i, stop := n.run(t)
			until(t, "ready and asked", func() bool { return i.Ready() == nil && n.asked.Load() > 0 && i.mayRead.Load() == (tc.before == 200) })
			n.status.Store(int64(tc.after))
			if tc.body != "" {
				n.body.Store(tc.body)
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if removed := !n.isChained(); removed != tc.removed {
				t.Errorf("removed: %v", removed)
			}
			if tc.removed && (read(t, n.list()) != pretty || names(t, n.cfg.NetDir) != "10-k8s.conflist" || names(t, n.cfg.BinDir) != "") {
				t.Errorf("left behind: %s, %s\n%s", names(t, n.cfg.NetDir), names(t, n.cfg.BinDir), read(t, n.list()))
			}
		})
	}
}

func TestReadyAnswers(t *testing.T) {
	i, err := New(newNode(t).cfg)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		i.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/ready", nil))
		return w
	}
	if w := ask(); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "starting") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	i.state = nil
	if w := ask(); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
