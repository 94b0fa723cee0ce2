package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tombolo-mesh/tombolo/internal/serverca"
)

// Keys of the Secret's data.
const (
	keyBundle   = "ca.crt"      // authorities that clients trust, the signing one first
	keyCA       = "signing.crt" // the authority that signs
	keyCAKey    = "signing.key"
	keyNext     = "next.crt" // its successor, published but not signing yet
	keyNextKey  = "next.key"
	keyCert     = "tls.crt"
	keyCertKey  = "tls.key"
	maxBundle   = 64 << 10
	maxTrusted  = 8
	nextAt      = 0.5       // of an authority's life: its successor is made
	successorAt = 0.75      // of an authority's life: its successor signs
	renewAt     = 0.5       // of a certificate's life
	expirySlack = time.Hour // an authority this close to its end is not published
)

// state is what the Secret holds.
type state struct {
	ca, leaf serverca.Pair
	// next has no Cert while there is none.
	next serverca.Pair
	// old authorities that still count, beside ca and next.
	old []*x509.Certificate
}

// parse reads a Secret's data. An error says that it cannot be used as it is.
func parse(data map[string][]byte) (state, error) {
	var s state
	for _, p := range []struct {
		into      *serverca.Pair
		cert, key string
		optional  bool
	}{{&s.ca, keyCA, keyCAKey, false}, {&s.next, keyNext, keyNextKey, true}, {&s.leaf, keyCert, keyCertKey, false}} {
		if len(data[p.cert]) == 0 && p.optional {
			continue
		}
		pair, err := serverca.ParsePair(data[p.cert], data[p.key])
		if err != nil {
			return state{}, fmt.Errorf("%s, %s: %w", p.cert, p.key, err)
		}
		*p.into = pair
	}
	if !s.ca.Cert.IsCA || s.next.Cert != nil && !s.next.Cert.IsCA {
		return state{}, errors.New("signing.crt and next.crt must be authorities")
	}
	trusted, err := authorities(data[keyBundle])
	if err != nil {
		return state{}, fmt.Errorf("%s: %w", keyBundle, err)
	}
	for _, c := range trusted {
		if !c.Equal(s.ca.Cert) && (s.next.Cert == nil || !c.Equal(s.next.Cert)) {
			s.old = append(s.old, c)
		}
	}
	return s, nil
}

func authorities(bundle []byte) ([]*x509.Certificate, error) {
	if len(bundle) > maxBundle {
		return nil, fmt.Errorf("must have at most %d bytes, not %d", maxBundle, len(bundle))
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) > maxTrusted {
		return nil, fmt.Errorf("must have at most %d certificates, not %d", maxTrusted, len(out))
	}
	return out, nil
}

// data is the Secret's data for a state.
func (s state) data() map[string][]byte {
	d := map[string][]byte{
		keyBundle: s.bundle(), keyCA: s.ca.CertPEM, keyCAKey: s.ca.KeyPEM,
		keyCert: s.leaf.CertPEM, keyCertKey: s.leaf.KeyPEM,
	}
	if s.next.Cert != nil {
		d[keyNext], d[keyNextKey] = s.next.CertPEM, s.next.KeyPEM
	}
	return d
}

// bundle is PEM of what clients trust, the signing authority first.
func (s state) bundle() []byte {
	var b bytes.Buffer
	b.Write(s.ca.CertPEM)
	b.Write(s.next.CertPEM)
	for _, c := range s.old {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Buffer takes everything
	}
	return b.Bytes()
}

// renewed is the state as it should be now, and whether it differs from s. The
// zero state becomes a new authority and certificate.
func renewed(s state, commonName string, names []string, now time.Time) (state, bool, error) {
	changed := false
	if s.ca.Cert == nil || now.After(s.ca.Cert.NotAfter.Add(-expirySlack)) && s.next.Cert == nil {
		ca, err := serverca.NewAuthority(commonName, now)
		if err != nil {
			return state{}, false, err
		}
		s.ca, s.leaf, changed = ca, serverca.Pair{}, true
	}
	if s.next.Cert == nil && s.ca.Past(nextAt, now) {
		next, err := serverca.NewAuthority(commonName, now)
		if err != nil {
			return state{}, false, err
		}
		s.next, changed = next, true
	}
	if s.next.Cert != nil && s.ca.Past(successorAt, now) {
		s.old = append([]*x509.Certificate{s.ca.Cert}, s.old...)
		s.ca, s.next, s.leaf, changed = s.next, serverca.Pair{}, serverca.Pair{}, true
	}
	kept := slices.DeleteFunc(slices.Clone(s.old), func(c *x509.Certificate) bool { return now.After(c.NotAfter) })
	if len(kept) != len(s.old) {
		s.old, changed = kept, true
	}
	if old := s.leaf; old.Cert == nil || old.Past(renewAt, now) || old.Cert.CheckSignatureFrom(s.ca.Cert) != nil || !covers(old.Names(), names) {
		if old.Cert != nil && !old.Past(renewAt, now) {
			// Two releases of the zone that run side by side may want different
			// names: what serves both ends the matter.
			names = slices.Compact(slices.Sorted(slices.Values(slices.Concat(names, old.Names()))))
		}
		leaf, err := s.ca.Issue(commonName, names, now)
		if err != nil {
			return state{}, false, err
		}
		s.leaf, changed = leaf, true
	}
	return s, changed, nil
}

func covers(have, want []string) bool {
	return !slices.ContainsFunc(want, func(n string) bool { return !slices.Contains(have, n) })
}
