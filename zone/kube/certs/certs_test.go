package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
	k8stesting "k8s.io/client-go/testing"
)

const year = 365 * 24 * time.Hour

func start() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// trusts says whether clients that were given a bundle accept a certificate.
func trusts(t *testing.T, bundle []byte, leaf *x509.Certificate, now time.Time) error {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		t.Fatalf("no authority in %q", bundle)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, DNSName: "zone.test"})
	return err
}

// Twenty-five years, a look each month: every certificate is trusted by whoever
// was given the authorities in the two and a half years before it.
func TestLife(t *testing.T) {
	var s state
	const month = 30 * 24 * time.Hour
	var given [][]byte // month by month
	authorities := map[string]bool{}
	for now := start(); now.Before(start().Add(25 * year)); now = now.Add(month) {
		next, changed, err := renewed(s, "Tombolo", []string{"zone.test"}, now)
		if err != nil {
			t.Fatal(err)
		}
		if again, twice, _ := renewed(next, "Tombolo", []string{"zone.test"}, now); twice || !bytes.Equal(again.bundle(), next.bundle()) {
			t.Fatalf("%s: renewed twice", now)
		}
		read, err := parse(next.data())
		if err != nil || !sameData(read.data(), next.data()) {
			t.Fatalf("%s: what was written is not read: %v", now, err)
		}
		if changed {
			s = read
		}
		given = append(given, s.bundle())
		authorities[string(s.ca.CertPEM)] = true
		if err := trusts(t, given[max(0, len(given)-30)], s.leaf.Cert, now); err != nil {
			t.Fatalf("%s: a client that was given the authorities 29 months ago: %v", now, err)
		}
		if n := bytes.Count(s.bundle(), []byte("BEGIN")); n > 3 {
			t.Fatalf("%s: %d authorities", now, n)
		}
	}
	if len(authorities) != 5 {
		t.Errorf("%d authorities signed in 25 years, want 5", len(authorities))
	}
}

func TestNames(t *testing.T) {
	first, _, err := renewed(state{}, "Tombolo", []string{"a"}, start())
	if err != nil {
		t.Fatal(err)
	}
	both, changed, err := renewed(first, "Tombolo", []string{"b"}, start())
	if err != nil || !changed || !slices.Equal(both.leaf.Names(), []string{"a", "b"}) {
		t.Fatalf("names %v, %v: an older instance that wants a would write again", both.leaf.Names(), err)
	}
	if _, changed, _ := renewed(both, "Tombolo", []string{"a"}, start()); changed {
		t.Error("two releases write against each other")
	}
	later, _, err := renewed(both, "Tombolo", []string{"b"}, start().Add(60*24*time.Hour))
	if err != nil || !slices.Equal(later.leaf.Names(), []string{"b"}) {
		t.Errorf("names %v, %v after the next renewal", later.leaf.Names(), err)
	}
}

func newClient() *fake.FakeDynamicClient {
	scheme := runtime.NewScheme()
	_ = corev1.AddToScheme(scheme) // of a fresh scheme
	return fake.NewSimpleDynamicClientWithCustomListKinds(scheme, map[schema.GroupVersionResource]string{secrets(): "SecretList"})
}

func secrets() schema.GroupVersionResource { return corev1.SchemeGroupVersion.WithResource("secrets") }

func newCerts(t *testing.T, client *fake.FakeDynamicClient) *Certs {
	t.Helper()
	c, err := New(Config{Client: client, Names: []string{"zone.test"}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func load(t *testing.T, c *Certs) {
	t.Helper()
	if err := c.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func served(t *testing.T, c *Certs) *x509.Certificate {
	t.Helper()
	cert, err := c.TLS().GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf
}

func TestInstancesShare(t *testing.T) {
	client := newClient()
	a, b := newCerts(t, client), newCerts(t, client)
	load(t, a)
	load(t, b)
	if !served(t, a).Equal(served(t, b)) || !bytes.Equal(a.CAPEM(), b.CAPEM()) {
		t.Error("two instances serve different certificates")
	}
	if err := trusts(t, b.CAPEM(), served(t, a), time.Now()); err != nil {
		t.Error(err)
	}
}

// Two instances start at once: the one that loses the race takes what the other wrote.
func TestRace(t *testing.T) {
	client := newClient()
	a, b := newCerts(t, client), newCerts(t, client)
	load(t, b)
	raced := false
	client.PrependReactor("get", "secrets", func(k8stesting.Action) (bool, runtime.Object, error) {
		if raced {
			return false, nil, nil
		}
		raced = true // as it was before b wrote
		return true, nil, apierrors.NewNotFound(secrets().GroupResource(), "x")
	})
	load(t, a)
	if !raced || !served(t, a).Equal(served(t, b)) {
		t.Error("the loser of the race serves what nobody else does")
	}
}

func TestConflict(t *testing.T) {
	client := newClient()
	a := newCerts(t, client)
	load(t, a)
	a.cfg.Now = func() time.Time { return time.Now().Add(60 * 24 * time.Hour) }
	conflicts := 0
	client.PrependReactor("update", "secrets", func(k8stesting.Action) (bool, runtime.Object, error) {
		if conflicts++; conflicts < 3 {
			return true, nil, apierrors.NewConflict(secrets().GroupResource(), "x", nil)
		}
		return false, nil, nil
	})
	old := served(t, a)
	load(t, a)
	if conflicts != 3 || served(t, a).Equal(old) {
		t.Errorf("%d attempts; a certificate at its half life is renewed", conflicts)
	}
}

// Somebody deletes the Secret, or spoils it: clients must not notice.
func TestHeals(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, client *fake.FakeDynamicClient){
		"deleted": func(t *testing.T, client *fake.FakeDynamicClient) {
			if err := client.Resource(secrets()).Namespace("tombolo-system").Delete(t.Context(), "tombolo-webhook-certs", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		},
		"spoiled": func(t *testing.T, client *fake.FakeDynamicClient) {
			i := client.Resource(secrets()).Namespace("tombolo-system")
			u, err := i.Get(t.Context(), "tombolo-webhook-certs", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			u.Object["data"].(map[string]any)["tls.key"] = "AAAA"
			if _, err := i.Update(t.Context(), u, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := newClient()
			c := newCerts(t, client)
			load(t, c)
			before, leaf := c.CAPEM(), served(t, c)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); _ = c.Run(ctx) }()
			defer func() { cancel(); <-done }()
			watching(t, client)
			harm(t, client)
			deadline := time.After(60 * time.Second)
			for {
				other := newCerts(t, client)
				u, err := client.Resource(secrets()).Namespace("tombolo-system").Get(t.Context(), "tombolo-webhook-certs", metav1.GetOptions{})
				if err == nil && c.is(u) {
					load(t, other)
					if !served(t, other).Equal(leaf) || !bytes.Equal(other.CAPEM(), before) {
						t.Error("another authority: clients that trust the old one are cut off")
					}
					return
				}
				select {
				case <-deadline:
					t.Fatal("the Secret is not written again")
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}
}

// watching returns when somebody watches.
func watching(t *testing.T, client *fake.FakeDynamicClient) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for !slices.ContainsFunc(client.Actions(), func(a k8stesting.Action) bool { return a.GetVerb() == "watch" }) {
		select {
		case <-deadline:
			t.Fatal("nobody watches")
		case <-time.After(time.Millisecond):
		}
	}
}
