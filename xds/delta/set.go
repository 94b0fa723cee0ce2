package delta

import (
	"cmp"
	"slices"
)

// Key names a resource of any type.
type Key struct {
	// TypeURL and Name as in Resource.
	TypeURL, Name string
}

// Set is an immutable set of resources. Build one with NewSet.
type Set struct {
	types map[string]map[string]*Resource
}

// NewSet indexes resources by type and name; a later duplicate of a name wins.
func NewSet(resources []*Resource) *Set {
	s := &Set{types: map[string]map[string]*Resource{}}
	for _, r := range resources {
		byName := s.types[r.TypeURL]
		if byName == nil {
			byName = map[string]*Resource{}
			s.types[r.TypeURL] = byName
		}
		byName[r.Name] = r
	}
	return s
}

// Get returns a resource or nil. A nil set is empty.
func (s *Set) Get(typeURL, name string) *Resource {
	if s == nil {
		return nil
	}
	return s.types[typeURL][name]
}

// Len counts the resources.
func (s *Set) Len() int {
	n := 0
	if s != nil {
		for _, byName := range s.types {
			n += len(byName)
		}
	}
	return n
}

// Diff lists what is added, changed or removed on the way from s to newer, sorted.
func (s *Set) Diff(newer *Set) []Key {
	if s == newer {
		return nil
	}
	var keys []Key
	one := func(from, to *Set, changed bool) {
		if from == nil {
			return
		}
		for typeURL, byName := range from.types {
			for name, r := range byName {
				other := to.Get(typeURL, name)
				if other == nil || changed && other != r && other.Version != r.Version {
					keys = append(keys, Key{typeURL, name})
				}
			}
		}
	}
	one(s, newer, true)
	one(newer, s, false)
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
		if s != nil {
			for name := range s.types[typeURL] {
				visit(name)
			}
		}
	}
}

func (v *view) has(typeURL string) bool {
	if v.own != nil && len(v.own.types[typeURL]) > 0 {
		return true
	}
	return slices.ContainsFunc(v.layers, func(s *Set) bool { return s != nil && len(s.types[typeURL]) > 0 })
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
