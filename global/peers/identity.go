package peers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// serverName is what one instance asks another for, so that it is shown the
// certificate for instances and not the one for zones.
const serverName = "instance.global.tombolo.internal"

// identityLife is longer than any process; the record decides whether it counts.
const identityLife = 10 * 365 * 24 * time.Hour

// newIdentity makes a key and a certificate that carries it. Nobody signs it: the
// record in the database has the key's digest.
func newIdentity(id string, now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make the instance's key: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: id}, DNSNames: []string{serverName},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(identityLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make the instance's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make the instance's certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// keyDigest names the key of a certificate.
func keyDigest(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// record is what an instance says of itself in the database.
type record struct {
	// Address that the others dial, host:port.
	Address string `json:"address"`
	// Key is the digest of its key.
	Key string `json:"key"`
	// Version of the software, for people.
	Version string `json:"version"`
}

// recordKey binds a sealed record to its instance.
func recordKey(id string) mesh.Key { return mesh.Key{Kind: "Instance", Name: id} }

func (r record) seal(keys *store.Keyring, id string) ([]byte, error) {
	plain, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode the record of instance %s: %w", id, err)
	}
	return keys.Seal(recordKey(id), plain)
}

// maxRecord bounds a sealed record in bytes.
const maxRecord = 4096

func openRecord(keys *store.Keyring, id string, sealed []byte) (record, error) {
	var r record
	if len(sealed) > maxRecord {
		return r, fmt.Errorf("record of instance %.64q: has more than %d bytes", id, maxRecord)
	}
	plain, err := keys.Open(recordKey(id), sealed)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(plain, &r); err != nil {
		return r, fmt.Errorf("record of instance %s: %w", id, err)
	}
	if err := CheckAddress(r.Address); err != nil {
		return r, fmt.Errorf("record of instance %s: address: %w", id, err)
	}
	if r.Key == "" {
		return r, fmt.Errorf("record of instance %s: key: must not be empty", id)
	}
	return r, nil
}

// CheckAddress reports what is wrong with an address that others are to dial.
func CheckAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	switch ip := net.ParseIP(host); {
	case err != nil:
		return fmt.Errorf("%q must be host:port: %w", address, err)
	case host == "" || port == "" || port == "0":
		return fmt.Errorf("%q must have a host and a port", address)
	case ip != nil && ip.IsUnspecified():
		return fmt.Errorf("%q must have an address that other machines can dial", address)
	}
	return nil
}

// TLS is the configuration of the listener that zones and instances share: who
// asks for an instance is shown this one's certificate and must be an instance.
func (p *Peers) TLS(zones *tls.Config) *tls.Config {
	out := zones.Clone()
	out.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if hello.ServerName != serverName {
			return nil, nil
		}
		return &tls.Config{
			MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{p.identity},
			ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
			VerifyConnection: func(cs tls.ConnectionState) error {
				if len(cs.PeerCertificates) == 0 {
					return errors.New("an instance of global must show its certificate")
				}
				_, err := p.identify(hello.Context(), cs.PeerCertificates[0])
				return err
			},
		}, nil
	}
	return out
}

// dialTLS trusts the one key that the record of an instance has.
func (p *Peers) dialTLS(r record) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: serverName, Certificates: []tls.Certificate{p.identity},
		InsecureSkipVerify: true, // nobody signs the certificate; its key is compared below
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 || keyDigest(cs.PeerCertificates[0]) != r.Key {
				return errors.New("the key is not the one of the instance's record: another process is at its address")
			}
			return nil
		},
	}
}
