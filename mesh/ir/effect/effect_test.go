package effect_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/tombolo-mesh/tombolo/internal/golden"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/effect"
	"github.com/tombolo-mesh/tombolo/mesh/ir/irtest"
)

// TestGolden compiles a proxy of zone east in the world of base.yaml and in that
// with a change, and says the difference. A line of the file ask is the change, the
// mesh and the proxy; a document of type "deleted" has a key as its name.
func TestGolden(t *testing.T) {
	base, err := os.ReadFile("testdata/base.yaml")
	if err != nil {
		t.Fatal(err)
	}
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, a *txtar.Archive) map[string]string {
		files := map[string]string{}
		for _, f := range a.Files {
			files[f.Name] = string(f.Data)
		}
		var out strings.Builder
		for _, line := range strings.Split(strings.TrimSpace(files["ask"]), "\n") {
			f := strings.Fields(line)
			fmt.Fprintf(&out, "> %s\n%s", line, compare(t, base, files[f[0]], f[1], f[2]))
		}
		return map[string]string{"want": out.String()}
	})
}

// compare says what a change does to a proxy and to the endpoints that it uses.
func compare(t *testing.T, base []byte, change, meshName, name string) string {
	t.Helper()
	before, err := irtest.Parse("east", base)
	if err != nil {
		t.Fatal(err)
	}
	after, err := irtest.Parse("east", base)
	if err != nil {
		t.Fatal(err)
	}
	if key, ok := strings.CutPrefix(strings.TrimSpace(change), "type: deleted\nname: "); ok {
		f := strings.Split(key, "/")
		after.Delete(mesh.Key{Kind: mesh.KindName(f[0]), Mesh: f[1], Zone: f[2], Name: f[3]})
	} else if err := after.Add([]byte(change)); err != nil {
		t.Fatal(err)
	}
	compile := func(w *irtest.World) *ir.Proxy {
		c, _, err := w.Class(meshName, name)
		if err != nil {
			t.Fatal(err)
		}
		return ir.Compile(w, c)
	}
	old, next := compile(before), compile(after)
	var out strings.Builder
	lines := effect.Diff(old, next)
	for _, ref := range ir.EndpointRefs(old) {
		lines = append(lines, effect.EndpointSets(ir.CompileEndpoints(before, ref), ir.CompileEndpoints(after, ref))...)
	}
	for _, l := range lines {
		out.WriteString(l.String() + "\n")
	}
	for _, p := range effect.Problems(old, next) {
		fmt.Fprintf(&out, "! %s: %s\n", p.Source, p.Reason)
	}
	if out.Len() == 0 {
		return "no effect\n"
	}
	return out.String()
}

// sample is a proxy in which every field of the IR is set.
func sample() *ir.Proxy {
	var p ir.Proxy
	fill(reflect.ValueOf(&p).Elem(), 0)
	p.HasIdentity = true
	return &p
}

var durationType = reflect.TypeFor[time.Duration]()

// fill sets every field; what is of interface type gets a conf.
func fill(v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Pointer:
		if depth < 12 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), depth+1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), depth+1)
		}
	case reflect.Slice:
		if depth < 12 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			fill(v.Index(0), depth+1)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("k").Convert(v.Type().Key()), reflect.ValueOf("v"))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.Int, reflect.Int64:
		if v.Type() == durationType {
			v.SetInt(int64(time.Second))
		} else {
			v.SetInt(1)
		}
	case reflect.Float64:
		v.SetFloat(1)
	case reflect.Interface:
		v.Set(reflect.ValueOf(struct{ A string }{"a"}))
	default:
		panic(v.Kind())
	}
}

// change is one field of a sample, and how to make it another.
type change struct {
	path string
	run  func()
}

// changes lists every leaf below v.
func changes(path string, v reflect.Value) []change {
	var out []change
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return changes(path, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			out = append(out, changes(path+"."+v.Type().Field(i).Name, v.Field(i))...)
		}
		return out
	case reflect.Slice:
		if v.Len() == 0 {
			return nil
		}
		out = append(out, change{path + "[+]", func() { v.Set(reflect.Append(v, reflect.New(v.Type().Elem()).Elem())) }},
			change{path + "[-]", func() { v.SetLen(0) }})
		return append(out, changes(path+"[0]", v.Index(0))...)
	case reflect.Map:
		return []change{{path, func() { v.SetMapIndex(reflect.ValueOf("other"), reflect.ValueOf("v")) }}}
	case reflect.String:
		return []change{{path, func() { v.SetString("other") }}}
	case reflect.Bool:
		return []change{{path, func() { v.SetBool(!v.Bool()) }}}
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		return []change{{path, func() { v.SetUint(2) }}}
	case reflect.Int, reflect.Int64:
		return []change{{path, func() { v.SetInt(2e9) }}}
	case reflect.Float64:
		return []change{{path, func() { v.SetFloat(2) }}}
	case reflect.Interface:
		return []change{{path, func() { v.Set(reflect.ValueOf(struct{ A string }{"b"})) }}}
	default:
		panic(v.Kind())
	}
}

