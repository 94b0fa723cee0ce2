package world

import (
	"maps"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// Fork is a world of its own that begins as w is now, with what is known of its
// readers: what is applied to one is not seen by the other. It costs a copy of
// two tables of pointers, whatever the objects hold. The goroutine that writes w
// calls it; a fork is not forked again, and lives for a short time.
func (w *World) Fork() *World {
	w.mu.Lock()
	defer w.mu.Unlock()
	// From here on either side copies the buckets that both have before it writes.
	w.epoch++
	f := &World{
		zone: w.zone, kinds: w.kinds, revision: w.revision, epoch: w.epoch,
		objects: maps.Clone(w.objects), buckets: maps.Clone(w.buckets), counters: maps.Clone(w.counters),
		addresses: maps.Clone(w.addresses), broken: maps.Clone(w.broken),
		deps: newDeps(),
	}
	f.deps.inherited = w.deps.inherit()
	return f
}

// own returns a bucket that may be written.
func (w *World) own(q ir.Query) *bucket {
	b := w.buckets[q]
	if b != nil && b.epoch == w.epoch {
		return b
	}
	next := &bucket{epoch: w.epoch}
	if b != nil {
		next.items = slices.Clone(b.items)
	}
	w.buckets[q] = next
	return next
}

// inherited are the reads that a fork began with. They are found in the index of
// the world that it comes from, as far as they are still there, so that a fork
// needs no index of them of its own.
type inherited struct {
	from  *deps
	reads map[Unit]*reads
	// drifted are those whose unit has read anew in the other world since.
	drifted []*reads
}

func (d *deps) inherit() *inherited {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &inherited{from: d, reads: maps.Clone(d.units)}
}

// drift finds the reads that the index of the other world does not have any more.
func (i *inherited) drift() {
	i.from.mu.Lock()
	defer i.from.mu.Unlock()
	i.drifted = nil
	for u, r := range i.reads {
		if i.from.units[u] != r {
			i.drifted = append(i.drifted, r)
		}
	}
}

// touched calls fn with each inherited read of something: of what indexed finds
// in the other world, and of what has says of a read by itself.
func (i *inherited) touched(indexed func(*deps) readers, has func(*reads) bool, fn func(*reads)) {
	i.from.mu.Lock()
	for r := range indexed(i.from) {
		if i.reads[r.unit] == r {
			fn(r)
		}
	}
	i.from.mu.Unlock()
	for _, r := range i.drifted {
		if i.reads[r.unit] == r && has(r) {
			fn(r)
		}
	}
}

// touched calls fn with each read of something in an index.
func touched[K comparable, V any](d *deps, key K, index func(*deps) map[K]readers, of func(*reads) map[K]V, fn func(*reads)) {
	for r := range index(d)[key] {
		fn(r)
	}
	if d.inherited == nil {
		return
	}
	d.inherited.touched(
		func(from *deps) readers { return index(from)[key] },
		func(r *reads) bool { _, ok := of(r)[key]; return ok },
		fn)
}
