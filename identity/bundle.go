package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// Bounds of a bundle.
const (
	// MaxBundle is the largest PEM text of one trust domain, in bytes.
	MaxBundle = 256 << 10
	// MaxAuthorities is the most certificates of one trust domain.
	MaxAuthorities = 64
)

// Bundle is the authorities of one trust domain. It is immutable.
type Bundle struct {
	domain      TrustDomain
	authorities []*x509.Certificate
}

// ParseBundle reads PEM certificates; everything else in the text is an error,
// private keys above all.
func ParseBundle(td TrustDomain, text []byte) (Bundle, error) {
	if len(text) > MaxBundle {
		return Bundle{}, fmt.Errorf("bundle of %s has %d bytes, at most %d are allowed", td, len(text), MaxBundle)
	}
	certs, err := ParseCertificates(text)
	if err != nil {
		return Bundle{}, fmt.Errorf("bundle of %s: %w", td, err)
	}
	return MakeBundle(td, certs...)
}

// MakeBundle takes certificates, sorts them and drops duplicates. There must be
// one at least: an empty bundle would refuse everybody.
func MakeBundle(td TrustDomain, certs ...*x509.Certificate) (Bundle, error) {
	if td.IsZero() {
		return Bundle{}, errors.New("bundle without a trust domain")
	}
	b := Bundle{domain: td, authorities: slices.Clone(certs)}
	slices.SortFunc(b.authorities, func(a, c *x509.Certificate) int { return bytes.Compare(a.Raw, c.Raw) })
	b.authorities = slices.CompactFunc(b.authorities, (*x509.Certificate).Equal)
	if n := len(b.authorities); n < 1 || n > MaxAuthorities {
		return Bundle{}, fmt.Errorf("bundle of %s has %d certificates, 1 to %d are allowed", td, n, MaxAuthorities)
	}
	for _, c := range b.authorities {
		if !c.IsCA || !c.BasicConstraintsValid {
			return Bundle{}, fmt.Errorf("bundle of %s: certificate %q is no authority", td, c.Subject)
		}
	}
	return b, nil
}

// TrustDomain of the bundle.
func (b Bundle) TrustDomain() TrustDomain { return b.domain }

// Authorities are the certificates; the slice is the caller's.
func (b Bundle) Authorities() []*x509.Certificate { return slices.Clone(b.authorities) }

// PEM text, certificates sorted: equal bundles have equal text.
func (b Bundle) PEM() []byte { return MarshalCertificates(b.authorities...) }

// Union has the authorities of both bundles, which must be of one trust domain.
func (b Bundle) Union(c Bundle) (Bundle, error) {
	if b.domain != c.domain {
		return Bundle{}, fmt.Errorf("union of bundles of %s and %s", b.domain, c.domain)
	}
	return MakeBundle(b.domain, append(b.Authorities(), c.authorities...)...)
}

// Bundles has one bundle per trust domain. A peer is verified against the bundle
// of its own trust domain, never against another.
type Bundles map[TrustDomain]Bundle

// Add puts a bundle beside what is there of its trust domain.
func (s Bundles) Add(b Bundle) error {
	if have, ok := s[b.domain]; ok {
		u, err := have.Union(b)
		if err != nil {
			return err
		}
		b = u
	}
	s[b.domain] = b
	return nil
}

// TrustDomains are the domains, sorted.
func (s Bundles) TrustDomains() []TrustDomain {
	out := make([]TrustDomain, 0, len(s))
	for td := range s {
		out = append(out, td)
	}
	slices.SortFunc(out, TrustDomain.Compare)
	return out
}

// ParseCertificates reads one or more PEM certificates and nothing else.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %d is of type %q, only CERTIFICATE is allowed", len(certs)+1, block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", len(certs)+1, err)
		}
		if certs = append(certs, c); len(certs) > MaxAuthorities {
			return nil, fmt.Errorf("more than %d certificates", MaxAuthorities)
		}
		text = rest
	}
	if len(certs) == 0 {
		return nil, errors.New("no PEM certificate found")
	}
	if len(bytes.TrimSpace(text)) > 0 {
		return nil, errors.New("text after the last PEM certificate")
	}
	return certs, nil
}

// MarshalCertificates writes certificates as PEM, in the given order.
func MarshalCertificates(certs ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range certs {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Buffer does not fail
	}
	return out.Bytes()
}
