package api

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir/explain"
	"github.com/tombolo-mesh/tombolo/mesh/schema"
)

// bodyManifests is the body of several documents.
const bodyManifests = "manifests"

// operation describes a route for the OpenAPI document.
type operation struct {
	summary string
	query   []parameter
	// body and answer name schemas: a kind, or a type of this package. Empty is none.
	body, answer string
	// media of the answer, default application/json.
	media string
	// created: the answer may be 201.
	created bool
	// long: the answer may take longer than requestTime.
	long bool
	// codes of problems.
	codes []int
}

// parameter of a query.
type parameter struct{ name, doc, kind string }

type object = map[string]any

// components are the schemas of answers that are no kinds.
func components() map[string]any {
	return map[string]any{
		"Written": Written{}, "List": List{}, "ChangeList": ChangeList{}, "ChangeEntry": ChangeEntry{}, "ChangeStatus": sync.ChangeStatus{},
		"Write": Write{}, "WriteList": WriteList{}, "ResourceHistory": ResourceHistory{}, "RolloutView": RolloutView{}, "RolloutList": RolloutList{},
		"ZoneOverviews": ZoneOverviews{}, "TokenRequest": TokenRequest{}, "TokenResponse": TokenResponse{},
		"RevocationRequest": RevocationRequest{}, "RevocationList": RevocationList{}, "Index": Index{}, "WhoAmI": WhoAmI{},
		"KindList": KindList{}, "Health": Health{}, "InstanceList": InstanceList{}, "Planned": Planned{},
		"Explanation": explain.Explanation{}, "Reach": explain.Reach{},
	}
}

// describe generates the OpenAPI document from the table of routes.
func (s *Server) describe() ([]byte, error) {
	paths := map[string]any{}
	for i := range s.routes {
		r := &s.routes[i]
		item, ok := paths[r.path].(object)
		if !ok {
			item = object{}
			if params := pathParameters(r.path); len(params) > 0 {
				item["parameters"] = params
			}
			paths[r.path] = item
		}
		item[strings.ToLower(r.method)] = r.describe()
	}
	raw, err := schema.OpenAPI(s.cfg.Version, paths)
	if err != nil {
		return nil, err
	}
	var doc object
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("read generated OpenAPI document: %w", err)
	}
	parts, _ := doc["components"].(object)
	schemas, ok := parts["schemas"].(object)
	if !ok {
		return nil, fmt.Errorf("generated OpenAPI document has no components.schemas")
	}
	for _, k := range mesh.Kinds() {
		if shape, ok := schemas[string(k.Name)].(object); ok {
			if properties, ok := shape["properties"].(object); ok {
				properties["status"] = object{"type": "object", "readOnly": true, "description": "What the owning zone reports of it, and what zones cannot do with it.",
					"properties": object{"problems": object{"type": "array", "items": shapeOf(reflect.TypeFor[ReportedProblem]())}}}
			}
		}
	}
	for name, v := range components() {
		schemas[name] = shapeOf(reflect.TypeOf(v))
	}
	out, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode OpenAPI document: %w", err)
	}
	return out, nil
}

func pathParameters(path string) []object {
	var out []object
	for part := range strings.SplitSeq(path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			out = append(out, object{"name": strings.TrimSuffix(name, "}"), "in": "path", "required": true, "schema": object{"type": "string"}})
		}
	}
	return out
}

