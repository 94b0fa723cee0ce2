package ir_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

func match(spiffe, sni string) ir.PermissionMatch {
	var m ir.PermissionMatch
	if v, ok := strings.CutSuffix(spiffe, "*"); ok {
		m.SpiffeID = &mesh.SpiffeIDMatch{Type: mesh.MatchPrefix, Value: v}
	} else if spiffe != "" {
		m.SpiffeID = &mesh.SpiffeIDMatch{Type: mesh.MatchExact, Value: spiffe}
	}
	if sni != "" {
		m.SNI = &mesh.SNIMatch{Type: mesh.MatchExact, Value: sni}
	}
	return m
}

func list(m ...ir.PermissionMatch) []ir.PermissionMatch { return m }

func TestTightens(t *testing.T) {
	a, b, all := match("spiffe://t/a", ""), match("spiffe://t/b", ""), match("spiffe://*", "")
	for name, c := range map[string]struct {
		old, next ir.Permission
		want      bool
	}{
		"nothing changes":              {ir.Permission{Allow: list(a)}, ir.Permission{Allow: list(a)}, false},
		"one more is allowed":          {ir.Permission{Allow: list(a)}, ir.Permission{Allow: list(b, a)}, false},
		"one less is allowed":          {ir.Permission{Allow: list(a, b)}, ir.Permission{Allow: list(b)}, true},
		"a wider match takes over":     {ir.Permission{Allow: list(a, b)}, ir.Permission{Allow: list(all)}, false},
		"a narrower match takes over":  {ir.Permission{Allow: list(all)}, ir.Permission{Allow: list(a, b)}, true},
		"allowed becomes shadow deny":  {ir.Permission{Allow: list(a)}, ir.Permission{AllowWithShadowDeny: list(a)}, false},
		"a deny appears":               {ir.Permission{Allow: list(all)}, ir.Permission{Allow: list(all), Deny: list(a)}, true},
		"a deny nobody feels appears":  {ir.Permission{Allow: list(a)}, ir.Permission{Allow: list(a), Deny: list(b)}, false},
		"a deny goes":                  {ir.Permission{Allow: list(all), Deny: list(a)}, ir.Permission{Allow: list(all)}, false},
		"a deny becomes narrower":      {ir.Permission{Allow: list(all), Deny: list(match("spiffe://t/*", ""))}, ir.Permission{Allow: list(all), Deny: list(a)}, false},
		"an SNI is required from now":  {ir.Permission{Allow: list(a)}, ir.Permission{Allow: list(match("spiffe://t/a", "x"))}, true},
		"another SNI is denied":        {ir.Permission{Allow: list(match("spiffe://t/a", "x"))}, ir.Permission{Allow: list(a), Deny: list(match("", "y"))}, false},
		"there was nobody to shut out": {ir.Permission{}, ir.Permission{Deny: list(all)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ir.Tightens(c.old, c.next); got != c.want {
				t.Errorf("Tightens = %t, want %t", got, c.want)
			}
		})
	}
}

// Over random permissions: whenever Tightens says no, nobody of a small universe
// of callers loses access. It must also say no often enough to mean something.
func TestTightensIsSound(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	ids := []string{"spiffe://t/a", "spiffe://t/ab", "spiffe://t/b", "spiffe://u/a"}
	patterns := append([]string{"", "spiffe://*", "spiffe://t/*", "spiffe://t/a*"}, ids...)
	snis := []string{"", "x", "y"}
	random := func() ir.Permission {
		some := func() []ir.PermissionMatch {
			var out []ir.PermissionMatch
			for range r.IntN(3) {
				out = append(out, match(patterns[r.IntN(len(patterns))], snis[r.IntN(len(snis))]))
			}
			return out
		}
		return ir.Permission{Deny: some(), AllowWithShadowDeny: some(), Allow: some()}
	}
	no := 0
	for range 20000 {
		old, next := random(), random()
		if ir.Tightens(old, next) {
			continue
		}
		no++
		for _, id := range ids {
			for _, sni := range snis {
				if allows(old, id, sni) && !allows(next, id, sni) {
					t.Fatalf("%s with SNI %q loses access from %+v to %+v", id, sni, old, next)
				}
			}
		}
	}
	if no < 1000 {
		t.Errorf("only %d of 20000 were not tightened", no)
	}
}

// allows is the meaning of a permission, said once more.
func allows(p ir.Permission, id, sni string) bool {
	has := func(list []ir.PermissionMatch) bool {
		for _, m := range list {
			ok := m.SNI == nil || m.SNI.Value == sni
			if s := m.SpiffeID; s != nil {
				ok = ok && (id == s.Value || s.Type == mesh.MatchPrefix && strings.HasPrefix(id, s.Value))
			}
			if ok {
				return true
			}
		}
		return false
	}
	return !has(p.Deny) && (has(p.AllowWithShadowDeny) || has(p.Allow))
}
