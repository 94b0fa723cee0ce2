package mesh_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/tombolo-mesh/tombolo/internal/golden"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/meshtest"
)

// Each file has manifests; wanted are every problem, and the resources without one.
func TestValidate(t *testing.T) {
	covered := map[mesh.KindName][2]bool{} // without and with problems
	golden.Run(t, "testdata/validate/*.txtar", func(t *testing.T, a *txtar.Archive) map[string]string {
		input, _ := golden.File(a, "input.yaml")
		var b strings.Builder
		bad := map[int]bool{}
		for _, p := range mesh.ValidateManifests("input.yaml", input) {
			fmt.Fprintln(&b, p)
			bad[p.Document] = true
		}
		manifests, err := mesh.DecodeManifests(input, 0)
		if err != nil {
			return map[string]string{"want": b.String()}
		}
		for _, m := range manifests {
			if c := covered[m.Resource.Kind]; bad[m.Document] {
				covered[m.Resource.Kind] = [2]bool{c[0], true}
				continue
			} else {
				covered[m.Resource.Kind] = [2]bool{true, c[1]}
			}
			fmt.Fprintf(&b, "%s\n", roundTrip(t, m))
		}
		return map[string]string{"want": b.String()}
	})
	for _, k := range mesh.Kinds() {
		if k.Name == mesh.KindWorkload { // its spec has no fields
			continue
		}
		if c := covered[k.Name]; !c[0] || !c[1] {
			t.Errorf("%s: want a case without problems (%v) and one with (%v)", k.Name, c[0], c[1])
		}
	}
}

// roundTrip encodes a resource and checks that it reads back as the same.
func roundTrip(t *testing.T, m mesh.Manifest) []byte {
	t.Helper()
	text, err := mesh.EncodeResource(m.Resource)
	if err != nil {
		t.Fatal(err)
	}
	again, err := mesh.DecodeManifests(text, 0)
	if err != nil || len(again) != 1 {
		t.Fatalf("%s does not read back: %v", text, err)
	}
	if p := mesh.ValidateManifests("again", text); m.Form == mesh.FormREST && len(p) > 0 {
		t.Errorf("%s reads back with problems: %v", text, p)
	}
	if r := again[0].Resource; r.Key != m.Resource.Key || !maps.Equal(r.Labels, m.Resource.Labels) || string(r.Spec) != string(m.Resource.Spec) {
		t.Errorf("%s reads back as %+v", text, r)
	}
	tolerant, err := mesh.DecodeSpec(m.Resource.Kind, m.Resource.Spec)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(tolerant)
	b, _ := json.Marshal(m.Decoded)
	if string(a) != string(b) {
		t.Errorf("strict and tolerant decoding differ: %s and %s", b, a)
	}
	return text
}

// Each file has manifests, with env in a label; wanted are the labels that they
// are stored with, or why they are refused.
func TestComputeLabels(t *testing.T) {
	golden.Run(t, "testdata/labels/*.txtar", func(t *testing.T, a *txtar.Archive) map[string]string {
		input, _ := golden.File(a, "input.yaml")
		manifests, err := mesh.DecodeManifests(input, 0)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, m := range manifests {
			r := m.Resource
			r.Zone = r.Labels[mesh.LabelZone]
			meshtest.Namespaced(&r)
			for _, p := range m.Problems {
				t.Errorf("%s: %s: %s", r.Key, p.Field, p.Reason)
			}
			env := r.Labels[mesh.LabelEnv]
			if env == "" {
				env = mesh.EnvUniversal
			}
			labels, problems := mesh.ComputeLabels(r, m.Decoded, env)
			fmt.Fprintf(&b, "%s\n", r.Key)
			for _, p := range append(mesh.ValidateResource(r, m.Decoded), problems...) {
				fmt.Fprintf(&b, "  problem: %s: %s\n", p.Field, p.Reason)
			}
			for _, k := range slices.Sorted(maps.Keys(labels)) {
				fmt.Fprintf(&b, "  %s: %s\n", k, labels[k])
			}
		}
		return map[string]string{"want": b.String()}
	})
}
