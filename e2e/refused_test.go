package e2e

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
	"github.com/tombolo-mesh/tombolo/identity"
	"github.com/tombolo-mesh/tombolo/identity/ca"
)

// leeway is for how long clocks may differ where expiry is judged.
const leeway = time.Minute

// TestRefused is (f): tokens that are stolen, expired or of another zone,
// certificates that are forged, and plain text. While they are refused, what is
// allowed passes.
func TestRefused(t *testing.T) {
	t.Parallel() // it waits most of the time
	f := served(t)
	check := f.plainText()
	from := time.Now()
	traffic := f.zones["east"].web.Send(remote, 20)
	f.cli("type: Mesh\nname: other\n", "apply", "-f", "-", "--wait=60s")

	// First, since it takes a minute to expire.
	f.token("short", "dataplane", "--mesh", "default", "--workload", "web", "--valid-for", "1s")
	expired := time.Now().Add(time.Second + leeway)
	f.stolenTokens()
	f.foreignZone()
	f.impostor(f.certificates())
	f.eventually(2*leeway, "the short token expires", func() bool { return time.Now().After(expired.Add(time.Second)) })
	f.refusedAgent("expired", "default", "web", "token-short", "token has expired")

	traffic.Stop()
	good, bad := traffic.Count(from, time.Now(), fromZone("west"))
	f.report("east to west throughout", good, bad, 0)
	check()
}

// callerDataplane is a sidecar that only calls.
func callerDataplane(mesh, name, workload, ip string) string {
	return fmt.Sprintf(`type: Dataplane
mesh: %s
name: %s
labels: {kuma.io/workload: %s}
networking:
  address: %s
  inbound: [{name: http, port: 8080, servicePort: 18080, protocol: http}]
`, mesh, name, workload, ip)
}

// refusedAgent starts an agent that must be refused for a reason, and must not
// start an Envoy.
func (f *fleet) refusedAgent(name, mesh, workload, token, reason string) {
	f.t.Helper()
	z := f.zones["west"]
	p := f.startAgentWith("sidecar", z, z.stranger, name, f.path(token), callerDataplane(mesh, name, workload, z.stranger.IP))
	defer p.Kill()
	f.eventually(60*time.Second, name+" is refused: "+reason, func() bool { return strings.Contains(tail(p.Log), reason) })
	if log := tail(p.Log); strings.Contains(log, "registered") || strings.Contains(log, "envoy started") {
		f.t.Errorf("%s was let in; its log:\n%s", name, log)
	}
}

// stolenTokens uses a token of the workload web for other things, and after it
// was revoked.
func (f *fleet) stolenTokens() {
	f.t.Helper()
	f.token("stolen", "dataplane", "--mesh", "default", "--workload", "web")
	f.refusedAgent("as-backend", "default", "backend", "token-stolen", `token is for workload`)
	f.refusedAgent("other-mesh", "other", "web", "token-stolen", `token is for mesh`)
	f.refusedAgent("as-nobody", "default", "web", "token-east", "token is for another use")

	// It is good for what it is for, until it is revoked.
	z := f.zones["west"]
	p := f.startAgentWith("sidecar", z, z.stranger, "thief", f.path("token-stolen"), callerDataplane("default", "thief", "web", z.stranger.IP))
	f.eventually(60*time.Second, "the token works before it is revoked", func() bool { return strings.Contains(tail(p.Log), "msg=certificate") })
	token, err := os.ReadFile(f.path("token-stolen"))
	must(f.t, err)
	f.cli(string(token), "token", "revoke", "-")
	revoked := time.Now()
	f.eventually(60*time.Second, "the proxy of a revoked token is put out", func() bool { return strings.Contains(tail(p.Log), "token is revoked") })
	f.t.Logf("the proxy of a revoked token is out after %s", since(revoked))
	p.Kill()
	f.refusedAgent("revoked", "default", "web", "token-stolen", "token is revoked")
}

// foreignZone uses east's token to be west.
func (f *fleet) foreignZone() {
	f.t.Helper()
	east := f.zones["east"]
	p, err := east.cp.Start(f.dir, "zone-thief", nil, f.bin, "zone", "--name", "west", "--data-dir", f.path("zone-thief"),
		"--global", f.hub.IP+":"+syncPort, "--global-ca", f.path("global", "ca.pem"), "--token-file", f.path("token-east"),
		"--listen", east.cp.IP+":6678", "--metrics-address", "")
	must(f.t, err)
	defer p.Kill()
	f.eventually(60*time.Second, "a zone with another zone's token is refused", func() bool {
		return strings.Contains(tail(p.Log), "PermissionDenied")
	})
	if log := tail(p.Log); strings.Contains(log, "snapshot applied") {
		f.t.Errorf("a zone with another zone's token got resources; its log:\n%s", log)
	}
	if out := f.cli("", "get", "zones"); strings.Count(out, "online") != 2 {
		f.t.Errorf("both zones must be online; global says\n%s", out)
	}
}

