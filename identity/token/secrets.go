package token

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// SigningKeyName is the name of the Secret with a private key, for example
// "dataplane-token-signing-key-1". Such Secrets never leave global.
func SigningKeyName(use Use, n int) string {
	return string(use) + "-token-signing-key-" + strconv.Itoa(n)
}

// PublicKeyName is the name of the Secret with a public key, for example
// "dataplane-token-public-key-1". Those of a mesh's dataplanes go to zones.
func PublicKeyName(use Use, n int) string {
	return string(use) + "-token-public-key-" + strconv.Itoa(n)
}

// RevocationsName is the name of the Secret with revocations, for example
// "dataplane-token-revocations".
func RevocationsName(use Use) string { return string(use) + "-token-revocations" }

// KeyID is the id (kid) of the n-th key of a use, for example "dataplane-1".
func KeyID(use Use, n int) string { return string(use) + "-" + strconv.Itoa(n) }

// ParseSigningKeyName reads what SigningKeyName wrote.
func ParseSigningKeyName(name string) (use Use, n int, ok bool) {
	return parseName(name, "-token-signing-key-")
}

// ParsePublicKeyName reads what PublicKeyName wrote.
func ParsePublicKeyName(name string) (use Use, n int, ok bool) {
	return parseName(name, "-token-public-key-")
}

func parseName(name, infix string) (Use, int, bool) {
	u, digits, ok := strings.Cut(name, infix)
	if !ok || !slices.Contains([]Use{User, Zone, Dataplane}, Use(u)) {
		return "", 0, false
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || strconv.Itoa(n) != digits {
		return "", 0, false
	}
	return Use(u), n, true
}

// Revocation of one token. It may be forgotten once the token would have expired.
type Revocation struct {
	// ID (jti) of the token.
	ID string `json:"id"`
	// Expires is when the token does; zero keeps the revocation for ever.
	Expires time.Time `json:"expires,omitzero"`
}

// ParseRevocations reads the content of a revocations Secret. Empty is no revocation.
func ParseRevocations(data []byte) ([]Revocation, error) {
	if len(data) == 0 {
		return nil, nil
	}
	var list []Revocation
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("parse revocations: must be [{\"id\": …, \"expires\": …}]: %w", err)
	}
	if len(list) > MaxRevocations {
		return nil, fmt.Errorf("parse revocations: %d entries, at most %d are allowed", len(list), MaxRevocations)
	}
	for i, r := range list {
		if r.ID == "" || len(r.ID) > 128 {
			return nil, fmt.Errorf("parse revocations: [%d].id must have 1 to 128 bytes", i)
		}
	}
	return list, nil
}

// Revoke returns the list with one more revocation, in order of ids and without
// those that expired before now. It fails when the list is full.
func Revoke(list []Revocation, r Revocation, now time.Time) ([]Revocation, error) {
	if r.ID == "" || len(r.ID) > 128 {
		return nil, fmt.Errorf("revoke: id must have 1 to 128 bytes")
	}
	out := make([]Revocation, 0, len(list)+1)
	for _, x := range list {
		if x.ID != r.ID && (x.Expires.IsZero() || x.Expires.After(now)) {
			out = append(out, x)
		}
	}
	if len(out) >= MaxRevocations {
		return nil, fmt.Errorf("revoke: %d tokens are revoked already, the most allowed; replace the signing key instead", len(out))
	}
	out = append(out, r)
	slices.SortFunc(out, func(a, b Revocation) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// MarshalRevocations writes the content of a revocations Secret.
func MarshalRevocations(list []Revocation) ([]byte, error) {
	if list == nil {
		list = []Revocation{}
	}
	return json.Marshal(list)
}
