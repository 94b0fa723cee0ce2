package mesh

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// strict compares a tree with the type it is decoded into. It reports every
// unknown field, duplicate key and wrong type, and puts null in place of what
// does not fit, so that the rest can be decoded and checked.
type strict struct {
	problems Problems
	// bad are the paths of values that were replaced.
	bad []string
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// labelPath is the path of an entry of a map with free keys.
func labelPath(path, key string) string { return path + "[" + strconv.Quote(key) + "]" }

func indexPath(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

func (s *strict) reject(n *node, path, format string, args ...any) {
	s.problems.Addf(path, format, args...)
	s.bad = append(s.bad, path)
	*n = node{line: n.line}
}

// wrong says that n has not the type that is wanted, and why that may be.
func (s *strict) wrong(n *node, path, want string) {
	hint := ""
	switch {
	case n.plain != "" && n.kind == boolNode && strings.HasPrefix(want, "a string"):
		hint = fmt.Sprintf("; %s is a boolean in YAML, quote it: %q", n.plain, n.plain)
	case n.plain != "" && strings.HasPrefix(want, "a string"):
		hint = fmt.Sprintf("; quote it: %q", n.plain)
	case n.kind == stringNode && want != "a list" && want != "an object":
		hint = "; write it without quotes"
	}
	s.reject(n, path, "must be %s, not %s%s", want, n.kind, hint)
}

func (s *strict) value(n *node, t reflect.Type, path string) {
	if n.kind == nullNode {
		if n.plain != "" && n.plain != "null" && n.plain != "~" && t.Kind() == reflect.String {
			s.wrong(n, path, "a string")
		}
		return
	}
	if t.Kind() == reflect.Pointer {
		s.value(n, t.Elem(), path)
		return
	}
	if isLeaf(t) {
		s.leaf(n, t, path)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		s.object(n, t, path)
	case reflect.Map:
		s.mapping(n, t, path)
	case reflect.Slice:
		s.list(n, t, path)
	case reflect.String:
		if n.kind != stringNode {
			s.wrong(n, path, "a string")
		}
	case reflect.Bool:
		if n.kind != boolNode {
			s.wrong(n, path, "true or false")
		}
	case reflect.Int, reflect.Uint32:
		s.integer(n, t, path)
	}
}

// leaf values have a decoder of their own.
func (s *strict) leaf(n *node, t reflect.Type, path string) {
	var b bytes.Buffer
	n.json(&b)
	if err := json.Unmarshal(b.Bytes(), reflect.New(t).Interface()); err != nil {
		s.reject(n, path, "%v", err)
	}
}

func (s *strict) integer(n *node, t reflect.Type, path string) {
	if n.kind != numberNode {
		s.wrong(n, path, "a whole number")
		return
	}
	low, high := int64(math.MinInt32), int64(math.MaxInt32)
	if t.Kind() == reflect.Uint32 {
		low, high = 0, math.MaxUint32
	}
	v, err := strconv.ParseInt(n.text, 10, 64)
	if err != nil || v < low || v > high {
		s.reject(n, path, "must be a whole number from %d to %d, not %s", low, high, n.text)
	}
}

func (s *strict) list(n *node, t reflect.Type, path string) {
	if t.Elem().Kind() == reflect.Uint8 {
		if n.kind != stringNode {
			s.wrong(n, path, "a string of base64")
		} else if _, err := base64.StdEncoding.DecodeString(n.text); err != nil {
			s.reject(n, path, "must be base64 (RFC 4648, with padding)")
		}
		return
	}
	if n.kind != listNode {
		s.wrong(n, path, "a list")
		return
	}
	for i, item := range n.items {
		s.value(item, t.Elem(), indexPath(path, i))
	}
}

func (s *strict) mapping(n *node, t reflect.Type, path string) {
	if n.kind != objectNode {
		s.wrong(n, path, "an object")
		return
	}
	s.duplicates(n, path, labelPath)
	for i := range n.keys {
		k := &n.keys[i]
		if k.plain {
			s.problems.Addf(labelPath(path, k.name), "%s is a boolean in YAML, quote it: %q", k.name, k.name)
		}
		s.value(k.value, t.Elem(), labelPath(path, k.name))
	}
}

func (s *strict) object(n *node, t reflect.Type, path string) {
	if n.kind != objectNode {
		s.wrong(n, path, "an object")
		return
	}
	s.duplicates(n, path, join)
	fields := map[string]reflect.Type{}
	var names []string
	for i := range t.NumField() {
		f := t.Field(i)
		if name := jsonName(f); name != "" {
			fields[name] = f.Type
			names = append(names, name)
		}
	}
	for _, k := range n.keys {
		ft, ok := fields[k.name]
		if !ok {
			s.problems.Addf(join(path, k.name), "unknown field; %s", allowed(names))
			continue
		}
		s.value(k.value, ft, join(path, k.name))
	}
}

func allowed(names []string) string {
	if len(names) == 0 {
		return "no field is allowed here"
	}
	return "allowed are " + strings.Join(names, ", ")
}

func (s *strict) duplicates(n *node, path string, at func(path, name string) string) {
	if len(n.keys) < 2 {
		return
	}
	first := make(map[string]int, len(n.keys))
	for _, k := range n.keys {
		if line, dup := first[k.name]; dup {
			s.problems.Addf(at(path, k.name), "is given twice, on lines %d and %d", line, k.line)
			continue
		}
		first[k.name] = k.line
	}
}

// covers reports whether a problem of validation only follows from a value that
// was already found to be of the wrong type: it is about that value, or misses it.
func (s *strict) covers(p Problem) bool {
	return slices.ContainsFunc(s.bad, func(bad string) bool {
		return below(p.Field, bad) || strings.HasPrefix(p.Reason, mustHave) && below(bad, p.Field)
	})
}

// mustHave begins the reasons for parts of which at least one is required.
const mustHave = "must have"

// below reports whether a path is another or part of it.
func below(path, parent string) bool {
	rest, ok := strings.CutPrefix(path, parent)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}
