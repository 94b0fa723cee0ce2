package webhook

import "strings"

// Op is an operation of a JSON patch, RFC 6902.
type Op struct {
	// Op is "add", "replace", "remove" or "test".
	Op string `json:"op"`
	// Path is a JSON pointer, RFC 6901.
	Path string `json:"path"`
	// Value for every operation but "remove".
	Value any `json:"value,omitempty"`
}

// pointer is the JSON pointer of a path of members.
func pointer(members ...string) string {
	var b strings.Builder
	for _, m := range members {
		b.WriteByte('/')
		b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(m))
	}
	return b.String()
}