func (r *route) describe() object {
	out := object{"summary": r.op.summary, "operationId": operationID(r.method, r.path)}
	switch {
	case r.kind != nil:
		out["tags"] = []string{string(r.kind.Name)}
	default:
		head, _, _ := strings.Cut(strings.TrimPrefix(r.path, "/"), "/")
		if head == "" {
			head = "index"
		}
		out["tags"] = []string{head}
	}
	if r.need == public {
		out["security"] = []object{}
	}
	if params := r.parameters(); len(params) > 0 {
		out["parameters"] = params
	}
	if r.op.body != "" {
		var schema any = object{"$ref": "#/components/schemas/" + r.op.body}
		if r.op.body == bodyManifests {
			schema = object{"type": "array", "maxItems": MaxDocuments, "items": object{"type": "object"}}
		}
		content := object{"application/json": object{"schema": schema}}
		if r.kind != nil || r.op.body == bodyManifests {
			content["application/yaml"] = object{"schema": schema}
		}
		out["requestBody"] = object{"required": true, "content": content}
	}
	out["responses"] = r.responses()
	return out
}

func (r *route) parameters() []object {
	var out []object
	for _, q := range r.op.query {
		p := object{"name": q.name, "in": "query", "description": q.doc, "schema": object{"type": q.kind}}
		if label, ok := strings.CutSuffix(q.name, "[labels.<key>]"); ok {
			p["name"], p["style"], p["explode"] = label, "deepObject", true
			p["schema"] = object{"type": "object", "additionalProperties": object{"type": "string"}}
		}
		out = append(out, p)
	}
	if slices.Contains(r.op.codes, 412) {
		out = append(out, object{"name": "If-Match", "in": "header", "description": "ETag that the resource must still have, or *.", "schema": object{"type": "string"}})
	}
	if slices.Contains(r.op.codes, 412) && r.op.created || slices.Contains(r.op.codes, 304) {
		out = append(out, object{"name": "If-None-Match", "in": "header", "description": "\"*\" when the resource must not exist; for GET, the ETag of what is known.", "schema": object{"type": "string"}})
	}
	return out
}

func (r *route) responses() object {
	media := r.op.media
	if media == "" {
		media = "application/json"
	}
	good := object{"description": "Done."}
	switch {
	case r.op.answer != "":
		good["content"] = object{media: object{"schema": object{"$ref": "#/components/schemas/" + r.op.answer}}}
	case r.op.media != "":
		good["content"] = object{media: object{}}
	}
	out := object{"default": object{"$ref": "#/components/responses/Problem"}}
	switch {
	case r.op.created && r.method == "POST":
		out["201"] = good
	case r.op.created:
		out["201"] = object{"description": "Created.", "content": good["content"]}
		fallthrough
	default:
		out["200"] = good
	}
	for _, code := range r.op.codes {
		if code == 304 {
			out["304"] = object{"description": "Unchanged."}
			continue
		}
		out[strconv.Itoa(code)] = object{"$ref": "#/components/responses/Problem"}
	}
	return out
}

// operationID is unique by path and method: "put_meshes_mesh_meshtimeouts_name".
func operationID(method, path string) string {
	id := strings.NewReplacer("/", "_", "{", "", "}", "", ".", "_").Replace(strings.Trim(path, "/"))
	if id == "" {
		id = "index"
	}
	return strings.ToLower(method) + "_" + id
}

// shapeOf is the JSON Schema of a Go type of an answer.
func shapeOf(t reflect.Type) object {
	switch t {
	case reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case reflect.TypeFor[mesh.Duration]():
		return object{"type": "string", "examples": []string{"720h"}}
	case reflect.TypeFor[json.RawMessage]():
		return object{"type": "object"}
	case reflect.TypeFor[mesh.Key]():
		return object{"type": "object"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return shapeOf(t.Elem())
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice:
		return object{"type": "array", "items": shapeOf(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": shapeOf(t.Elem())}
	case reflect.Struct:
		return structShape(t)
	}
	return object{"type": "integer"}
}

func structShape(t reflect.Type) object {
	properties := object{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() || name == "" && options == "" {
			continue
		}
		shape := shapeOf(f.Type)
		if f.Type.Kind() == reflect.Pointer && shape["type"] == "string" {
			shape["type"] = []string{"string", "null"}
		}
		properties[name] = shape
	}
	return object{"type": "object", "properties": properties}
}
