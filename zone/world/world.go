package world

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// Unit names one compile, for example "class/web-3f9a2c41d07e".
type Unit string

// World is plain maps with indexes. One goroutine writes (Apply), any number
// read; a read sees one revision.
type World struct {
	zone string
	// kinds are all of them, made once: what is decoded asks for its own.
	kinds map[mesh.KindName]mesh.Kind

	mu       sync.RWMutex
	revision uint64
	epoch    uint64 // grows with each fork
	objects  map[mesh.Key]*item
	buckets  map[ir.Query]*bucket
	counters map[string]uint64
	// addresses at which services are called.
	addresses map[mesh.Key][]string
	broken    map[mesh.Key]string

	deps deps
}

// Batch is what changes together.
type Batch struct {
	// Changes in order; the last one of a key counts.
	Changes []mesh.Change
	// Counters to set.
	Counters map[string]uint64
	// Addresses of services to set; an empty list forgets.
	Addresses map[mesh.Key][]string
}

// Result of a batch.
type Result struct {
	// Revision of the world after it.
	Revision uint64
	// Dirty units, sorted: something that they read has changed.
	Dirty []Unit
	// Broken are the keys of this batch whose spec could not be decoded. Their
	// last good version stays, if there is one.
	Broken []mesh.Key
}

// Problem is an object that could not be decoded.
type Problem struct {
	// Key of the object.
	Key mesh.Key
	// Reason in the decoder's words.
	Reason string
}

// item is an object, and the same for those who read specs: without status, and a
// MeshService without its state, which follows from its instances as its status does.
type item struct {
	text       string
	full, bare *ir.Object
}

func newItem(o *ir.Object) *item {
	it := &item{text: o.Key.String(), full: o, bare: o}
	svc, isService := o.Decoded.(*mesh.MeshService)
	if len(o.Status) == 0 && (!isService || svc.State == "") {
		return it
	}
	bare := *o
	bare.Status = nil
	if isService && svc.State != "" { // what its instances make of it
		plain := *svc
		plain.State = ""
		bare.Decoded = &plain
	}
	it.bare = &bare
	return it
}

// New makes an empty world of a zone.
func New(zone string) *World {
	kinds := map[mesh.KindName]mesh.Kind{}
	for _, k := range mesh.Kinds() {
		kinds[k.Name] = k
	}
	return &World{
		zone:      zone,
		kinds:     kinds,
		objects:   map[mesh.Key]*item{},
		buckets:   map[ir.Query]*bucket{},
		counters:  map[string]uint64{},
		addresses: map[mesh.Key][]string{},
		broken:    map[mesh.Key]string{},
		deps:      newDeps(),
	}
}

// Apply takes a batch and says which units it made dirty. A change after which
// labels, decoded spec, status and age are as before touches nothing.
func (w *World) Apply(b Batch) Result {
	decoded := make([]*ir.Object, len(b.Changes))
	reasons := make([]string, len(b.Changes))
	for i, c := range b.Changes { // outside of the lock: decoding is the slow part
		if c.Deleted {
			continue
		}
		o, err := w.decode(c.Resource)
		if err != nil {
			reasons[i] = err.Error()
		}
		decoded[i] = o
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	touched := w.deps.touch()
	for i, c := range b.Changes {
		switch {
		case c.Deleted:
			delete(w.broken, c.Resource.Key)
			w.remove(touched, c.Resource.Key)
		case reasons[i] != "":
			w.broken[c.Resource.Key] = reasons[i]
		default:
			delete(w.broken, c.Resource.Key)
			w.put(touched, decoded[i])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.Counters)) {
		if w.counters[name] != b.Counters[name] {
			w.counters[name] = b.Counters[name]
			touched.counter(name)
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(b.Addresses), compareKeys) {
		next := b.Addresses[k]
		if slices.Equal(w.addresses[k], next) {
			continue
		}
		touched.addresses(k)
		if len(next) == 0 {
			delete(w.addresses, k)
		} else {
			w.addresses[k] = slices.Clone(next)
		}
	}
	w.revision++
	res := Result{Revision: w.revision, Dirty: touched.units()}
	for _, c := range b.Changes {
		if _, ok := w.broken[c.Resource.Key]; ok {
			res.Broken = append(res.Broken, c.Resource.Key)
		}
	}
	slices.SortFunc(res.Broken, compareKeys)
	res.Broken = slices.Compact(res.Broken)
	return res
}

func (w *World) put(t *touch, o *ir.Object) {
	next := newItem(o)
	queries := queriesOf(o)
	if old := w.objects[o.Key]; old != nil && sameSpec(old.bare, next.bare) {
		// The indexes stay. Those who read specs see nothing new; if the status is
		// the same nobody does: only the revision, which is for people, moves.
		if !bytes.Equal(old.full.Status, o.Status) || !sameSpec(old.full, o) {
			t.get(o.Key, statusChanged)
			t.lists(queries, old, statusChanged)
			t.lists(queries, next, statusChanged)
		}
		w.objects[o.Key] = next
		for _, q := range queries {
			w.own(q).put(next)
		}
		return
	}
	w.remove(t, o.Key)
	t.get(o.Key, specChanged)
	w.objects[o.Key] = next
	t.lists(queries, next, specChanged)
	for _, q := range queries {
		w.own(q).put(next)
	}
}

// remove takes an object out; its former index values count as touched.
func (w *World) remove(t *touch, key mesh.Key) {
	old := w.objects[key]
	if old == nil {
		return
	}
	delete(w.objects, key)
	queries := queriesOf(old.full)
	t.get(key, specChanged)
	t.lists(queries, old, specChanged)
	for _, q := range queries {
		b := w.own(q)
		b.remove(old.text)
		if len(b.items) == 0 {
			delete(w.buckets, q)
		}
	}
}

// Read runs fn with a view of one revision and files what it reads as the
// unit's dependencies, in place of the former ones, before the world can change
// again. Units may be read in parallel, one unit only once at a time.
func (w *World) Read(unit Unit, fn func(ir.Reader)) { w.read(unit, false, fn) }

// ReadSpecs is Read where objects have no status, and services no state. What only
// those change, such as health, does not make the unit dirty.
func (w *World) ReadSpecs(unit Unit, fn func(ir.Reader)) { w.read(unit, true, fn) }

func (w *World) read(unit Unit, bare bool, fn func(ir.Reader)) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	r := &recorder{view: view{w: w, bare: bare}, reads: reads{unit: unit, bare: bare}}
	fn(r)
	w.deps.file(&r.reads)
}

// View runs fn with a view of one revision. Nothing is recorded.
func (w *World) View(fn func(ir.Reader)) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	fn(view{w: w})
}

