package mesh

import (
	"encoding/json"
	"reflect"
	"strings"
)

// jsonName is the name of a struct field in JSON; empty when it has none.
func jsonName(f reflect.StructField) string {
	if !f.IsExported() {
		return ""
	}
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "-" {
		return ""
	}
	if name == "" {
		return f.Name
	}
	return name
}

// isLeaf reports whether values of t have a JSON form of their own, so that
// they are replaced as a whole and not field by field. Structs with JSON field
// names are none, even if they look at their own bytes while decoding.
func isLeaf(t reflect.Type) bool {
	if !reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return false
	}
	if t.Kind() != reflect.Struct {
		return true
	}
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("json") != "" {
			return false
		}
	}
	return true
}

func stringType() reflect.Type { return reflect.TypeFor[string]() }

func stringMapType() reflect.Type { return reflect.TypeFor[map[string]string]() }

// specType is the struct behind a spec.
func specType(s Spec) reflect.Type { return reflect.TypeOf(s).Elem() }
