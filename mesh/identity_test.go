package mesh_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/meshtest"
)

const identities = `
type: MeshIdentity
mesh: default
name: z-all
spec: {provider: {type: Bundled}}
---
type: MeshIdentity
mesh: default
name: b-web
spec:
  selector: {dataplane: {matchLabels: {app: web}}}
  spiffeID: {trustDomain: "{{ .Zone }}.{{ .Mesh }}.example.org", path: '/app/{{ label "app" }}'}
  provider: {type: Bundled, bundled: {meshTrustCreation: Disabled, certificateParameters: {expiry: 30s}}}
---
type: MeshIdentity
mesh: default
name: c-web
spec:
  selector: {dataplane: {matchLabels: {kuma.io/workload: web}}}
  spiffeID: {path: /c}
  provider: {type: Bundled}
---
type: MeshIdentity
mesh: default
name: y-two
spec:
  selector: {dataplane: {matchLabels: {app: web, version: v2}}}
  spiffeID: {path: '/needs/{{ label "team" }}'}
  provider: {type: Bundled}
---
type: MeshIdentity
mesh: shop
name: shop
spec: {spiffeID: {trustDomain: one.for.all}, provider: {type: Bundled}}
---
type: MeshIdentity
mesh: default
name: of-west
labels: {kuma.io/zone: west}
spec:
  selector: {dataplane: {matchLabels: {only: west}}}
  spiffeID: {trustDomain: west.example.org}
  provider: {type: Bundled}
`

func TestIdentityFor(t *testing.T) {
	all := meshtest.Resources(t, identities)
	for _, c := range []struct {
		name     string
		who      mesh.IdentitySubject
		id, from string
		problem  string
	}{
		{name: "default templates", who: mesh.IdentitySubject{Mesh: "default", Zone: "east", Labels: map[string]string{mesh.LabelWorkload: "db"}},
			id: "spiffe://default.east.mesh.local/workload/db", from: "z-all"},
		{name: "in a Kubernetes zone the path names the service account",
			who: mesh.IdentitySubject{Mesh: "default", Zone: "east", Labels: map[string]string{mesh.LabelEnv: mesh.EnvKubernetes, mesh.LabelNamespace: "shop",
				"k8s.tombolo.io/service-account": "cart", mesh.LabelWorkload: "cart"}},
			id: "spiffe://default.east.mesh.local/ns/shop/sa/cart", from: "z-all"},
		{name: "a namespace as a mere label does not",
			who: mesh.IdentitySubject{Mesh: "default", Zone: "east", Labels: map[string]string{mesh.LabelEnv: mesh.EnvUniversal, mesh.LabelNamespace: "shop", mesh.LabelWorkload: "db"}},
			id:  "spiffe://default.east.mesh.local/workload/db", from: "z-all"},
		{name: "a pod without a service account has no identity",
			who:     mesh.IdentitySubject{Mesh: "default", Zone: "east", Labels: map[string]string{mesh.LabelEnv: mesh.EnvKubernetes, mesh.LabelNamespace: "shop", mesh.LabelWorkload: "cart"}},
			problem: "spiffeID.path"},
		{name: "a label more wins over none, and of equal ones the first name",
			who: mesh.IdentitySubject{Mesh: "default", Zone: "east", Labels: map[string]string{"app": "web", mesh.LabelWorkload: "web"}},
			id:  "spiffe://east.default.example.org/app/web", from: "b-web"},
		{name: "two labels win; there is no second choice",
			who:     mesh.IdentitySubject{Mesh: "default", Zone: "east", Labels: map[string]string{"app": "web", "version": "v2"}},
			problem: "spiffeID.path"},
		{name: "a missing workload is a problem", who: mesh.IdentitySubject{Mesh: "default", Zone: "east"}, problem: "spiffeID.path"},
		{name: "a label's value is one segment",
			who:     mesh.IdentitySubject{Mesh: "default", Zone: "east", Labels: map[string]string{mesh.LabelWorkload: "db/web"}},
			problem: "spiffeID.path"},
		{name: "an identity of another zone does not select",
			who: mesh.IdentitySubject{Mesh: "default", Zone: "east", Labels: map[string]string{"only": "west", mesh.LabelWorkload: "x"}},
			id:  "spiffe://default.east.mesh.local/workload/x", from: "z-all"},
		{name: "an identity of its own zone does",
			who: mesh.IdentitySubject{Mesh: "default", Zone: "west", Labels: map[string]string{"only": "west", mesh.LabelWorkload: "x"}},
			id:  "spiffe://west.example.org/workload/x", from: "of-west"},
		{name: "another mesh", who: mesh.IdentitySubject{Mesh: "other", Zone: "east"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, problems := mesh.IdentityFor(all, c.who)
			if c.problem != "" {
				if got != nil || len(problems) != 1 || problems[0].Field != c.problem {
					t.Fatalf("want a problem of %s and nothing else, got %+v, %v", c.problem, got, problems)
				}
				return
			}
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			if c.id == "" {
				if got != nil {
					t.Fatalf("want none, got %+v", got)
				}
				return
			}
			if got == nil || got.SpiffeID != c.id || got.Source.Name != c.from || !strings.HasPrefix(c.id, "spiffe://"+got.TrustDomain+"/") {
				t.Fatalf("want %s from %s, got %+v", c.id, c.from, got)
			}
		})
	}
	got, _ := mesh.IdentityFor(all, mesh.IdentitySubject{Mesh: "default", Zone: "east", Labels: map[string]string{"app": "web"}})
	if got.Expiry != 30*time.Second || got.PublishTrust {
		t.Errorf("want 30s and no trust published, got %+v", got)
	}
	got, _ = mesh.IdentityFor(all, mesh.IdentitySubject{Mesh: "shop", Zone: "east", Labels: map[string]string{mesh.LabelWorkload: "x"}})
	if got.Expiry != mesh.DefaultLeafLife || !got.PublishTrust {
		t.Errorf("want the defaults, got %+v", got)
	}
}

