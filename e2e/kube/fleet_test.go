package kube

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/kube/kubelab"
	"github.com/tombolo-mesh/tombolo/e2e/lab"
	"github.com/tombolo-mesh/tombolo/internal/pgtest"
)

// The ports of global.
const (
	apiPort  = "5682"
	syncPort = "5685"
)

// system is the namespace of Tombolo.
const system = "tombolo-system"

// fleet is a mesh of two clusters, east and west, and a zone of virtual machines.
type fleet struct {
	bin, envoy, helm, images string
	dir                      string // logs and files, kept
	lab                      *kubelab.Lab
	east, west               *kubelab.Cluster
	hub                      *lab.Host
	db                       *pgtest.Server
	dsn                      string
	global                   *lab.Process
	vms                      *vms
	before                   map[string]string // the nodes' files of CNI before Tombolo
}

// newFleet starts everything but Tombolo in the clusters.
func newFleet(t *testing.T) *fleet {
	t.Helper()
	if os.Getenv("TOMBOLO_E2E_KUBE") == "" {
		t.Skip("the laboratory of clusters: make e2e-kube")
	}
	if os.Getuid() != 0 {
		t.Fatal("the laboratory makes network namespaces: run make e2e-kube as root")
	}
	f := &fleet{bin: path(t, "TOMBOLO_BIN", "../../bin"), envoy: path(t, "TOMBOLO_ENVOY", "../../.cache/envoy/envoy"),
		helm: path(t, "TOMBOLO_HELM", "../../.cache/kubelab/bin/helm"), images: path(t, "TOMBOLO_IMAGES", "../../.cache/images")}
	var err error
	f.dir, err = filepath.Abs("../../.e2e/kube")
	must(t, err)
	must(t, os.RemoveAll(f.dir))
	must(t, os.MkdirAll(f.dir, 0o755))
	began := time.Now()
	f.lab, err = kubelab.Start(t.Context(), kubelab.Config{Dir: "../kubelab", Cache: path(t, "TOMBOLO_KUBELAB", "../../.cache/kubelab"),
		Logs: f.dir, Names: []string{"east", "west"}})
	must(t, err)
	t.Cleanup(func() {
		if err := f.lab.Close(); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	f.east, f.west = f.lab.Clusters[0], f.lab.Clusters[1]
	t.Logf("two clusters are up after %s", since(began))
	f.both(t, func(c *kubelab.Cluster) error {
		if os.Getenv("TOMBOLO_E2E_KUBE_CONTEXTS") != "" {
			return nil // whoever made the clusters has loaded them
		}
		tars, err := filepath.Glob(filepath.Join(f.images, "*.tar"))
		if err != nil || len(tars) == 0 {
			return fmt.Errorf("no images in %s (%w)", f.images, err)
		}
		return c.Load(t.Context(), tars...)
	})
	if os.Getenv("TOMBOLO_E2E_KUBE_STATE") != "" {
		f.both(t, func(c *kubelab.Cluster) error { return f.reset(t.Context(), c) })
	}
	f.hub, err = f.lab.AddHost("hub")
	must(t, err)
	f.startDatabase(t)
	f.startGlobal(t)
	t.Cleanup(func() { f.global.Kill() })
	f.cli(t, "", "config", "set-context", "lab", "--from-data-dir", f.path("global"))
	t.Logf("global runs after %s", since(began))
	return f
}

// reset removes what an earlier run has left in a cluster that is kept.
func (f *fleet) reset(ctx context.Context, c *kubelab.Cluster) error {
	_, err := c.Helm(ctx, f.helm, "uninstall", release, "-n", system, "--ignore-not-found", "--wait", "--timeout", "2m")
	if err != nil {
		return err
	}
	out, err := c.Kubectl(ctx, "", "get", "namespaces", "-o", "name")
	if err != nil {
		return err
	}
	for _, ns := range strings.Fields(out) {
		if strings.HasPrefix(ns, "namespace/kube-") || ns == "namespace/default" {
			continue
		}
		if _, err := c.Kubectl(ctx, "", "delete", ns, "--timeout=300s"); err != nil {
			return err
		}
	}
	_, err = c.Kubectl(ctx, "", "delete", "crd", "-l", "app.kubernetes.io/part-of=tombolo")
	return err
}

func path(t *testing.T, variable, standard string) string {
	t.Helper()
	p := os.Getenv(variable)
	if p == "" {
		p = standard
	}
	p, err := filepath.Abs(p)
	must(t, err)
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("%v: make e2e-kube makes it", err)
	}
	return p
}

func (f *fleet) path(parts ...string) string {
	return filepath.Join(append([]string{f.dir}, parts...)...)
}

// both does something in both clusters at once.
func (f *fleet) both(t *testing.T, do func(*kubelab.Cluster) error) {
	t.Helper()
	errs := make([]error, len(f.lab.Clusters))
	var wait sync.WaitGroup
	for i, c := range f.lab.Clusters {
		wait.Go(func() { errs[i] = do(c) })
	}
	wait.Wait()
	must(t, errors.Join(errs...))
}

func (f *fleet) startDatabase(t *testing.T) {
	t.Helper()
	must(t, os.RemoveAll(filepath.Join(f.lab.State, "postgres"))) // of a run that was killed
	var err error
	f.db, err = pgtest.Launch(t.Context(), filepath.Join(f.lab.State, "postgres"))
	must(t, err)
	t.Cleanup(func() {
		if err := f.db.Stop(); err != nil {
			t.Error(err)
		}
	})
	dsn, err := url.Parse(f.db.DSN)
	must(t, err)
	must(t, f.hub.Relay("127.0.0.1:5432", dsn.Host))
	dsn.Host = "127.0.0.1:5432"
	f.dsn = dsn.String()
}

// startGlobal starts global, or starts it again.
func (f *fleet) startGlobal(t *testing.T) {
	t.Helper()
	var err error
	f.global, err = f.hub.Start(f.dir, "global", nil, filepath.Join(f.bin, "tombolo"), "global", "--data-dir", f.path("global"), "--postgres", f.dsn,
		"--api-address", f.hub.IP+":"+apiPort, "--zone-address", f.hub.IP+":"+syncPort)
	must(t, err)
	listens(t, f.hub, f.global, f.hub.IP+":"+apiPort, f.hub.IP+":"+syncPort)
}

// cli runs the command line against global; it must succeed.
func (f *fleet) cli(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := f.tryCLI(t.Context(), stdin, args...)
	must(t, err)
	return out
}

func (f *fleet) tryCLI(ctx context.Context, stdin string, args ...string) (string, error) {
	return f.hub.RunContext(ctx, []string{"TOMBOLO_CONFIG=" + f.path("config.yaml")}, stdin, filepath.Join(f.bin, "tombolo"), args...)
}

// token keeps a new token in a file and returns its path.
func (f *fleet) token(t *testing.T, name, kind string, args ...string) string {
	t.Helper()
	file := f.path("token-" + name)
	out := f.cli(t, "", append([]string{"token", "create", kind}, args...)...)
	must(t, os.WriteFile(file, []byte(strings.TrimSpace(out)+"\n"), 0o600))
	return file
}

// dump keeps what explains a scenario's failure.
func (f *fleet) dump(t *testing.T, namespaces ...string) {
	if !t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	dir := f.path("failed", strings.ReplaceAll(t.Name(), "/", "_"))
	for _, c := range f.lab.Clusters {
		if err := c.Dump(ctx, filepath.Join(dir, c.Name), append(namespaces, system)...); err != nil {
			t.Logf("dump of %s: %v", c.Name, err)
		}
	}
	t.Logf("pods, events and logs are in %s", dir)
}

// listens waits until a process accepts connections.
func listens(t *testing.T, from *lab.Host, p *lab.Process, addresses ...string) {
	t.Helper()
	for _, a := range addresses {
		eventually(t, 120*time.Second, p.Name+" listens at "+a, func() error {
			if !p.Alive() {
				t.Fatalf("%s ended: see %s", p.Name, p.Log)
			}
			conn, err := from.Dial(t.Context(), "tcp", a)
			if err != nil {
				return err
			}
			return conn.Close()
		})
	}
}

// eventually polls until there is no error, and returns how long it took.
func eventually(t *testing.T, patience time.Duration, what string, ok func() error) time.Duration {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return time.Since(began)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		case <-tick.C:
		}
	}
}

// passes lets time pass in which traffic runs.
func passes(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func since(t time.Time) time.Duration { return time.Since(t).Round(100 * time.Millisecond) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
