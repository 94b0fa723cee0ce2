package mesh_test

import (
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// What is valid and lets more in than its author may think says so.
func TestWarnings(t *testing.T) {
	for _, c := range []struct {
		kind       mesh.KindName
		spec, want string // "" for no warning
	}{
		{mesh.KindMeshIdentity, `{"provider":{"type":"Bundled"}}`, ""},
		{mesh.KindMeshIdentity, `{"provider":{"type":"Bundled"},"spiffeID":{"trustDomain":"example.org"}}`, "{{ .Zone }}"},
		{mesh.KindMeshIdentity, `{"provider":{"type":"Bundled"},"spiffeID":{"path":"/workload/{{ .Workload }}"}}`, "{{ .Namespace }}"},
		{mesh.KindMeshIdentity, `{"provider":{"type":"Bundled"},"spiffeID":{"path":"/app/{{ label \"app\" }}"}}`, "{{ .Namespace }}"},
		{mesh.KindMeshIdentity, `{"provider":{"type":"Bundled"},"spiffeID":{"path":"/sa/{{ .ServiceAccount }}"}}`, "{{ .Namespace }}"},
		{mesh.KindMeshIdentity, `{"provider":{"type":"Bundled"},"spiffeID":{"path":"/{{ .Namespace }}/{{ label \"app\" }}"}}`, ""},
		{mesh.KindMeshMultiZoneService, `{"selector":{"meshService":{"matchLabels":{"app":"web"}}},"ports":[{"port":80}]}`, "any namespace"},
		{mesh.KindMeshMultiZoneService, `{"selector":{"meshService":{"matchLabels":{"app":"web","k8s.kuma.io/namespace":"shop"}}},"ports":[{"port":80}]}`, ""},
		{mesh.KindMeshMultiZoneService, `{"selector":{"meshService":{"matchLabels":{"app":"web","kuma.io/env":"universal"}}},"ports":[{"port":80}]}`, ""},
	} {
		spec, err := mesh.DecodeSpec(c.kind, []byte(c.spec))
		if err != nil || len(spec.Validate()) > 0 {
			t.Fatalf("%s: %v %v", c.spec, err, spec.Validate())
		}
		got := strings.Join(spec.(mesh.Cautious).Warnings(), "\n")
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q in it", c.spec, got, c.want)
		}
	}
}
