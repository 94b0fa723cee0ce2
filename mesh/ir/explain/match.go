package explain

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// misses says which part of a match a request does not have; "" when it has all.
func misses(m mesh.HTTPMatch, r *request) string {
	if p := m.Path; p != nil && !pathMatches(p, r.path) {
		switch p.Type {
		case mesh.MatchPathPrefix:
			return fmt.Sprintf("the path is not below %s", p.Value)
		case mesh.MatchRegularExpression:
			return fmt.Sprintf("the path does not match %s", p.Value)
		default:
			return fmt.Sprintf("the path is not %s", p.Value)
		}
	}
	if m.Method != nil && *m.Method != r.method {
		return "the method is not " + *m.Method
	}
	for _, h := range m.Headers {
		if why := headerMisses(h, r); why != "" {
			return why
		}
	}
	for _, q := range m.QueryParams {
		value, has := r.parameter(q.Name)
		switch {
		case !has:
			return "there is no query parameter " + q.Name
		case q.Type == mesh.MatchRegularExpression && !whole(q.Value, value):
			return fmt.Sprintf("query parameter %s does not match %s", q.Name, q.Value)
		case q.Type != mesh.MatchRegularExpression && value != q.Value:
			return fmt.Sprintf("query parameter %s is not %s", q.Name, q.Value)
		}
	}
	return ""
}

func pathMatches(p *mesh.PathMatch, path string) bool {
	switch p.Type {
	case mesh.MatchPathPrefix:
		prefix := strings.TrimRight(p.Value, "/")
		return path == prefix || strings.HasPrefix(path, prefix+"/")
	case mesh.MatchRegularExpression:
		return whole(p.Value, path)
	default:
		return path == p.Value
	}
}

func headerMisses(h mesh.HeaderMatch, r *request) string {
	value, has := r.headers[strings.ToLower(h.Name)]
	switch {
	case h.Type == mesh.MatchAbsent && has:
		return "there is a header " + h.Name
	case h.Type == mesh.MatchAbsent:
		return ""
	case !has:
		return "there is no header " + h.Name
	case h.Type == mesh.MatchPresent:
		return ""
	case h.Type == mesh.MatchPrefix && !strings.HasPrefix(value, h.Value):
		return fmt.Sprintf("header %s does not begin with %s", h.Name, h.Value)
	case h.Type == mesh.MatchRegularExpression && !whole(h.Value, value):
		return fmt.Sprintf("header %s does not match %s", h.Name, h.Value)
	case (h.Type == "" || h.Type == mesh.MatchExact) && value != h.Value:
		return fmt.Sprintf("header %s is not %s", h.Name, h.Value)
	}
	return ""
}

// whole reports whether an expression matches all of a text.
func whole(expression, text string) bool {
	re, err := regexp.Compile(`\A(?:` + expression + `)\z`)
	return err == nil && re.MatchString(text)
}
