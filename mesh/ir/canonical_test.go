package ir

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
)

func TestCanonical(t *testing.T) {
	type inner struct {
		Text string
		List []string
		Left string `json:"-"`
	}
	type outer struct {
		A, B    string
		N       int64
		U       uint32
		F       float64
		Yes     bool
		Pointer *inner
		Any     any
		Map     map[string]int
		hidden  string
		Bytes   []byte
		Two     [2]inner
	}
	var known forms
	form := func(x outer) string {
		c := canonical{forms: &known}
		c.write(&x)
		if c.err != nil {
			t.Fatal(c.err)
		}
		return string(c.bytes)
	}
	seen := map[string]int{}
	for i, x := range []outer{
		{}, {A: "a"}, {B: "a"}, {A: "aa"}, {A: "a", B: "a"}, {N: 1}, {N: -1}, {U: 1}, {F: 1}, {Yes: true},
		{Pointer: &inner{}}, {Pointer: &inner{Text: "a"}}, {Pointer: &inner{List: []string{""}}}, {Pointer: &inner{List: []string{"a", ""}}}, {Pointer: &inner{List: []string{"", "a"}}},
		{Any: inner{}}, {Any: ""}, {Any: 0}, {Any: uint32(0)}, {Any: &inner{}}, {Map: map[string]int{"": 0}}, {Map: map[string]int{"a": 1, "b": 2}}, {Map: map[string]int{"a": 2, "b": 1}},
		{hidden: "a"}, {Bytes: []byte{0}}, {Bytes: []byte{0, 0}}, {Two: [2]inner{{Text: "a"}}}, {Two: [2]inner{1: {Text: "a"}}},
	} {
		text := form(x)
		if j, double := seen[text]; double {
			t.Errorf("%d and %d have one form", j, i)
		}
		seen[text] = i
	}
	for name, pair := range map[string][2]outer{
		"empty list":     {{Pointer: &inner{}}, {Pointer: &inner{List: []string{}}}},
		"empty map":      {{}, {Map: map[string]int{}}},
		"what is left":   {{Pointer: &inner{}}, {Pointer: &inner{Left: "out"}}},
		"order of a map": {{Map: map[string]int{"a": 1, "bb": 2, "c": 3}}, {Map: map[string]int{"c": 3, "bb": 2, "a": 1}}},
	} {
		if form(pair[0]) != form(pair[1]) {
			t.Errorf("%s: two forms", name)
		}
	}
	c := canonical{forms: &known}
	if c.write(&struct{ F func() }{}); c.err == nil {
		t.Error("a function has a form")
	}
}

// TestEverythingHasAForm walks the types of which a proxy is made, the policies' confs
// included: where one is added that has no canonical form, it must get one.
func TestEverythingHasAForm(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(path string, x reflect.Type)
	walk = func(path string, x reflect.Type) {
		if seen[x] {
			return
		}
		seen[x] = true
		switch x.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Array:
			walk(path+"[]", x.Elem())
		case reflect.Map:
			walk(path+" key", x.Key())
			walk(path+"[]", x.Elem())
		case reflect.Struct:
			for i := range x.NumField() {
				walk(path+"."+x.Field(i).Name, x.Field(i).Type)
			}
		case reflect.Chan, reflect.Func, reflect.UnsafePointer, reflect.Uintptr, reflect.Complex64, reflect.Complex128:
			t.Errorf("%s is a %s", path, x)
		}
	}
	walk("Proxy", reflect.TypeFor[Proxy]())
	for _, kind := range mesh.Kinds() {
		walk(string(kind.Name), reflect.TypeOf(kind.New()))
	}
	if len(seen) < 50 {
		t.Errorf("only %d types seen", len(seen))
	}
}

// TestPartsOfAnOutbound: whatever changes in an outbound is seen by one of its parts.
func TestPartsOfAnOutbound(t *testing.T) {
	of := func(o Outbound) string {
		listener, target := o.Parts()
		c := canonical{forms: new(forms)}
		c.write(&listener)
		c.write(&target)
		return fmt.Sprintf("%x", c.bytes)
	}
	base := of(Outbound{})
	x := reflect.TypeFor[Outbound]()
	for i := range x.NumField() {
		var o Outbound
		f := reflect.ValueOf(&o).Elem().Field(i)
		switch f.Kind() {
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		case reflect.String:
			f.SetString("x")
		case reflect.Uint32:
			f.SetUint(1)
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Struct:
			switch x.Field(i).Name {
			case "Timeouts":
				o.Timeouts.Idle = 1
			case "Source":
				o.Source.Path = "x"
			default:
				t.Fatalf("say here how %s changes", x.Field(i).Name)
			}
		default:
			t.Fatalf("say here how %s changes", x.Field(i).Name)
		}
		if of(o) == base {
			t.Errorf("a change of %s is in no part", x.Field(i).Name)
		}
	}
}

func BenchmarkDigests(b *testing.B) {
	p := &Proxy{Class: &Class{}}
	for i := range 1000 {
		name := fmt.Sprint("kri_msvc_default_east__service-", i, "_80")
		sources := []Source{{Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "all"}, Path: "to[0].default"}}
		timeouts := Timeouts{Connect: 5e9, Idle: 3600e9, Request: 15e9, Sources: sources}
		confs := Confs{{Kind: mesh.KindMeshTimeout, Conf: mesh.TimeoutConf{ConnectionTimeout: &mesh.Duration{Duration: 5e9}, IdleTimeout: &mesh.Duration{Duration: 3600e9}}, Sources: sources}}
		p.Outbounds = append(p.Outbounds, Outbound{Name: name, Address: "10.0.0.1", Port: 80, Timeouts: timeouts, Confs: confs,
			Routes: []Route{{Name: "default", Backends: []WeightedBackend{{Destination: name, Weight: 1}}, Timeouts: timeouts, Confs: confs}}})
	}
	var m Memo
	b.ReportAllocs()
	for b.Loop() {
		m.Digests(p)
	}
}
