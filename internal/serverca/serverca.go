package serverca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Names of the files below Config.Dir.
const (
	CAFile   = "ca.crt"
	caKey    = "ca.key"
	certFile = "server.crt"
	keyFile  = "server.key"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 90 * 24 * time.Hour
	skew     = 5 * time.Minute
	// check is how often a running process looks whether to renew or reload.
	check = time.Minute
)

// Config says where the certificate is kept and what it is for.
type Config struct {
	// Dir that holds the authority and the server's certificate; created if
	// missing. Keys in it have mode 0600.
	Dir string
	// Names are DNS names and IP addresses that clients use. localhost,
	// 127.0.0.1 and ::1 are always added.
	Names []string
	// CertFile and KeyFile, both or none, are the operator's own pair; then no
	// authority is made.
	CertFile, KeyFile string
	// CommonName of the authority; default "Tombolo".
	CommonName string
	// Logger; default discards.
	Logger *slog.Logger
	// Now, default time.Now.
	Now func() time.Time
}

// Authority serves a certificate. Safe for concurrent use.
type Authority struct {
	cfg    Config
	names  []string
	caPEM  []byte
	served atomic.Pointer[tls.Certificate]
	seen   time.Time
}

// New checks the configuration. It does no I/O; call Load.
func New(cfg Config) (*Authority, error) {
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		return nil, errors.New("the certificate and its key must be given together")
	}
	if cfg.Dir == "" && cfg.CertFile == "" {
		return nil, errors.New("dir is required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.CommonName == "" {
		cfg.CommonName = "Tombolo"
	}
	names := append([]string{"localhost", "127.0.0.1", "::1"}, cfg.Names...)
	for i, n := range names {
		names[i] = strings.TrimSpace(n)
		if names[i] == "" || len(names[i]) > 253 {
			return nil, fmt.Errorf("name %d of the certificate: must have 1 to 253 characters", i)
		}
		if ip := net.ParseIP(names[i]); ip != nil {
			names[i] = ip.String()
		}
	}
	slices.Sort(names)
	return &Authority{cfg: cfg, names: slices.Compact(names)}, nil
}

// Load reads the certificate, making the authority and a certificate where they
// are missing, about to expire or made for other names.
func (a *Authority) Load() error {
	if a.cfg.CertFile != "" {
		return a.reload()
	}
	if err := os.MkdirAll(a.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	ca, err := a.authority()
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(a.path(certFile), a.path(keyFile))
	if err == nil && a.good(pair.Leaf, ca.Cert) {
		a.served.Store(&pair)
		return nil
	}
	return a.issue(ca)
}

// CAPEM is the certificate that clients must trust: the authority's, or the
// operator's own chain. Valid after Load.
func (a *Authority) CAPEM() []byte { return a.caPEM }

// TLS is a server's configuration, TLS 1.3 with the current certificate. Valid after Load.
func (a *Authority) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c := a.served.Load(); c != nil {
				return c, nil
			}
			return nil, errors.New("no certificate is loaded")
		},
	}
}

// Run renews or reloads the certificate until ctx ends. What is served stays
// as it is when that fails; the next attempt follows within a minute.
func (a *Authority) Run(ctx context.Context) error {
	t := time.NewTicker(check)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := a.refresh(); err != nil {
				a.cfg.Logger.Warn("server certificate not renewed", "err", err)
			}
		}
	}
}

func (a *Authority) refresh() error {
	if a.cfg.CertFile != "" {
		st, err := os.Stat(a.cfg.CertFile)
		if err != nil {
			return fmt.Errorf("look at certificate: %w", err)
		}
		if st.ModTime().Equal(a.seen) {
			return nil
		}
		return a.reload()
	}
	if c := a.served.Load(); c != nil && !a.due(c.Leaf) {
		return nil
	}
	return a.Load()
}

func (a *Authority) reload() error {
	pair, err := tls.LoadX509KeyPair(a.cfg.CertFile, a.cfg.KeyFile)
	if err != nil {
		return fmt.Errorf("load certificate: %w", err)
	}
	if st, err := os.Stat(a.cfg.CertFile); err == nil {
		a.seen = st.ModTime()
	}
	if a.caPEM == nil {
		for _, der := range pair.Certificate {
			a.caPEM = append(a.caPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
	}
	a.served.Store(&pair)
	a.cfg.Logger.Info("server certificate loaded", "expires", pair.Leaf.NotAfter)
	return nil
}

// authority loads the CA or makes it. A half-made one (a key without its
// certificate) is an error, never silently replaced: clients trust the old one.
func (a *Authority) authority() (Pair, error) {
	certPEM, certErr := os.ReadFile(a.path(CAFile))
	if errors.Is(certErr, fs.ErrNotExist) {
		// The certificate is written last, so without it the key has served nobody.
		return a.makeAuthority()
	}
	if certErr != nil {
		return Pair{}, fmt.Errorf("read authority: %w", certErr)
	}
	keyPEM, err := os.ReadFile(a.path(caKey))
	if err != nil {
		return Pair{}, fmt.Errorf("read authority's key: %w", err)
	}
	ca, err := ParsePair(certPEM, keyPEM)
	if err != nil {
		return Pair{}, fmt.Errorf("load authority: %w", err)
	}
	if !ca.Cert.IsCA {
		return Pair{}, fmt.Errorf("%s is not a certificate authority", a.path(CAFile))
	}
	a.caPEM = certPEM
	return ca, nil
}

func (a *Authority) makeAuthority() (Pair, error) {
	ca, err := NewAuthority(a.cfg.CommonName, a.cfg.Now())
	if err != nil {
		return Pair{}, err
	}
	if err := writeFile(a.path(caKey), ca.KeyPEM, 0o600); err != nil {
		return Pair{}, err
	}
	if err := writeFile(a.path(CAFile), ca.CertPEM, 0o644); err != nil {
		return Pair{}, err
	}
	a.caPEM = ca.CertPEM
	a.cfg.Logger.Info("server authority created", "file", a.path(CAFile))
	return ca, nil
}

func (a *Authority) issue(ca Pair) error {
	leaf, err := ca.Issue(a.cfg.CommonName, a.names, a.cfg.Now())
	if err != nil {
		return err
	}
	if err := writeFile(a.path(keyFile), leaf.KeyPEM, 0o600); err != nil {
		return err
	}
	if err := writeFile(a.path(certFile), leaf.CertPEM, 0o644); err != nil {
		return err
	}
	a.served.Store(leaf.TLS())
	a.cfg.Logger.Info("server certificate issued", "names", a.names, "expires", leaf.Cert.NotAfter)
	return nil
}

// good says whether a certificate on disk can be served on.
func (a *Authority) good(leaf, ca *x509.Certificate) bool {
	return !a.due(leaf) && leaf.CheckSignatureFrom(ca) == nil && slices.Equal(Pair{Cert: leaf}.Names(), a.names)
}

// due at two thirds of its life.
func (a *Authority) due(leaf *x509.Certificate) bool {
	return Pair{Cert: leaf}.Past(2.0/3, a.cfg.Now())
}

func (a *Authority) path(name string) string { return filepath.Join(a.cfg.Dir, name) }

// writeFile replaces a file as a whole or not at all.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
