package ir

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// foreignMatches finds the matches of a policy's rules that have fields this
// zone does not know, since a newer global may write them: decoding drops such
// fields, and a match with less in it matches more callers. The result has their
// paths in the spec, as sources have them.
func foreignMatches(spec json.RawMessage) map[string]bool {
	var body struct {
		Rules []struct {
			Matches []json.RawMessage          `json:"matches"`
			Default map[string]json.RawMessage `json:"default"`
		} `json:"rules"`
	}
	if json.Unmarshal(spec, &body) != nil {
		return nil
	}
	out := map[string]bool{}
	check := func(path string, list []json.RawMessage) {
		for i, raw := range list {
			if !knownMatch(raw) {
				out[fmt.Sprintf("%s[%d]", path, i)] = true
			}
		}
	}
	for i, rule := range body.Rules {
		check(fmt.Sprintf("rules[%d].matches", i), rule.Matches)
		for _, name := range []string{"allow", "allowWithShadowDeny", "deny"} {
			var list []json.RawMessage
			if raw, ok := rule.Default[name]; ok && json.Unmarshal(raw, &list) == nil {
				check(fmt.Sprintf("rules[%d].default.%s", i, name), list)
			}
		}
	}
	return out
}

func knownMatch(raw json.RawMessage) bool {
	var parts map[string]map[string]json.RawMessage
	if json.Unmarshal(raw, &parts) != nil {
		return false
	}
	for name, fields := range parts {
		if name != "spiffeID" && name != "sni" {
			return false
		}
		for field := range fields {
			if field != "type" && field != "value" {
				return false
			}
		}
	}
	return true
}

// knownHTTPMatch reports whether all of a request match is understood: a part
// that is not would be ignored, and requests routed that are not meant.
func knownHTTPMatch(m mesh.HTTPMatch) error {
	if p := m.Path; p != nil {
		if !slices.Contains([]string{mesh.MatchExact, mesh.MatchPathPrefix, mesh.MatchRegularExpression}, p.Type) {
			return fmt.Errorf("path.type %q is not known", p.Type)
		}
		if err := expression(p.Type, p.Value); err != nil {
			return fmt.Errorf("path.value: %w", err)
		}
	}
	header := []string{"", mesh.MatchExact, mesh.MatchPresent, mesh.MatchRegularExpression, mesh.MatchAbsent, mesh.MatchPrefix}
	for i, h := range m.Headers {
		if !slices.Contains(header, h.Type) {
			return fmt.Errorf("headers[%d].type %q is not known", i, h.Type)
		}
		if err := expression(h.Type, h.Value); err != nil {
			return fmt.Errorf("headers[%d].value: %w", i, err)
		}
	}
	for i, q := range m.QueryParams {
		if q.Type != mesh.MatchExact && q.Type != mesh.MatchRegularExpression {
			return fmt.Errorf("queryParams[%d].type %q is not known", i, q.Type)
		}
		if err := expression(q.Type, q.Value); err != nil {
			return fmt.Errorf("queryParams[%d].value: %w", i, err)
		}
	}
	return nil
}

// maxExpression bounds what is compiled.
const maxExpression = 1024

func expression(kind, value string) error {
	if kind != mesh.MatchRegularExpression {
		return nil
	}
	if len(value) > maxExpression {
		return fmt.Errorf("a regular expression may have %d octets", maxExpression)
	}
	_, err := regexp.Compile(value)
	return err
}

// knownBackendFilters reports whether every filter's type has its configuration.
func knownBackendFilters(list []mesh.BackendFilter) bool {
	for _, f := range list {
		if !knownFilter(mesh.HTTPFilter{Type: f.Type, RequestHeaderModifier: f.RequestHeaderModifier, ResponseHeaderModifier: f.ResponseHeaderModifier}) {
			return false
		}
	}
	return true
}

// knownFilter reports whether a filter's type has its configuration.
func knownFilter(f mesh.HTTPFilter) bool {
	switch f.Type {
	case "RequestHeaderModifier":
		return f.RequestHeaderModifier != nil
	case "ResponseHeaderModifier":
		return f.ResponseHeaderModifier != nil
	case filterRedirect:
		return f.RequestRedirect != nil
	case "URLRewrite":
		return f.URLRewrite != nil
	case filterMirror:
		return f.RequestMirror != nil
	default:
		return false
	}
}
