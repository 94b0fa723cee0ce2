package mesh_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
)

func TestDecodeManifestCompletesFromTheRequest(t *testing.T) {
	want := mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "shop", Name: "slow"}
	const spec = `"spec":{"rules":[{"default":{"idleTimeout":"1s"}}]}`
	for _, c := range []struct {
		name, text string
		fields     []string
	}{
		{"nothing given", `{` + spec + `}`, nil},
		{"all given", `{"type":"MeshTimeout","mesh":"shop","name":"slow",` + spec + `}`, nil},
		{"another kind", `{"type":"MeshTrafficPermission","spec":{}}`, []string{"type"}},
		{"another mesh and name", `{"mesh":"default","name":"fast",` + spec + `}`, []string{"mesh", "name"}},
		{"wrong types", `{"mesh":1,"name":false,` + spec + `}`, []string{"mesh", "name"}},
		{"kubernetes", `{"apiVersion":"kuma.io/v1alpha1","kind":"MeshTimeout","metadata":{"name":"slow"},` + spec + `}`, nil},
		{"kubernetes, another mesh", `{"apiVersion":"kuma.io/v1alpha1","kind":"MeshTimeout","metadata":{"name":"slow","labels":{"kuma.io/mesh":"default"}},` + spec + `}`,
			[]string{`metadata.labels["kuma.io/mesh"]`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := mesh.DecodeManifest([]byte(c.text), 0, want)
			if err != nil {
				t.Fatal(err)
			}
			var fields []string
			for _, p := range m.Problems {
				fields = append(fields, p.Field)
			}
			if diff := cmp.Diff(c.fields, fields); diff != "" {
				t.Errorf("fields with problems (-want +got):\n%s\n%v", diff, m.Problems)
			}
			if c.fields == nil && m.Resource.Key != want {
				t.Errorf("want %s, got %s", want, m.Resource.Key)
			}
		})
	}
	if _, err := mesh.DecodeManifest([]byte("type: Zone\nname: a\n---\ntype: Zone\nname: b\n"), 0, mesh.Key{}); err == nil {
		t.Error("two documents are accepted where one is wanted")
	}
}

func TestDecodeBounds(t *testing.T) {
	deepJSON := strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100)
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for i := range 9 {
		prev, next := string(rune('a'+i)), string(rune('b'+i))
		bomb += next + ": &" + next + " [" + strings.TrimSuffix(strings.Repeat("*"+prev+",", 9), ",") + "]\n"
	}
	for _, c := range []struct {
		name, text string
		limit      int
		want       string
	}{
		{"too large", "type: Zone\nname: west\n", 10, "at most 10 are allowed"},
		{"too deep JSON", deepJSON, 0, "nested deeper"},
		{"too deep YAML", strings.Repeat("[", 100) + strings.Repeat("]", 100), 0, "nested deeper"},
		{"aliases that multiply", bomb, 0, "aliases counted"},
		{"not UTF-8", "name: \xff", 0, "UTF-8"},
		{"a tag", "name: !!binary aGk=", 0, "tag !!binary is not supported"},
		{"not a number of JSON", "weight: .inf", 0, "not allowed"},
		{"a key that is no text", "? [a]\n: b\n", 0, "a key must be text"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := mesh.DecodeManifests([]byte(c.text), c.limit)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want an error with %q, got %v", c.want, err)
			}
		})
	}
}

