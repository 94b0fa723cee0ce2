package serverca

import (
	"bytes"
	"context"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func load(t *testing.T, cfg Config) *Authority {
	t.Helper()
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Load(); err != nil {
		t.Fatal(err)
	}
	return a
}

// verify checks what is served as a client does that trusts only the authority.
func verify(t *testing.T, a *Authority, name string) error {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(a.CAPEM()) {
		t.Fatal("no certificate in CAPEM")
	}
	served, err := a.TLS().GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = served.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: pool, CurrentTime: a.cfg.Now()})
	return err
}

func TestServedNames(t *testing.T) {
	a := load(t, Config{Dir: t.TempDir(), Names: []string{"global.example", "10.1.2.3"}})
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "global.example", "10.1.2.3"} {
		if err := verify(t, a, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := verify(t, a, "other.example"); err == nil {
		t.Error("a name that was not asked for is served")
	}
}

func TestRestartKeepsAndRenews(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	cfg := Config{Dir: dir, Now: func() time.Time { return now }}
	first := load(t, cfg)
	again := load(t, cfg)
	if !bytes.Equal(first.served.Load().Certificate[0], again.served.Load().Certificate[0]) {
		t.Error("a restart made a new certificate")
	}
	cfg.Names = []string{"new.example"}
	named := load(t, cfg)
	if err := verify(t, named, "new.example"); err != nil {
		t.Errorf("after a name was added: %v", err)
	}
	now = now.Add(61 * 24 * time.Hour)
	late := load(t, cfg)
	if bytes.Equal(named.served.Load().Certificate[0], late.served.Load().Certificate[0]) {
		t.Error("a certificate past two thirds of its life was not renewed")
	}
	if !bytes.Equal(first.CAPEM(), late.CAPEM()) {
		t.Error("the authority changed")
	}
	for _, name := range []string{caKey, keyFile} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, err %v; want 0600", name, st.Mode(), err)
		}
	}
}

func TestLostAuthorityKeyIsAnError(t *testing.T) {
	dir := t.TempDir()
	load(t, Config{Dir: dir})
	if err := os.Remove(filepath.Join(dir, caKey)); err != nil {
		t.Fatal(err)
	}
	a, _ := New(Config{Dir: dir})
	if err := a.Load(); err == nil {
		t.Error("an authority without its key was loaded or replaced")
	}
}

func TestRunRenewsWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := load(t, Config{Dir: t.TempDir()})
		before := a.served.Load()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		<-time.After(61 * 24 * time.Hour)
		synctest.Wait()
		if a.served.Load() == before {
			t.Error("not renewed after two thirds of its life")
		}
		if err := verify(t, a, "localhost"); err != nil {
			t.Errorf("after renewal: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestOperatorsPairIsReloaded(t *testing.T) {
	made := load(t, Config{Dir: t.TempDir(), Names: []string{"one.example"}})
	own := load(t, Config{CertFile: made.path(certFile), KeyFile: made.path(keyFile)})
	old := own.served.Load()
	made.cfg.Now = func() time.Time { return time.Now().Add(62 * 24 * time.Hour) }
	if err := made.Load(); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(made.path(certFile), later, later); err != nil {
		t.Fatal(err)
	}
	if err := own.refresh(); err != nil {
		t.Fatal(err)
	}
	if own.served.Load() == old {
		t.Error("a replaced pair of files is not served")
	}
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no directory":            {},
		"certificate without key": {Dir: "x", CertFile: "a"},
		"empty name":              {Dir: "x", Names: []string{""}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
