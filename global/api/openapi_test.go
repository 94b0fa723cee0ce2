package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestEveryRouteIsDescribedAndServed(t *testing.T) {
	r := newRig(t)
	var doc struct {
		OpenAPI    string `json:"openapi"`
		Paths      map[string]map[string]json.RawMessage
		Components struct {
			Schemas   map[string]json.RawMessage
			Responses map[string]json.RawMessage
		}
	}
	raw := r.want(200, "GET", "/openapi.json", "", "").body
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") {
		t.Errorf("openapi is %q", doc.OpenAPI)
	}
	served := map[string]bool{}
	for _, rt := range r.server.routes {
		served[rt.method+" "+rt.path] = true
	}
	described, ids := map[string]bool{}, map[string]string{}
	for path, item := range doc.Paths {
		for method, op := range item {
			if method == "parameters" {
				continue
			}
			name := strings.ToUpper(method) + " " + path
			described[name] = true
			checkOperation(t, name, path, item["parameters"], op, ids)
		}
	}
	for name := range served {
		if !described[name] {
			t.Errorf("%s is served, not described", name)
		}
	}
	for name := range described {
		if !served[name] {
			t.Errorf("%s is described, not served", name)
		}
		method, path, _ := strings.Cut(name, " ")
		// The mux agrees with the table: no described path is a 404 of the mux or a 405.
		a := r.do(method, strings.NewReplacer("{mesh}", "default", "{name}", "x", "{kri}", "x", "{revision}", "1").Replace(path), r.admin, "{")
		if a.status == http.StatusMethodNotAllowed || strings.Contains(string(a.body), "there is no /") {
			t.Errorf("%s: status %d: %s", name, a.status, a.body)
		}
	}
	checkRefs(t, raw, doc.Components.Schemas, doc.Components.Responses)
}

func checkOperation(t *testing.T, name, path string, shared, raw json.RawMessage, ids map[string]string) {
	t.Helper()
	var op struct {
		OperationID string                     `json:"operationId"`
		Summary     string                     `json:"summary"`
		Responses   map[string]json.RawMessage `json:"responses"`
	}
	if err := json.Unmarshal(raw, &op); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if op.Summary == "" || op.OperationID == "" || len(op.Responses) < 2 {
		t.Errorf("%s: no summary, id or responses", name)
	}
	if other := ids[op.OperationID]; other != "" {
		t.Errorf("%s and %s share operationId %s", name, other, op.OperationID)
	}
	ids[op.OperationID] = name
	var params []struct{ Name, In string }
	if shared != nil {
		if err := json.Unmarshal(shared, &params); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	var declared []string
	for _, p := range params {
		if p.In == "path" {
			declared = append(declared, "{"+p.Name+"}")
		}
	}
	var used []string
	for part := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(part, "{") {
			used = append(used, part)
		}
	}
	if !slices.Equal(used, declared) {
		t.Errorf("%s: path parameters %v, declared %v", name, used, declared)
	}
}

func checkRefs(t *testing.T, raw []byte, schemas, responses map[string]json.RawMessage) {
	t.Helper()
	var tree any
	if err := json.Unmarshal(raw, &tree); err != nil {
		t.Fatal(err)
	}
	seen := 0
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, x := range v {
				walk(x)
			}
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				seen++
				schema, isSchema := strings.CutPrefix(ref, "#/components/schemas/")
				response, isResponse := strings.CutPrefix(ref, "#/components/responses/")
				if !(isSchema && schemas[schema] != nil) && !(isResponse && responses[response] != nil) {
					t.Errorf("%s leads nowhere", ref)
				}
			}
			for _, x := range v {
				walk(x)
			}
		}
	}
	walk(tree)
	if seen < 100 {
		t.Errorf("only %d references: the walk is broken", seen)
	}
}
