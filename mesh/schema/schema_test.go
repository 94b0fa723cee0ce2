package schema

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
)

func TestExamplesAreValid(t *testing.T) {
	for _, k := range mesh.Kinds() {
		t.Run(string(k.Name), func(t *testing.T) {
			b, err := Example(k)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range mesh.ValidateManifests("example", b) {
				t.Error(p)
			}
			ms, err := mesh.DecodeManifests(b, 0)
			if err != nil || len(ms) != 1 || ms[0].Resource.Kind != k.Name {
				t.Fatalf("want one %s, got %v, %v", k.Name, ms, err)
			}
		})
	}
}

func TestOpenAPIReferencesResolve(t *testing.T) {
	b, err := OpenAPI("1.2.3", map[string]any{"/healthz": Object{"get": Object{"responses": Object{}}}})
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	resolve(t, doc, doc)
	paths := doc["paths"].(map[string]any)
	for _, k := range mesh.Kinds() {
		item := "/meshes/{mesh}/" + k.Plural() + "/{name}"
		if k.Scope == mesh.ScopeGlobal {
			item = "/" + k.Plural() + "/{name}"
		}
		p, ok := paths[item].(map[string]any)
		if !ok {
			t.Errorf("no path %s", item)
			continue
		}
		if _, put := p["put"]; put != Writable(k) {
			t.Errorf("%s: put is described: %v, writable: %v", item, put, Writable(k))
		}
	}
	if _, ok := paths["/healthz"]; !ok {
		t.Error("the extra path is missing")
	}
	again, err := OpenAPI("1.2.3", map[string]any{"/healthz": Object{"get": Object{"responses": Object{}}}})
	if err != nil || !bytes.Equal(b, again) {
		t.Error("the same input gave other bytes")
	}
}

// resolve follows every $ref below v.
func resolve(t *testing.T, doc map[string]any, v any) {
	t.Helper()
	switch x := v.(type) {
	case map[string]any:
		if ref, ok := x["$ref"].(string); ok {
			var at any = doc
			for _, step := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
				m, _ := at.(map[string]any)
				at = m[step]
			}
			if at == nil {
				t.Errorf("%s does not resolve", ref)
			}
		}
		for _, c := range x {
			resolve(t, doc, c)
		}
	case []any:
		for _, c := range x {
			resolve(t, doc, c)
		}
	}
}

func TestSpecSchemaIsComplete(t *testing.T) {
	for _, k := range mesh.Kinds() {
		b, err := json.Marshal(Spec(k))
		if err != nil {
			t.Fatal(err)
		}
		var doc map[string]any
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Fatal(err)
		}
		resolve(t, doc, doc)
		if doc["title"] != string(k.Name) {
			t.Errorf("%s: title %v", k.Name, doc["title"])
		}
	}
	timeout, _ := mesh.KindByName(mesh.KindMeshTimeout)
	defs := Spec(timeout)["$defs"].(Object)
	conf := defs["TimeoutConf"].(Object)
	if got := conf["properties"].(Object)["idleTimeout"].(Object)["description"]; got == "" || got == nil {
		t.Error("TimeoutConf.idleTimeout has no description")
	}
	if got := defs["TimeoutTo"].(Object)["required"].([]string); len(got) != 2 {
		t.Errorf("to items require targetRef and default, got %v", got)
	}
}
