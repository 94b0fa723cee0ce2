package identity

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// SVID is an X.509 SVID without its key: a certificate chain that proves one
// SPIFFE ID to whoever trusts its authority. It is immutable.
type SVID struct {
	id    ID
	chain []*x509.Certificate
}

// ParseSVID reads a PEM chain, leaf first. The leaf must have exactly one URI
// name, a SPIFFE ID, and must be no authority (X509-SVID sections 2 and 4).
func ParseSVID(chain []byte) (SVID, error) {
	certs, err := ParseCertificates(chain)
	if err != nil {
		return SVID{}, fmt.Errorf("svid: %w", err)
	}
	id, err := IDOf(certs[0])
	if err != nil {
		return SVID{}, fmt.Errorf("svid: %w", err)
	}
	return SVID{id: id, chain: certs}, nil
}

// IDOf is the SPIFFE ID of a leaf certificate.
func IDOf(leaf *x509.Certificate) (ID, error) {
	switch {
	case leaf.IsCA:
		return ID{}, errors.New("leaf is an authority")
	case len(leaf.URIs) != 1:
		return ID{}, fmt.Errorf("leaf has %d URI names, must have 1", len(leaf.URIs))
	}
	return ParseID(leaf.URIs[0].String())
}

// ID that the SVID proves.
func (s SVID) ID() ID { return s.id }

// Leaf certificate.
func (s SVID) Leaf() *x509.Certificate { return s.chain[0] }

// PEM chain, leaf first.
func (s SVID) PEM() []byte { return MarshalCertificates(s.chain...) }

// For reports whether the SVID was issued for a public key.
func (s SVID) For(public crypto.PublicKey) bool {
	k, ok := s.chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(public)
}

// HalfLife is when half of a certificate's life is over, the time to renew.
func HalfLife(notBefore, notAfter time.Time) time.Time {
	return notBefore.Add(notAfter.Sub(notBefore) / 2)
}
