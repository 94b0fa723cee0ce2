package world

import (
	"slices"
	"sync"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// reads is what one unit read. A map is nil until there is something in it: most
// units read one or two sorts of things, and a zone has a unit for each proxy.
type reads struct {
	unit      Unit
	bare      bool // specs only
	gets      map[mesh.Key]struct{}
	lists     map[ir.Query]struct{}
	selects   map[ir.Query][]ir.Accept
	counters  map[string]struct{}
	addresses map[mesh.Key]struct{}
}

// note files one thing that was read.
func note[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[k] = v
}

func (r *reads) len() int {
	return len(r.gets) + len(r.lists) + len(r.selects) + len(r.counters) + len(r.addresses)
}

// accepts reports whether the unit took an object when it last read.
func (r *reads) accepts(q ir.Query, it *item) bool {
	o := it.full
	if r.bare {
		o = it.bare
	}
	return slices.ContainsFunc(r.selects[q], func(accept ir.Accept) bool { return accept(o) })
}

type readers map[*reads]struct{}

// deps is reads, inverted. Its mutex is held for moments, and always inside of
// the world's.
type deps struct {
	mu        sync.Mutex
	units     map[Unit]*reads
	gets      map[mesh.Key]readers
	lists     map[ir.Query]readers
	selects   map[ir.Query]readers
	counters  map[string]readers
	addresses map[mesh.Key]readers
	edges     int
	// inherited is set in a fork.
	inherited *inherited
}

func newDeps() deps {
	return deps{
		units: map[Unit]*reads{}, gets: map[mesh.Key]readers{},
		lists: map[ir.Query]readers{}, selects: map[ir.Query]readers{}, counters: map[string]readers{}, addresses: map[mesh.Key]readers{},
	}
}

func (d *deps) file(r *reads) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop(r.unit)
	d.units[r.unit] = r
	d.edges += r.len()
	link(d.gets, r.gets, r)
	link(d.lists, r.lists, r)
	link(d.selects, r.selects, r)
	link(d.counters, r.counters, r)
	link(d.addresses, r.addresses, r)
}

func (d *deps) forget(unit Unit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop(unit)
}

func (d *deps) drop(unit Unit) {
	if d.inherited != nil {
		delete(d.inherited.reads, unit)
	}
	old := d.units[unit]
	if old == nil {
		return
	}
	unlink(d.gets, old.gets, old)
	unlink(d.lists, old.lists, old)
	unlink(d.selects, old.selects, old)
	unlink(d.counters, old.counters, old)
	unlink(d.addresses, old.addresses, old)
	delete(d.units, unit)
	d.edges -= old.len()
}

func (d *deps) size() (units, edges int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.units), d.edges
}

func link[K comparable, V any](index map[K]readers, keys map[K]V, r *reads) {
	for k := range keys {
		set := index[k]
		if set == nil {
			set = readers{}
			index[k] = set
		}
		set[r] = struct{}{}
	}
}

func unlink[K comparable, V any](index map[K]readers, keys map[K]V, r *reads) {
	for k := range keys {
		delete(index[k], r)
		if len(index[k]) == 0 {
			delete(index, k)
		}
	}
}

// touch collects the units whose reads a batch changed. It is used under the
// world's write lock, when no read can be filed.
type touch struct {
	deps  *deps
	dirty map[Unit]struct{}
}

func (d *deps) touch() *touch {
	if d.inherited != nil {
		d.inherited.drift()
	}
	return &touch{deps: d, dirty: map[Unit]struct{}{}}
}

// change says what of an object is another.
type change bool

const (
	specChanged   change = false
	statusChanged change = true
)

func (t *touch) get(k mesh.Key, c change) {
	touched(t.deps, k, func(d *deps) map[mesh.Key]readers { return d.gets }, func(r *reads) map[mesh.Key]struct{} { return r.gets }, t.mark(c))
}

