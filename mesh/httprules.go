package mesh

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
)

// HTTPRouteRules is what the merging of MeshHTTPRoute works on: the rules of one `to` item.
type HTTPRouteRules struct {
	// Rules in document order.
	Rules []HTTPRouteRule
	// Unmatched as in HTTPRouteTo.
	Unmatched string
}

// MergedHTTPRule is a rule after merging.
type MergedHTTPRule struct {
	// Matches are alternatives; they identify the rule.
	Matches []HTTPMatch
	// Conf is what to do.
	Conf HTTPRouteConf
	// Source is where the policy of highest priority says it.
	Source ConfSource
	// Sources are all, lowest priority first.
	Sources []ConfSource
}

// MergedTCPRule is what to do with connections, after merging.
type MergedTCPRule struct {
	// Conf is what to do.
	Conf TCPRouteConf
	// Source is where the policy of highest priority says it.
	Source ConfSource
	// Sources are all, lowest priority first.
	Sources []ConfSource
}

// HTTPRules merges the rules of the selected MeshHTTPRoutes for one destination.
// Rules of equal matches are one rule; those of the policy of highest priority
// come first, each policy's in their order.
func HTTPRules(selected []Selected, dest Destination) []MergedHTTPRule {
	var out []MergedHTTPRule
	index := map[string]int{}           // in out, by matches
	confs := map[int][]*HTTPRouteConf{} // highest priority first
	items := toMatches(selected, &dest)
	for i := len(items) - 1; i >= 0; i-- {
		rules, ok := items[i].conf.(*HTTPRouteRules)
		if !ok {
			continue
		}
		ats := make([]int, len(rules.Rules))
		for j := range rules.Rules {
			key := matchesKey(rules.Rules[j].Matches)
			at, seen := index[key]
			if !seen {
				at = len(out)
				index[key] = at
				out = append(out, MergedHTTPRule{Matches: rules.Rules[j].Matches})
			}
			ats[j] = at
		}
		// Of equal matches in one list the later counts more.
		for j := range slices.Backward(rules.Rules) {
			rule := &rules.Rules[j]
			source := items[i].source()
			source.Path += ".rules[" + strconv.Itoa(j) + "]"
			at := ats[j]
			if len(confs[at]) == 0 {
				out[at].Source = source
			}
			confs[at] = append(confs[at], &rule.Default)
			out[at].Sources = append(out[at].Sources, source)
		}
	}
	for at := range out {
		for _, c := range slices.Backward(confs[at]) {
			mergeInto(&out[at].Conf, c)
		}
		slices.Reverse(out[at].Sources)
	}
	return out
}

// HTTPUnmatched is what the route of highest priority that says it wants for
// requests that no rule matches: UnmatchedForward or UnmatchedNotFound.
func HTTPUnmatched(selected []Selected, dest Destination) (string, ConfSource) {
	for _, item := range slices.Backward(toMatches(selected, &dest)) {
		if rules, ok := item.conf.(*HTTPRouteRules); ok && rules.Unmatched != "" {
			return rules.Unmatched, item.source()
		}
	}
	return UnmatchedForward, ConfSource{}
}

// matchesKey is equal for equal matches.
func matchesKey(matches []HTTPMatch) string {
	b, err := json.Marshal(matches)
	if err != nil {
		// Matches hold strings only, so this cannot happen; a key of its own keeps the rule apart.
		return err.Error()
	}
	return string(b)
}

// TCPRule merges the rules of the selected MeshTCPRoutes for one destination.
func TCPRule(selected []Selected, dest Destination) (MergedTCPRule, bool) {
	conf, sources := OutboundConf[TCPRouteConf](selected, dest)
	if len(sources) == 0 {
		return MergedTCPRule{}, false
	}
	return MergedTCPRule{Conf: conf, Source: sources[len(sources)-1], Sources: sources}, true
}

// HTTPRuleMatch is one match of a merged rule.
type HTTPRuleMatch struct {
	// Match of the request.
	Match HTTPMatch
	// Rule it belongs to.
	Rule *MergedHTTPRule
}

// SortHTTPRules takes merged rules apart into single matches, in the order in
// which they are tried: by path exact, prefix, regular expression, none; then
// the longer path; then with a method; then more headers; then more query
// parameters; then the order of the rules.
func SortHTTPRules(rules []MergedHTTPRule) []HTTPRuleMatch {
	var out []HTTPRuleMatch
	for i := range rules {
		for _, m := range rules[i].Matches {
			out = append(out, HTTPRuleMatch{Match: m, Rule: &rules[i]})
		}
	}
	slices.SortStableFunc(out, func(a, b HTTPRuleMatch) int { return compareHTTPMatch(&a.Match, &b.Match) })
	return out
}

func compareHTTPMatch(a, b *HTTPMatch) int {
	return cmp.Or(
		cmp.Compare(pathRank(b.Path), pathRank(a.Path)),
		cmp.Compare(pathLength(b.Path), pathLength(a.Path)),
		cmp.Compare(isSet(b.Method), isSet(a.Method)),
		cmp.Compare(len(b.Headers), len(a.Headers)),
		cmp.Compare(len(b.QueryParams), len(a.QueryParams)),
	)
}

func isSet(s *string) int {
	if s != nil {
		return 1
	}
	return 0
}

func pathRank(p *PathMatch) int {
	switch {
	case p == nil:
		return 0
	case p.Type == MatchExact:
		return 3
	case p.Type == MatchPathPrefix:
		return 2
	}
	return 1
}

// pathLength counts for prefixes and expressions; exact paths are all equal.
func pathLength(p *PathMatch) int {
	if p == nil || p.Type == MatchExact {
		return 0
	}
	return len(p.Value)
}