// certificates calls west's server with certificates of all sorts, beside it and
// through west's ingress.
func (f *fleet) certificates() (trusted *ca.Authority) {
	f.t.Helper()
	const (
		eastWeb = "spiffe://default.east.mesh.local/workload/web"
		partner = "spiffe://partner.example/workload/web"
		sni     = "8080.backend.west.default.mesh"
	)
	east, west := f.zones["east"], f.zones["west"]
	// The authority of a trust domain that the mesh really trusts, in our hands.
	trusted = authority(f.t, "partner.example")
	pemText := strings.ReplaceAll(strings.TrimSpace(string(identity.MarshalCertificates(trusted.Certificate()))), "\n", "\n          ")
	f.apply(fmt.Sprintf(`type: MeshTrust
mesh: default
name: partner
spec:
  trustDomain: partner.example
  caBundles:
    - type: Pem
      pem:
        value: |
          %s
`, pemText), `type: MeshTrafficPermission
mesh: default
name: allow-partner
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: backend}}
  rules:
    - default:
        allow: [{spiffeID: {type: Exact, value: spiffe://partner.example/workload/web}}]
`)
	refused := func(s lab.Sample) bool { return s.Err != nil }
	for _, c := range []struct {
		what string
		cert tls.Certificate
		want func(lab.Sample) bool
	}{
		{"a trusted authority signs for its own domain", forge(f.t, trusted, partner), lab.Status(http.StatusOK)},
		{"a trusted authority signs for east's domain", forge(f.t, trusted, eastWeb), refused},
		{"an unknown authority of east's domain signs for it", forge(f.t, authority(f.t, "default.east.mesh.local"), eastWeb), refused},
		{"an unknown authority of the partner's domain signs for it", forge(f.t, authority(f.t, "partner.example"), partner), refused},
		{"no certificate", tls.Certificate{}, refused},
		{"the stolen certificate of east's web is east's web", f.stolen("web-east"), lab.Status(http.StatusOK)},
		{"the stolen certificate of east's backend is not east's web", f.stolen(backendName(east, 0)), lab.Status(http.StatusForbidden)},
		{"the stolen certificate of west's web is not east's web", f.stolen("web-west"), lab.Status(http.StatusForbidden)},
		{"the stolen certificate of east's ingress is not east's web", f.stolen("ingress-east"), lab.Status(http.StatusForbidden)},
	} {
		for way, s := range map[string]lab.Sample{
			"beside the server":   knock(west.stranger, west.backends[0].IP+":8080", sni, c.cert),
			"through the ingress": knock(east.stranger, west.ingress.IP+":10001", sni, c.cert),
		} {
			if !c.want(s) {
				f.t.Errorf("%s, %s: status %d, %v", c.what, way, s.Status, s.Err)
			}
		}
	}
	f.t.Log("forged certificates are refused, genuine ones are what they say and no more")
	return trusted
}

// impostor puts a server before west's ingress: it has a certificate for west's
// backend from an authority that the mesh trusts, but for another domain. Callers
// in east must not take it; one with the genuine certificate of west's backend
// they do take. Connections that were there before are not led astray.
func (f *fleet) impostor(trusted *ca.Authority) {
	f.t.Helper()
	const callers = 3
	east, west := f.zones["east"], f.zones["west"]
	f.answers(east.web, remoteTCP, http.StatusOK)
	for what, c := range map[string]struct {
		cert  tls.Certificate
		taken bool
	}{
		"forged":  {forge(f.t, trusted, "spiffe://default.west.mesh.local/workload/backend"), false},
		"genuine": {f.stolen(backendName(west, 0)), true},
	} {
		l, err := west.ingress.Listen(west.ingress.IP + ":10009")
		must(f.t, err)
		came := make(chan error, 1000)
		go impersonate(l, c.cert, came)
		f.nft(west.ingress, "table ip thief { chain pre { type nat hook prerouting priority -100; tcp dport 10001 tcp flags & (syn | ack) == syn redirect to :10009; }; }")
		// Between tries the caller's sidecar keeps away from what failed.
		f.eventually(60*time.Second, "callers come to the impostor", func() bool {
			client := east.web.Client(5 * time.Second)
			defer client.CloseIdleConnections()
			if s := lab.Get(client, remoteTCP); s.Status != 0 {
				f.t.Errorf("%s: status %d, but an impostor answers nothing", what, s.Status)
			}
			return len(came) >= callers
		})
		f.nft(west.ingress, "delete table ip thief")
		must(f.t, l.Close())
		for n := len(came); n > 0; n-- {
			if err := <-came; (err == nil) != c.taken {
				f.t.Errorf("a server with a %s certificate: %v", what, err)
			}
		}
	}
	f.answers(east.web, remoteTCP, http.StatusOK)
	f.t.Log("a server with a forged certificate in the way to west's ingress is refused by callers")
}

func (f *fleet) nft(h *lab.Host, rules string) {
	f.t.Helper()
	_, err := h.Run(nil, rules, "nft", "-f", "-")
	must(f.t, err)
}

// impersonate serves TLS and says of each caller why it went, or nil when it
// began to speak.
func impersonate(l net.Listener, cert tls.Certificate, ended chan<- error) {
	for {
		raw, err := l.Accept()
		if err != nil {
			return
		}
		conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2"}})
		err = conn.SetDeadline(time.Now().Add(30 * time.Second))
		if err == nil {
			err = conn.Handshake()
		}
		if err == nil { // in TLS 1.3 the caller's refusal may come after it
			_, err = conn.Read(make([]byte, 1))
		}
		conn.Close()
		select {
		case ended <- err:
		default: // a test reads a few
		}
	}
}
