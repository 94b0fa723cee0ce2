package effect

import (
	"maps"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// Limit is a timeout in words.
type Limit struct {
	// Name as policies have it, "request timeout".
	Name string
	// Value, "15s" or "none".
	Value string
}

// Limits says timeouts.
func Limits(t ir.Timeouts) []Limit {
	var out []Limit
	for _, l := range limits(t) {
		out = append(out, Limit{Name: l.name, Value: duration(l.value)})
	}
	return out
}

// Request says which requests a match takes: "GET /api/…", or "requests" for all.
func Request(m mesh.HTTPMatch) string { return matchText(m) }

// Place is how people call a backend's port by its KRI: "backend.west:8080", and
// "nowhere" for none.
func Place(name string) string { return (&differ{}).place(name) }

// Fields says a configuration as its leaves, sorted: "http.numRetries: 5".
func Fields(conf any) []string {
	leaves := map[string]string{}
	flatten("", conf, leaves)
	var out []string
	for _, k := range slices.Sorted(maps.Keys(leaves)) {
		out = append(out, k+": "+leaves[k])
	}
	if len(out) > maxFields {
		out = append(out[:maxFields], "…")
	}
	return out
}

// Text says a value of a policy, such as a filter, as JSON.
func Text(v any) string { return text(v) }
