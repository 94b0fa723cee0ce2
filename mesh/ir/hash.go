package ir

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash"
)

// Hash is a stable digest of what the class must do: 32 lower-case hex digits.
// Revisions of sources and problems are not part of it, so that a write without
// effect gives the same hash.
func (p *Proxy) Hash() string { return p.Digests().Hash }

// Digest is of one node of a Proxy: nodes that say the same have the same. The zero
// value says that there is none, and equals nothing.
type Digest [sha256.Size]byte

// Digests are of a Proxy and of those of its nodes that classes have in common.
type Digests struct {
	// Hash as of Proxy.Hash.
	Hash string
	// Destinations and Outbounds in the order of the Proxy's.
	Destinations, Outbounds []Digest
	// Rest of the Proxy.
	Rest Digest
}

// Digests of all of it. The nodes, of which there may be thousands, are written
// once, for the hash and for who shares what is built from them.
func (p *Proxy) Digests() Digests {
	rest := *p
	rest.Destinations, rest.Outbounds = nil, nil
	w := digester{whole: sha256.New(), node: sha256.New()}
	out := Digests{Rest: w.part("proxy", &rest), Destinations: make([]Digest, len(p.Destinations)), Outbounds: make([]Digest, len(p.Outbounds))}
	for i := range p.Destinations {
		out.Destinations[i] = w.part("destination", &p.Destinations[i])
	}
	for i := range p.Outbounds {
		out.Outbounds[i] = w.part("outbound", &p.Outbounds[i])
	}
	out.Hash = hex.EncodeToString(w.whole.Sum(nil)[:16])
	return out
}

// digester writes a proxy's nodes into digests of their own, and those into the whole.
type digester struct{ whole, node hash.Hash }

func (w digester) part(kind string, v any) (d Digest) {
	w.node.Reset()
	w.whole.Write([]byte(kind))
	if w.write(w.node, v) == nil {
		w.node.Sum(d[:0])
	}
	w.whole.Write(d[:])
	return d
}

// write writes the JSON form. What has none is no part of a proxy; should it become
// one, the whole says why.
func (w digester) write(to hash.Hash, v any) error {
	err := json.NewEncoder(to).Encode(v)
	if err != nil {
		w.whole.Write([]byte(err.Error()))
	}
	return err
}

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
