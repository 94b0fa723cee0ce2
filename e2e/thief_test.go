package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
	"github.com/tombolo-mesh/tombolo/identity"
	"github.com/tombolo-mesh/tombolo/identity/ca"
)

// authority makes a certificate authority of a trust domain, without asking anyone.
func authority(t *testing.T, domain string) *ca.Authority {
	t.Helper()
	td, err := identity.ParseTrustDomain(domain)
	must(t, err)
	a, err := ca.New(td, time.Now())
	must(t, err)
	return a
}

// forge signs a leaf with an authority's key for any ID at all: the authority of
// one domain signs for another, which ca.Authority refuses to do.
func forge(t *testing.T, signer *ca.Authority, id string) tls.Certificate {
	t.Helper()
	parsed, err := identity.ParseID(id)
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(t, err)
	// A leaf as a genuine one, from an authority of the domain that it claims …
	chain, err := authority(t, parsed.TrustDomain().Name()).Sign(csr, parsed, time.Hour, time.Now())
	must(t, err)
	certs, err := identity.ParseCertificates(chain)
	must(t, err)
	leaf := certs[0]
	// … signed again by the forger.
	text, err := signer.MarshalKey()
	must(t, err)
	block, _ := pem.Decode(text)
	signerKey, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(t, err)
	leaf.AuthorityKeyId = signer.Certificate().SubjectKeyId
	der, err := x509.CreateCertificate(rand.Reader, leaf, signer.Certificate(), key.Public(), signerKey)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der, signer.Certificate().Raw}, PrivateKey: key}
}

// stolen is the certificate and key of a running sidecar, read as its Envoy does.
func (f *fleet) stolen(name string) tls.Certificate {
	f.t.Helper()
	conn, err := grpc.NewClient("unix:"+filepath.Join(f.runs, name, "sds.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(f.t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(f.t.Context(), 60*time.Second)
	defer cancel()
	stream, err := secretv3.NewSecretDiscoveryServiceClient(conn).DeltaSecrets(ctx)
	must(f.t, err)
	must(f.t, stream.Send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", ResourceNamesSubscribe: []string{"identity"}}))
	answer, err := stream.Recv()
	must(f.t, err)
	var secret tlsv3.Secret
	if len(answer.Resources) != 1 {
		f.t.Fatalf("the agent of %s serves %d secrets", name, len(answer.Resources))
	}
	must(f.t, answer.Resources[0].Resource.UnmarshalTo(&secret))
	pair := secret.GetTlsCertificate()
	cert, err := tls.X509KeyPair(pair.GetCertificateChain().GetInlineBytes(), pair.GetPrivateKey().GetInlineBytes())
	must(f.t, err)
	return cert
}

// knock calls an inbound as a client with a certificate would, without a sidecar.
func knock(from *lab.Host, address, sni string, cert tls.Certificate) (s lab.Sample) {
	s.Sent = time.Now()
	defer func() { s.Took = time.Since(s.Sent) }()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	raw, err := from.Dial(ctx, "tcp", address)
	if err != nil {
		s.Err = err
		return s
	}
	defer raw.Close()
	deadline, _ := ctx.Deadline()
	s.Err = raw.SetDeadline(deadline)
	// The thief does not care who answers.
	conn := tls.Client(raw, &tls.Config{Certificates: []tls.Certificate{cert}, ServerName: sni, InsecureSkipVerify: true})
	if err := conn.HandshakeContext(ctx); err != nil {
		s.Err = err
		return s
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: backend\r\nConnection: close\r\n\r\n"); err != nil {
		s.Err = err
		return s
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.Err = err
		return s
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1024))
	s.Status, s.Body, s.Err = resp.StatusCode, string(body), err
	return s
}
