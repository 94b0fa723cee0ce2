package ir_test

import (
	"encoding/json"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/irtest"
)

func TestNamedProxies(t *testing.T) {
	w, err := irtest.Parse("east", []byte(`
type: MeshTimeout
name: t
spec: {targetRef: {kind: Dataplane, labels: {kuma.io/display-name: by-policy, app: x}}}
---
type: MeshTrafficPermission
name: p
spec: {targetRef: {kind: Dataplane, labels: {app: x}}}
---
type: MeshHTTPRoute
name: r
mesh: other
spec: {targetRef: {kind: Dataplane, labels: {kuma.io/display-name: in-another-mesh}}}
---
type: MeshIdentity
name: i
spec: {selector: {dataplane: {matchLabels: {tombolo.io/display-name: by-identity}}}}
---
type: MeshService
name: a
labels: {kuma.io/zone: east}
spec: {selector: {dataplaneRef: {name: by-ref}}}
---
type: MeshService
name: b
labels: {kuma.io/zone: east}
spec: {selector: {dataplaneLabels: {matchLabels: {kuma.io/display-name: by-labels}}}}
---
type: MeshService
name: c
labels: {kuma.io/zone: west}
spec: {selector: {dataplaneRef: {name: in-another-zone}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"by-policy": true, "by-identity": true, "by-ref": true, "by-labels": true}
	if diff := cmp.Diff(want, ir.NamedProxies(w, "default")); diff != "" {
		t.Errorf("NamedProxies (-want +got):\n%s", diff)
	}
}

func TestClassOfOther(t *testing.T) {
	if c, i := ir.ClassOf(&ir.Object{Decoded: &mesh.MeshService{}}); c != nil || i != nil {
		t.Errorf("a MeshService has class %v, instance %v", c, i)
	}
}

func FuzzClassOf(f *testing.F) {
	f.Add([]byte(`{"networking":{"address":"10.0.0.1","inbound":[{"port":1},{"port":2,"state":"Ignored"}]}}`), "workload", "web")
	f.Add([]byte(`{"networking":{"address":"::1","outbound":[{"port":1,"backendRef":{"kind":"MeshService","labels":{"kuma.io/zone":"no"}}}]}}`), "kuma.io/display-name", "x")
	f.Add([]byte(`{"networking":{"listeners":[{"type":"ZoneIngress"},{"type":"x"}],"inbound":[{}]}}`), "tombolo.io/workload", "a b\n")
	id := regexp.MustCompile(`^[a-z0-9-]{1,63}-[0-9a-f]{12}$`)
	f.Fuzz(func(t *testing.T, spec []byte, label, value string) {
		dp := &mesh.Dataplane{}
		if json.Unmarshal(spec, dp) != nil {
			t.Skip()
		}
		o := &ir.Object{Resource: mesh.Resource{Key: mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "east", Name: "n"},
			Labels: map[string]string{label: value}, Spec: spec}, Decoded: dp}
		before, _ := json.Marshal(dp)
		c, i := ir.ClassOf(o)
		again, _ := ir.ClassOf(o)
		if diff := cmp.Diff(c, again); diff != "" {
			t.Fatalf("not deterministic:\n%s", diff)
		}
		if !id.MatchString(c.ID) {
			t.Fatalf("id %q", c.ID)
		}
		if len(c.Inbounds) != len(i.Inbounds) || len(c.Listeners) != len(i.Listeners) {
			t.Fatalf("class and instance are not parallel: %+v %+v", c, i)
		}
		m := *o
		m.Name = "m"
		if c.Named(o).ID == c.ID || label != mesh.LabelDisplayName && c.Named(o).ID == c.Named(&m).ID {
			t.Fatal("a named class shares its id")
		}
		if _, ok := c.Labels[mesh.LabelDisplayName]; ok {
			t.Fatal("display-name is in the class")
		}
		if after, _ := json.Marshal(dp); string(after) != string(before) {
			t.Fatal("the Dataplane was changed")
		}
		if p := ir.Compile(irtest.New("east"), c); p.HasIdentity || len(p.Inbounds)+len(p.Outbounds) > 0 {
			t.Fatal("traffic without an identity")
		}
	})
}
