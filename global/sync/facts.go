package sync

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// Bounds of facts that are collected before they are written together.
const (
	maxFactsBytes = store.MaxBatchBytes / 2
	maxFactsItems = store.MaxOps / 2
	// maxZoneFacts bounds what one zone owns at global, and so what it makes the
	// others keep. All of it fits into one batch.
	maxZoneFacts = maxFactsItems
)

// factsInbox puts the parts of facts together. The receiver alone adds.
type factsInbox struct {
	parts *factsBatch
	whole chan *factsBatch
}

// factsBatch is a delta of facts, or all of them.
type factsBatch struct {
	full     bool
	upserts  []*zonesyncv1.Resource
	removed  []*zonesyncv1.Resource
	sequence uint64
	bytes    int
}

func newFactsInbox() *factsInbox { return &factsInbox{whole: make(chan *factsBatch, 1)} }

// add takes a part; the last hands the whole on and may wait for the one before.
func (in *factsInbox) add(ctx context.Context, f *zonesyncv1.Facts) error {
	if in.parts == nil {
		in.parts = &factsBatch{full: f.GetFull()}
	}
	b := in.parts
	b.upserts, b.removed = append(b.upserts, f.GetUpserts()...), append(b.removed, f.GetRemoved()...)
	b.bytes += proto.Size(f)
	if b.bytes > maxFactsBytes || len(b.upserts)+len(b.removed) > maxFactsItems {
		return status.Errorf(codes.ResourceExhausted, "facts of more than %d bytes or %d resources", maxFactsBytes, maxFactsItems)
	}
	if f.GetPartial() {
		return nil
	}
	b.sequence = f.GetTo().GetSequence()
	in.parts = nil
	select {
	case in.whole <- b:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// openFacts reads what the store holds of the zone's facts, once no older stream
// writes them any more.
func (s *Server) openFacts(ctx context.Context, st *stream) (*zonesyncv1.FactsPosition, error) {
	z := st.zone
	z.facts.Lock()
	defer z.facts.Unlock()
	index := mesh.NewFactSet()
	for _, k := range mesh.Kinds() {
		if !k.Flow.Has(mesh.ZoneToGlobal) {
			continue
		}
		page, err := s.cfg.Store.List(ctx, store.Query{Kind: k.Name, Zone: &z.name})
		if err != nil {
			return nil, fmt.Errorf("list %s of zone %s: %w", k.Name, z.name, err)
		}
		for _, r := range page.Items {
			index.Put(r.Key, mesh.FactDigest(mesh.NormalizeFact(z.name, r)))
		}
	}
	z.index = index
	return &zonesyncv1.FactsPosition{Sequence: z.sequence, Digest: index.Digest()}, nil
}

// writeFacts writes batches of facts one by one and acknowledges each.
func (st *stream) writeFacts(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case b := <-st.facts.whole:
			ack, err := st.takeFacts(ctx, b)
			if err != nil {
				return err
			}
			if err := st.enqueue(ctx, &zonesyncv1.GlobalFrame{Frame: &zonesyncv1.GlobalFrame_FactsAck{FactsAck: ack}}); err != nil {
				return err
			}
		}
	}
}

func (st *stream) takeFacts(ctx context.Context, b *factsBatch) (*zonesyncv1.FactsAck, error) {
	z := st.zone
	z.facts.Lock()
	defer z.facts.Unlock()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	ops, edits, refused := st.s.judgeFacts(z, b)
	if len(ops) > 0 {
		ops[0].Fence = &st.fence
		at, err := st.s.writeRetrying(ctx, z.name, ops)
		if errors.Is(err, store.ErrFenced) {
			return nil, status.Errorf(codes.Aborted, "zone %q has a newer stream: %v", z.name, err)
		} else if err != nil {
			return nil, fmt.Errorf("write facts: %w", err)
		}
		st.s.log.Debug("facts written", "zone", z.name, "rev", at.Revision, "writes", len(ops))
	}
	for k, e := range edits {
		if e.gone {
			z.index.Remove(k)
		} else {
			z.index.Put(k, e.digest)
		}
	}
	z.sequence = max(z.sequence, b.sequence)
	st.s.metrics.facts.Add(float64(len(ops)))
	st.s.metrics.refused.Add(float64(len(refused)))
	for _, r := range refused {
		st.s.log.Warn("fact refused", "zone", z.name, "kind", clip(r.GetKind()), "mesh", clip(r.GetMesh()), "name", clip(r.GetName()), "reason", r.GetReason())
	}
	return &zonesyncv1.FactsAck{To: &zonesyncv1.FactsPosition{Sequence: z.sequence, Digest: z.index.Digest()}, Refused: refused}, nil
}

