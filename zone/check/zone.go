package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/identity/token"
)

const (
	callTimeout = 5 * time.Second
	// soon is how long before its end a token is worth a warning.
	soon = 14 * 24 * time.Hour
	// skew of two clocks that certificates and tokens bear.
	skew      = 30 * time.Second
	maxAnswer = 64 << 10
)

// Token looks at a zone's token, without the keys that verify it.
func Token(raw, zone string, now time.Time) Result {
	const name, another = "token", "make another at global: tombolo token create zone --zone NAME"
	raw = strings.TrimSpace(raw)
	if raw == "" {
		return Skipped(name, "no token is given")
	}
	claims, err := token.Unverified(raw)
	switch {
	case err != nil:
		return Bad(Fail, name, another, "this is no token")
	case claims.Use != token.Zone:
		return Bad(Fail, name, another, "the token is for a %s, not for a zone", claims.Use)
	case zone != "" && claims.Zone != zone:
		return Bad(Fail, name, another, "the token is for zone %q, not %q", claims.Zone, zone)
	case !now.Before(claims.Expires):
		return Bad(Fail, name, another, "the token expired at %s", claims.Expires.UTC().Format(time.RFC3339))
	case now.Before(claims.Issued.Add(-time.Minute)):
		return Bad(Fail, name, "set this machine's clock", "the token was issued in the future, at %s", claims.Issued.UTC().Format(time.RFC3339))
	case claims.Expires.Sub(now) < soon:
		return Bad(Warn, name, another+", and replace the Secret or file; nothing restarts", "the token expires at %s", claims.Expires.UTC().Format(time.RFC3339))
	}
	return Good(name, "for zone %s until %s", claims.Zone, claims.Expires.UTC().Format(time.DateOnly))
}

// Global looks whether the address where zones connect to global can be reached
// from here, by name, port and certificate. Authorities are PEM; empty means the
// system's.
func Global(ctx context.Context, address, authorities string, now time.Time) []Result {
	const name, port, certificate = "global-name", "global-port", "global-certificate"
	if address == "" {
		return []Result{Skipped(name, "no address of global is given: the zone works alone")}
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return []Result{Bad(Fail, name, "give host:port, as global.example.com:5685", "%q: %v", address, err)}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ips, err := (&net.Resolver{}).LookupHost(ctx, host)
	if err != nil {
		return []Result{Bad(Fail, name, "make the name known to the DNS of this machine and of the cluster", "%s cannot be resolved: %v", host, err)}
	}
	out := []Result{Good(name, "%s is %s", host, strings.Join(ips, ", "))}
	pool, err := roots(authorities)
	if err != nil {
		return append(out, Bad(Fail, certificate, "give ca.pem of global's data directory", "authorities of global: %v", err))
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return append(out, Bad(Fail, port, "open the port for zones (5685) of global for this network, and look whether global runs", "%s does not answer: %v", address, err))
	}
	defer raw.Close()
	out = append(out, Good(port, "%s answers", address))
	// Verified below, so that a clock that is wrong can be told from a wrong authority.
	conn := tls.Client(raw, &tls.Config{ServerName: host, NextProtos: []string{"h2"}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	if err := conn.HandshakeContext(ctx); err != nil {
		return append(out, Bad(Fail, certificate, "is this the port for zones, and nothing in between that ends TLS?", "no TLS at %s: %v", address, err))
	}
	return append(out, judge(certificate, conn.ConnectionState().PeerCertificates, pool, host, now))
}

func judge(name string, chain []*x509.Certificate, pool *x509.CertPool, host string, now time.Time) Result {
	if len(chain) == 0 {
		return Bad(Fail, name, "is this the right port?", "the server shows no certificate")
	}
	leaf, between := chain[0], x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return Bad(Fail, name, "set the clock of this machine, or of the other", "the certificate is valid from %s to %s, and here it is %s",
			leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, DNSName: host, CurrentTime: now})
	var wrongName x509.HostnameError
	switch {
	case errors.As(err, &wrongName):
		return Bad(Fail, name, "start the server with --name "+host+", or call it by a name that it has", "%v", err)
	case err != nil:
		return Bad(Fail, name, "give the authorities of this server: ca.pem of global's data directory", "%v", err)
	}
	return Good(name, "valid for %s until %s", host, leaf.NotAfter.UTC().Format(time.DateOnly))
}

// TLS looks whether a server answers at an address, with a certificate of the
// given authorities (PEM) for a name.
func TLS(ctx context.Context, name, address, serverName, authorities string, now time.Time) Result {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pool, err := roots(authorities)
	if err != nil {
		return Bad(Fail, name, "is the file the zone's ca.crt?", "authorities: %v", err)
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return Bad(Fail, name, "look whether the zone runs, and whether a network policy is in the way", "%s does not answer: %v", address, err)
	}
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{ServerName: serverName, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	if err := conn.HandshakeContext(ctx); err != nil {
		return Bad(Fail, name, "is this the right port?", "no TLS at %s: %v", address, err)
	}
	return judge(name, conn.ConnectionState().PeerCertificates, pool, serverName, now)
}

// Ready asks a zone control plane's /readyz, for example "http://127.0.0.1:5680".
func Ready(ctx context.Context, base string) Result {
	const name = "zone-ready"
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/readyz", nil)
	if err != nil {
		return Bad(Fail, name, "give http://host:port", "%v", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return Bad(Fail, name, "look whether the zone runs, and at its --metrics-address", "%v", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return Bad(Fail, name, "try again", "%v", err)
	}
	return ReadAnswer(name, "the zone", response.StatusCode == http.StatusOK, string(text))
}

// ReadAnswer judges what an instance of a zone answered to GET /readyz.
func ReadAnswer(name, who string, ready bool, text string) Result {
	said := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			said[key] = value
		}
	}
	switch {
	case !ready:
		return Bad(Fail, name, "see its log", "%s does not serve yet: %s", who, strings.TrimSpace(text))
	case said["global"] == "down":
		return Bad(Fail, name, "see its log; `tombolo check --global HOST:PORT` looks at the way", "%s serves, and is not connected to global: it works on with what it has (revision %s)", who, said["revision"])
	case said["global"] == "up":
		return Good(name, "%s serves, connected to global, at revision %s", who, said["revision"])
	}
	return Good(name, "%s serves", who)
}

// Clock compares this machine's clock with another's.
func Clock(name, whose string, there, here time.Time) Result {
	if d := here.Sub(there).Abs(); d > skew {
		return Bad(Warn, name, "let NTP set both", "the clock of %s and this machine's differ by %s: tokens and certificates may be refused", whose, d.Round(time.Second))
	}
	return Good(name, "agrees with %s", whose)
}

func roots(authorities string) (*x509.CertPool, error) {
	if strings.TrimSpace(authorities) == "" {
		return x509.SystemCertPool()
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(authorities)) {
		return nil, fmt.Errorf("no certificate in PEM")
	}
	return pool, nil
}
