package schema

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Writable reports whether resources of a kind are written at global; the
// others are owned by zones and read-only there.
func Writable(k mesh.Kind) bool {
	return k.Flow == 0 || k.Flow.Has(mesh.GlobalToZones)
}

// OpenAPI returns the OpenAPI 3.1 document of global's REST API: the paths of
// every kind, and extra paths (path to path item), which may refer to the
// components Problem and the kinds. The same input gives the same bytes.
func OpenAPI(version string, extra map[string]any) ([]byte, error) {
	b := builder{docs: embedded(), refs: "#/components/schemas/", defs: Object{}}
	paths := Object{}
	for _, k := range mesh.Kinds() {
		b.resource(k)
		base := "/" + k.Plural()
		if k.Scope == mesh.ScopeMesh {
			base = "/meshes/{mesh}" + base
		}
		paths[base] = collection(k)
		paths[base+"/{name}"] = item(k)
	}
	maps.Copy(paths, extra)
	b.defs["Problem"] = problemSchema()
	doc := Object{
		"openapi": "3.1.0",
		"info": Object{
			"title":       "Tombolo",
			"version":     version,
			"summary":     "Resources of a multi-zone service mesh",
			"license":     Object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": "Every request needs a user token. A write answers with an ETag; give it as If-Match so that no other write is lost unseen.",
		},
		"security": []Object{{"token": []string{}}},
		"paths":    paths,
		"components": Object{
			"schemas":         b.defs,
			"securitySchemes": Object{"token": Object{"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
			"responses":       Object{"Problem": Object{"description": "What went wrong (RFC 9457).", "content": Object{"application/problem+json": Object{"schema": ref("Problem")}}}},
		},
	}
	out, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode OpenAPI document: %w", err)
	}
	return append(out, '\n'), nil
}

func ref(name string) Object { return Object{"$ref": "#/components/schemas/" + name} }

// resource defines the REST form of a kind and of its lists.
func (b *builder) resource(k mesh.Kind) {
	name := string(k.Name)
	body := b.structure(reflect.TypeOf(k.New()).Elem())
	properties := Object{
		"type":             Object{"const": name},
		"name":             Object{"type": "string", "maxLength": nameLength(k), "description": "A resource of a zone is named <name>.<zone>."},
		"labels":           Object{"type": "object", "maxProperties": mesh.MaxLabels, "additionalProperties": Object{"type": "string"}},
		"creationTime":     Object{"type": "string", "format": "date-time", "readOnly": true},
		"modificationTime": Object{"type": "string", "format": "date-time", "readOnly": true},
		"kri":              Object{"type": "string", "readOnly": true},
		"status":           Object{"type": "object", "readOnly": true, "description": "What the owning zone reports."},
	}
	required := []string{"type", "name"}
	if k.Scope == mesh.ScopeMesh {
		properties["mesh"] = Object{"type": "string", "maxLength": mesh.MaxLabelLength}
		required = []string{"type", "mesh", "name"}
	}
	if k.Inline {
		if p, ok := body["properties"].(Object); ok {
			maps.Copy(properties, p)
		}
		if r, ok := body["required"].([]string); ok {
			required = append(required, r...)
		}
	} else {
		b.defs[name+"Spec"] = body
		properties["spec"] = ref(name + "Spec")
		required = append(required, "spec")
	}
	b.defs[name] = Object{"type": "object", "additionalProperties": false, "description": k.Summary, "properties": properties, "required": required}
	b.defs[name+"List"] = Object{"type": "object", "required": []string{"total", "items"}, "properties": Object{
		"total": Object{"type": "integer"},
		"items": Object{"type": "array", "items": ref(name)},
		"next":  Object{"type": []string{"string", "null"}, "description": "Path of the next page."},
	}}
}

func nameLength(k mesh.Kind) int {
	if k.DNSLabel {
		return 2*mesh.MaxLabelLength + 1
	}
	return 253 + 1 + mesh.MaxLabelLength
}

func collection(k mesh.Kind) Object {
	return Object{
		"parameters": meshParameter(k),
		"get": Object{
			"operationId": "list" + string(k.Name), "tags": []string{string(k.Name)}, "summary": "List: " + k.Summary,
			"parameters": []Object{
				query("size", "integer", "Items of a page."), query("offset", "integer", "Items to leave out before the page."),
				query("name", "string", "Part of the name."),
				{"name": "filter", "in": "query", "style": "deepObject", "description": "filter[labels.<key>]=<value>: labels that all must be equal.",
					"schema": Object{"type": "object", "additionalProperties": Object{"type": "string"}}},
			},
			"responses": responses("200", "The page.", string(k.Name)+"List"),
		},
	}
}

func item(k mesh.Kind) Object {
	name := string(k.Name)
	match := Object{"name": "If-Match", "in": "header", "description": "ETag that the resource must still have.", "schema": Object{"type": "string"}}
	create := Object{"name": "If-None-Match", "in": "header", "description": "\"*\": the resource must not exist.", "schema": Object{"type": "string"}}
	out := Object{
		"parameters": append(meshParameter(k), Object{"name": "name", "in": "path", "required": true, "schema": Object{"type": "string"}}),
		"get": Object{"operationId": "get" + name, "tags": []string{name}, "summary": "Read one",
			"responses": responses("200", "The resource; its ETag is in the header.", name)},
	}
	if !Writable(k) {
		return out
	}
	put := responses("200", "Replaced.", name)
	put["201"] = Object{"description": "Created.", "content": content(name)}
	out["put"] = Object{"operationId": "put" + name, "tags": []string{name}, "summary": "Create or replace", "parameters": []Object{match, create},
		"requestBody": Object{"required": true, "content": Object{"application/json": Object{"schema": ref(name)}, "application/yaml": Object{"schema": ref(name)}}},
		"responses":   put}
	out["delete"] = Object{"operationId": "delete" + name, "tags": []string{name}, "summary": "Delete", "parameters": []Object{match},
		"responses": responses("204", "Deleted.", "")}
	return out
}

func meshParameter(k mesh.Kind) []Object {
	if k.Scope != mesh.ScopeMesh {
		return []Object{}
	}
	return []Object{{"name": "mesh", "in": "path", "required": true, "schema": Object{"type": "string"}}}
}

func query(name, kind, doc string) Object {
	return Object{"name": name, "in": "query", "description": doc, "schema": Object{"type": kind}}
}

func content(schema string) Object {
	return Object{"application/json": Object{"schema": ref(schema)}}
}

func responses(status, doc, schema string) Object {
	ok := Object{"description": doc}
	if schema != "" {
		ok["content"] = content(schema)
	}
	return Object{status: ok, "default": Object{"$ref": "#/components/responses/Problem"}}
}

func problemSchema() Object {
	text := Object{"type": "string"}
	return Object{"type": "object", "required": []string{"type", "title", "status"}, "properties": Object{
		"type": text, "title": text, "status": Object{"type": "integer"}, "detail": text, "instance": text,
		"invalid_parameters": Object{"type": "array", "items": Object{"type": "object", "required": []string{"field", "reason"},
			"properties": Object{"document": Object{"type": "integer"}, "line": Object{"type": "integer"}, "resource": text, "field": text, "reason": text}}},
	}}
}
