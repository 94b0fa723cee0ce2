package universal

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
)

func TestLoadResources(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"b.yaml": `
type: MeshService
mesh: default
name: backend
spec:
  selector: {dataplaneLabels: {matchLabels: {app: backend}}}
  ports: [{port: 8080, appProtocol: http}]
---
type: MeshZoneAddress
mesh: default
name: ingress
spec: {address: 192.0.2.1, port: 10001}
---
type: MeshZoneAddress
mesh: default
name: wrong
spec: {address: 192.0.2.1, port: 0}
`,
		"c.yml":     "type: MeshZoneAddress\nmesh: default\nname: ingress\nspec: {address: 192.0.2.2, port: 10001}\n",
		"d.json":    `{"type": "Dataplane", "mesh": "default", "name": "web", "networking": {"address": "127.0.0.1"}}`,
		"e.yaml":    "type: MeshMultiZoneService\nmesh: default\nname: slow\nspec: {}\n",
		"f.yaml":    "{",
		"g.yaml":    "type: Nonsense\nname: x\n",
		"h.yaml":    strings.Repeat("#", maxFileSize+1),
		"notes.txt": "type: MeshService",
		".i.yaml":   "{",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "j.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	got, problems := LoadResources("east", dir)
	var keys []string
	for _, r := range got {
		keys = append(keys, r.Key.String())
		if r.Labels[mesh.LabelZone] != "east" || r.Labels[mesh.LabelOrigin] != "zone" {
			t.Errorf("%s has labels %v", r.Key, r.Labels)
		}
	}
	if diff := cmp.Diff([]string{"MeshService/default/east/backend", "MeshZoneAddress/default/east/ingress"}, keys); diff != "" {
		t.Error(diff)
	}
	var told []string
	for _, p := range problems {
		told = append(told, filepath.Base(p.File)+" "+p.Problem.Field)
	}
	want := []string{"b.yaml spec.port", "c.yml name", "d.json type", "e.yaml type", "f.yaml ", "g.yaml type", "h.yaml "}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
	if _, problems := LoadResources("east", filepath.Join(dir, "none")); len(problems) != 1 {
		t.Error("a folder that is not there:", problems)
	}
}