// judgeFacts decides what of a batch is written, and why the rest is not. What
// is refused leaves its older version, if any, as it is.
func (s *Server) judgeFacts(z *zone, b *factsBatch) ([]store.Op, map[mesh.Key]factEdit, []*zonesyncv1.Refusal) {
	_, meshes, identities := s.feed.fleet()
	domains := trustDomains{zone: z.name, identities: identities, cached: map[string][]string{}}
	edits, count := map[mesh.Key]factEdit{}, z.index.Len()
	stored := func(k mesh.Key) (digest [sha256.Size]byte, is bool) {
		if e, edited := edits[k]; edited {
			return e.digest, !e.gone
		}
		return z.index.Get(k)
	}
	var ops []store.Op
	var refused []*zonesyncv1.Refusal
	told := map[mesh.Key]bool{}
	for _, m := range b.upserts {
		r := zonesync.ToResource(m)
		problems := mesh.CheckFact(z.name, r, domains.of(r.Mesh))
		if len(problems) == 0 && r.Mesh != "" && !meshes[r.Mesh] {
			problems.Addf("mesh", "mesh %q does not exist", r.Mesh)
		}
		old, known := stored(r.Key)
		if !b.full && !known && count >= maxZoneFacts {
			problems.Addf("name", "zone %s owns %d resources already, the most allowed", z.name, count)
		}
		told[r.Key] = true
		if len(problems) > 0 {
			refused = append(refused, &zonesyncv1.Refusal{Kind: clip(m.GetKind()), Mesh: clip(m.GetMesh()), Name: m.GetName(), Reason: shorten(problems.Error(), 1024)})
			continue
		}
		r = mesh.NormalizeFact(z.name, r)
		digest := mesh.FactDigest(r)
		if known && old == digest {
			continue
		}
		if !known {
			count++
		}
		edits[r.Key] = factEdit{digest: digest}
		ops = append(ops, store.Op{Resource: r})
	}
	var gone []mesh.Key
	for _, m := range b.removed {
		key := zonesync.ToKey(m)
		key.Zone = z.name
		gone = append(gone, key)
	}
	if b.full {
		for key := range z.index.Keys() {
			if !told[key] {
				gone = append(gone, key)
			}
		}
		sortKeys(gone)
	}
	for _, key := range gone {
		if _, known := stored(key); known {
			edits[key] = factEdit{gone: true}
			ops = append(ops, store.Op{Delete: true, Resource: mesh.Resource{Key: key}})
		}
	}
	return ops, edits, refused
}

// factEdit is what becomes of a fact.
type factEdit struct {
	digest [sha256.Size]byte
	gone   bool
}

// writeRetrying writes until the store answers. The outcome of a write that was
// cut off is unknown; writing it again changes nothing.
func (s *Server) writeRetrying(ctx context.Context, zone string, ops []store.Op) (store.Position, error) {
	delay := 50 * time.Millisecond
	for {
		at, err := s.cfg.Store.Write(ctx, zoneAuthor(zone), ops)
		if err == nil || !errors.Is(err, store.ErrUnavailable) {
			return at, err
		}
		s.log.Warn("writing facts failed, retrying", "zone", zone, "error", err)
		if !pause(ctx, delay) {
			return at, err
		}
		delay = min(2*delay, 2*time.Second)
	}
}

// trustDomains are those that the MeshIdentities yield for one zone, by mesh.
type trustDomains struct {
	zone       string
	identities map[mesh.Key]mesh.Resource
	cached     map[string][]string
}

func (t trustDomains) of(meshName string) []string {
	if domains, ok := t.cached[meshName]; ok {
		return domains
	}
	var mine []mesh.PolicyResource
	for _, r := range t.identities {
		if r.Mesh != meshName {
			continue
		}
		spec := &mesh.MeshIdentity{}
		if json.Unmarshal(r.Spec, spec) == nil {
			mine = append(mine, mesh.PolicyResource{Resource: r, Decoded: spec})
		}
	}
	domains := mesh.TrustDomainsOf(mine, meshName, t.zone)
	t.cached[meshName] = domains
	return domains
}

// shorten cuts foreign text, at a character: half of one would fail the frame.
func shorten(text string, n int) string {
	if len(text) > n {
		return strings.ToValidUTF8(text[:n], "") + "…"
	}
	return text
}
