package token

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const audiencePrefix = "tombolo/"

// wire is the JWT form of Claims.
type wire struct {
	jwt.RegisteredClaims
	Name     string   `json:"name,omitempty"`
	Groups   []string `json:"groups,omitempty"`
	Zone     string   `json:"zone,omitempty"`
	Mesh     string   `json:"mesh,omitempty"`
	Workload string   `json:"workload,omitempty"`
}

// NewID makes a fresh random token id (jti).
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: the runtime ends the process instead
	return hex.EncodeToString(b[:])
}

// Sign makes a token. An empty ID gets a fresh one, a zero Issued is an error:
// the caller knows the time. Every token expires and is bound as its use needs.
func (k Key) Sign(c Claims) (string, error) {
	if c.ID == "" {
		c.ID = NewID()
	}
	if err := c.check(); err != nil {
		return "", err
	}
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, wire{
		RegisteredClaims: jwt.RegisteredClaims{
			ID:        c.ID,
			Audience:  jwt.ClaimStrings{audiencePrefix + string(c.Use)},
			IssuedAt:  jwt.NewNumericDate(c.Issued),
			ExpiresAt: jwt.NewNumericDate(c.Expires),
		},
		Name: c.Name, Groups: c.Groups, Zone: c.Zone, Mesh: c.Mesh, Workload: c.Workload,
	})
	t.Header["kid"] = k.id
	raw, err := t.SignedString(k.private)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	if len(raw) > MaxSize {
		return "", fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrMalformed, len(raw), MaxSize)
	}
	return raw, nil
}

// check says what a token lacks for its use.
func (c Claims) check() error {
	bad := func(reason string) error { return fmt.Errorf("%w: %s", ErrMalformed, reason) }
	switch {
	case c.ID == "" || len(c.ID) > 128:
		return bad("jti must have 1 to 128 bytes")
	case c.Issued.IsZero():
		return bad("iat is missing")
	case c.Expires.IsZero():
		return bad("exp is missing")
	case !c.Expires.After(c.Issued):
		return bad("exp must be after iat")
	}
	switch c.Use {
	case User:
		if c.Name == "" {
			return bad("a user token needs a name")
		}
	case Zone:
		if c.Zone == "" {
			return bad("a zone token needs a zone")
		}
	case Dataplane:
		if c.Mesh == "" {
			return bad("a dataplane token needs a mesh")
		}
		if c.Name == "" && c.Workload == "" {
			return bad("a dataplane token needs a workload or a name")
		}
	default:
		return bad(fmt.Sprintf("use must be user, zone or dataplane, not %q", c.Use))
	}
	return nil
}

// Verifier knows the keys of one use and what was revoked. It is immutable and
// safe for concurrent use; make a new one when keys or revocations change.
type Verifier struct {
	keys    map[string]PublicKey
	revoked map[string]bool
	parser  *jwt.Parser
}

// NewVerifier makes a verifier. Of two keys with one id the later counts.
func NewVerifier(keys []PublicKey, revoked []Revocation) *Verifier {
	v := &Verifier{
		keys:    make(map[string]PublicKey, len(keys)),
		revoked: make(map[string]bool, len(revoked)),
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
			jwt.WithoutClaimsValidation(), // Verify checks them against the caller's time
			jwt.WithStrictDecoding(),
		),
	}
	for _, k := range keys {
		v.keys[k.id] = k
	}
	for _, r := range revoked {
		v.revoked[r.ID] = true
	}
	return v
}

// Verify checks a token and returns what it says. Every error is one of the Err
// values of this package.
func (v *Verifier) Verify(raw string, use Use, now time.Time) (Claims, error) {
	if raw == "" || len(raw) > MaxSize {
		return Claims{}, fmt.Errorf("%w: it must have 1 to %d bytes", ErrMalformed, MaxSize)
	}
	var w wire
	_, err := v.parser.ParseWithClaims(raw, &w, func(t *jwt.Token) (any, error) {
		// The audience is told apart first, so that a token of another use is called
		// that, whichever key signed it. Nothing is granted on it.
		if len(w.Audience) != 1 || w.Audience[0] != audiencePrefix+string(use) {
			return nil, ErrWrongUse
		}
		kid, _ := t.Header["kid"].(string)
		key, ok := v.keys[kid]
		if !ok {
			return nil, ErrUnknownKey
		}
		return key.public, nil
	})
	if err != nil {
		return Claims{}, refusal(err)
	}
	c := Claims{ID: w.ID, Use: use, Name: w.Name, Groups: w.Groups, Zone: w.Zone, Mesh: w.Mesh, Workload: w.Workload}
	if w.IssuedAt != nil {
		c.Issued = w.IssuedAt.UTC()
	}
	if w.ExpiresAt != nil {
		c.Expires = w.ExpiresAt.UTC()
	}
	if err := c.check(); err != nil {
		return Claims{}, err
	}
	switch {
	case c.Issued.After(now.Add(Leeway)):
		return Claims{}, ErrNotYetValid
	case !now.Before(c.Expires):
		return Claims{}, fmt.Errorf("%w: at %s", ErrExpired, c.Expires.Format(time.RFC3339))
	case v.revoked[c.ID]:
		return Claims{}, ErrRevoked
	}
	return c, nil
}

// refusal maps an error of the JWT library to one of ours.
func refusal(err error) error {
	for _, known := range []error{ErrWrongUse, ErrUnknownKey} {
		if errors.Is(err, known) {
			return known
		}
	}
	if errors.Is(err, jwt.ErrTokenSignatureInvalid) {
		return ErrBadSignature
	}
	return ErrMalformed
}

// Empty reports whether there is no key at all: then nothing can be said of a token.
func (v *Verifier) Empty() bool { return len(v.keys) == 0 }

// MeshOf reads for which mesh a token claims to be, to choose the keys that verify
// it. It verifies nothing; without a claim it is empty.
func MeshOf(raw string) string {
	if len(raw) > MaxSize {
		return ""
	}
	var w wire
	if _, _, err := jwt.NewParser().ParseUnverified(raw, &w); err != nil {
		return ""
	}
	return w.Mesh
}

// Unverified reads what a token claims, and verifies nothing: for telling people
// what is in a file, never for deciding anything.
func Unverified(raw string) (Claims, error) {
	if len(raw) > MaxSize {
		return Claims{}, ErrMalformed
	}
	var w wire
	if _, _, err := jwt.NewParser().ParseUnverified(raw, &w); err != nil {
		return Claims{}, ErrMalformed
	}
	c := Claims{ID: w.ID, Name: w.Name, Groups: w.Groups, Zone: w.Zone, Mesh: w.Mesh, Workload: w.Workload}
	for _, audience := range w.Audience {
		if use, ours := strings.CutPrefix(audience, audiencePrefix); ours {
			c.Use = Use(use)
		}
	}
	if w.IssuedAt != nil {
		c.Issued = w.IssuedAt.Time
	}
	if w.ExpiresAt != nil {
		c.Expires = w.ExpiresAt.Time
	}
	return c, nil
}
