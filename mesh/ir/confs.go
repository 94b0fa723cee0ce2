package ir

import "github.com/tombolo-mesh/tombolo/mesh"

// Confs are the effective configurations of one node (an inbound, outbound,
// route or destination): at most one a policy kind, in the order of mesh.Kinds.
// A new policy with `to` or `rules` needs no new field here: its builder asks
// for its own type with Conf.
type Confs []EffectiveConf

// EffectiveConf is the merged configuration of one policy kind.
type EffectiveConf struct {
	// Kind of the policies.
	Kind mesh.KindName
	// Conf is a value of the kind's conf type, for example mesh.TimeoutConf.
	Conf any
	// Sources are the items merged into it, lowest priority first.
	Sources []Source
}

// MatchedConf is the configuration of one policy kind for the callers that match.
type MatchedConf struct {
	mesh.Match
	// Kind of the policy.
	Kind mesh.KindName
	// Conf is a value of the kind's conf type.
	Conf any
	// Source of it.
	Source Source
}

// Conf finds the configuration of type T, for example
// Conf[mesh.TimeoutConf](route.Confs).
func Conf[T any](confs Confs) (T, bool) {
	for _, c := range confs {
		if v, ok := c.Conf.(T); ok {
			return v, true
		}
	}
	var zero T
	return zero, false
}

// Sources finds where the configuration of type T was authored.
func Sources[T any](confs Confs) []Source {
	for _, c := range confs {
		if _, ok := c.Conf.(T); ok {
			return c.Sources
		}
	}
	return nil
}

// Matched selects the rules of type T, most specific first.
func Matched[T any](rules []MatchedConf) []MatchedConf {
	var out []MatchedConf
	for _, m := range rules {
		if _, ok := m.Conf.(T); ok {
			out = append(out, m)
		}
	}
	return out
}
