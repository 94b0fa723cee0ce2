package agent

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/identity"
	"github.com/tombolo-mesh/tombolo/identity/ca"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

// signer answers certificate requests as a zone does.
type signer struct {
	t         *testing.T
	authority *ca.Authority
	ttl       time.Duration
}

func newSigner(t *testing.T, ttl time.Duration) *signer {
	t.Helper()
	td, err := identity.ParseTrustDomain("default.east.mesh.local")
	if err != nil {
		t.Fatal(err)
	}
	a, err := ca.New(td, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &signer{t: t, authority: a, ttl: ttl}
}

func (s *signer) sign(r *agentv1.SignRequest) *agentv1.Signed {
	s.t.Helper()
	id, err := identity.ParseID(spiffeID)
	if err != nil {
		s.t.Fatal(err)
	}
	now := time.Now()
	chain, err := s.authority.Sign(r.Csr, id, s.ttl, now)
	if err != nil {
		s.t.Fatal(err)
	}
	return &agentv1.Signed{Id: r.Id, Chain: chain, SpiffeId: spiffeID, NotAfter: timestamppb.New(now.Add(s.ttl)), RenewAt: timestamppb.New(now.Add(s.ttl / 2))}
}

func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSigner(t, time.Hour)
		keys := map[string]bool{}
		published := 0
		r := newRenewer(slog.New(slog.DiscardHandler), func(chain, key []byte) error {
			published++
			keys[string(key)] = true
			svid, err := identity.ParseSVID(chain)
			if err != nil {
				return err
			}
			block, _ := pem.Decode(key)
			private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil || !svid.For(private.(crypto.Signer).Public()) {
				t.Errorf("key and certificate differ: %v", err)
			}
			return nil
		})
		ask := func(low, high time.Duration) *agentv1.SignRequest {
			t.Helper()
			begin := time.Now()
			<-r.timer.C
			if took := time.Since(begin); took < low || took > high {
				t.Fatalf("asked after %s, not between %s and %s", took, low, high)
			}
			request, err := r.request()
			if err != nil {
				t.Fatal(err)
			}
			return request
		}
		r.connected()
		r.signed(s.sign(ask(0, 0)))
		for range 10 { // half life, less up to a tenth
			r.signed(s.sign(ask(27*time.Minute, 30*time.Minute)))
		}
		if published != 11 || len(keys) != 11 {
			t.Errorf("%d certificates with %d keys", published, len(keys))
		}

		// A connection that comes back in between changes nothing.
		<-time.After(10 * time.Minute) // virtual
		r.disconnected()
		<-time.After(5 * time.Minute) // virtual
		r.connected()
		old := ask(12*time.Minute, 15*time.Minute)
		// No answer: asked again; the late answer to the first does not count.
		next := ask(signTimeout, signTimeout)
		r.signed(s.sign(old))
		if published != 11 {
			t.Error("the answer to an old request was taken")
		}
		// Refused: again and again, more slowly, and in time before the end.
		r.signed(&agentv1.Signed{Id: next.Id, Error: "no MeshIdentity selects the proxy"})
		wait := firstRetry
		for range 10 {
			again := ask(wait-wait/10, wait)
			r.signed(&agentv1.Signed{Id: again.Id, Error: "no MeshIdentity selects the proxy"})
			wait = min(2*wait, lastRetry)
		}
		r.resign() // the zone knows better
		r.signed(s.sign(ask(0, 0)))
		if published != 12 {
			t.Errorf("%d certificates", published)
		}
		// A connection that was away over half of the life asks at once.
		r.disconnected()
		<-time.After(40 * time.Minute) // virtual
		r.connected()
		ask(0, 0)
	})
}

func TestRenewalRefusesAnotherKey(t *testing.T) {
	s := newSigner(t, time.Hour)
	r := newRenewer(slog.New(slog.DiscardHandler), func([]byte, []byte) error { t.Error("published"); return nil })
	first, err := r.request()
	if err != nil {
		t.Fatal(err)
	}
	second, err := r.request()
	if err != nil {
		t.Fatal(err)
	}
	answer := s.sign(first)
	answer.Id = second.Id
	r.signed(answer)
	r.signed(&agentv1.Signed{Id: second.Id, Chain: []byte("garbage")})
}

func TestShortLives(t *testing.T) {
	now := time.Now()
	for _, c := range []struct{ half, low, high time.Duration }{
		{5 * time.Second, 4500 * time.Millisecond, 5 * time.Second},
		{time.Millisecond, time.Second, time.Second},
		{-time.Hour, time.Second, time.Second},
	} {
		// However the clocks differ, the length counts.
		for _, skew := range []time.Duration{0, time.Hour, -time.Hour} {
			at := now.Add(skew)
			if got := renewal(at, at.Add(c.half)); got < c.low || got > c.high {
				t.Errorf("half life %s, skew %s: renews after %s", c.half, skew, got)
			}
		}
	}
}

