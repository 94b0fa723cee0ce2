package mesh

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// testConf has every shape that configurations of policies may have.
type testConf struct {
	Mode        *string           `json:"mode,omitempty"`
	Limit       *uint32           `json:"limit,omitempty"`
	List        *[]string         `json:"list,omitempty"`
	Plain       []string          `json:"plain,omitempty"`
	AppendMatch []string          `json:"appendMatch,omitempty"`
	AppendMore  *[]string         `json:"appendMore,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
	Time        *Duration         `json:"time,omitempty"`
	Inner       *testInner        `json:"inner,omitempty"`
}

type testInner struct {
	A           *string    `json:"a,omitempty"`
	B           *Duration  `json:"b,omitempty"`
	Deep        *testInner `json:"deep,omitempty"`
	AppendDeep  []string   `json:"appendDeep,omitempty"`
	Replacement []string   `json:"replacement,omitempty"`
}

func randomConf(r *rand.Rand) testConf {
	text := func() *string { s := string(rune('a' + r.IntN(5))); return &s }
	list := func() []string {
		out := make([]string, 1+r.IntN(2))
		for i := range out {
			out[i] = *text()
		}
		return out
	}
	maybe := func() bool { return r.IntN(2) == 0 }
	var inner func(depth int) *testInner
	inner = func(depth int) *testInner {
		if depth == 0 || maybe() {
			return nil
		}
		out := &testInner{Deep: inner(depth - 1)}
		if maybe() {
			out.A = text()
		}
		if maybe() {
			out.B = &Duration{time.Duration(r.IntN(9)) * time.Second}
		}
		if maybe() {
			out.AppendDeep = list()
		}
		if maybe() {
			out.Replacement = list()
		}
		return out
	}
	c := testConf{Inner: inner(3)}
	if maybe() {
		c.Mode = text()
	}
	if maybe() {
		n := uint32(r.IntN(3))
		c.Limit = &n
	}
	if maybe() {
		l := list()
		if maybe() {
			l = []string{}
		}
		c.List = &l
	}
	if maybe() {
		c.Plain = list()
	}
	if maybe() {
		c.AppendMatch = list()
	}
	if maybe() {
		l := list()
		c.AppendMore = &l
	}
	if maybe() {
		c.Tags = map[string]string{*text(): *text(), *text(): *text()}
	}
	if maybe() {
		c.Time = &Duration{time.Duration(r.IntN(9)) * time.Second}
	}
	return c
}

// mergePatch is RFC 7396 on JSON values, with lists named append* concatenated:
// the definition that mergeInto must agree with.
func mergePatch(target, patch map[string]any) map[string]any {
	if target == nil {
		target = map[string]any{}
	}
	for k, v := range patch {
		switch p := v.(type) {
		case map[string]any:
			t, _ := target[k].(map[string]any)
			target[k] = mergePatch(t, p)
		case []any:
			if t, ok := target[k].([]any); ok && strings.HasPrefix(k, "append") {
				target[k] = append(append([]any{}, t...), p...)
			} else {
				target[k] = p
			}
		default:
			target[k] = v
		}
	}
	return target
}

func asJSON(t *testing.T, v any) map[string]any {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestMergeIsMergePatch(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		parts := []testConf{randomConf(r), randomConf(r), randomConf(r)}
		before := asJSON(t, parts[0])
		var got testConf
		want := map[string]any{}
		for i := range parts {
			mergeInto(&got, &parts[i])
			want = mergePatch(want, asJSON(t, parts[i]))
		}
		if diff := cmp.Diff(want, asJSON(t, got)); diff != "" {
			t.Fatalf("merge of %s differs from RFC 7396 (-want +got):\n%s", jsonText(parts), diff)
		}
		if diff := cmp.Diff(before, asJSON(t, parts[0])); diff != "" {
			t.Fatalf("merging changed what was merged:\n%s", diff)
		}
	}
}

func TestMergeIsAssociative(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		a, b, c := randomConf(r), randomConf(r), randomConf(r)
		var left, right, bc testConf
		mergeInto(&left, &a)
		mergeInto(&left, &b)
		mergeInto(&left, &c)
		mergeInto(&bc, &b)
		mergeInto(&bc, &c)
		mergeInto(&right, &a)
		mergeInto(&right, &bc)
		if diff := cmp.Diff(asJSON(t, left), asJSON(t, right)); diff != "" {
			t.Fatalf("(a+b)+c is not a+(b+c):\n%s", diff)
		}
	}
}

func TestMergeIsIdempotentOnScalars(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 500 {
		a := randomConf(r)
		a.AppendMatch, a.AppendMore = nil, nil
		if a.Inner != nil {
			a.Inner = &testInner{A: a.Inner.A, B: a.Inner.B}
		}
		var got testConf
		mergeInto(&got, &a)
		mergeInto(&got, &a)
		if diff := cmp.Diff(asJSON(t, a), asJSON(t, got)); diff != "" {
			t.Fatalf("a+a is not a:\n%s", diff)
		}
	}
}

func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// proxyPolicy is a single-item policy, as later kinds are.
type proxyPolicy struct {
	target *TargetRef
	conf   *testConf
}

func (p *proxyPolicy) Validate() Problems    { return nil }
func (p *proxyPolicy) TopTarget() *TargetRef { return p.target }
func (p *proxyPolicy) ToItems() []ToItem     { return nil }
func (p *proxyPolicy) RuleItems() []RuleItem { return nil }
func (p *proxyPolicy) ProxyDefault() any     { return p.conf }
func named(name string, s Spec) PolicyResource {
	return PolicyResource{Resource: Resource{Key: Key{Kind: "Test", Mesh: "default", Name: name}}, Decoded: s}
}

// Rule 10: single-item policies are merged plainly.
func TestProxyConf(t *testing.T) {
	low, high := "low", "high"
	all := []PolicyResource{
		named("a", &proxyPolicy{conf: &testConf{Mode: &low, AppendMatch: []string{"1"}, Plain: []string{"x", "y"}}}),
		named("z", &proxyPolicy{target: &TargetRef{Kind: KindDataplane}, conf: &testConf{Mode: &high, AppendMatch: []string{"2"}, Plain: []string{"z"}}}),
		named("none", &proxyPolicy{}),
		named("b", &proxyPolicy{conf: &testConf{AppendMatch: []string{"0"}}}),
	}
	conf, sources := ProxyConf[testConf](SelectPolicies("Test", all, ProxyMeta{Mesh: "default"}))
	want := testConf{Mode: &high, AppendMatch: []string{"0", "1", "2"}, Plain: []string{"z"}}
	if diff := cmp.Diff(want, conf); diff != "" {
		t.Errorf("conf (-want +got):\n%s", diff)
	}
	var names []string
	for _, s := range sources {
		names = append(names, s.Key.Name)
	}
	if diff := cmp.Diff([]string{"b", "a", "z"}, names); diff != "" {
		t.Errorf("sources, low to high (-want +got):\n%s", diff)
	}
}

func TestPolicyKindsArePolicies(t *testing.T) {
	for _, k := range Kinds() {
		if _, ok := k.New().(Policy); ok != (k.Policy != nil) {
			t.Errorf("%s: has a policy shape: %v, its spec is a Policy: %v", k.Name, k.Policy != nil, ok)
		}
		if k.New().Validate() == nil && k.Policy != nil {
			t.Errorf("%s: an empty policy is valid", k.Name)
		}
		if reflect.TypeOf(k.New()).Elem().Name() != string(k.Name) {
			t.Errorf("%s: its spec type has another name", k.Name)
		}
	}
}

func BenchmarkSelectAndMerge(b *testing.B) {
	var all []PolicyResource
	for i := range 1000 {
		s := &MeshTimeout{To: []TimeoutTo{{TargetRef: TargetRef{Kind: KindMeshService, Labels: map[string]string{LabelDisplayName: "s" + string(rune('a'+i%26))}},
			Default: TimeoutConf{IdleTimeout: &Duration{time.Second}}}}}
		p := named("p"+jsonText(i), s)
		p.Kind = KindMeshTimeout
		all = append(all, p)
	}
	proxy := ProxyMeta{Mesh: "default", Zone: "east", Labels: map[string]string{"app": "web"}}
	dest := Destination{Kind: KindMeshService, Name: "sa", Labels: map[string]string{LabelDisplayName: "sa"}, Port: 80}
	b.Run("select", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			SelectPolicies(KindMeshTimeout, all, proxy)
		}
	})
	selected := SelectPolicies(KindMeshTimeout, all, proxy)
	b.Run("outbound", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			OutboundConf[TimeoutConf](selected, dest)
		}
	})
}
