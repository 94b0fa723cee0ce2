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
// they are replaced as a whole and not field by field.
func isLeaf(t reflect.Type) bool {
	unmarshaler := reflect.TypeFor[json.Unmarshaler]()
	return t.Implements(unmarshaler) || reflect.PointerTo(t).Implements(unmarshaler)
}