// Forget drops a unit's dependencies.
func (w *World) Forget(unit Unit) { w.deps.forget(unit) }

// Problems are the objects that could not be decoded, sorted by key.
func (w *World) Problems() []Problem {
	w.mu.RLock()
	defer w.mu.RUnlock()
	out := make([]Problem, 0, len(w.broken))
	for k, reason := range w.broken {
		out = append(out, Problem{Key: k, Reason: reason})
	}
	slices.SortFunc(out, func(a, b Problem) int { return compareKeys(a.Key, b.Key) })
	return out
}

// Size is the number of objects, units and edges between them, for metrics.
func (w *World) Size() (objects, units, edges int) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	units, edges = w.deps.size()
	return len(w.objects), units, edges
}

// decode makes an object of a resource. It is tolerant: unknown fields are a
// newer author's and no problem.
func (w *World) decode(r mesh.Resource) (*ir.Object, error) {
	kind, ok := w.kinds[r.Kind]
	if !ok {
		return nil, fmt.Errorf("kind %q is not known here", r.Kind)
	}
	spec := kind.New()
	if len(bytes.TrimSpace(r.Spec)) > 0 {
		if err := json.Unmarshal(r.Spec, spec); err != nil {
			return nil, fmt.Errorf("decode %s: %w", r.Key, err)
		}
	}
	return &ir.Object{Resource: r, Decoded: spec}, nil
}

// sameSpec reports whether no reader of specs can tell two objects apart.
func sameSpec(a, b *ir.Object) bool {
	return maps.Equal(a.Labels, b.Labels) && a.Created.Equal(b.Created) &&
		(bytes.Equal(a.Spec, b.Spec) || reflect.DeepEqual(a.Decoded, b.Decoded))
}

// queriesOf lists every index value under which an object is found.
func queriesOf(o *ir.Object) []ir.Query {
	q := func(index ir.Index, value string) ir.Query {
		return ir.Query{Kind: o.Kind, Mesh: o.Mesh, Index: index, Value: value}
	}
	out := []ir.Query{q(ir.ByMesh, ""), q(ir.ByDisplayName, o.DisplayName()), q(ir.ByZone, o.Zone)}
	if w := o.Labels[mesh.LabelWorkload]; w != "" && o.Kind == mesh.KindDataplane {
		out = append(out, q(ir.ByWorkload, w))
	}
	if ns := o.Labels[mesh.LabelNamespace]; ns != "" && o.Kind == mesh.KindDataplane {
		for k, v := range o.Labels {
			if v != "" && ir.IndexedLabel(k) {
				out = append(out, q(ir.ByLabel, ir.LabelValue(ns, k, v)))
			}
		}
	}
	return out
}

func compareKeys(a, b mesh.Key) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Mesh, b.Mesh), cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Name, b.Name))
}

// bucket holds the objects of one index value, sorted by the text of their keys.
type bucket struct {
	items []*item
	// epoch of the world that may write it.
	epoch uint64
}

func (b *bucket) find(text string) (int, bool) {
	return slices.BinarySearchFunc(b.items, text, func(it *item, t string) int { return cmp.Compare(it.text, t) })
}

func (b *bucket) put(it *item) {
	i, ok := b.find(it.text)
	if ok {
		b.items[i] = it
		return
	}
	b.items = slices.Insert(b.items, i, it)
}

func (b *bucket) remove(text string) {
	if i, ok := b.find(text); ok {
		b.items = slices.Delete(b.items, i, i+1)
	}
}

// Resources lists every object of a kind, in every mesh, sorted by key.
func (w *World) Resources(kind mesh.KindName) []mesh.Resource {
	w.mu.RLock()
	defer w.mu.RUnlock()
	var out []mesh.Resource
	for k, it := range w.objects {
		if k.Kind == kind {
			out = append(out, it.full.Resource)
		}
	}
	slices.SortFunc(out, func(a, b mesh.Resource) int { return compareKeys(a.Key, b.Key) })
	return out
}
