package ir

import (
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Tightens reports whether some caller that old let in may be refused by next.
// It errs on the side of true: then open TCP connections are cut for nothing,
// while the opposite would leave a revoked caller connected.
func Tightens(old, next Permission) bool {
	before := allowed(old)
	after := allowed(next)
	for _, m := range before {
		if !anyMatch(after, func(n mesh.Match) bool { return Covers(n, m) }) {
			return true
		}
	}
	for _, d := range next.Deny {
		if anyMatch(matches(old.Deny), func(n mesh.Match) bool { return Covers(n, d.Match) }) {
			continue
		}
		if anyMatch(before, func(n mesh.Match) bool { return Overlap(n, d.Match) }) {
			return true
		}
	}
	return false
}

func matches(list []PermissionMatch) []mesh.Match {
	out := make([]mesh.Match, 0, len(list))
	for _, m := range list {
		out = append(out, m.Match)
	}
	return out
}

func allowed(p Permission) []mesh.Match {
	return append(matches(p.Allow), matches(p.AllowWithShadowDeny)...)
}

func anyMatch(list []mesh.Match, is func(mesh.Match) bool) bool {
	for _, m := range list {
		if is(m) {
			return true
		}
	}
	return false
}

// Covers reports whether every caller that narrow matches is matched by wide.
func Covers(wide, narrow mesh.Match) bool {
	if wide.SNI != nil && (narrow.SNI == nil || *wide.SNI != *narrow.SNI) {
		return false
	}
	if wide.SpiffeID == nil {
		return true
	}
	if narrow.SpiffeID == nil {
		return false
	}
	if wide.SpiffeID.Type == mesh.MatchPrefix {
		return strings.HasPrefix(narrow.SpiffeID.Value, wide.SpiffeID.Value)
	}
	return *wide.SpiffeID == *narrow.SpiffeID
}

// Overlap reports whether some caller may match both.
func Overlap(a, b mesh.Match) bool {
	if a.SNI != nil && b.SNI != nil && a.SNI.Value != b.SNI.Value {
		return false
	}
	if a.SpiffeID == nil || b.SpiffeID == nil {
		return true
	}
	x, y := a.SpiffeID, b.SpiffeID
	switch {
	case x.Type == mesh.MatchPrefix && y.Type == mesh.MatchPrefix:
		return strings.HasPrefix(x.Value, y.Value) || strings.HasPrefix(y.Value, x.Value)
	case x.Type == mesh.MatchPrefix:
		return strings.HasPrefix(y.Value, x.Value)
	case y.Type == mesh.MatchPrefix:
		return strings.HasPrefix(x.Value, y.Value)
	default:
		return x.Value == y.Value
	}
}
