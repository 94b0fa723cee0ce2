package mesh_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/internal/golden"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/meshtest"
)

// ask is what a merge case asks of its world.
type ask struct {
	Kind  mesh.KindName
	Proxy struct {
		Mesh, Zone, Name string
		Labels           map[string]string
		Sections         []string
	}
	// Outbound destinations whose configuration is wanted.
	Outbound []struct {
		Kind        mesh.KindName
		Name, Zone  string
		Labels      map[string]string
		Port        uint32
		SectionName string
		Route       string
		RouteZone   string
		RouteLabels map[string]string
	}
	// Inbound sections whose configuration is wanted.
	Inbound []string
	// Shadow counts shadow policies too.
	Shadow bool
}

func TestMerge(t *testing.T) {
	golden.Run(t, "testdata/merge/*.txtar", func(t *testing.T, a *txtar.Archive) map[string]string {
		world, _ := golden.File(a, "world.yaml")
		text, _ := golden.File(a, "ask.yaml")
		var asks []ask
		if err := yaml.UnmarshalStrict(text, &asks); err != nil {
			t.Fatal(err)
		}
		all := meshtest.Resources(t, string(world))
		want := answer(t, all, asks)
		// The order in which policies are listed has no influence.
		for seed := range uint64(8) {
			shuffled := append([]mesh.PolicyResource(nil), all...)
			r := rand.New(rand.NewPCG(seed, 0))
			r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			if got := answer(t, shuffled, asks); got != want {
				t.Fatalf("another order of the same policies gives another answer:\n%s\nwant:\n%s", got, want)
			}
		}
		return map[string]string{"want": want}
	})
}

func answer(t *testing.T, all []mesh.PolicyResource, asks []ask) string {
	t.Helper()
	var b strings.Builder
	for _, q := range asks {
		proxy := mesh.ProxyMeta{Mesh: q.Proxy.Mesh, Zone: q.Proxy.Zone, Name: q.Proxy.Name,
			Labels: mesh.CanonicalLabels(q.Proxy.Labels), Sections: q.Proxy.Sections}
		if proxy.Mesh == "" {
			proxy.Mesh = "default"
		}
		selected := mesh.SelectPolicies(q.Kind, all, proxy)
		if q.Shadow {
			selected = mesh.SelectWithShadow(q.Kind, all, proxy)
		}
		fmt.Fprintf(&b, "%s of %s in %s, low to high:", q.Kind, proxy.Name, proxy.Zone)
		for _, s := range selected {
			b.WriteString(" " + s.RESTName())
			if s.Section != "" {
				b.WriteString("(" + s.Section + ")")
			}
		}
		b.WriteString("\n")
		for _, d := range q.Outbound {
			dest := mesh.Destination{Kind: d.Kind, Name: d.Name, Zone: d.Zone, Labels: mesh.CanonicalLabels(d.Labels),
				Port: d.Port, SectionName: d.SectionName, RouteLabels: mesh.CanonicalLabels(d.RouteLabels)}
			fmt.Fprintf(&b, "  to %s %s port %d", d.Kind, d.Name, d.Port)
			if d.Route != "" {
				dest.Route = &mesh.Key{Kind: mesh.KindMeshHTTPRoute, Mesh: proxy.Mesh, Zone: d.RouteZone, Name: d.Route}
				fmt.Fprintf(&b, " by route %s", d.Route)
			}
			b.WriteString("\n")
			outbound(t, &b, q.Kind, selected, dest)
		}
		for _, section := range q.Inbound {
			fmt.Fprintf(&b, "  inbound %s\n", section)
			inbound(t, &b, q.Kind, selected, section)
		}
	}
	return b.String()
}

func outbound(t *testing.T, b *strings.Builder, kind mesh.KindName, selected []mesh.Selected, dest mesh.Destination) {
	t.Helper()
	switch kind {
	case mesh.KindMeshTimeout:
		conf, sources := mesh.OutboundConf[mesh.TimeoutConf](selected, dest)
		fmt.Fprintf(b, "    %s %s\n", compact(t, conf), from(sources))
	case mesh.KindMeshTCPRoute:
		rule, ok := mesh.TCPRule(selected, dest)
		if !ok {
			b.WriteString("    no rule\n")
			return
		}
		fmt.Fprintf(b, "    %s %s\n", compact(t, rule.Conf), from(rule.Sources))
	case mesh.KindMeshHTTPRoute:
		rules := mesh.HTTPRules(selected, dest)
		for _, r := range rules {
			fmt.Fprintf(b, "    rule %s %s %s\n", compact(t, r.Matches), compact(t, r.Conf), from(r.Sources))
		}
		for _, m := range mesh.SortHTTPRules(rules) {
			fmt.Fprintf(b, "    try %s of %s %s\n", compact(t, m.Match), m.Rule.Source.Key.Name, m.Rule.Source.Path)
		}
	}
}

func inbound(t *testing.T, b *strings.Builder, kind mesh.KindName, selected []mesh.Selected, section string) {
	t.Helper()
	if kind == mesh.KindMeshTrafficPermission {
		set := mesh.Permissions(selected, section)
		for _, l := range []struct {
			name string
			list []mesh.PermissionEntry
		}{{"deny", set.Deny}, {"allow, shadow deny", set.AllowWithShadowDeny}, {"allow", set.Allow}} {
			for _, e := range l.list {
				fmt.Fprintf(b, "    %s %s %s\n", l.name, compact(t, e.Match), from([]mesh.ConfSource{e.Source}))
			}
		}
		return
	}
	for _, r := range mesh.InboundConf[mesh.TimeoutConf](selected, section) {
		match := "anyone"
		if r.Match != nil {
			match = compact(t, r.Match)
		}
		fmt.Fprintf(b, "    %s: %s %s\n", match, compact(t, r.Conf), from(r.Sources))
	}
}

func from(sources []mesh.ConfSource) string {
	var parts []string
	for _, s := range sources {
		parts = append(parts, fmt.Sprintf("%s %s@%d", s.Key.RESTName(), s.Path, s.Revision))
	}
	return "from [" + strings.Join(parts, ", ") + "]"
}

func compact(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
