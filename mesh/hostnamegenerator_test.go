package mesh_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
)

func named(t testing.TB, kind mesh.KindName, meshName, zone, name, env string, labels ...string) mesh.PolicyResource {
	t.Helper()
	r := mesh.Resource{Key: mesh.Key{Kind: kind, Mesh: meshName, Zone: zone, Name: name}, Labels: map[string]string{}}
	for i := 0; i < len(labels); i += 2 {
		r.Labels[labels[i]] = labels[i+1]
	}
	k, _ := mesh.KindByName(kind)
	display := r.Labels[mesh.LabelDisplayName]
	r.Labels, _ = mesh.ComputeLabels(r, k.New(), env)
	if display != "" {
		r.Labels[mesh.LabelDisplayName] = display
	}
	return mesh.PolicyResource{Resource: r, Decoded: k.New()}
}

func generator(zone, name, template string, labels ...string) mesh.PolicyResource {
	match := map[string]string{}
	for i := 0; i < len(labels); i += 2 {
		match[labels[i]] = labels[i+1]
	}
	return mesh.PolicyResource{
		Resource: mesh.Resource{Key: mesh.Key{Kind: mesh.KindHostnameGenerator, Zone: zone, Name: name}},
		Decoded: &mesh.HostnameGenerator{Template: template,
			Selector: mesh.HostnameSelector{MeshService: &mesh.LabelSelector{MatchLabels: match}}},
	}
}

func defaultGenerators(t testing.TB) []mesh.PolicyResource {
	t.Helper()
	var out []mesh.PolicyResource
	for _, r := range mesh.DefaultHostnameGenerators() {
		spec, err := mesh.DecodeSpec(r.Kind, r.Spec)
		if err != nil {
			t.Fatal(err)
		}
		if p := mesh.ValidateResource(r, spec); len(p) > 0 {
			t.Fatal(r.Name, p)
		}
		out = append(out, mesh.PolicyResource{Resource: r, Decoded: spec})
	}
	return out
}

func lines(names []mesh.Hostname, problems []mesh.HostnameProblem) string {
	var b strings.Builder
	for _, n := range names {
		fmt.Fprintf(&b, "%s %s %s\n", n.Name, n.Service.RESTName(), n.Generator.RESTName())
	}
	for _, p := range problems {
		fmt.Fprintf(&b, "problem %s %s: %s\n", p.Generator.RESTName(), p.Service.RESTName(), p.Reason)
	}
	return b.String()
}

