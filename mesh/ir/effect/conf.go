package effect

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// limits are timeouts by the names that policies have for them.
func limits(t ir.Timeouts) []struct {
	name  string
	value time.Duration
} {
	return []struct {
		name  string
		value time.Duration
	}{
		{"connection timeout", t.Connect}, {"idle timeout", t.Idle}, {"request timeout", t.Request},
		{"stream idle timeout", t.StreamIdle}, {"max stream duration", t.MaxStream},
		{"max connection duration", t.MaxConnection}, {"request headers timeout", t.RequestHeaders},
	}
}

func (d *differ) timeouts(at string, was, is ir.Timeouts) {
	before, after := limits(was), limits(is)
	sources := is.Sources
	if len(sources) == 0 {
		sources = was.Sources // what is gone is why
	}
	for i := range after {
		if before[i].value != after[i].value {
			d.add(Line{Sign: Changed, Area: Timeout, At: []string{at}, Causes: causes(sources...),
				Text: after[i].name + " " + duration(before[i].value) + " → " + duration(after[i].value)})
		}
	}
}

// sameValues reports whether timeouts are the same, whoever says so.
func sameValues(a, b ir.Timeouts) bool { return slices.Equal(limits(a), limits(b)) }

// duration of a limit; 0 is none.
func duration(v time.Duration) string {
	if v == 0 {
		return "none"
	}
	s := v.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// confs compares the configurations of a node. Those of timeouts are said by the
// timeouts that they make; only when these stay the same their fields are compared.
func (d *differ) confs(at string, was, is ir.Confs, timeoutsToo bool) {
	key := func(c ir.EffectiveConf) string { return string(c.Kind) }
	before, after := byKey(was, key), byKey(is, key)
	for _, k := range keysOf(before, after) {
		kind := mesh.KindName(k)
		if kind == mesh.KindMeshTimeout && !timeoutsToo {
			continue
		}
		a, b := before[k], after[k]
		var from, to any
		var sources []ir.Source
		if a != nil {
			from, sources = a.Conf, a.Sources
		}
		if b != nil {
			to, sources = b.Conf, b.Sources
		}
		for _, c := range fields(from, to) {
			d.add(Line{Sign: c.sign, Area: areaOf(kind), At: []string{at}, Text: c.label(kind), Causes: causes(sources...)})
		}
	}
}

func areaOf(kind mesh.KindName) Area {
	if kind == mesh.KindMeshTimeout {
		return Timeout
	}
	return Conf
}

// field is one field of a configuration that differs.
type field struct {
	sign      Sign
	path      string
	was, will string
}

// label is "MeshRetry http.numRetries: 3 → 5".
func (f field) label(kind mesh.KindName) string {
	name := strings.TrimSpace(string(kind) + " " + f.path)
	switch f.sign {
	case Added:
		return name + ": " + f.will
	case Removed:
		return name + ": " + f.was
	}
	return name + ": " + f.was + " → " + f.will
}

// maxFields bounds how many fields of one configuration are said one by one.
const maxFields = 20

// fields compares two configurations by their JSON form. Nil has no fields.
func fields(was, is any) []field {
	before, after := map[string]string{}, map[string]string{}
	flatten("", was, before)
	flatten("", is, after)
	paths := slices.Sorted(maps.Keys(before))
	for p := range after {
		if _, had := before[p]; !had {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	var out []field
	for _, p := range paths {
		a, had := before[p]
		b, has := after[p]
		switch {
		case had && has && a == b:
		case !has:
			out = append(out, field{Removed, p, a, ""})
		case !had:
			out = append(out, field{Added, p, "", b})
		default:
			out = append(out, field{Changed, p, a, b})
		}
	}
	if len(out) > maxFields {
		more := len(out) - maxFields
		out = append(out[:maxFields], field{Changed, fmt.Sprintf("and %d more fields", more), "", ""})
	}
	return out
}

// flatten says a value as its leaves by path.
func flatten(path string, v any, into map[string]string) {
	if v == nil {
		return
	}
	var tree any
	dec := json.NewDecoder(bytes.NewReader([]byte(text(v))))
	dec.UseNumber()
	if dec.Decode(&tree) != nil {
		into[path] = text(v)
		return
	}
	leaves(path, tree, into)
}

func leaves(path string, v any, into map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			into[path] = "{}"
		}
		for k, x := range v {
			leaves(strings.TrimPrefix(path+"."+k, "."), x, into)
		}
	case []any:
		if len(v) == 0 {
			into[path] = "[]"
		}
		for i, x := range v {
			leaves(fmt.Sprintf("%s[%d]", path, i), x, into)
		}
	case string:
		into[path] = v
	default:
		into[path] = text(v)
	}
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// authorities of PEM: how many, and a digest.
func authorities(pem string) string {
	sum := sha256.Sum256([]byte(pem))
	return fmt.Sprintf("%d (sha256 %s)", strings.Count(pem, "BEGIN CERTIFICATE"), hex.EncodeToString(sum[:4]))
}

// withoutCauses is a proxy's JSON without its sources and class.
func withoutCauses(p *ir.Proxy) string {
	var tree any
	if json.Unmarshal([]byte(text(p)), &tree) != nil {
		return ""
	}
	if m, ok := tree.(map[string]any); ok {
		delete(m, "Class")
	}
	strip(tree)
	return text(tree)
}

func strip(v any) {
	switch v := v.(type) {
	case map[string]any:
		delete(v, "Source")
		delete(v, "Sources")
		for _, x := range v {
			strip(x)
		}
	case []any:
		for _, x := range v {
			strip(x)
		}
	}
}