// lists touches who listed any of the queries under which an object is found, and
// who selected from them and accepts it.
func (t *touch) lists(queries []ir.Query, it *item, c change) {
	mark := t.mark(c)
	for _, q := range queries {
		touched(t.deps, q, func(d *deps) map[ir.Query]readers { return d.lists }, func(r *reads) map[ir.Query]struct{} { return r.lists }, mark)
		touched(t.deps, q, func(d *deps) map[ir.Query]readers { return d.selects }, func(r *reads) map[ir.Query][]ir.Accept { return r.selects }, func(r *reads) {
			if _, already := t.dirty[r.unit]; !already && r.accepts(q, it) {
				mark(r)
			}
		})
	}
}

func (t *touch) counter(name string) {
	touched(t.deps, name, func(d *deps) map[string]readers { return d.counters }, func(r *reads) map[string]struct{} { return r.counters }, t.mark(specChanged))
}

func (t *touch) addresses(k mesh.Key) {
	touched(t.deps, k, func(d *deps) map[mesh.Key]readers { return d.addresses }, func(r *reads) map[mesh.Key]struct{} { return r.addresses }, t.mark(specChanged))
}

func (t *touch) mark(c change) func(*reads) {
	return func(r *reads) {
		if c == specChanged || !r.bare {
			t.dirty[r.unit] = struct{}{}
		}
	}
}

func (t *touch) units() []Unit {
	out := make([]Unit, 0, len(t.dirty))
	for u := range t.dirty {
		out = append(out, u)
	}
	slices.Sort(out)
	return out
}

// view reads the world without recording. It is valid inside of Read and View.
type view struct {
	w    *World
	bare bool
}

// Zone implements ir.Reader.
func (v view) Zone() string { return v.w.zone }

// Get implements ir.Reader.
func (v view) Get(key mesh.Key) (*ir.Object, bool) {
	it, ok := v.w.objects[key]
	if !ok {
		return nil, false
	}
	return v.object(it), true
}

// List implements ir.Reader; the slice is the caller's.
func (v view) List(q ir.Query) []*ir.Object {
	b := v.w.buckets[q]
	if b == nil {
		return nil
	}
	out := make([]*ir.Object, len(b.items))
	for i, it := range b.items {
		out[i] = v.object(it)
	}
	return out
}

func (v view) object(it *item) *ir.Object {
	if v.bare {
		return it.bare
	}
	return it.full
}

// Counter implements ir.Reader.
func (v view) Counter(name string) uint64 { return v.w.counters[name] }

// Addresses implements ir.Reader; the slice is not the caller's to change.
func (v view) Addresses(service mesh.Key) []string { return v.w.addresses[service] }

// recorder is a view that remembers what was asked.
type recorder struct {
	view
	reads reads
}

// Get implements ir.Reader.
func (r *recorder) Get(key mesh.Key) (*ir.Object, bool) {
	note(&r.reads.gets, key, struct{}{})
	return r.view.Get(key)
}

// List implements ir.Reader.
func (r *recorder) List(q ir.Query) []*ir.Object {
	note(&r.reads.lists, q, struct{}{})
	return r.view.List(q)
}

// Select implements ir.Selector: what is not accepted now is no dependency until a
// change makes it so.
func (r *recorder) Select(q ir.Query, accept ir.Accept) []*ir.Object {
	note(&r.reads.selects, q, append(r.reads.selects[q], accept))
	return slices.DeleteFunc(r.view.List(q), func(o *ir.Object) bool { return !accept(o) })
}

// Counter implements ir.Reader.
func (r *recorder) Counter(name string) uint64 {
	note(&r.reads.counters, name, struct{}{})
	return r.view.Counter(name)
}

// Addresses implements ir.Reader.
func (r *recorder) Addresses(service mesh.Key) []string {
	note(&r.reads.addresses, service, struct{}{})
	return r.view.Addresses(service)
}

var _ ir.Selector = (*recorder)(nil)
