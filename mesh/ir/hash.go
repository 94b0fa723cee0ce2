package ir

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
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
	// Destinations in the order of the Proxy's.
	Destinations []Digest
	// Listeners and Targets are of the parts of Outbounds, in their order.
	Listeners, Targets []Digest
	// Rest of the Proxy.
	Rest Digest
}

// Digests of all of it.
func (p *Proxy) Digests() Digests { return new(Memo).Digests(p) }

// Digests of all of p. The nodes, of which there may be thousands, are written
// once, for the hash and for who shares what is built from them.
func (m *Memo) Digests(p *Proxy) Digests {
	rest := *p
	rest.Destinations, rest.Outbounds = nil, nil
	w := digester{node: canonical{forms: &m.forms}}
	n := len(p.Outbounds)
	out := Digests{Rest: w.part("proxy", &rest), Destinations: make([]Digest, len(p.Destinations)), Listeners: make([]Digest, n), Targets: make([]Digest, n)}
	for i := range p.Destinations {
		out.Destinations[i] = w.part("destination", &p.Destinations[i])
	}
	var listener, target Outbound
	for i := range p.Outbounds {
		listener, target = p.Outbounds[i].Parts()
		out.Listeners[i], out.Targets[i] = w.part("listener", &listener), w.part("target", &target)
	}
	sum := sha256.Sum256(w.whole)
	out.Hash = hex.EncodeToString(sum[:16])
	return out
}

// Parts of an outbound: what its listener is built from, and what says where calls
// go. Every field is in one of them at least.
func (o *Outbound) Parts() (listener, target Outbound) {
	listener = Outbound{Name: o.Name, Protocol: o.Protocol, Address: o.Address, Port: o.Port, Redirected: o.Redirected,
		Timeouts: Timeouts{RequestHeaders: o.Timeouts.RequestHeaders}}
	target = *o
	target.Address, target.Port, target.Redirected = "", 0, false
	return listener, target
}

// digester makes digests of a proxy's nodes, and keeps them for the whole.
type digester struct {
	node  canonical
	whole []byte
}

func (w *digester) part(kind string, v any) Digest {
	w.node.bytes = append(w.node.bytes[:0], kind...)
	w.node.write(v)
	if err := w.node.err; err != nil {
		// No part of a proxy is such (TestEverythingHasAForm).
		w.node.err = nil
		w.whole = fmt.Appendf(w.whole, "%v: %+v", err, v)
		return Digest{}
	}
	d := Digest(sha256.Sum256(w.node.bytes))
	w.whole = append(w.whole, d[:]...)
	return d
}

// Equal reports whether p and q must do the same; see Hash for what is left out.
func (p *Proxy) Equal(q *Proxy) bool { return p.Hash() == q.Hash() }

// Hash is a stable digest of the set: 32 lower-case hex digits.
func (s *EndpointSet) Hash() string { return digest(s) }

// Equal reports whether both sets have the same hosts.
func (s *EndpointSet) Equal(t *EndpointSet) bool { return s.Hash() == t.Hash() }

// digest hashes the JSON form, which is deterministic: struct fields have an
// order and maps are written with sorted keys.
func digest(v any) string {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(v); err != nil {
		h.Write([]byte(err.Error()))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
