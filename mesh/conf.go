package mesh

import (
	"reflect"
	"slices"
	"strconv"
)

// AnyOutboundConf is OutboundConf for a caller that learns the kind, and so the
// configuration's type, only while it runs. The result is a value of that type,
// for example TimeoutConf, and nil when no item speaks of the destination.
func AnyOutboundConf(selected []Selected, dest Destination) (conf any, sources []ConfSource) {
	var merged anyConf
	for _, m := range toMatches(selected, &dest) {
		if merged.add(m.conf) {
			sources = append(sources, m.source())
		}
	}
	return merged.value(), sources
}

// AnyInboundConf is InboundConf for a caller that learns the configuration's
// type only while it runs; every Conf is a value of that type.
func AnyInboundConf(selected []Selected, section string) []InboundRule[any] {
	var out []InboundRule[any]
	var merged anyConf
	var all InboundRule[any]
	for i := range selected {
		s := &selected[i]
		if !s.covers(section) {
			continue
		}
		for j, item := range s.rules {
			if len(item.Matches) == 0 && merged.add(item.Conf) {
				all.Sources = append(all.Sources, s.source("rules["+strconv.Itoa(j)+"]"))
			}
		}
	}
	for i := len(selected) - 1; i >= 0; i-- {
		s := &selected[i]
		if !s.covers(section) {
			continue
		}
		for j, item := range s.rules {
			for k := range item.Matches {
				path := "rules[" + strconv.Itoa(j) + "].matches[" + strconv.Itoa(k) + "]"
				conf := reflect.ValueOf(item.Conf).Elem().Interface()
				out = append(out, InboundRule[any]{Match: &item.Matches[k], Conf: conf, Sources: []ConfSource{s.source(path)}})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b InboundRule[any]) int { return compareMatch(a.Match, b.Match) })
	if len(all.Sources) > 0 {
		all.Conf = merged.value()
		out = append(out, all)
	}
	return out
}

// anyConf merges configurations of the type that comes first.
type anyConf struct{ merged reflect.Value }

func (c *anyConf) add(conf any) bool {
	patch := reflect.ValueOf(conf)
	if patch.Kind() != reflect.Pointer || patch.IsNil() {
		return false
	}
	if !c.merged.IsValid() {
		c.merged = reflect.New(patch.Type().Elem())
	}
	if patch.Type() != c.merged.Type() {
		return false
	}
	mergeValue(c.merged.Elem(), patch.Elem(), false)
	return true
}

func (c *anyConf) value() any {
	if !c.merged.IsValid() {
		return nil
	}
	return c.merged.Elem().Interface()
}
