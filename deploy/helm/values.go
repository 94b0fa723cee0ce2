package helm

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxIndex bounds the lists that a setting can make.
const maxIndex = 99

// Values reads files of values, later ones before earlier ones, and settings
// "path=value" before all of them. A path is names and indexes of lists,
// "ingress.meshes[0].name"; a value is YAML, "[a, b]" as well as text.
func Values(texts [][]byte, settings []string) (map[string]any, error) {
	out := map[string]any{}
	for _, text := range texts {
		var values map[string]any
		if err := yaml.UnmarshalStrict(text, &values); err != nil {
			return nil, fmt.Errorf("values: %w", err)
		}
		out = merge(out, values)
	}
	for _, setting := range settings {
		at, text, ok := strings.Cut(setting, "=")
		if !ok || at == "" {
			return nil, fmt.Errorf("setting %q must be path=value, as zone.replicas=3", setting)
		}
		var value any
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			return nil, fmt.Errorf("setting %s: %w", at, err)
		}
		if text == "" {
			value = ""
		}
		steps, err := steps(at)
		if err != nil {
			return nil, err
		}
		set, err := put(out, steps, value)
		if err != nil {
			return nil, fmt.Errorf("setting %s: %w", at, err)
		}
		out = set.(map[string]any)
	}
	return out, nil
}

// steps of a path: names, and ints for indexes.
func steps(at string) (out []any, _ error) {
	for part := range strings.SplitSeq(at, ".") {
		name, rest, _ := strings.Cut(part, "[")
		if name == "" {
			return nil, fmt.Errorf("setting %q: a name is missing in the path", at)
		}
		out = append(out, name)
		for rest != "" {
			number, more, closed := strings.Cut(rest, "]")
			n, err := strconv.Atoi(number)
			if !closed || err != nil || n < 0 || n > maxIndex || more != "" && !strings.HasPrefix(more, "[") {
				return nil, fmt.Errorf("setting %q: an index must be [0] to [%d]", at, maxIndex)
			}
			out, rest = append(out, n), strings.TrimPrefix(more, "[")
		}
	}
	return out, nil
}

func put(into any, steps []any, value any) (any, error) {
	if len(steps) == 0 {
		return value, nil
	}
	switch step := steps[0].(type) {
	case int:
		list, ok := into.([]any)
		if !ok && into != nil {
			return nil, fmt.Errorf("[%d] is no element of a list", step)
		}
		for len(list) <= step {
			list = append(list, nil)
		}
		var err error
		list[step], err = put(list[step], steps[1:], value)
		return list, err
	default:
		object, ok := into.(map[string]any)
		if !ok && into != nil {
			return nil, fmt.Errorf("%v is in something that is no object", step)
		}
		if object == nil {
			object = map[string]any{}
		}
		var err error
		object[step.(string)], err = put(object[step.(string)], steps[1:], value)
		return object, err
	}
}

// merge is over's values before base's, objects key by key; null takes a key away.
func merge(base, over map[string]any) map[string]any {
	out := maps.Clone(base)
	if out == nil {
		out = map[string]any{}
	}
	for key, value := range over {
		inner, ok := value.(map[string]any)
		below, both := out[key].(map[string]any)
		switch {
		case value == nil:
			delete(out, key)
		case ok && both:
			out[key] = merge(below, inner)
		default:
			out[key] = value
		}
	}
	return out
}
