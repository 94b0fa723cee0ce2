package sync

import (
	"bytes"
	"crypto/sha256"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

type digest = [sha256.Size]byte

// factsState knows what global holds of this zone's facts, so that only the
// difference is sent. One delta is on its way at a time; what changes meanwhile
// is in the next. Only the sender of the current session uses it.
type factsState struct {
	zone string
	// known: held is what global has. Otherwise remote is all that is known.
	known    bool
	held     *mesh.FactSet
	remote   string
	sequence uint64
	pending  *pendingFacts
	// refused has the content that global did not take; it is not offered again
	// until it or what judges it changes.
	refused map[mesh.Key]digest
	// resent: everything was sent again in this session, since digests differed.
	resent bool
	// last is what the zone says, now its digests. Unsure are those that held may
	// differ in.
	last   map[mesh.Key]hashed
	now    *mesh.FactSet
	unsure map[mesh.Key]struct{}
}

// pendingFacts are on their way.
type pendingFacts struct {
	full     bool
	sequence uint64
	upserts  map[mesh.Key]digest
	removed  []mesh.Key
}

// hashed is a fact with its digest, kept so that an unchanged one is not hashed again.
type hashed struct {
	raw, fact mesh.Resource
	digest    digest
}

func newFactsState(zone string) *factsState {
	return &factsState{zone: zone, held: mesh.NewFactSet(), refused: map[mesh.Key]digest{},
		last: map[mesh.Key]hashed{}, now: mesh.NewFactSet(), unsure: map[mesh.Key]struct{}{}}
}

// welcome starts a session with what global says that it holds.
func (f *factsState) welcome(at *zonesyncv1.FactsPosition) {
	f.remote = at.GetDigest()
	f.sequence = max(f.sequence, at.GetSequence())
	f.retry()
	if p := f.pending; p != nil {
		for k := range p.upserts {
			f.unsure[k] = struct{}{}
		}
		for _, k := range p.removed {
			f.unsure[k] = struct{}{}
		}
	}
	f.pending, f.resent = nil, false
	f.known = f.known && f.held.Digest() == f.remote
}

func (f *factsState) outstanding() bool { return f.pending != nil }

// retry forgets what was refused; it reports whether there was anything.
func (f *factsState) retry() bool {
	some := len(f.refused) > 0
	for k := range f.refused {
		f.unsure[k] = struct{}{}
	}
	clear(f.refused)
	return some
}

// next is what global must be told after changes, and nil when it holds everything.
func (f *factsState) next(changes []mesh.Change) []*zonesyncv1.Facts {
	for _, c := range changes {
		f.take(c)
	}
	if !f.known && f.now.Digest() == f.remote {
		f.known, f.held = true, f.now.Clone()
		clear(f.unsure)
	}
	p := &pendingFacts{full: !f.known, upserts: map[mesh.Key]digest{}}
	if p.full {
		for k, h := range f.last {
			p.upserts[k] = h.digest
		}
	}
	for k := range f.unsure {
		h, said := f.last[k]
		held, has := f.held.Get(k)
		refused, no := f.refused[k]
		switch {
		case p.full:
		case said && (!has || held != h.digest) && (!no || refused != h.digest):
			p.upserts[k] = h.digest
		case !said && has:
			p.removed = append(p.removed, k)
		}
	}
	clear(f.unsure)
	if !p.full && len(p.upserts) == 0 && len(p.removed) == 0 {
		return nil
	}
	f.sequence++
	p.sequence = f.sequence
	f.pending = p
	return f.frames(p)
}

// frames splits what is pending; the last part has the position.
func (f *factsState) frames(p *pendingFacts) []*zonesyncv1.Facts {
	now := timestamppb.Now()
	var out []*zonesyncv1.Facts
	var upserts, removed []*zonesyncv1.Resource
	for _, k := range sortedKeys(maps.Keys(p.upserts)) {
		upserts = append(upserts, zonesync.FromResource(f.last[k].fact))
	}
	for _, k := range sortedKeys(slices.Values(p.removed)) {
		removed = append(removed, zonesync.FromKey(k))
	}
	for _, part := range zonesync.Chunks(upserts) {
		out = append(out, &zonesyncv1.Facts{Full: p.full, Upserts: part, Partial: true, Time: now})
	}
	for _, part := range zonesync.Chunks(removed) {
		out = append(out, &zonesyncv1.Facts{Full: p.full, Removed: part, Partial: true, Time: now})
	}
	if len(out) == 0 {
		out = append(out, &zonesyncv1.Facts{Full: p.full, Time: now})
	}
	last := out[len(out)-1]
	last.Partial, last.To = false, &zonesyncv1.FactsPosition{Sequence: p.sequence, Digest: f.now.Digest()}
	return out
}

// acknowledge takes global's answer to what is pending. The refused keep what
// global had of them, which is not known after everything was replaced.
func (f *factsState) acknowledge(ack *zonesyncv1.FactsAck) {
	p := f.pending
	if p == nil || ack.GetTo().GetSequence() != p.sequence {
		return
	}
	f.pending = nil
	if p.full {
		f.held = mesh.NewFactSet()
	}
	refused := map[mesh.Key]bool{}
	for _, r := range ack.GetRefused() {
		refused[mesh.Key{Kind: mesh.KindName(r.GetKind()), Mesh: r.GetMesh(), Zone: f.zone, Name: r.GetName()}] = true
	}
	for k, d := range p.upserts {
		switch {
		case !refused[k]:
			f.held.Put(k, d)
			delete(f.refused, k)
		case p.full:
			f.held.Put(k, digest{})
			fallthrough
		default:
			f.refused[k] = d
		}
	}
	for _, k := range p.removed {
		f.held.Remove(k)
	}
	f.known = true
	if len(refused) == 0 && len(f.refused) == 0 && !f.resent && f.held.Digest() != ack.GetTo().GetDigest() {
		// Someone else changed them at global: once more, all of it.
		f.known, f.resent, f.remote = false, true, ack.GetTo().GetDigest()
	}
}

// take notes a change, normalized and with its digest. What is too large to be told
// is as good as gone.
func (f *factsState) take(c mesh.Change) {
	r := c.Resource
	key := r.Key
	key.Zone = f.zone
	if c.Deleted || len(r.Spec)+len(r.Status) > mesh.MaxFactBytes {
		delete(f.last, key)
		f.now.Remove(key)
		f.unsure[key] = struct{}{}
		return
	}
	h, ok := f.last[key]
	if !ok || !bytes.Equal(h.raw.Spec, r.Spec) || !bytes.Equal(h.raw.Status, r.Status) || !maps.Equal(h.raw.Labels, r.Labels) {
		fact := mesh.NormalizeFact(f.zone, r)
		h = hashed{raw: r, fact: fact, digest: mesh.FactDigest(fact)}
		f.last[key] = h
		f.now.Put(key, h.digest)
		f.unsure[key] = struct{}{}
	}
}

// sendFacts tells what global does not hold yet, or that it holds everything.
func (s *session) sendFacts() error {
	facts := s.c.facts
	frames := facts.next(s.c.cfg.Facts.Facts())
	if frames == nil {
		s.c.cfg.Facts.FactsConfirmed(facts.sequence)
		return nil
	}
	for _, frame := range frames {
		if err := s.sendFrame(&zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Facts{Facts: frame}}); err != nil {
			return err
		}
	}
	s.c.metrics.facts.Inc()
	return nil
}

func (c *Client) acknowledged(ack *zonesyncv1.FactsAck) {
	for _, r := range ack.GetRefused() {
		c.log.Warn("global refused a fact of this zone", "kind", clip(r.GetKind()), "mesh", clip(r.GetMesh()), "name", clip(r.GetName()), "reason", shorten(r.GetReason(), 1024))
	}
	c.facts.acknowledge(ack)
}

func sortedKeys(keys func(func(mesh.Key) bool)) []mesh.Key {
	return slices.SortedFunc(keys, func(a, b mesh.Key) int { return strings.Compare(a.String(), b.String()) })
}
