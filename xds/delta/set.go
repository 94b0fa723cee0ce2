package delta

import (
	"cmp"
	"hash/maphash"
	"maps"
	"slices"
)

// Key names a resource of any type.
type Key struct {
	// TypeURL and Name as in Resource.
	TypeURL, Name string
}

// Set is an immutable set of resources. Build one with NewSet, or from another one by
// With.
type Set struct {
	types map[string]*table
}

// table is the resources of a type by name, in pages: a set that differs little from
// another one shares those that do not.
type table struct {
	seed  maphash.Seed
	pages []page // a power of two
	count int
}

type page = *map[string]*Resource

const (
	// perPage is how many resources of a page are meant, maxPages how many pages there
	// are at most.
	perPage  = 16
	maxPages = 1 << 12
)

// newTable has room for so many.
func newTable(count int) *table {
	pages := 1
	for pages*perPage*2 <= count && pages < maxPages {
		pages *= 2
	}
	t := &table{pages: make([]page, pages)}
	if pages > 1 {
		t.seed = maphash.MakeSeed()
	}
	return t
}

func (t *table) at(name string) *page {
	if len(t.pages) == 1 {
		return &t.pages[0]
	}
	return &t.pages[maphash.String(t.seed, name)&uint64(len(t.pages)-1)]
}

func (t *table) get(name string) *Resource {
	if p := *t.at(name); p != nil {
		return (*p)[name]
	}
	return nil
}

func (t *table) put(r *Resource) {
	p := t.at(r.Name)
	if *p == nil {
		*p = &map[string]*Resource{}
	}
	if (**p)[r.Name] == nil {
		t.count++
	}
	(**p)[r.Name] = r
}

// each visits all resources, in no order.
func (t *table) each(visit func(*Resource)) {
	if t == nil {
		return
	}
	for _, p := range t.pages {
		visitPage(p, visit)
	}
}

func visitPage(p page, visit func(*Resource)) {
	if p != nil {
		for _, r := range *p {
			visit(r)
		}
	}
}

// NewSet indexes resources by type and name; a later duplicate of a name wins.
func NewSet(resources []*Resource) *Set {
	counts := map[string]int{}
	for _, r := range resources {
		counts[r.TypeURL]++
	}
	s := &Set{types: make(map[string]*table, len(counts))}
	for typeURL, n := range counts {
		s.types[typeURL] = newTable(n)
	}
	for _, r := range resources {
		s.types[r.TypeURL].put(r)
	}
	return s
}

// With is a set with some resources in place of those of the same names, or added. What
// it costs grows with how many they are, but for a pointer to every page; so does a Diff
// of the two.
func (s *Set) With(resources ...*Resource) *Set {
	next := &Set{types: map[string]*table{}}
	if s != nil {
		maps.Copy(next.types, s.types)
	}
	own := map[*page]bool{}
	for _, r := range resources {
		t := next.types[r.TypeURL]
		if t == nil || t.count+len(resources) >= 4*perPage*len(t.pages) && len(t.pages) < maxPages {
			return NewSet(append(s.all(), resources...)) // it has outgrown its pages
		}
		if s.types[r.TypeURL] == t {
			t = &table{seed: t.seed, pages: slices.Clone(t.pages), count: t.count}
			next.types[r.TypeURL] = t
		}
		if p := t.at(r.Name); !own[p] {
			own[p] = true
			if *p != nil {
				copied := maps.Clone(**p)
				*p = &copied
			}
		}
		t.put(r)
	}
	return next
}

func (s *Set) all() []*Resource {
	var out []*Resource
	if s != nil {
		for _, t := range s.types {
			t.each(func(r *Resource) { out = append(out, r) })
		}
	}
	return out
}

// Get returns a resource or nil. A nil set is empty.
func (s *Set) Get(typeURL, name string) *Resource {
	if s == nil {
		return nil
	}
	if t := s.types[typeURL]; t != nil {
		return t.get(name)
	}
	return nil
}