func TestTrustDomainsOf(t *testing.T) {
	all := meshtest.Resources(t, identities)
	for zone, want := range map[string][]string{
		"east": {"default.east.mesh.local", "east.default.example.org"},
		"west": {"default.west.mesh.local", "west.default.example.org", "west.example.org"},
	} {
		if diff := cmp.Diff(want, mesh.TrustDomainsOf(all, "default", zone)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", zone, diff)
		}
	}
	if got := mesh.TrustDomainsOf(all, "other", "east"); got != nil {
		t.Errorf("a mesh without identities has no trust domains, got %v", got)
	}
}

func TestDefaultResources(t *testing.T) {
	names := func(skip ...string) string {
		var out []string
		for _, r := range mesh.DefaultResources(strings.Repeat("m", 63), skip) {
			spec, err := mesh.DecodeSpec(r.Kind, r.Spec)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range mesh.ValidateResource(r, spec) {
				t.Errorf("%s: %s: %s", r.Key, p.Field, p.Reason)
			}
			out = append(out, string(r.Kind))
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct{ skip, want string }{
		{"", "MeshIdentity MeshTimeout MeshTimeout"},
		{"*", "MeshIdentity"},
		{"MeshTimeout", "MeshIdentity"},
		{"MeshIdentity", "MeshTimeout MeshTimeout"},
		{"* MeshIdentity", ""},
	} {
		if got := names(strings.Fields(c.skip)...); got != c.want {
			t.Errorf("skip %q: want %q, got %q", c.skip, c.want, got)
		}
	}
}

func TestNames(t *testing.T) {
	if got := mesh.SNIAlias("default", "west", "", "backend", "http"); got != "sni.msvc.default.west.backend.http" {
		t.Error(got)
	}
	if got := mesh.SNIAlias("default", "west", "shop", "backend", "http"); got != "sni.msvc.default.west.shop.backend.http" {
		t.Error(got)
	}
	long := strings.Repeat("x", mesh.MaxLabelLength)
	if got := mesh.SNI(65535, long, long, long); len(got) > 253 {
		t.Errorf("the longest SNI has %d octets", len(got))
	}
	for _, k := range []mesh.Key{{Kind: mesh.KindZone, Name: "west"}, {Kind: mesh.KindMeshService, Mesh: "m", Zone: "west", Name: "b"}} {
		want := k.Name
		if k.Zone != "" {
			want += "." + k.Zone
		}
		if got := k.RESTName(); got != want {
			t.Errorf("want %s, got %s", want, got)
		}
	}
}

func TestMatchService(t *testing.T) {
	labels := map[string]string{"app": "web", mesh.LabelWorkload: "web"}
	for _, c := range []struct {
		name string
		s    mesh.ServiceSelector
		want bool
	}{
		{"nothing said, nothing selected", mesh.ServiceSelector{}, false},
		{"by name", mesh.ServiceSelector{DataplaneRef: &mesh.DataplaneRef{Name: "web-1"}}, true},
		{"by another name", mesh.ServiceSelector{DataplaneRef: &mesh.DataplaneRef{Name: "web-2"}}, false},
		{"empty labels select all", mesh.ServiceSelector{DataplaneLabels: &mesh.LabelSelector{}}, true},
		{"either spelling", mesh.ServiceSelector{DataplaneLabels: &mesh.LabelSelector{MatchLabels: map[string]string{"kuma.io/workload": "web"}}}, true},
		{"all must be equal", mesh.ServiceSelector{DataplaneLabels: &mesh.LabelSelector{MatchLabels: map[string]string{"app": "web", "x": ""}}}, false},
	} {
		if got := mesh.MatchService(c.s, labels, "web-1"); got != c.want {
			t.Errorf("%s: want %v", c.name, c.want)
		}
	}
}
