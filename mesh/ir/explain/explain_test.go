package explain

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/effect"
)

func TestMatching(t *testing.T) {
	get := "GET"
	path := func(kind, value string) mesh.HTTPMatch {
		return mesh.HTTPMatch{Path: &mesh.PathMatch{Type: kind, Value: value}}
	}
	header := func(kind, value string) mesh.HTTPMatch {
		return mesh.HTTPMatch{Headers: []mesh.HeaderMatch{{Name: "X-Beta", Type: kind, Value: value}}}
	}
	for _, c := range []struct {
		match mesh.HTTPMatch
		call  string
		takes bool
	}{
		{mesh.HTTPMatch{}, "GET /", true},
		{path(mesh.MatchPathPrefix, "/a"), "GET /a", true},
		{path(mesh.MatchPathPrefix, "/a/"), "GET /a?b", true},
		{path(mesh.MatchPathPrefix, "/a"), "GET /ab", false},
		{path(mesh.MatchPathPrefix, "/a"), "GET /b/../a/c", true},
		{path(mesh.MatchExact, "/a"), "GET /a/", false},
		{path(mesh.MatchExact, "/a"), "GET /a?q=1", true},
		{path(mesh.MatchExact, "/a"), "GET /%2e/a", true},
		{path(mesh.MatchRegularExpression, "/a|/b"), "GET /bc", false},
		{path(mesh.MatchRegularExpression, "/a.*"), "GET /abc", true},
		{mesh.HTTPMatch{Method: &get}, "POST /", false},
		{header("", "1"), "GET / 1", true},
		{header("", "1"), "GET / 1 2", false}, // repeated: "1,2"
		{header(mesh.MatchPrefix, "1,"), "GET / 1 2", true},
		{header(mesh.MatchPresent, ""), "GET /", false},
		{header(mesh.MatchAbsent, ""), "GET /", true},
		{header(mesh.MatchRegularExpression, "[0-9]"), "GET / 12", false},
		{mesh.HTTPMatch{QueryParams: []mesh.QueryMatch{{Type: mesh.MatchExact, Name: "q", Value: "1"}}}, "GET /?p=2&q=1&q=3", true},
		{mesh.HTTPMatch{QueryParams: []mesh.QueryMatch{{Type: mesh.MatchExact, Name: "q", Value: "1"}}}, "GET /?p=1", false},
	} {
		f := strings.Fields(c.call)
		call := Call{Source: "a", Destination: "b", Method: f[0], Path: f[1]}
		for _, v := range f[2:] {
			call.Headers = append(call.Headers, Header{Name: "x-beta", Value: v})
		}
		if err := call.Check(); err != nil {
			t.Fatal(err)
		}
		r := call.request()
		if why := misses(c.match, &r); (why == "") != c.takes {
			t.Errorf("%s, %s: %q", effect.Request(c.match), c.call, why)
		}
	}
}

// Calls go to another zone when fewer than half of the own hosts are healthy, in
// the proportion in which they are missing, and by weight there.
func TestSpread(t *testing.T) {
	hosts := []ir.Host{{Address: "1", Weight: 1}, {Address: "2", Weight: 1}, {Address: "3", Weight: 1}, {Address: "4", Weight: 1},
		{Zone: "b", Priority: 1, Weight: 3, Peer: "b"}, {Zone: "c", Priority: 1, Weight: 1, Peer: "c"}}
	for out, want := range map[string]string{
		"": "25 25 25 25 0 0", "1": "0 33.3 33.3 33.3 0 0", "12": "0 0 50 50 0 0", "123": "0 0 0 50 37.5 12.5", "1234": "0 0 0 0 75 25", "123b": "0 0 0 50 0 50", "1234bc": "0 0 0 0 0 0",
	} {
		d := Departure{Ejected: func(_ string, h ir.Host) bool { return strings.Contains(out, h.Address+h.Peer) }}
		var got []string
		for _, s := range d.spread("x", hosts) {
			got = append(got, strings.TrimSuffix(Percent(s.percent), "%"))
		}
		if fmt.Sprint(strings.Join(got, " ")) != want {
			t.Errorf("without %q: %v, want %s", out, got, want)
		}
	}
}

func TestDecide(t *testing.T) {
	match := func(kind, id, sni string) ir.PermissionMatch {
		m := ir.PermissionMatch{Source: ir.Source{Key: mesh.Key{Name: kind + id + sni}}}
		if id != "" {
			m.SpiffeID = &mesh.SpiffeIDMatch{Type: kind, Value: id}
		}
		if sni != "" {
			m.SNI = &mesh.SNIMatch{Type: mesh.MatchExact, Value: sni}
		}
		return m
	}
	const web = "spiffe://a/web"
	all := match(mesh.MatchPrefix, "spiffe://", "")
	for _, c := range []struct {
		p    ir.Permission
		want effect.Decision
	}{
		{ir.Permission{}, DefaultDeny},
		{ir.Permission{Allow: []ir.PermissionMatch{{}}}, DefaultDeny},
		{ir.Permission{Allow: []ir.PermissionMatch{all}}, effect.Allow},
		{ir.Permission{Allow: []ir.PermissionMatch{match(mesh.MatchExact, web, "other")}}, DefaultDeny},
		{ir.Permission{Allow: []ir.PermissionMatch{match(mesh.MatchExact, web, "sni")}}, effect.Allow},
		{ir.Permission{Allow: []ir.PermissionMatch{all}, Deny: []ir.PermissionMatch{match(mesh.MatchExact, web, "")}}, effect.Deny},
		{ir.Permission{Allow: []ir.PermissionMatch{all}, AllowWithShadowDeny: []ir.PermissionMatch{all}}, effect.ShadowDeny},
		{ir.Permission{Allow: []ir.PermissionMatch{match(mesh.MatchExact, web+"x", "")}}, DefaultDeny},
	} {
		if d := Decide(c.p, web, "sni"); d.Decision != c.want {
			t.Errorf("%+v: %s, want %s", c.p, d.Decision, c.want)
		}
	}
	if d := Decide(ir.Permission{Allow: []ir.PermissionMatch{all}}, "", "sni"); d.Decision != DefaultDeny {
		t.Error("who has no identity is let in")
	}
}
