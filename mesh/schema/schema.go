package schema

import (
	"reflect"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Docs are doc comments of package mesh: of types by name ("TimeoutConf"), of
// fields by type and field ("TimeoutConf.IdleTimeout").
type Docs map[string]string

// Object is a JSON object.
type Object = map[string]any

// Spec returns the JSON Schema (2020-12) of the spec of a kind, complete in itself.
func Spec(k mesh.Kind) Object {
	b := builder{docs: embedded(), refs: "#/$defs/", defs: Object{}}
	root := b.structure(reflect.TypeOf(k.New()).Elem())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = string(k.Name)
	if len(b.defs) > 0 {
		root["$defs"] = b.defs
	}
	return root
}

// builder turns Go types into schemas; named structs become definitions.
type builder struct {
	docs Docs
	refs string
	defs Object
}

func (b *builder) of(t reflect.Type) Object {
	switch t {
	case reflect.TypeFor[mesh.Duration]():
		return Object{"type": "string", "format": "duration", "pattern": `^[-+]?([0-9]*(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$|^0$`, "examples": []string{"5s", "1m30s"}}
	case reflect.TypeFor[mesh.Decimal]():
		return Object{"oneOf": []Object{{"type": "number"}, {"type": "string", "pattern": `^[-+]?[0-9]*\.?[0-9]+$`}}}
	case reflect.TypeFor[mesh.IntOrString]():
		return Object{"oneOf": []Object{{"type": "integer", "minimum": 0}, {"type": "string"}}}
	case reflect.TypeFor[mesh.AnyValue]():
		return Object{}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return b.of(t.Elem())
	case reflect.String:
		return Object{"type": "string"}
	case reflect.Bool:
		return Object{"type": "boolean"}
	case reflect.Uint32:
		return Object{"type": "integer", "minimum": 0}
	case reflect.Int:
		return Object{"type": "integer"}
	case reflect.Map:
		return Object{"type": "object", "additionalProperties": b.of(t.Elem())}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return Object{"type": "string", "contentEncoding": "base64"}
		}
		return Object{"type": "array", "items": b.of(t.Elem())}
	case reflect.Struct:
		return b.named(t)
	}
	return Object{}
}

// named defines a struct once and refers to it.
func (b *builder) named(t reflect.Type) Object {
	if t.Name() == "" {
		return b.structure(t)
	}
	if _, done := b.defs[t.Name()]; !done {
		b.defs[t.Name()] = Object{} // an entry first: types may refer to themselves
		b.defs[t.Name()] = b.structure(t)
	}
	return Object{"$ref": b.refs + t.Name()}
}

func (b *builder) structure(t reflect.Type) Object {
	out := Object{"type": "object", "additionalProperties": false}
	if doc := b.docs[t.Name()]; doc != "" && t.Name() != "" {
		out["description"] = doc
	}
	properties, required := Object{}, []string{}
	for _, f := range fields(t) {
		p := b.of(f.goType)
		if f.enum != nil {
			p["enum"] = f.enum
		}
		if doc := b.docs[t.Name()+"."+f.goName]; doc != "" {
			p["description"] = doc
		}
		properties[f.name] = p
		if f.required {
			required = append(required, f.name)
		}
	}
	if len(properties) > 0 {
		out["properties"] = properties
	}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}

type field struct {
	name, goName string
	goType       reflect.Type
	required     bool
	enum         []string
}

// fields are those of a struct that have a JSON name, in order.
func fields(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "" || name == "-" {
			continue
		}
		one := field{name: name, goName: f.Name, goType: f.Type, required: options == ""}
		if words := f.Tag.Get("enum"); words != "" {
			one.enum = strings.Split(words, ",")
		}
		out = append(out, one)
	}
	return out
}
