package ir

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Hash is a stable digest of what the class must do: 32 lower-case hex digits.
// Revisions of sources and problems are not part of it, so that a write without
// effect gives the same hash.
func (p *Proxy) Hash() string { return digest(p) }

// Equal reports whether p and q must do the same; see Hash for what is left out.
func (p *Proxy) Equal(q *Proxy) bool { return p.Hash() == q.Hash() }

// Hash is a stable digest of the set: 32 lower-case hex digits.
func (s *EndpointSet) Hash() string { return digest(s) }

// Equal reports whether both sets have the same hosts.
func (s *EndpointSet) Equal(t *EndpointSet) bool { return s.Hash() == t.Hash() }

// digest hashes the JSON form, which is deterministic: struct fields have an
// order and maps are written with sorted keys. The IR holds nothing that JSON
// cannot write; if a policy's conf did, the hash would be of the error, so that
// nothing is taken for equal that is not.
func digest(v any) string {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(v); err != nil {
		h.Write([]byte(err.Error()))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
