package serverca

import (
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
	"math/big"
	"net"
	"slices"
	"time"
)

// Pair is a certificate and its key, of an authority or of a server.
type Pair struct {
	// CertPEM and KeyPEM as they are kept; the key in PKCS #8.
	CertPEM, KeyPEM []byte
	// Cert and Key are the same, parsed.
	Cert *x509.Certificate
	Key  crypto.Signer
}

// NewAuthority makes an authority that lives ten years from now on.
func NewAuthority(commonName string, now time.Time) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("make authority's key: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: commonName + " server CA"},
		NotBefore: now.Add(-skew), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	return sign(tmpl, tmpl, key, key)
}

// Issue makes a server's certificate for 90 days, at most for as long as the
// authority lives. Names are DNS names and IP addresses.
func (p Pair) Issue(commonName string, names []string, now time.Time) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("make server key: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: commonName},
		NotBefore: now.Add(-skew), NotAfter: now.Add(leafLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if tmpl.NotAfter.After(p.Cert.NotAfter) {
		tmpl.NotAfter = p.Cert.NotAfter
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	return sign(tmpl, p.Cert, key, p.Key)
}

// ParsePair reads what CertPEM and KeyPEM hold.
func ParsePair(certPEM, keyPEM []byte) (Pair, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return Pair{}, err
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return Pair{}, errors.New("the key cannot sign")
	}
	return Pair{CertPEM: certPEM, KeyPEM: keyPEM, Cert: pair.Leaf, Key: key}, nil
}

// TLS is the pair as a server presents it.
func (p Pair) TLS() *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{p.Cert.Raw}, PrivateKey: p.Key, Leaf: p.Cert}
}

// Names of a server's certificate, sorted.
func (p Pair) Names() []string {
	have := slices.Clone(p.Cert.DNSNames)
	for _, ip := range p.Cert.IPAddresses {
		have = append(have, ip.String())
	}
	slices.Sort(have)
	return have
}

// Past says whether the share of the certificate's life, 0 to 1, is over, or
// its life has not begun.
func (p Pair) Past(share float64, now time.Time) bool {
	life := p.Cert.NotAfter.Sub(p.Cert.NotBefore)
	return now.Before(p.Cert.NotBefore) || now.After(p.Cert.NotBefore.Add(time.Duration(float64(life)*share)))
}

func sign(tmpl, parent *x509.Certificate, key *ecdsa.PrivateKey, by crypto.Signer) (Pair, error) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), by)
	if err != nil {
		return Pair{}, fmt.Errorf("sign certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Pair{}, fmt.Errorf("parse certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("marshal key: %w", err)
	}
	return Pair{
		CertPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		KeyPEM:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		Cert:    cert, Key: key,
	}, nil
}

func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}
