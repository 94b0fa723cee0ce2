package identity_test

import (
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/identity"
	"github.com/tombolo-mesh/tombolo/identity/ca"
)

func TestParseID(t *testing.T) {
	cases := []struct {
		in string
		ok bool
	}{
		{"spiffe://default.east.mesh.local/workload/web", true},
		{"spiffe://a/b", true},
		{"", false},
		{"spiffe://default.east.mesh.local", false},
		{"spiffe://default.east.mesh.local/", false},
		{"spiffe://default.east.mesh.local/a//b", false},
		{"spiffe://default.east.mesh.local/a/../b", false},
		{"spiffe://Default/a", false},
		{"spiffe://a:80/b", false},
		{"spiffe:///b", false},
		{"https://a/b", false},
		{"spiffe://a/" + strings.Repeat("x", identity.MaxID-len("spiffe://a/")), true},
		{"spiffe://a/" + strings.Repeat("x", identity.MaxID-len("spiffe://a/")+1), false},
		{"spiffe://" + strings.Repeat("a", identity.MaxTrustDomain) + "/x", true},
		{"spiffe://" + strings.Repeat("a", identity.MaxTrustDomain+1) + "/x", false},
	}
	for _, c := range cases {
		got, err := identity.ParseID(c.in)
		if (err == nil) != c.ok || c.ok && got.String() != c.in {
			t.Errorf("%.60q: %v, %v", c.in, got, err)
		}
	}
}

func TestParseTrustDomain(t *testing.T) {
	for in, ok := range map[string]bool{
		"default.east.mesh.local": true, "y": true, "no": true,
		"": false, "spiffe://a": false, "a/b": false, "A": false, "a b": false,
		strings.Repeat("a", 253): true, strings.Repeat("a", 254): false,
	} {
		td, err := identity.ParseTrustDomain(in)
		if (err == nil) != ok || ok && td.Name() != in {
			t.Errorf("%.40q: %v, %v", in, td, err)
		}
	}
	td, _ := identity.ParseTrustDomain("a")
	if _, err := identity.MakeID(td, "workload"); err == nil {
		t.Error("a path without / is accepted")
	}
	if _, err := identity.MakeID(identity.TrustDomain{}, "/x"); err == nil {
		t.Error("an ID without trust domain is accepted")
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("spiffe://default.east.mesh.local/workload/web")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := identity.ParseID(s)
		if err == nil && (id.String() != s || len(s) > identity.MaxID || id.Path() == "") {
			t.Errorf("%q became %q", s, id)
		}
	})
}

func certs(t *testing.T, td identity.TrustDomain, n int) []*x509.Certificate {
	t.Helper()
	out := make([]*x509.Certificate, n)
	for i := range out {
		a, err := ca.New(td, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
		if err != nil {
			t.Fatal(err)
		}
		out[i] = a.Certificate()
	}
	return out
}

func TestBundle(t *testing.T) {
	east, _ := identity.ParseTrustDomain("default.east.mesh.local")
	west, _ := identity.ParseTrustDomain("default.west.mesh.local")
	c := certs(t, east, 2)
	a, err := identity.ParseBundle(east, identity.MarshalCertificates(c[0], c[1], c[0]))
	if err != nil {
		t.Fatal(err)
	}
	b, err := identity.MakeBundle(east, c[1], c[0])
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(a.PEM(), b.PEM()) || len(a.Authorities()) != 2 {
		t.Error("the same authorities in another order must have the same text")
	}
	one, err := identity.MakeBundle(east, c[0])
	if err != nil {
		t.Fatal(err)
	}
	two, err := identity.MakeBundle(east, c[1])
	if err != nil {
		t.Fatal(err)
	}
	other, err := identity.MakeBundle(west, certs(t, west, 1)...)
	if err != nil {
		t.Fatal(err)
	}
	set := identity.Bundles{}
	for _, x := range []identity.Bundle{other, one, two} {
		if err := set.Add(x); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(set[east].PEM(), a.PEM()) || !slices.Equal(set.TrustDomains(), []identity.TrustDomain{east, west}) {
		t.Error("set is", set.TrustDomains())
	}
	if _, err := one.Union(other); err == nil {
		t.Error("bundles of two trust domains must never become one")
	}
	good := string(one.PEM())
	for name, text := range map[string]string{
		"empty": "", "garbage": "x", "private key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"a key behind a certificate": good + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"text behind":                good + "hello", "damaged": strings.Replace(good, "MII", "AAA", 1),
		"too large": strings.Repeat(" ", identity.MaxBundle+1), "too many": strings.Repeat(good, identity.MaxAuthorities+1),
	} {
		if _, err := identity.ParseBundle(east, []byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := identity.MakeBundle(east); err == nil {
		t.Error("an empty bundle is accepted")
	}
}

func TestSVID(t *testing.T) {
	east, _ := identity.ParseTrustDomain("default.east.mesh.local")
	if _, err := identity.ParseSVID(identity.MarshalCertificates(certs(t, east, 1)...)); err == nil {
		t.Error("an authority is accepted as a leaf")
	}
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	if got := identity.HalfLife(start, start.Add(time.Hour)); !got.Equal(start.Add(30 * time.Minute)) {
		t.Error(got)
	}
}
