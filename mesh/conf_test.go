package mesh_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// limitPolicy is a policy kind that the package does not know.
type limitPolicy struct {
	to    []mesh.ToItem
	rules []mesh.RuleItem
}

type limitConf struct {
	Most    *int     `json:"most,omitempty"`
	Why     string   `json:"why,omitempty"`
	AppendX []string `json:"appendX,omitempty"`
}

func (*limitPolicy) Validate() mesh.Problems      { return nil }
func (*limitPolicy) TopTarget() *mesh.TargetRef   { return nil }
func (p *limitPolicy) ToItems() []mesh.ToItem     { return p.to }
func (p *limitPolicy) RuleItems() []mesh.RuleItem { return p.rules }
func limit(most int, why string, x ...string) any {
	return &limitConf{Most: &most, Why: why, AppendX: x}
}
func limits(named map[string]*limitPolicy) []mesh.Selected {
	var all []mesh.PolicyResource
	for name, p := range named {
		all = append(all, mesh.PolicyResource{Resource: mesh.Resource{Key: mesh.Key{Kind: "MeshLimit", Mesh: "m", Name: name}}, Decoded: p})
	}
	return mesh.SelectPolicies("MeshLimit", all, mesh.ProxyMeta{Mesh: "m", Zone: "z"})
}

func TestAnyOutboundConf(t *testing.T) {
	meshWide := mesh.TargetRef{Kind: mesh.KindMesh}
	one := mesh.TargetRef{Kind: mesh.KindMeshService, Labels: map[string]string{"tombolo.io/display-name": "one"}}
	selected := limits(map[string]*limitPolicy{
		"a": {to: []mesh.ToItem{{Target: meshWide, Conf: limit(1, "", "a")}}},
		"b": {to: []mesh.ToItem{{Target: one, Conf: &limitConf{Why: "one", AppendX: []string{"b"}}}}},
		"0": {to: []mesh.ToItem{{Target: one, Conf: &mesh.TimeoutConf{}}}}, // not of the kind's type
	})
	conf, sources := mesh.AnyOutboundConf(selected, mesh.Destination{Kind: mesh.KindMeshService, Name: "one"})
	most := 1
	if diff := cmp.Diff(any(limitConf{Most: &most, Why: "one", AppendX: []string{"a", "b"}}), conf); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(sources) != 2 || sources[0].Key.Name != "a" || sources[1].Key.Name != "b" {
		t.Errorf("sources %+v", sources)
	}
	if conf, sources := mesh.AnyOutboundConf(nil, mesh.Destination{Kind: mesh.KindMeshService, Name: "one"}); conf != nil || sources != nil {
		t.Errorf("without policies: %v, %v", conf, sources)
	}
}

func TestAnyInboundConf(t *testing.T) {
	exact := []mesh.Match{{SpiffeID: &mesh.SpiffeIDMatch{Type: mesh.MatchExact, Value: "spiffe://a/b"}}}
	prefix := []mesh.Match{{SpiffeID: &mesh.SpiffeIDMatch{Type: mesh.MatchPrefix, Value: "spiffe://a/"}}}
	selected := limits(map[string]*limitPolicy{
		"a": {rules: []mesh.RuleItem{{Matches: prefix, Conf: limit(1, "prefix")}, {Conf: limit(2, "all")}}},
		"b": {rules: []mesh.RuleItem{{Matches: exact, Conf: limit(3, "exact")}, {Conf: &limitConf{Most: new(int), AppendX: []string{"b"}}}}},
	})
	var got []any
	for _, r := range mesh.AnyInboundConf(selected, "main") {
		got = append(got, r.Conf)
	}
	two := 2
	want := []any{*limit(3, "exact").(*limitConf), *limit(1, "prefix").(*limitConf), limitConf{Most: &two, Why: "all", AppendX: []string{"b"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The form for a type known at run time and the one for a type known to the
// compiler say the same.
func TestAnyConfIsConf(t *testing.T) {
	idle := &mesh.Duration{Duration: time.Second}
	p := &mesh.MeshTimeout{
		To:    []mesh.TimeoutTo{{TargetRef: mesh.TargetRef{Kind: mesh.KindMesh}, Default: mesh.TimeoutConf{IdleTimeout: idle}}},
		Rules: []mesh.TimeoutRule{{Default: mesh.TimeoutConf{ConnectionTimeout: idle}}},
	}
	r := mesh.PolicyResource{Resource: mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "m", Name: "t"}}, Decoded: p}
	selected := mesh.SelectPolicies(mesh.KindMeshTimeout, []mesh.PolicyResource{r}, mesh.ProxyMeta{Mesh: "m"})
	dest := mesh.Destination{Kind: mesh.KindMeshService, Name: "x"}
	conf, sources := mesh.OutboundConf[mesh.TimeoutConf](selected, dest)
	anyConf, anySources := mesh.AnyOutboundConf(selected, dest)
	if diff := cmp.Diff(any(conf), anyConf) + cmp.Diff(sources, anySources); diff != "" {
		t.Errorf("outbound:\n%s", diff)
	}
	rules, anyRules := mesh.InboundConf[mesh.TimeoutConf](selected, "x"), mesh.AnyInboundConf(selected, "x")
	if len(rules) != 1 || len(anyRules) != 1 {
		t.Fatalf("rules %+v and %+v", rules, anyRules)
	}
	if diff := cmp.Diff(any(rules[0].Conf), anyRules[0].Conf) + cmp.Diff(rules[0].Sources, anyRules[0].Sources); diff != "" {
		t.Errorf("inbound:\n%s", diff)
	}
}
