package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/tombolo-mesh/tombolo/identity"
)

// Bounds and lives.
const (
	// AuthorityLife is how long a new authority is valid.
	AuthorityLife = 10 * 365 * 24 * time.Hour
	// Backdate is by how much certificates are valid before they are issued, for
	// clocks that differ.
	Backdate = time.Minute
	// MinTTL and MaxTTL bound the life of a leaf.
	MinTTL = 10 * time.Second
	// MaxTTL is one year.
	MaxTTL = 8760 * time.Hour
	// MaxCSR is the largest request in bytes.
	MaxCSR = 16 << 10
)

// Why a request is refused.
var (
	// ErrBadRequest is a request that is malformed, whose signature does not prove
	// the key, or whose key is not allowed.
	ErrBadRequest = errors.New("bad certificate request")
	// ErrForeignDomain is a SPIFFE ID outside of the authority's trust domain.
	ErrForeignDomain = errors.New("spiffe ID is of another trust domain")
	// ErrAuthorityExpired is an authority that is not valid now.
	ErrAuthorityExpired = errors.New("authority is not valid at this time")
)

// Authority signs leaves of one trust domain. It is immutable and safe for
// concurrent use.
type Authority struct {
	domain identity.TrustDomain
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
}

// New makes an authority: ECDSA P-256, self-signed, with the trust domain as its
// URI name, valid for AuthorityLife.
func New(td identity.TrustDomain, now time.Time) (*Authority, error) {
	if td.IsZero() {
		return nil, errors.New("new authority: trust domain is missing")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("new authority: %w", err)
	}
	keyID, err := subjectKeyID(key.Public())
	if err != nil {
		return nil, fmt.Errorf("new authority: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, fmt.Errorf("new authority: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Tombolo"}, CommonName: commonName(td.Name())},
		URIs:                  []*url.URL{td.ID().URL()},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(AuthorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		SubjectKeyId:          keyID,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("new authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("new authority: %w", err)
	}
	return &Authority{domain: td, cert: cert, key: key}, nil
}

// Load takes an authority from what Certificate and MarshalKey wrote. The
// certificate must be of the key.
func Load(certPEM, keyPEM []byte) (*Authority, error) {
	certs, err := identity.ParseCertificates(certPEM)
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	cert := certs[0]
	if len(certs) != 1 || !cert.IsCA || len(cert.URIs) != 1 {
		return nil, errors.New("load authority: must be one certificate of an authority with one URI name")
	}
	td, err := identity.ParseTrustDomain(cert.URIs[0].Host)
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("load authority: key must be a PEM block of type \"PRIVATE KEY\"")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("load authority: key and certificate do not belong together")
	}
	return &Authority{domain: td, cert: cert, key: key}, nil
}

// TrustDomain of every leaf.
func (a *Authority) TrustDomain() identity.TrustDomain { return a.domain }

// Certificate of the authority; its public half.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// MarshalKey writes the private key as PKCS #8 PEM. Seal it before it goes anywhere.
func (a *Authority) MarshalKey() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("marshal authority key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Sign issues a certificate and returns its PEM chain, leaf first. Of the request
// (DER of PKCS #10) only the key counts, and the proof that its sender has it:
// names and extensions are ignored, the caller decides the SPIFFE ID. The leaf
// ends with the authority at the latest.
func (a *Authority) Sign(csr []byte, id identity.ID, ttl time.Duration, now time.Time) ([]byte, error) {
	if id.TrustDomain() != a.domain || id.Path() == "" {
		return nil, fmt.Errorf("sign %q: %w (%s)", id, ErrForeignDomain, a.domain)
	}
	if ttl < MinTTL || ttl > MaxTTL {
		return nil, fmt.Errorf("sign %q: life of %s is not between %s and %s", id, ttl, MinTTL, MaxTTL)
	}
	if now.Before(a.cert.NotBefore) || !now.Before(a.cert.NotAfter) {
		return nil, fmt.Errorf("sign %q: %w", id, ErrAuthorityExpired)
	}
	public, err := CheckCSR(csr)
	if err != nil {
		return nil, fmt.Errorf("sign %q: %w", id, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, fmt.Errorf("sign %q: %w", id, err)
	}
	notAfter := now.Add(ttl)
	if notAfter.After(a.cert.NotAfter) {
		notAfter = a.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		URIs:                  []*url.URL{id.URL()},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		AuthorityKeyId:        a.cert.SubjectKeyId,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign %q: %w", id, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// CheckCSR checks a request's size, form, signature and key, and returns the key.
// Allowed are ECDSA P-256 and P-384, Ed25519, and RSA of 2048 to 4096 bits.
func CheckCSR(csr []byte) (crypto.PublicKey, error) {
	if len(csr) == 0 || len(csr) > MaxCSR {
		return nil, fmt.Errorf("%w: it must have 1 to %d bytes", ErrBadRequest, MaxCSR)
	}
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	switch key := request.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return nil, fmt.Errorf("%w: curve %s, only P-256 and P-384 are allowed", ErrBadRequest, key.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 || bits > 4096 {
			return nil, fmt.Errorf("%w: RSA key of %d bits, 2048 to 4096 are allowed", ErrBadRequest, bits)
		}
	default:
		return nil, fmt.Errorf("%w: key of type %s", ErrBadRequest, request.PublicKeyAlgorithm)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return request.PublicKey, nil
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil // never zero
}

func subjectKeyID(public crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return sum[:20], nil
}

// commonName shortens to what X.520 allows, 64 characters. It is for people.
func commonName(s string) string {
	if len(s) > 64 {
		return s[:64]
	}
	return s
}
