package mesh

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with a resource.
type Problem struct {
	// Field is the JSON path, for example "spec.rules[0].default.allow[1].spiffeID.type".
	Field string `json:"field"`
	// Reason says what is wrong and what is allowed.
	Reason string `json:"reason"`
}

// Problems are all that is wrong, in document order. The empty list is valid.
type Problems []Problem

// Error joins the problems, one a line, so that Problems is an error. Use Err
// to convert: an empty list is not an error.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, x := range p {
		lines[i] = x.Field + ": " + x.Reason
	}
	return strings.Join(lines, "\n")
}

// Err is nil when there is no problem.
func (p Problems) Err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// Addf appends a problem.
func (p *Problems) Addf(field, format string, args ...any) {
	*p = append(*p, Problem{Field: field, Reason: fmt.Sprintf(format, args...)})
}

// In appends the problems of a part, with their fields below prefix.
func (p *Problems) In(prefix string, part Problems) {
	for _, x := range part {
		field := prefix
		switch {
		case x.Field == "":
		case prefix == "" || strings.HasPrefix(x.Field, "["):
			field += x.Field
		default:
			field += "." + x.Field
		}
		*p = append(*p, Problem{Field: field, Reason: x.Reason})
	}
}
