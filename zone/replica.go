package zone

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/zone/disk"
	zonesync "github.com/tombolo-mesh/tombolo/zone/sync"
)

// replica is the zone's copy of what global pushed. It implements zonesync.Replica.
type replica struct {
	e *engine
	// mu lets one push in at a time.
	mu sync.Mutex
}

var _ zonesync.Replica = (*replica)(nil)

// Position implements zonesync.Replica.
func (r *replica) Position() zonesync.Position { return *r.e.position.Load() }

// Replace implements zonesync.Replica.
func (r *replica) Replace(to zonesync.Position, resources []mesh.Resource) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.e.do(nil, func(b *batch) {
		next := make(map[mesh.Key]bool, len(resources))
		var changes []mesh.Change
		for _, x := range resources {
			next[x.Key] = true
			changes = append(changes, mesh.Change{Revision: x.Revision, Resource: x})
		}
		for _, k := range sortedKeys(r.e.synced) {
			if !next[k] {
				changes = append(changes, mesh.Change{Deleted: true, Resource: mesh.Resource{Key: k}})
			}
		}
		b.must.ReplaceResources = true
		b.reset = to.Revision < r.e.mark
		r.e.take(b, to, to.Revision, changes)
	})
}

// Apply implements zonesync.Replica.
func (r *replica) Apply(to zonesync.Position, changes []mesh.Change) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.e.do(nil, func(b *batch) {
		mark := r.e.mark
		for _, c := range changes {
			mark = max(mark, c.Revision)
		}
		r.e.take(b, to, mark, changes)
	})
}

// take files what global pushed into a batch. What the zone owns itself is not
// global's to say and left out.
func (e *engine) take(b *batch, to zonesync.Position, mark mesh.Revision, changes []mesh.Change) {
	last := map[mesh.Key]mesh.Change{}
	for _, c := range changes {
		if c.Resource.Zone != e.cfg.zone {
			last[c.Resource.Key] = c
		}
	}
	kept := maps.Clone(e.kept)
	for _, k := range sortedKeys(last) {
		c := last[k]
		if c.Deleted {
			b.must.DeleteResources = append(b.must.DeleteResources, k)
			delete(kept, k) // what keeps an identity all the same is the ratchet
			continue
		}
		b.must.PutResources = append(b.must.PutResources, c.Resource)
		if _, err := mesh.DecodeSpec(k.Kind, c.Resource.Spec); err == nil {
			delete(kept, k)
		} else if old, ok := e.object(k); ok {
			kept[k] = old.Resource
		}
	}
	e.ratchet(last, kept)
	for _, k := range sortedKeys(last) {
		if _, keep := kept[k]; !keep || !last[k].Deleted {
			b.changes = append(b.changes, last[k])
		}
	}
	for _, k := range sortedKeys(e.kept) { // kept before, and not needed any more
		if _, still := kept[k]; !still {
			b.must.DeleteKept = append(b.must.DeleteKept, k)
			if c, ok := last[k]; (!ok || c.Deleted) && !e.synced[k] {
				b.changes = append(b.changes, mesh.Change{Deleted: true, Resource: mesh.Resource{Key: k}})
			}
		}
	}
	for _, k := range sortedKeys(kept) {
		b.must.PutKept = append(b.must.PutKept, kept[k])
	}
	b.must.Position = &disk.Position{Revision: to.Revision, Digest: to.Digest}
	b.mark, b.applied = mark, to.Revision
	b.saved = append(b.saved, func() {
		e.dirty[unitGenerators] = true // what global has replaces the zone's own
		e.kept = kept
		for k, c := range last {
			if c.Deleted {
				delete(e.synced, k)
			} else {
				e.synced[k] = true
			}
		}
		e.position.Store(&to)
	})
}

// ratchet keeps a MeshIdentity that global took away while proxies here have
// their identity by it and would be left with none: what has mTLS does not lose
// it because something is missing. It goes once its proxies have another.
func (e *engine) ratchet(last map[mesh.Key]mesh.Change, kept map[mesh.Key]mesh.Resource) {
	meshes := map[string]bool{}
	for k := range last {
		if k.Kind == mesh.KindMeshIdentity {
			meshes[k.Mesh] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(meshes)) {
		var rest []mesh.PolicyResource
		gone := map[mesh.Key]mesh.Resource{}
		for _, o := range e.list(mesh.KindMeshIdentity, name) {
			c, changed := last[o.Key]
			switch _, was := kept[o.Key]; {
			case changed && c.Deleted, !changed && was && !e.synced[o.Key]:
				gone[o.Key] = o.Resource
				delete(kept, o.Key)
			case !changed:
				rest = append(rest, mesh.PolicyResource(*o))
			}
		}
		for k, c := range last {
			if k.Kind == mesh.KindMeshIdentity && k.Mesh == name && !c.Deleted {
				if spec, err := mesh.DecodeSpec(k.Kind, c.Resource.Spec); err == nil {
					rest = append(rest, mesh.PolicyResource{Resource: c.Resource, Decoded: spec})
				} else if old, ok := e.object(k); ok {
					rest = append(rest, mesh.PolicyResource(*old))
				}
			}
		}
		if len(gone) == 0 {
			continue
		}
		for _, k := range sortedKeys(e.proxies) {
			p := e.proxies[k]
			if p.resource.Mesh != name || p.decision == nil {
				continue
			}
			if d, _ := mesh.IdentityFor(rest, e.subject(p)); d != nil {
				continue
			}
			if r, ok := gone[p.decision.Source]; ok {
				kept[r.Key] = r
			}
		}
	}
}

// object and list read the world in the loop, which is its only writer.
func (e *engine) object(k mesh.Key) (o *ir.Object, ok bool) {
	e.world.View(func(r ir.Reader) { o, ok = r.Get(k) })
	return o, ok
}

func (e *engine) list(kind mesh.KindName, meshName string) (out []*ir.Object) {
	e.world.View(func(r ir.Reader) { out = r.List(ir.Query{Kind: kind, Mesh: meshName, Index: ir.ByMesh}) })
	return out
}

// problems of what global pushed: undecodable, or kept against its word.
func (e *engine) replicaProblems() []problem {
	var out []problem
	for _, p := range e.world.Problems() {
		reason := p.Reason
		if _, ok := e.kept[p.Key]; ok {
			reason += "; the last good version stays in force"
		}
		out = append(out, problem{key: p.Key, reason: reason})
	}
	for _, k := range sortedKeys(e.kept) {
		if !e.synced[k] {
			out = append(out, problem{key: k, reason: fmt.Sprintf("deleted at global, but proxies of zone %s would be left without identity: it stays in force here until another MeshIdentity selects them", e.cfg.zone)})
		}
	}
	return out
}
