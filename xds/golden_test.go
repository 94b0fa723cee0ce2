package xds_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/tombolo-mesh/tombolo/ingress"
	"github.com/tombolo-mesh/tombolo/internal/golden"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/irtest"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/xds/delta"
)

// TestGolden shows in Envoy's words what a world gives a proxy, or, with a
// policy.yaml, what that policy changes. Files of a case: ask ("ZONE MESH NAME", and
// perhaps lines "addresses …" as package irtest reads them), world.yaml, and
// perhaps policy.yaml.
func TestGolden(t *testing.T) {
	var cache xds.Cache
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, a *txtar.Archive) map[string]string {
		ask, _ := golden.File(a, "ask")
		world, _ := golden.File(a, "world.yaml")
		before := compiled(t, &cache, string(ask), world)
		policy, ok := golden.File(a, "policy.yaml")
		if !ok {
			return map[string]string{"want": strings.Join(before, "")}
		}
		after := compiled(t, &cache, string(ask), world, policy)
		return map[string]string{"want": changes(before, after)}
	})
}

// TestDeterministic: the same world in another order gives the same bytes.
func TestDeterministic(t *testing.T) {
	var cache xds.Cache
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, a *txtar.Archive) map[string]string {
		ask, _ := golden.File(a, "ask")
		world, _ := golden.File(a, "world.yaml")
		policy, _ := golden.File(a, "policy.yaml")
		docs := strings.Split(string(world)+"---\n"+string(policy), "---\n")
		docs = slices.DeleteFunc(docs, func(d string) bool { return strings.TrimSpace(d) == "" })
		want := compiled(t, &cache, string(ask), []byte(strings.Join(docs, "---\n")))
		slices.Reverse(docs)
		if got := compiled(t, &cache, string(ask), []byte(strings.Join(docs, "---\n"))); !slices.Equal(got, want) {
			t.Errorf("the order of the world's documents matters:\n%s", changes(want, got))
		}
		out := map[string]string{}
		for _, f := range a.Files {
			if strings.HasPrefix(f.Name, golden.WantPrefix) {
				out[f.Name] = string(f.Data)
			}
		}
		return out
	})
}

// compiled is every resource of a proxy, flat: a line a field, sorted. All that a
// test compiles shares one cache.
func compiled(t *testing.T, cache *xds.Cache, ask string, manifests ...[]byte) []string {
	t.Helper()
	ask, more, _ := strings.Cut(ask, "\n")
	words := strings.Fields(ask)
	if len(words) != 3 {
		t.Fatalf("ask is %q, want ZONE MESH NAME", ask)
	}
	w, err := irtest.Parse(words[0], manifests...)
	must(t, err)
	_, err = irtest.Answer(w, irtest.Compiler{}, more)
	must(t, err)
	class, own, err := w.Class(words[1], words[2])
	must(t, err)
	compile := ir.Compile
	if class.Role == ir.Ingress {
		compile = ingress.Compile
	}
	p := compile(w, class)
	resources, err := xds.Build(p)
	must(t, err)
	for _, what := range []string{"a cache fills", "a cache answers"} {
		shared, err := cache.Build(p, p.Digests())
		must(t, err)
		if !slices.EqualFunc(resources, shared, func(x, y *delta.Resource) bool {
			return x.TypeURL == y.TypeURL && x.Name == y.Name && x.Version == y.Version && x.Endpoints == y.Endpoints && bytes.Equal(x.Body, y.Body)
		}) {
			t.Errorf("%s with other resources", what)
		}
	}
	instance, err := xds.BuildInstance(p, own)
	must(t, err)
	resources = append(resources, instance...)
	if len(p.Trust) > 0 {
		b, err := xds.BuildBundles(p.Trust)
		must(t, err)
		resources = append(resources, b)
	}
	for _, ref := range ir.EndpointRefs(p) {
		endpoints := ir.CompileEndpoints
		if ref.Kind == ir.ExportSet {
			endpoints = ingress.CompileEndpoints
		}
		e, err := xds.BuildEndpoints(endpoints(w, ref))
		must(t, err)
		resources = append(resources, e)
	}
	var lines []string
	for _, r := range resources {
		lines = append(lines, flat(t, r)...)
	}
	sort.SliceStable(lines, func(i, j int) bool { return resourceOf(lines[i]) < resourceOf(lines[j]) })
	return lines
}

func resourceOf(line string) string { head, _, _ := strings.Cut(line, ": "); return head }

// flat says a resource as lines "Type name: path = value".
func flat(t *testing.T, r *delta.Resource) []string {
	t.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByURL(r.TypeURL)
	must(t, err)
	m := typ.New().Interface()
	must(t, proto.Unmarshal(r.Body, m))
	text, err := protojson.Marshal(m)
	must(t, err)
	var tree any
	must(t, json.Unmarshal(text, &tree))
	head := r.TypeURL[strings.LastIndexByte(r.TypeURL, '.')+1:] + " " + r.Name + ": "
	var lines []string
	walk(tree, "", func(path, value string) { lines = append(lines, head+path+" = "+value+"\n") })
	return lines
}

func walk(tree any, path string, leaf func(path, value string)) {
	switch v := tree.(type) {
	case map[string]any:
		if len(v) == 0 {
			leaf(path, "{}")
		}
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			below := k
			if path != "" {
				below = path + "." + k
			}
			walk(v[k], below, leaf)
		}
	case []any:
		for i, x := range v {
			walk(x, path+"["+strconv.Itoa(i)+"]", leaf)
		}
	case string:
		if strings.HasPrefix(v, "-----BEGIN CERTIFICATE-----") {
			v = fmt.Sprintf("(PEM, %d certificates)", strings.Count(v, "-----BEGIN"))
		}
		leaf(path, strconv.Quote(v))
	default:
		leaf(path, fmt.Sprint(v))
	}
}

// changes lists lines that went and lines that came.
func changes(before, after []string) string {
	var b strings.Builder
	for _, line := range before {
		if !slices.Contains(after, line) {
			b.WriteString("- " + line)
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			b.WriteString("+ " + line)
		}
	}
	return b.String()
}
