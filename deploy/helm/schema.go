package helm

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

// schema is the part of JSON Schema that values.schema.json uses.
type schema struct {
	Ref                  string            `json:"$ref"`
	Defs                 map[string]schema `json:"$defs"`
	Schema               string            `json:"$schema"`
	Title                string            `json:"title"`
	Description          string            `json:"description"`
	Type                 types             `json:"type"`
	Enum                 []any             `json:"enum"`
	Pattern              string            `json:"pattern"`
	MinLength            *int              `json:"minLength"`
	MaxLength            *int              `json:"maxLength"`
	Minimum              *float64          `json:"minimum"`
	Maximum              *float64          `json:"maximum"`
	MinItems             *int              `json:"minItems"`
	MaxItems             *int              `json:"maxItems"`
	Items                *schema           `json:"items"`
	Properties           map[string]schema `json:"properties"`
	Required             []string          `json:"required"`
	AdditionalProperties *additional       `json:"additionalProperties"`
}

// types are one or several.
type types []string

// UnmarshalJSON reads a string or a list.
func (t *types) UnmarshalJSON(text []byte) error {
	var one string
	if yaml.Unmarshal(text, &one) == nil {
		*t = types{one}
		return nil
	}
	var several []string
	err := yaml.Unmarshal(text, &several)
	*t = several
	return err
}

// additional properties are forbidden (nil schema) or have a schema.
type additional struct{ schema *schema }

// UnmarshalJSON reads false or a schema.
func (a *additional) UnmarshalJSON(text []byte) error {
	if string(text) == "false" {
		return nil
	}
	return yaml.UnmarshalStrict(text, &a.schema)
}

// check says all that the chart's schema refuses of values that are to differ
// from the chart's own.
func check(values map[string]any) error {
	text, err := chart.ReadFile("tombolo/values.schema.json")
	if err != nil {
		return err
	}
	var root schema
	if err := yaml.UnmarshalStrict(text, &root); err != nil { // an unknown keyword would be a rule that nobody keeps
		return fmt.Errorf("values.schema.json: %w", err)
	}
	c := checker{defs: root.Defs}
	c.check(root, "", values)
	return errors.Join(c.errs...)
}

type checker struct {
	defs map[string]schema
	errs []error
}

func (c *checker) bad(at, format string, args ...any) {
	if at == "" {
		at = "values"
	}
	c.errs = append(c.errs, fmt.Errorf("%s: %s", at, fmt.Sprintf(format, args...)))
}

func (c *checker) check(s schema, at string, value any) {
	if s.Ref != "" {
		s = c.defs[strings.TrimPrefix(s.Ref, "#/$defs/")]
	}
	if value == nil {
		return // takes the chart's value away, or leaves it unset
	}
	if len(s.Type) > 0 && !slices.ContainsFunc(s.Type, func(t string) bool { return is(t, value) }) {
		c.bad(at, "must be %s, not %v", strings.Join(slices.DeleteFunc(slices.Clone(s.Type), func(t string) bool { return t == "null" }), " or "), value)
		return
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, value) {
		c.bad(at, "must be one of %s, not %v", strings.Trim(fmt.Sprint(s.Enum), "[]"), value)
		return
	}
	switch v := value.(type) {
	case string:
		c.text(s, at, v)
	case float64:
		if s.Minimum != nil && v < *s.Minimum || s.Maximum != nil && v > *s.Maximum {
			c.bad(at, "must be %v to %v, not %v", *s.Minimum, *s.Maximum, v)
		}
	case []any:
		if s.MinItems != nil && len(v) < *s.MinItems || s.MaxItems != nil && len(v) > *s.MaxItems {
			c.bad(at, "has %d elements, too few or too many", len(v))
		}
		for i, e := range v {
			if s.Items != nil {
				c.check(*s.Items, fmt.Sprintf("%s[%d]", at, i), e)
			}
		}
	case map[string]any:
		c.object(s, at, v)
	}
}

func (c *checker) text(s schema, at, v string) {
	if s.MinLength != nil && utf8.RuneCountInString(v) < *s.MinLength || s.MaxLength != nil && utf8.RuneCountInString(v) > *s.MaxLength {
		c.bad(at, "has %d characters, too few or too many", utf8.RuneCountInString(v))
	}
	if s.Pattern != "" {
		if re, err := regexp.Compile(s.Pattern); err != nil || !re.MatchString(v) {
			c.bad(at, "%q must match %s", v, s.Pattern)
		}
	}
}

func (c *checker) object(s schema, at string, v map[string]any) {
	join := func(key string) string { return strings.TrimPrefix(at+"."+key, ".") }
	for _, key := range s.Required {
		if v[key] == nil {
			c.bad(join(key), "is required")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(v)) {
		property, known := s.Properties[key]
		switch {
		case known:
			c.check(property, join(key), v[key])
		case s.AdditionalProperties == nil:
		case s.AdditionalProperties.schema == nil:
			c.bad(join(key), "is not known here; there are %s", strings.Join(slices.Sorted(maps.Keys(s.Properties)), ", "))
		default:
			c.check(*s.AdditionalProperties.schema, join(key), v[key])
		}
	}
}

func is(kind string, value any) bool {
	switch v := value.(type) {
	case string:
		return kind == "string"
	case bool:
		return kind == "boolean"
	case float64:
		return kind == "number" || kind == "integer" && v == math.Trunc(v)
	case []any:
		return kind == "array"
	case map[string]any:
		return kind == "object"
	}
	return false
}
