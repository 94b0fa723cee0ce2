package mesh

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// InboundRule is the configuration for the callers that match.
type InboundRule[C any] struct {
	// Match is nil for the catch-all rule.
	Match *Match
	// Conf is what applies.
	Conf C
	// Sources it came from, lowest priority first.
	Sources []ConfSource
}

// PermissionEntry is one match of a permission.
type PermissionEntry struct {
	Match
	// Source it came from.
	Source ConfSource
}

// PermissionSet gathers the permissions of every policy; deny wins over
// allowWithShadowDeny, which wins over allow; what none matches is refused.
type PermissionSet struct {
	Deny, AllowWithShadowDeny, Allow []PermissionEntry
}

// toMatch is a `to` item that speaks of a destination.
type toMatch struct {
	policy *Selected
	index  int
	to     int
	conf   any
}

func (m *toMatch) source() ConfSource {
	return m.policy.source("to[" + strconv.Itoa(m.index) + "]")
}

func (s *Selected) source(path string) ConfSource {
	return ConfSource{Key: s.Key, Path: path, Revision: s.Revision}
}

// toMatches finds the items that speak of a destination, from low to high
// priority; items of one policy that are equal in rank keep their order.
func toMatches(selected []Selected, dest *Destination) []toMatch {
	var out []toMatch
	for i := range selected {
		s := &selected[i]
		for j, item := range s.to {
			if r := dest.toRank(&s.Resource, &item.Target); r > 0 {
				out = append(out, toMatch{policy: s, index: j, to: r, conf: item.Conf})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b toMatch) int {
		if c := a.policy.rank.compareTop(&b.policy.rank); c != 0 {
			return c
		}
		if a.to != b.to {
			return a.to - b.to
		}
		return a.policy.rank.compareName(&b.policy.rank)
	})
	return out
}

// OutboundConf merges what the selected policies say of one destination: items
// for the mesh, the service, its port and, if asked for, the route, from low to
// high priority. C is the configuration struct of the kind, for example
// TimeoutConf. The result shares memory with the policies; do not change it.
func OutboundConf[C any](selected []Selected, dest Destination) (conf C, sources []ConfSource) {
	for _, m := range toMatches(selected, &dest) {
		c, ok := m.conf.(*C)
		if !ok {
			continue
		}
		mergeInto(&conf, c)
		sources = append(sources, m.source())
	}
	return conf, sources
}

// InboundConf returns what the selected policies say of the callers of one
// inbound or listener: one rule per match, the most specific first and the
// policy of highest priority first among equals; matched rules are not merged
// with one another. Rules without matches are merged into one catch-all, which
// comes last and is absent when there are none.
func InboundConf[C any](selected []Selected, section string) []InboundRule[C] {
	var out []InboundRule[C]
	var all InboundRule[C]
	for i := range selected {
		s := &selected[i]
		if !s.covers(section) {
			continue
		}
		for j, item := range s.rules {
			c, ok := item.Conf.(*C)
			if !ok {
				continue
			}
			if src := s.source("rules[" + strconv.Itoa(j) + "]"); len(item.Matches) == 0 {
				mergeInto(&all.Conf, c)
				all.Sources = append(all.Sources, src)
			}
		}
	}
	for i := len(selected) - 1; i >= 0; i-- {
		s := &selected[i]
		if !s.covers(section) {
			continue
		}
		for j, item := range s.rules {
			c, ok := item.Conf.(*C)
			if !ok {
				continue
			}
			for k := range item.Matches {
				path := "rules[" + strconv.Itoa(j) + "].matches[" + strconv.Itoa(k) + "]"
				out = append(out, InboundRule[C]{Match: &item.Matches[k], Conf: *c, Sources: []ConfSource{s.source(path)}})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b InboundRule[C]) int { return compareMatch(a.Match, b.Match) })
	if len(all.Sources) > 0 {
		out = append(out, all)
	}
	return out
}

func (s *Selected) covers(section string) bool { return s.Section == "" || s.Section == section }

// compareMatch puts the more specific match first: by SPIFFE ID exact, prefix,
// none; then with SNI before without.
func compareMatch(a, b *Match) int {
	if c := spiffeRank(b) - spiffeRank(a); c != 0 {
		return c
	}
	return sniRank(b) - sniRank(a)
}

func spiffeRank(m *Match) int {
	switch {
	case m.SpiffeID == nil:
		return 0
	case m.SpiffeID.Type == MatchExact:
		return 2
	}
	return 1
}

func sniRank(m *Match) int {
	if m.SNI != nil {
		return 1
	}
	return 0
}

// Permissions gathers what the selected MeshTrafficPermissions say of one
// inbound or listener. They are not merged: every list holds the entries of
// every policy, from low to high priority.
func Permissions(selected []Selected, section string) PermissionSet {
	var set PermissionSet
	for i := range selected {
		s := &selected[i]
		if !s.covers(section) {
			continue
		}
		for j, item := range s.rules {
			c, ok := item.Conf.(*PermissionConf)
			if !ok {
				continue
			}
			add := func(list *[]PermissionEntry, name string, matches []Match) {
				for k, m := range matches {
					path := "rules[" + strconv.Itoa(j) + "].default." + name + "[" + strconv.Itoa(k) + "]"
					*list = append(*list, PermissionEntry{Match: m, Source: s.source(path)})
				}
			}
			add(&set.Deny, "deny", c.Deny)
			add(&set.AllowWithShadowDeny, "allowWithShadowDeny", c.AllowWithShadowDeny)
			add(&set.Allow, "allow", c.Allow)
		}
	}
	return set
}

// mergeInto lays patch over dst as an RFC 7396 merge patch of their JSON would:
// given fields win one by one, structs and maps are merged, lists are replaced.
// Lists whose JSON name begins with "append" are concatenated instead. Neither
// patch nor what dst pointed at is changed.
func mergeInto[C any](dst, patch *C) {
	mergeValue(reflect.ValueOf(dst).Elem(), reflect.ValueOf(patch).Elem(), false)
}

func mergeValue(dst, patch reflect.Value, concat bool) {
	switch patch.Kind() {
	case reflect.Pointer:
		mergePointer(dst, patch, concat)
	case reflect.Struct:
		if isLeaf(patch.Type()) {
			dst.Set(patch)
			return
		}
		for i := range patch.NumField() {
			name := jsonName(patch.Type().Field(i))
			mergeValue(dst.Field(i), patch.Field(i), strings.HasPrefix(name, "append"))
		}
	case reflect.Slice:
		switch {
		case patch.Len() == 0:
		case concat:
			both := reflect.MakeSlice(dst.Type(), 0, dst.Len()+patch.Len())
			dst.Set(reflect.AppendSlice(reflect.AppendSlice(both, dst), patch))
		default:
			dst.Set(patch)
		}
	case reflect.Map:
		mergeMap(dst, patch)
	default:
		if !patch.IsZero() {
			dst.Set(patch)
		}
	}
}

// mergePointer writes into a copy, since dst may share memory with a policy.
func mergePointer(dst, patch reflect.Value, concat bool) {
	if patch.IsNil() {
		return
	}
	elem := patch.Type().Elem()
	deep := elem.Kind() == reflect.Struct && !isLeaf(elem) || elem.Kind() == reflect.Map || concat
	if dst.IsNil() || !deep {
		dst.Set(patch)
		return
	}
	fresh := reflect.New(elem)
	fresh.Elem().Set(dst.Elem())
	mergeValue(fresh.Elem(), patch.Elem(), concat)
	dst.Set(fresh)
}

func mergeMap(dst, patch reflect.Value) {
	if patch.Len() == 0 {
		return
	}
	fresh := reflect.MakeMapWithSize(patch.Type(), dst.Len()+patch.Len())
	for _, m := range []reflect.Value{dst, patch} {
		for it := m.MapRange(); it.Next(); {
			fresh.SetMapIndex(it.Key(), it.Value())
		}
	}
	dst.Set(fresh)
}

// ProxyConf merges the `default` of the selected single-item policies, from low
// to high priority.
func ProxyConf[C any](selected []Selected) (conf C, sources []ConfSource) {
	for i := range selected {
		p, ok := selected[i].Decoded.(ProxyPolicy)
		if !ok {
			continue
		}
		if c, ok := p.ProxyDefault().(*C); ok && c != nil {
			mergeInto(&conf, c)
			sources = append(sources, selected[i].source("default"))
		}
	}
	return conf, sources
}