func TestNumbersAndTextOfYAML(t *testing.T) {
	ms, err := mesh.DecodeManifests([]byte(`
type: MeshZoneAddress
mesh: default
name: "2026-01-01"
labels: {a: "0x10", b: '1e3', c: "null", d: "<&>"}
spec: {address: gw.example.com, port: 0x2711}
`), 0)
	if err != nil {
		t.Fatal(err)
	}
	if p := ms[0].Problems; len(p) > 0 {
		t.Fatal(p)
	}
	if got := string(ms[0].Resource.Spec); got != `{"address":"gw.example.com","port":10001}` {
		t.Errorf("spec %s", got)
	}
	want := map[string]string{"a": "0x10", "b": "1e3", "c": "null", "d": "<&>"}
	if diff := cmp.Diff(want, ms[0].Resource.Labels); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeSpecIsTolerant(t *testing.T) {
	s, err := mesh.DecodeSpec(mesh.KindMeshTimeout, []byte(`{"rules":[{"default":{"idleTimeout":"5s","newer":{"x":1}}}],"more":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.(*mesh.MeshTimeout).Rules[0].Default.IdleTimeout.Seconds(); got != 5 {
		t.Errorf("idleTimeout %v", got)
	}
	for _, c := range []struct {
		kind mesh.KindName
		spec string
	}{{"MeshRetry", `{}`}, {mesh.KindMeshTimeout, `{"rules":1}`}, {mesh.KindMeshTimeout, `{`}} {
		if _, err := mesh.DecodeSpec(c.kind, []byte(c.spec)); err == nil {
			t.Errorf("%s %s: want an error", c.kind, c.spec)
		}
	}
}

func FuzzDecodeManifests(f *testing.F) {
	f.Add([]byte("type: Zone\nname: west\n"))
	f.Add([]byte(`{"type":"MeshTimeout","mesh":"default","name":"x","spec":{"rules":[{"default":{"idleTimeout":"1s"}}]}}`))
	f.Add([]byte("apiVersion: kuma.io/v1alpha1\nkind: Mesh\nmetadata: {name: a, labels: {y: n}}\nspec: {}\n---\n- &a [*a]\n"))
	f.Add([]byte("type: Dataplane\nmesh: m\nname: \"a\"\nnetworking: {address: 1.2.3.4, inbound: [{port: 80, targetPort: x}]}"))
	f.Add([]byte("type: MeshIdentity\nmesh: m\nname: a\nspec: {spiffeID: {path: '/{{ label `x` }}'}, provider: {type: Bundled}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		manifests, err := mesh.DecodeManifests(data, 1<<20)
		if err != nil {
			return
		}
		mesh.ValidateManifests("fuzz", data)
		for i := range manifests {
			m := &manifests[i]
			if len(m.Validate()) > 0 {
				continue
			}
			text, err := mesh.EncodeResource(m.Resource)
			if err != nil {
				t.Fatalf("a valid manifest does not encode: %v", err)
			}
			again, err := mesh.DecodeManifests(text, 0)
			if err != nil || len(again) != 1 || len(again[0].Validate()) > 0 {
				t.Fatalf("%s does not read back: %v", text, err)
			}
			if r := again[0].Resource; r.Key != m.Resource.Key || !bytes.Equal(r.Spec, m.Resource.Spec) {
				t.Fatalf("%s reads back as another resource", text)
			}
		}
	})
}

func FuzzIdentityTemplates(f *testing.F) {
	f.Add("{{ .Mesh }}.{{ .Zone }}.mesh.local", "/workload/{{ .Workload }}", "web")
	f.Add("{{ label `a` }}", "/{{- label \"tombolo.io/workload\" -}}/x", "a.b-c_d")
	f.Add("{{ define \"x\" }}{{ template \"x\" }}{{ end }}", "{{ range 99999999 }}{{ end }}", "")
	f.Fuzz(func(t *testing.T, trustDomain, path, workload string) {
		spec := &mesh.MeshIdentity{SpiffeID: &mesh.SpiffeIDTemplate{TrustDomain: trustDomain, Path: path}, Provider: mesh.IdentityProvider{Type: mesh.ProviderBundled}}
		spec.Validate()
		r := mesh.PolicyResource{Resource: mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshIdentity, Mesh: "m", Name: "i"}}, Decoded: spec}
		who := mesh.IdentitySubject{Mesh: "m", Zone: "z", Labels: map[string]string{mesh.LabelWorkload: workload}}
		got, problems := mesh.IdentityFor([]mesh.PolicyResource{r}, who)
		if (got == nil) == (len(problems) == 0) {
			t.Fatalf("want an identity or problems, got %+v and %v", got, problems)
		}
		if got == nil {
			return
		}
		if !strings.HasPrefix(got.SpiffeID, "spiffe://"+got.TrustDomain+"/") || len(got.SpiffeID) > 2048 {
			t.Fatalf("identity %q of trust domain %q", got.SpiffeID, got.TrustDomain)
		}
		if domains := mesh.TrustDomainsOf([]mesh.PolicyResource{r}, "m", "z"); len(domains) != 1 || domains[0] != got.TrustDomain {
			t.Fatalf("the identity is of %q, but the zone may publish %v", got.TrustDomain, domains)
		}
	})
}

func FuzzSNI(f *testing.F) {
	f.Add(uint32(80), "backend", "west", "default")
	f.Fuzz(func(t *testing.T, port uint32, service, zone, name string) {
		for _, label := range []string{service, zone, name} {
			if mesh.CheckDNSLabel(label) != "" {
				return
			}
		}
		sni := mesh.SNI(port%65535+1, service, zone, name)
		if !strings.HasSuffix(sni, strings.TrimPrefix(mesh.SNIWildcard(zone, name), "*")) {
			t.Errorf("%s is not covered by %s", sni, mesh.SNIWildcard(zone, name))
		}
		if n := len(strings.Split(sni, ".")); n != 5 || len(sni) > 253 {
			t.Errorf("%s has %d parts and %d octets", sni, n, len(sni))
		}
	})
}

func FuzzSpiffeIDs(f *testing.F) {
	f.Add("spiffe://default.west.mesh.local/workload/web")
	f.Add("spiffe://td/")
	f.Add("spiffe://td:80/x?y#z")
	f.Fuzz(func(t *testing.T, value string) {
		problems := func(kind string) int {
			p := &mesh.MeshTrafficPermission{Rules: []mesh.PermissionRule{{Default: mesh.PermissionConf{
				Allow: []mesh.Match{{SpiffeID: &mesh.SpiffeIDMatch{Type: kind, Value: value}}}}}}}
			return len(p.Validate())
		}
		if problems(mesh.MatchExact) > 0 {
			return
		}
		if problems(mesh.MatchPrefix) > 0 {
			t.Fatalf("%q is a SPIFFE ID, but no beginning of one", value)
		}
		rest, ok := strings.CutPrefix(value, "spiffe://")
		domain, path, found := strings.Cut(rest, "/")
		if !ok || !found || domain == "" || path == "" || strings.ContainsAny(rest, "?#@:%\\ ") || len(value) > 2048 {
			t.Fatalf("%q is accepted", value)
		}
	})
}
