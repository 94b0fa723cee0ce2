package effect

import (
	"slices"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// Who says a match as callers: "spiffe://default.east.mesh.local/workload/web",
// "everyone", "callers of spiffe://default.east.mesh.local/…".
func Who(m mesh.Match) string {
	var parts []string
	if s := m.SpiffeID; s != nil {
		switch {
		case s.Type == mesh.MatchPrefix && strings.HasPrefix("spiffe://", s.Value):
			parts = append(parts, "everyone with a certificate")
		case s.Type == mesh.MatchPrefix:
			parts = append(parts, s.Value+"…")
		default:
			parts = append(parts, s.Value)
		}
	}
	if s := m.SNI; s != nil {
		if len(parts) == 0 {
			parts = append(parts, "everyone with a certificate")
		}
		parts = append(parts, "by SNI "+s.Value)
	}
	return strings.Join(parts, " ")
}

// Decision is what a permission says of a match; the three lists of ir.Permission.
type Decision string

const (
	// Deny refuses, whatever else allows.
	Deny Decision = "deny"
	// ShadowDeny lets in, and counts that it would be refused.
	ShadowDeny Decision = "allow, shadow deny"
	// Allow lets in.
	Allow Decision = "allow"
)

// Rule is one entry of a permission, in words.
type Rule struct {
	// Decision on the callers.
	Decision Decision
	// Match of the callers.
	Match mesh.Match
	// Source is the line that says so.
	Source ir.Source
}

// String is "deny spiffe://default.east.mesh.local/workload/web".
func (r Rule) String() string { return string(r.Decision) + " " + Who(r.Match) }

// key is the same for entries that say the same; texts are for people alone.
func (r Rule) key() string { return string(r.Decision) + " " + text(r.Match) }

// Rules are the entries of a permission in the order in which they count.
func Rules(p ir.Permission) []Rule {
	var out []Rule
	for _, list := range []struct {
		decision Decision
		entries  []ir.PermissionMatch
	}{{Deny, p.Deny}, {ShadowDeny, p.AllowWithShadowDeny}, {Allow, p.Allow}} {
		for _, m := range list.entries {
			out = append(out, Rule{Decision: list.decision, Match: m.Match, Source: m.Source})
		}
	}
	return out
}

// Permissions says what changes in who may call, at a place such as "inbound http".
func Permissions(at string, old, next ir.Permission) []Line {
	before, after := Rules(old), Rules(next)
	was, is := tally(before), tally(after)
	var out []Line
	for _, r := range before {
		if is[r.key()] == nil {
			out = append(out, line(Removed, at, r, removal(r, old, next)))
		}
	}
	for _, r := range after {
		if was[r.key()] == nil {
			out = append(out, line(Added, at, r, addition(r, old, next)))
		}
	}
	for _, r := range after { // the same callers, by another line
		if had := was[r.key()]; had != nil && !slices.Equal(had, is[r.key()]) && !contains(had, r.Source) {
			l := line(Changed, at, r, Alters)
			l.Text += ", as before, by another line"
			out = append(out, l)
		}
	}
	return out
}

func line(sign Sign, at string, r Rule, bearing Bearing) Line {
	return Line{Sign: sign, Area: Permission, At: []string{at}, Text: r.String(), Who: Who(r.Match), Bearing: bearing, Causes: causes(r.Source)}
}

// tally has the sources of each entry by its key.
func tally(rules []Rule) map[string][]ir.Source {
	out := map[string][]ir.Source{}
	for _, r := range rules {
		s := r.Source
		s.Revision = 0
		out[r.key()] = append(out[r.key()], s)
	}
	return out
}

func contains(list []ir.Source, s ir.Source) bool {
	s.Revision = 0
	return slices.Contains(list, s)
}

// addition is what a new entry means for callers.
func addition(r Rule, old, next ir.Permission) Bearing {
	if r.Decision == Deny {
		if !covered(old.Deny, r.Match) && overlapsAllowed(old, r.Match) {
			return Narrows
		}
		return Alters
	}
	if allowsAll(old, r.Match) || covered(next.Deny, r.Match) {
		return Alters
	}
	return Widens
}

// removal is what an entry means that is gone.
func removal(r Rule, old, next ir.Permission) Bearing {
	if r.Decision == Deny {
		if !covered(next.Deny, r.Match) && overlapsAllowed(next, r.Match) {
			return Widens
		}
		return Alters
	}
	if covered(next.Allow, r.Match) || covered(next.AllowWithShadowDeny, r.Match) || covered(old.Deny, r.Match) {
		return Alters
	}
	return Narrows
}

// allowsAll reports whether every caller that a match means was let in.
func allowsAll(p ir.Permission, m mesh.Match) bool {
	if !covered(p.Allow, m) && !covered(p.AllowWithShadowDeny, m) {
		return false
	}
	return !slices.ContainsFunc(p.Deny, func(d ir.PermissionMatch) bool { return ir.Overlap(d.Match, m) })
}

func covered(list []ir.PermissionMatch, m mesh.Match) bool {
	return slices.ContainsFunc(list, func(x ir.PermissionMatch) bool { return ir.Covers(x.Match, m) })
}

func overlapsAllowed(p ir.Permission, m mesh.Match) bool {
	is := func(x ir.PermissionMatch) bool { return ir.Overlap(x.Match, m) }
	return slices.ContainsFunc(p.Allow, is) || slices.ContainsFunc(p.AllowWithShadowDeny, is)
}

// Weakens reports whether a line gives callers a way in that they did not have: a
// permission that widens, more authorities to believe, or another identity, which
// permissions may mean.
func (l Line) Weakens() bool {
	return l.Bearing == Widens || l.Area == Trust && l.Sign != Removed || l.Area == Identity && l.Sign == Changed
}
