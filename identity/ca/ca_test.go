package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/identity"
)

var (
	noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	east = mustDomain("default.east.mesh.local")
	west = mustDomain("default.west.mesh.local")
)

func mustDomain(s string) identity.TrustDomain {
	td, err := identity.ParseTrustDomain(s)
	if err != nil {
		panic(err)
	}
	return td
}

func id(t *testing.T, td identity.TrustDomain, path string) identity.ID {
	t.Helper()
	x, err := identity.MakeID(td, path)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func authority(t *testing.T, td identity.TrustDomain) *Authority {
	t.Helper()
	a, err := New(td, noon)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func csr(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	forged, err := url.Parse("spiffe://default.west.mesh.local/workload/admin")
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "admin"}, DNSNames: []string{"evil.example"}, URIs: []*url.URL{forged}, IPAddresses: []net.IP{{127, 0, 0, 1}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func p256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestSign(t *testing.T) {
	a, key := authority(t, east), p256(t)
	want := id(t, east, "/workload/web")
	chain, err := a.Sign(csr(t, key), want, time.Hour, noon)
	if err != nil {
		t.Fatal(err)
	}
	svid, err := identity.ParseSVID(chain)
	if err != nil {
		t.Fatal(err)
	}
	leaf := svid.Leaf()
	if svid.ID() != want || !svid.For(key.Public()) || svid.For(p256(t).Public()) {
		t.Errorf("id %s, for the key %t", svid.ID(), svid.For(key.Public()))
	}
	if leaf.Subject.String() != "" || len(leaf.DNSNames) != 0 || len(leaf.IPAddresses) != 0 || len(leaf.URIs) != 1 {
		t.Errorf("names of the request are in the leaf: %s %v %v %v", leaf.Subject, leaf.DNSNames, leaf.IPAddresses, leaf.URIs)
	}
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Error("the leaf may sign others")
	}
	if !leaf.NotBefore.Equal(noon.Add(-Backdate)) || !leaf.NotAfter.Equal(noon.Add(time.Hour)) {
		t.Error("valid", leaf.NotBefore, leaf.NotAfter)
	}
	if err := verify(leaf, a); err != nil {
		t.Error(err)
	}
	if err := verify(leaf, authority(t, east)); err == nil {
		t.Error("another authority of that name verifies it")
	}
}

func verify(leaf *x509.Certificate, a *Authority) error {
	roots := x509.NewCertPool()
	roots.AddCert(a.Certificate())
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: noon, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

func TestSignRefuses(t *testing.T) {
	a, key := authority(t, east), p256(t)
	good := csr(t, key)
	stolen := bytes.Clone(good) // the key of another, so the signature proves nothing
	mine, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := p256(t).PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	copy(stolen[bytes.Index(stolen, mine):], theirs)
	damaged := bytes.Clone(good)
	damaged[len(damaged)-1] ^= 1
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa8k := bytes.Repeat([]byte{0}, MaxCSR+1)
	web := id(t, east, "/workload/web")

	cases := []struct {
		name string
		csr  []byte
		id   identity.ID
		ttl  time.Duration
		now  time.Time
		want error
	}{
		{"no request", nil, web, time.Hour, noon, ErrBadRequest},
		{"garbage", []byte("garbage"), web, time.Hour, noon, ErrBadRequest},
		{"too large", rsa8k, web, time.Hour, noon, ErrBadRequest},
		{"signature damaged", damaged, web, time.Hour, noon, ErrBadRequest},
		{"key of another", stolen, web, time.Hour, noon, ErrBadRequest},
		{"weak curve", csr(t, p224), web, time.Hour, noon, ErrBadRequest},
		{"other trust domain", good, id(t, west, "/workload/web"), time.Hour, noon, ErrForeignDomain},
		{"no id", good, identity.ID{}, time.Hour, noon, ErrForeignDomain},
		{"the domain itself", good, east.ID(), time.Hour, noon, ErrForeignDomain},
		{"authority not valid yet", good, web, time.Hour, noon.Add(-time.Hour), ErrAuthorityExpired},
		{"authority expired", good, web, time.Hour, noon.Add(AuthorityLife), ErrAuthorityExpired},
		{"life too short", good, web, time.Second, noon, nil},
		{"life too long", good, web, MaxTTL + 1, noon, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			chain, err := a.Sign(c.csr, c.id, c.ttl, c.now)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Fatalf("got %d bytes, %v; want %v", len(chain), err, c.want)
			}
		})
	}
}

func TestSignKeysAndEnd(t *testing.T) {
	a := authority(t, east)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{p384, ed, rsa2k} {
		end := noon.Add(AuthorityLife - time.Minute)
		chain, err := a.Sign(csr(t, key), id(t, east, "/workload/web"), time.Hour, end)
		if err != nil {
			t.Errorf("%T: %v", key, err)
			continue
		}
		svid, err := identity.ParseSVID(chain)
		if err != nil {
			t.Fatal(err)
		}
		if !svid.Leaf().NotAfter.Equal(a.Certificate().NotAfter) {
			t.Errorf("%T: the leaf outlives its authority: %s", key, svid.Leaf().NotAfter)
		}
	}
}

func TestLoad(t *testing.T) {
	a := authority(t, east)
	cert := identity.MarshalCertificates(a.Certificate())
	key, err := a.MarshalKey()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Load(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := b.Sign(csr(t, p256(t)), id(t, east, "/workload/web"), time.Hour, noon)
	if err != nil {
		t.Fatal(err)
	}
	svid, err := identity.ParseSVID(chain)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(svid.Leaf(), a); err != nil {
		t.Error(err)
	}
	otherKey, err := authority(t, east).MarshalKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string][2][]byte{
		"other key": {cert, otherKey}, "no key": {cert, nil}, "no cert": {nil, key}, "swapped": {key, cert}, "a leaf": {chain, key},
	} {
		if _, err := Load(in[0], in[1]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSlots(t *testing.T) {
	s, err := NewSlots(east, noon)
	if err != nil {
		t.Fatal(err)
	}
	first := s.Active()
	step := func(name string, next Slots, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		data, err := next.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if s, err = ParseSlots(east, data); err != nil { // every state survives a restart
			t.Fatal(err)
		}
	}
	trusted := func() int {
		t.Helper()
		b, err := s.Bundle()
		if err != nil {
			t.Fatal(err)
		}
		return len(b.Authorities())
	}
	refused := func(name string, _ Slots, err error) {
		t.Helper()
		if !errors.Is(err, ErrRotation) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	next, err := s.Activate(noon)
	refused("activate before prepare", next, err)
	next, err = s.Retire()
	refused("retire before activate", next, err)
	next, err = s.Abort()
	refused("abort before prepare", next, err)

	next, err = s.Prepare(noon)
	step("prepare", next, err)
	if !s.Active().Certificate().Equal(first.Certificate()) || trusted() != 2 {
		t.Error("prepare must keep the signer and trust both")
	}
	next, err = s.Prepare(noon)
	refused("prepare twice", next, err)
	next, err = s.Abort()
	step("abort", next, err)
	if trusted() != 1 {
		t.Error("abort must forget the prepared one")
	}
	next, err = s.Prepare(noon)
	step("prepare again", next, err)
	prepared, _ := s.Slot(Prepared)
	next, err = s.Activate(noon.Add(time.Minute))
	step("activate", next, err)
	if !s.Active().Certificate().Equal(prepared.Authority.Certificate()) || trusted() != 2 {
		t.Error("activate must sign with the prepared one and trust both")
	}
	next, err = s.Prepare(noon)
	refused("prepare while one retires", next, err)
	next, err = s.Retire()
	step("retire", next, err)
	if trusted() != 1 || s.Active().Certificate().Equal(first.Certificate()) {
		t.Error("retire must forget the old one")
	}
	data, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"other domain": "", "empty": "[]", "garbage": "x", "none active": strings.Replace(string(data), `"active"`, `"retiring"`, 1),
	} {
		td := east
		if name == "other domain" {
			td, bad = west, string(data)
		}
		if _, err := ParseSlots(td, []byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSealer(t *testing.T) {
	seal := func(key byte) *Sealer {
		s, err := NewSealer(bytes.Repeat([]byte{key}, SealKeySize))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := seal(1)
	plain := []byte("a private key")
	a, b := s.Seal(plain, "here"), s.Seal(plain, "here")
	if bytes.Equal(a, b) || bytes.Contains(a, plain) {
		t.Error("sealing must hide, and differ each time")
	}
	if got, err := s.Open(a, "here"); err != nil || !bytes.Equal(got, plain) {
		t.Error(got, err)
	}
	for i := range a {
		damaged := bytes.Clone(a)
		damaged[i] ^= 0x10
		if _, err := s.Open(damaged, "here"); !errors.Is(err, ErrSealed) {
			t.Fatalf("byte %d damaged: %v", i, err)
		}
		if _, err := s.Open(a[:i], "here"); !errors.Is(err, ErrSealed) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if _, err := s.Open(a, "there"); !errors.Is(err, ErrSealed) {
		t.Error("opened in another place:", err)
	}
	if _, err := seal(2).Open(a, "here"); !errors.Is(err, ErrSealed) {
		t.Error("opened with another key:", err)
	}
	if _, err := NewSealer([]byte("short")); err == nil {
		t.Error("a short key is accepted")
	}
}

func TestLoadOrCreateKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	keys := make([][]byte, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			key, err := LoadOrCreateKey(path)
			if err != nil {
				t.Error(err)
			}
			keys[i] = key
		})
	}
	wg.Wait()
	for _, k := range keys {
		if len(k) != SealKeySize || !slices.Equal(k, keys[0]) {
			t.Fatalf("keys differ: %x %x", k, keys[0])
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Error("files left behind:", entries, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(path); err == nil || !strings.Contains(err.Error(), "0644") {
		t.Error("a key that others may read is accepted:", err)
	}
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(bad); err == nil {
		t.Error("a damaged key is accepted, or replaced")
	}
}