// Len counts the resources.
func (s *Set) Len() int {
	n := 0
	if s != nil {
		for _, t := range s.types {
			n += t.count
		}
	}
	return n
}

// of are the resources of a type; nil when there are none.
func (s *Set) of(typeURL string) *table {
	if s == nil {
		return nil
	}
	return s.types[typeURL]
}

// Diff lists what is added, changed or removed on the way from s to newer, sorted.
func (s *Set) Diff(newer *Set) []Key {
	if s == newer {
		return nil
	}
	var keys []Key
	// What is in from, and in to is not, or is another version.
	one := func(from, to *table, changed bool) {
		look := func(r *Resource) {
			var other *Resource
			if to != nil {
				other = to.get(r.Name)
			}
			if other == nil || changed && other != r && other.Version != r.Version {
				keys = append(keys, Key{r.TypeURL, r.Name})
			}
		}
		if from == nil {
			return
		}
		alike := to != nil && from.seed == to.seed && len(from.pages) == len(to.pages)
		for i, p := range from.pages {
			if !alike || p != to.pages[i] {
				visitPage(p, look)
			}
		}
	}
	if s != nil {
		for typeURL, t := range s.types {
			one(t, newer.of(typeURL), true)
		}
	}
	if newer != nil {
		for typeURL, t := range newer.types {
			one(t, s.of(typeURL), false)
		}
	}
	slices.SortFunc(keys, compareKeys)
	return keys
}

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.TypeURL, b.TypeURL), cmp.Compare(a.Name, b.Name))
}

// view is what one node should have: its own set over the layers of its group,
// the last layer over the ones before.
type view struct {
	layers []*Set
	own    *Set
}

func (v *view) get(typeURL, name string) *Resource {
	if r := v.own.Get(typeURL, name); r != nil {
		return r
	}
	for i := len(v.layers) - 1; i >= 0; i-- {
		if r := v.layers[i].Get(typeURL, name); r != nil {
			return r
		}
	}
	return nil
}

func (v *view) version(typeURL, name string) string {
	if r := v.get(typeURL, name); r != nil {
		return r.Version
	}
	return ""
}

func (v *view) each(typeURL string, visit func(name string)) {
	for _, s := range append([]*Set{v.own}, v.layers...) {
		s.of(typeURL).each(func(r *Resource) { visit(r.Name) })
	}
}

func (v *view) has(typeURL string) bool {
	return v.own.of(typeURL) != nil || slices.ContainsFunc(v.layers, func(s *Set) bool { return s.of(typeURL) != nil })
}

// diff lists the keys whose resource differs between two lists of layers, sorted.
func (s *Server) diff(from, to []*Set) []Key {
	var keys []Key
	at := func(layers []*Set, i int) *Set {
		if i < len(layers) {
			return layers[i]
		}
		return nil
	}
	old, now := view{layers: from}, view{layers: to}
	for i := range max(len(from), len(to)) {
		for _, k := range s.setDiff(at(from, i), at(to, i)) {
			if old.version(k.TypeURL, k.Name) != now.version(k.TypeURL, k.Name) {
				keys = append(keys, k)
			}
		}
	}
	slices.SortFunc(keys, compareKeys)
	return slices.Compact(keys)
}

// diffMemo bounds how many differences are remembered: groups that share a layer
// replace it by the same one, right after each other.
const diffMemo = 8

type memo struct {
	from, to *Set
	keys     []Key
}

func (s *Server) setDiff(from, to *Set) []Key {
	if from == to {
		return nil
	}
	for _, m := range s.memo {
		if m.from == from && m.to == to {
			return m.keys
		}
	}
	m := memo{from, to, from.Diff(to)}
	if len(s.memo) == diffMemo {
		s.memo = slices.Delete(s.memo, 0, 1)
	}
	s.memo = append(s.memo, m)
	return m.keys
}
