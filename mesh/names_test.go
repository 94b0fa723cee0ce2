package mesh_test

import (
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
)

func service(name string, labels map[string]string) mesh.Resource {
	return mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "east", Name: name},
		Labels: labels, Spec: []byte(`{"ports":[{"port":80}]}`)}
}

// Both ends of a stream must agree on which names a Kubernetes zone may use.
func TestNamespacedNames(t *testing.T) {
	in := func(ns string) map[string]string { return map[string]string{mesh.LabelNamespace: ns} }
	l63 := strings.Repeat("a", 63)
	for _, c := range []struct {
		name, problem string
		r             mesh.Resource
	}{
		{"a service of a namespace", "", service("web.shop", in("shop"))},
		{"by the other form of the label", "", service("web.shop", map[string]string{"k8s.kuma.io/namespace": "shop"})},
		{"the namespace is not in the name", "must be <name>.shop", service("web", in("shop"))},
		{"another namespace is in the name", "must be <name>.shop", service("web.bank", in("shop"))},
		{"a name of more than one label", "no RFC 1035 label", service("web.v1.shop", in("shop"))},
		{"no name", "is no name", service(".shop", in("shop"))},
		{"a namespace that is no label", "namespace", service("web.a.b", in("a.b"))},
		{"a dot without a namespace", "no RFC 1035 label", service("web.shop", nil)},
		{"a mere label on a VM", "", service("web", map[string]string{mesh.LabelNamespace: "shop", mesh.LabelEnv: mesh.EnvUniversal})},
		{"a display name that lies", "display-name", service("web.shop", map[string]string{mesh.LabelNamespace: "shop", mesh.LabelDisplayName: "pay"})},
		{"a mesh that lies", "tombolo.io/mesh", service("web.shop", map[string]string{mesh.LabelNamespace: "shop", mesh.LabelMesh: "bank"})},
		{"the longest names", "is too long", func() mesh.Resource {
			r := service(l63+"."+l63, in(l63))
			r.Mesh, r.Zone = l63, l63
			return r
		}()},
	} {
		for where, problems := range map[string]mesh.Problems{
			"fact":  mesh.CheckFact(c.r.Zone, c.r, nil),
			"write": mesh.ValidateResource(c.r, nil),
		} {
			got := problems.Error()
			if c.problem == "" && got != "" || !strings.Contains(got, c.problem) {
				t.Errorf("%s, %s: %q, want %q", c.name, where, got, c.problem)
			}
		}
	}
}

func TestNamespacedLabels(t *testing.T) {
	r := service("web.shop", map[string]string{"k8s.kuma.io/namespace": "shop", "app": "web"})
	labels, problems := mesh.ComputeLabels(r, nil, mesh.EnvKubernetes)
	if len(problems) > 0 || labels[mesh.LabelDisplayName] != "web" || labels[mesh.LabelNamespace] != "shop" || labels[mesh.LabelZone] != "east" || labels[mesh.LabelEnv] != "kubernetes" {
		t.Errorf("%v %v", labels, problems)
	}
	r.Labels = labels
	if problems := mesh.CheckFact("east", mesh.NormalizeFact("east", r), nil); len(problems) > 0 {
		t.Errorf("what is computed is refused: %v", problems)
	}
	if got := mesh.KRIOf(&r, "80"); got != "kri_msvc_default_east_shop_web_80" {
		t.Error(got)
	}
	if got := r.RESTName(); got != "web.shop.east" {
		t.Error(got)
	}
	if got := mesh.SNI(80, r.Name, r.Zone, r.Mesh); got != "80.web.shop.east.default.mesh" {
		t.Error(got)
	}
}