func TestDefaultHostnames(t *testing.T) {
	kube := func(zone, name string, more ...string) mesh.PolicyResource {
		return named(t, mesh.KindMeshService, "default", zone, name+".prod", mesh.EnvKubernetes, append([]string{
			mesh.LabelDisplayName, name, mesh.LabelNamespace, "prod", mesh.LabelHeadless, "false"}, more...)...)
	}
	services := []mesh.PolicyResource{
		kube("east", "web"), kube("west", "web"),
		kube("west", "db-0", mesh.LabelHeadless, "true", mesh.LabelServiceName, "db", mesh.LabelStatefulPod, "db-0"),
		named(t, mesh.KindMeshService, "default", "rack", "billing", mesh.EnvUniversal),
		named(t, mesh.KindMeshService, "default", "east", "batch", mesh.EnvUniversal),
		named(t, mesh.KindMeshMultiZoneService, "default", "", "web", mesh.EnvUniversal),
	}
	got := lines(mesh.Hostnames(defaultGenerators(t), services, "east"))
	want := `batch.svc.east.mesh.local batch.east synced-universal-mesh-service
batch.svc.mesh.local batch.east local-universal-mesh-service
billing.svc.rack.mesh.local billing.rack synced-universal-mesh-service
db-0.db.prod.svc.west.mesh.local db-0.prod.west synced-headless-kube-mesh-service
web.mzsvc.mesh.local web synced-mesh-multi-zone-service
web.prod.svc.east.mesh.local web.prod.east synced-kube-mesh-service
web.prod.svc.west.mesh.local web.prod.west synced-kube-mesh-service
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// Elsewhere a service of another zone has no local name.
	for _, n := range strings.Split(lines(mesh.Hostnames(defaultGenerators(t), services, "rack")), "\n") {
		if strings.HasPrefix(n, "batch.svc.mesh.local") {
			t.Error("rack answers a local name of east:", n)
		}
	}
}

func TestHostnameConflicts(t *testing.T) {
	old := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	zones := generator("east", "a-zones-own", "one.mesh")
	elder, younger := generator("", "z-elder", "one.mesh"), generator("", "b-younger", "{{ .Name }}.mesh")
	elder.Created, younger.Created = old, old.Add(time.Hour)
	foreign := generator("west", "of-another-zone", "{{ .Name }}.west")
	broken := generator("", "y-label", `{{ label "team" }}.mesh`)
	broken.Created = old.Add(2 * time.Hour)
	a := named(t, mesh.KindMeshService, "default", "west", "a", mesh.EnvUniversal)
	b := named(t, mesh.KindMeshService, "default", "east", "b", mesh.EnvUniversal)
	generators, services := []mesh.PolicyResource{zones, younger, foreign, broken, elder}, []mesh.PolicyResource{a, b}
	want := `a.mesh a.west b-younger
b.mesh b.east b-younger
one.mesh b.east z-elder
problem z-elder a.west: one.mesh is the name of MeshService/default/east/b already, by HostnameGenerator///z-elder
problem y-label b.east: uses label "team", which the service does not have
problem y-label a.west: uses label "team", which the service does not have
problem a-zones-own.east a.west: one.mesh is the name of MeshService/default/east/b already, by HostnameGenerator///z-elder
`
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 1))
		r.Shuffle(len(generators), func(i, j int) { generators[i], generators[j] = generators[j], generators[i] })
		r.Shuffle(len(services), func(i, j int) { services[i], services[j] = services[j], services[i] })
		if diff := cmp.Diff(want, lines(mesh.Hostnames(generators, services, "east"))); diff != "" {
			t.Fatal(diff)
		}
	}
}

// Whatever an author writes, and whatever labels services have: no panic, and
// every name that comes out is one.
func FuzzHostnames(f *testing.F) {
	f.Add("{{ .DisplayName }}.svc.{{ .Zone }}.mesh.local", "a")
	f.Add(`{{ label "x" }}.mesh`, "A..b")
	f.Add(strings.Repeat("{{ .Name }}", 90), strings.Repeat("x", 60))
	f.Add("{{ if true }}{{ end }}{{ define \"x\" }}{{ end }}", "-")
	f.Add("{{ .Name.Name }}{{ $x := .Name }}{{ (label \"x\") }}{{ . }}{{ nil }}", "1.2.3.4")
	f.Fuzz(func(t *testing.T, template, value string) {
		spec := &mesh.HostnameGenerator{Template: template, Selector: mesh.HostnameSelector{MeshService: &mesh.LabelSelector{}}}
		spec.Validate()
		g := generator("", "g", template)
		s := named(t, mesh.KindMeshService, "default", "east", value, mesh.EnvUniversal, "x", value)
		names, problems := mesh.Hostnames([]mesh.PolicyResource{g}, []mesh.PolicyResource{s}, "east")
		if len(names)+len(problems) != 1 {
			t.Fatalf("%d names, %d problems", len(names), len(problems))
		}
		for _, n := range names {
			if mesh.CheckName(n.Name) != "" || !strings.Contains(n.Name, ".") {
				t.Fatalf("%q came out", n.Name)
			}
		}
	})
}

func BenchmarkHostnames(b *testing.B) {
	var services []mesh.PolicyResource
	for i := range 1000 {
		services = append(services, named(b, mesh.KindMeshService, "default", "west", fmt.Sprintf("s%d.prod", i), mesh.EnvKubernetes,
			mesh.LabelDisplayName, fmt.Sprintf("s%d", i), mesh.LabelNamespace, "prod", mesh.LabelHeadless, "false"))
	}
	generators := defaultGenerators(b)
	for b.Loop() {
		if names, _ := mesh.Hostnames(generators, services, "east"); len(names) != 1000 {
			b.Fatal(len(names))
		}
	}
}

func TestHostnameGeneratorWarns(t *testing.T) {
	var spec mesh.HostnameGenerator
	if err := json.Unmarshal([]byte(`{"selector":{"meshExternalService":{}},"template":"{{ .Name }}.mesh"}`), &spec); err != nil {
		t.Fatal(err)
	}
	if len(spec.Validate()) > 0 || len(spec.Warnings()) != 1 {
		t.Error(spec.Validate(), spec.Warnings())
	}
}