// TestEveryFieldIsSaid changes each field of the IR alone. What the hash sees gets
// at least one line, and outside of what only says who decided, one with words
// of its own.
func TestEveryFieldIsSaid(t *testing.T) {
	n := len(changes("", reflect.ValueOf(sample()).Elem()))
	if n < 200 {
		t.Fatalf("only %d fields", n)
	}
	for i := range n {
		old, next := sample(), sample()
		c := changes("", reflect.ValueOf(next).Elem())[i]
		c.run()
		lines := effect.Diff(old, next)
		if old.Equal(next) {
			if len(lines) > 0 {
				t.Errorf("%s: equal, but %v", c.path, lines)
			}
			continue
		}
		if len(lines) == 0 {
			t.Errorf("%s: a difference without a line", c.path)
			continue
		}
		quiet := strings.HasPrefix(c.path, ".Class.") || strings.HasPrefix(c.path, ".Zone") || strings.Contains(c.path, "Source") ||
			strings.HasSuffix(c.path, "Backends[0].Weight") || // of one backend alone
			strings.HasPrefix(c.path, ".Inbounds[0].Matched[-]") || strings.HasPrefix(c.path, ".Inbounds[0].Matched[0].Match") || // as for everybody
			strings.HasSuffix(c.path, "Confs[+]") || strings.HasSuffix(c.path, "Rules[+]") // of no kind
		if lines[0].Area == effect.Other && !quiet {
			t.Errorf("%s: no words for it: %v", c.path, lines)
		}
	}
}

func TestNoDifferenceNoLine(t *testing.T) {
	if got := effect.Diff(sample(), sample()); got != nil {
		t.Errorf("equal proxies: %v", got)
	}
	if got := effect.Diff(nil, nil); got != nil {
		t.Errorf("no proxies: %v", got)
	}
	for _, pair := range [][2]*ir.Proxy{{nil, sample()}, {sample(), nil}} {
		if len(effect.Diff(pair[0], pair[1])) == 0 {
			t.Error("proxies that come or go have no effect")
		}
	}
}

// TestBearing asks callers one by one: whoever gets in anew is announced by a line
// that widens, whoever is refused anew by one that narrows; and such a line is
// about somebody.
func TestBearing(t *testing.T) {
	callers, matches := population()
	rng := rand.New(rand.NewPCG(1, 2))
	some := func() (out []ir.PermissionMatch) {
		for range rng.IntN(3) {
			out = append(out, ir.PermissionMatch{Match: matches[rng.IntN(len(matches))]})
		}
		return out
	}
	widened, narrowed := 0, 0
	for range 50_000 {
		old := ir.Permission{Deny: some(), AllowWithShadowDeny: some(), Allow: some()}
		next := ir.Permission{Deny: some(), AllowWithShadowDeny: some(), Allow: some()}
		lines := effect.Permissions("inbound http", old, next)
		in, out := false, false
		for _, c := range callers {
			in = in || !lets(old, c) && lets(next, c)
			out = out || lets(old, c) && !lets(next, c)
		}
		has := func(b effect.Bearing) bool {
			return slices.ContainsFunc(lines, func(l effect.Line) bool { return l.Bearing == b })
		}
		if in && !has(effect.Widens) {
			t.Fatalf("somebody gets in and no line says so:\n%v\n%v\n%v", old, next, lines)
		}
		if out && !has(effect.Narrows) {
			t.Fatalf("somebody is refused and no line says so:\n%v\n%v\n%v", old, next, lines)
		}
		if in {
			widened++
		}
		if out {
			narrowed++
		}
	}
	if widened < 1000 || narrowed < 1000 {
		t.Errorf("only %d and %d cases", widened, narrowed)
	}
}

type caller struct{ id, sni string }

func population() ([]caller, []mesh.Match) {
	ids := []string{"spiffe://a/web", "spiffe://a/web2", "spiffe://b/web", "spiffe://b/store"}
	snis := []string{"one", "two"}
	var callers []caller
	for _, id := range ids {
		for _, sni := range snis {
			callers = append(callers, caller{id, sni})
		}
	}
	var matches []mesh.Match
	for _, s := range []*mesh.SNIMatch{nil, {Type: mesh.MatchExact, Value: "one"}} {
		for _, p := range []string{"spiffe://", "spiffe://a/", "spiffe://a/web"} {
			matches = append(matches, mesh.Match{SNI: s, SpiffeID: &mesh.SpiffeIDMatch{Type: mesh.MatchPrefix, Value: p}})
		}
		for _, id := range ids {
			matches = append(matches, mesh.Match{SNI: s, SpiffeID: &mesh.SpiffeIDMatch{Type: mesh.MatchExact, Value: id}})
		}
		if s != nil {
			matches = append(matches, mesh.Match{SNI: s})
		}
	}
	return callers, matches
}

func lets(p ir.Permission, c caller) bool {
	is := func(list []ir.PermissionMatch) bool {
		return slices.ContainsFunc(list, func(m ir.PermissionMatch) bool {
			if m.SNI != nil && m.SNI.Value != c.sni {
				return false
			}
			s := m.SpiffeID
			return s == nil || s.Type == mesh.MatchExact && s.Value == c.id || s.Type == mesh.MatchPrefix && strings.HasPrefix(c.id, s.Value)
		})
	}
	return !is(p.Deny) && (is(p.AllowWithShadowDeny) || is(p.Allow))
}

func TestFold(t *testing.T) {
	old, next := sample(), sample()
	for i := range 5 {
		o := old.Outbounds[0]
		o.Name = fmt.Sprintf("kri_msvc_default_east__s%d_80", i)
		n := o
		n.Timeouts.Request = 7 * time.Second
		old.Outbounds, next.Outbounds = append(old.Outbounds, o), append(next.Outbounds, n)
	}
	lines := effect.Diff(old, next)
	if len(lines) != 1 || len(lines[0].At) != 5 || lines[0].At[0] != "to s0.east:80" {
		t.Errorf("one line for five places: %v", lines)
	}
}