func TestParseActivity(t *testing.T) {
	got, err := parseActivity(strings.NewReader(`http.admin.downstream_rq_active: 1
http.admin.downstream_cx_active: 1
http.in.downstream_cx_active: 2
http.in.downstream_rq_active: 3
listener.127.0.0.1_80.downstream_cx_active: 2
listener.127.0.0.1_80.worker_0.downstream_cx_active: 2
listener.127.0.0.1_81.downstream_cx_active: 4
listener.admin.downstream_cx_active: 1
tcp.x.downstream_cx_active: 9
garbage
http.in.downstream_rq_active: x
`))
	if err != nil || got != (activity{connections: 6, requests: 3}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestConfig(t *testing.T) {
	good := Config{Dataplane: "dp.yaml", TokenFile: "token", ZoneAddress: "zone:5678", ZoneCA: "ca.crt"}
	got, err := good.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if got.ZoneServerName != "zone" || got.DrainTime != 5*time.Second || got.Concurrency < 1 || got.Concurrency > 2 {
		t.Errorf("defaults: %+v", got)
	}
	for name, change := range map[string]func(*Config){
		"dataplane":    func(c *Config) { c.Dataplane = "" },
		"token file":   func(c *Config) { c.TokenFile = "" },
		"zone CA":      func(c *Config) { c.ZoneCA = "" },
		"zone address": func(c *Config) { c.ZoneAddress = "zone" },
		"port of 1 to": func(c *Config) { c.ZoneAddress = "zone:0" },
		"host:port":    func(c *Config) { c.ZoneAddress = ":5678" },
		"drain time":   func(c *Config) { c.DrainTime = time.Millisecond },
		"stop timeout": func(c *Config) { c.StopTimeout = -1 },
		"concurrency":  func(c *Config) { c.Concurrency = 1000 },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReadManifest(t *testing.T) {
	sidecar, gateway := "networking: {address: 127.0.0.1}", "networking: {listeners: [{type: ZoneIngress, port: 1}]}"
	for _, c := range []struct {
		name, text string
		gateway    bool
		want       string
	}{
		{"sidecar", sidecar, false, ""},
		{"gateway", gateway, true, ""},
		{"gateway, Kubernetes form", "spec: {" + gateway + "}", true, ""},
		{"sidecar as gateway", sidecar, true, "no networking.listeners"},
		{"gateway as sidecar", gateway, false, "has networking.listeners"},
		{"no YAML", "{", false, "yaml"},
		{"too large", strings.Repeat("#", maxManifest+1), false, "at most"},
	} {
		path := filepath.Join(t.TempDir(), "dp.yaml")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := readManifest(Config{Dataplane: path, Gateway: c.gateway})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestNeedsIPv6(t *testing.T) {
	for text, want := range map[string]bool{
		"{}":                      false,
		"transparentProxying: {}": true,
		"transparentProxying: {ipFamilyMode: DualStack}": true,
		"transparentProxying: {ipFamilyMode: IPv4}":      false,
	} {
		var n networking
		if err := yaml.Unmarshal([]byte(text), &n); err != nil || n.needsIPv6() != want {
			t.Errorf("%s: %t, %v", text, n.needsIPv6(), err)
		}
	}
}

func TestEnvoyExit(t *testing.T) {
	if got := (&EnvoyExit{Code: 3}).Error(); got != "envoy exited with code 3" {
		t.Error(got)
	}
	var exit *EnvoyExit
	if err := fmt.Errorf("run: %w", &EnvoyExit{Code: 3}); !errors.As(err, &exit) {
		t.Error("not to be told apart")
	}
	if _, err := envoyVersion(t.Context(), "/bin/true"); err == nil {
		t.Error("/bin/true passes for Envoy")
	}
	if _, err := envoyVersion(t.Context(), "no-such-envoy"); err == nil || !strings.Contains(err.Error(), "--envoy") {
		t.Error(err)
	}
}

func TestProbesThatCannotBe(t *testing.T) {
	p := newProber(slog.New(slog.DiscardHandler))
	fresh := p.replace([]*agentv1.Probe{{Inbound: "a", Address: "example.com", Port: 80}, {Inbound: "b", Address: "127.0.0.1", Port: 70000}})
	for _, x := range fresh {
		p.watch(t.Context(), x) // returns: nothing to watch
	}
	if got := p.notReady(); len(got) != 2 {
		t.Errorf("not ready: %v", got)
	}
}
