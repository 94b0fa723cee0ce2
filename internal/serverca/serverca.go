package serverca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
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
	ca, key, err := a.authority()
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(a.path(certFile), a.path(keyFile))
	if err == nil && a.good(pair.Leaf, ca) {
		a.served.Store(&pair)
		return nil
	}
	return a.issue(ca, key)
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
func (a *Authority) authority() (*x509.Certificate, crypto.Signer, error) {
	certPEM, certErr := os.ReadFile(a.path(CAFile))
	_, keyErr := os.Stat(a.path(caKey))
	if errors.Is(certErr, fs.ErrNotExist) {
		// The certificate is written last, so without it the key has served nobody.
		return a.makeAuthority()
	}
	if certErr != nil {
		return nil, nil, fmt.Errorf("read authority: %w", certErr)
	}
	if keyErr != nil {
		return nil, nil, fmt.Errorf("read authority's key: %w", keyErr)
	}
	pair, err := tls.LoadX509KeyPair(a.path(CAFile), a.path(caKey))
	if err != nil {
		return nil, nil, fmt.Errorf("load authority: %w", err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, nil, fmt.Errorf("%s is not a certificate authority", a.path(CAFile))
	}
	a.caPEM = certPEM
	return pair.Leaf, signer, nil
}

func (a *Authority) makeAuthority() (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make authority's key: %w", err)
	}
	now := a.cfg.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: a.cfg.CommonName + " server CA"},
		NotBefore: now.Add(-skew), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("parse authority: %w", err)
	}
	if err := writeKey(a.path(caKey), key); err != nil {
		return nil, nil, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := writeFile(a.path(CAFile), certPEM, 0o644); err != nil {
		return nil, nil, err
	}
	a.caPEM = certPEM
	a.cfg.Logger.Info("server authority created", "file", a.path(CAFile))
	return cert, key, nil
}

func (a *Authority) issue(ca *x509.Certificate, caKey crypto.Signer) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make server key: %w", err)
	}
	now := a.cfg.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: a.cfg.CommonName},
		NotBefore: now.Add(-skew), NotAfter: now.Add(leafLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if tmpl.NotAfter.After(ca.NotAfter) {
		tmpl.NotAfter = ca.NotAfter
	}
	for _, n := range a.names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, key.Public(), caKey)
	if err != nil {
		return fmt.Errorf("sign server certificate: %w", err)
	}
	if err := writeKey(a.path(keyFile), key); err != nil {
		return err
	}
	if err := writeFile(a.path(certFile), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("parse server certificate: %w", err)
	}
	a.served.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf})
	a.cfg.Logger.Info("server certificate issued", "names", a.names, "expires", leaf.NotAfter)
	return nil
}

// good says whether a certificate on disk can be served on.
func (a *Authority) good(leaf, ca *x509.Certificate) bool {
	if a.due(leaf) || leaf.CheckSignatureFrom(ca) != nil {
		return false
	}
	have := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		have = append(have, ip.String())
	}
	slices.Sort(have)
	return slices.Equal(have, a.names)
}

// due at two thirds of its life.
func (a *Authority) due(leaf *x509.Certificate) bool {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	now := a.cfg.Now()
	return now.Before(leaf.NotBefore) || now.After(leaf.NotBefore.Add(life*2/3))
}

func (a *Authority) path(name string) string { return filepath.Join(a.cfg.Dir, name) }

func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("marshal key: %w", err)
	}
	return writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

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
