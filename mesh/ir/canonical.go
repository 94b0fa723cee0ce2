package ir

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sync"
)

// canonical writes values in a binary form: those that say the same have the same
// bytes, and no others have them. Nil and empty lists and maps say the same. Fields
// tagged `json:"-"` are left out.
type canonical struct {
	forms *forms
	bytes []byte
	err   error
}

// form is how values of a type are written.
type form struct {
	kind reflect.Kind
	// fields of a struct that are written, and their forms.
	fields []int
	of     []*form
	// key of a map, and elem of whatever has elements.
	key, elem *form
}

// forms remembers the forms of types. The zero value is ready, and safe for concurrent use.
type forms struct {
	known sync.Map // of reflect.Type
	mu    sync.Mutex
}

// of finds the form of a type, or makes it.
func (f *forms) of(t reflect.Type) *form {
	if known, ok := f.known.Load(t); ok {
		return known.(*form)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	made := map[reflect.Type]*form{}
	root := f.make(t, made)
	for t, x := range made { // all of them are whole only now
		f.known.Store(t, x)
	}
	return root
}

func (f *forms) make(t reflect.Type, made map[reflect.Type]*form) *form {
	if known, ok := f.known.Load(t); ok {
		return known.(*form)
	}
	if x := made[t]; x != nil {
		return x
	}
	x := &form{kind: t.Kind()}
	made[t] = x
	switch x.kind {
	case reflect.Struct:
		for i := range t.NumField() {
			if field := t.Field(i); field.Tag.Get("json") != "-" {
				x.fields, x.of = append(x.fields, i), append(x.of, f.make(field.Type, made))
			}
		}
	case reflect.Map:
		x.key, x.elem = f.make(t.Key(), made), f.make(t.Elem(), made)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		x.elem = f.make(t.Elem(), made)
	}
	return x
}

// write appends what pointer points to.
func (c *canonical) write(pointer any) {
	v := reflect.ValueOf(pointer).Elem()
	c.value(v, c.forms.of(v.Type()))
}

func (c *canonical) value(v reflect.Value, f *form) {
	switch f.kind {
	case reflect.Bool:
		c.flag(v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		c.bytes = binary.AppendVarint(c.bytes, v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		c.number(v.Uint())
	case reflect.Float32, reflect.Float64:
		c.number(math.Float64bits(v.Float()))
	case reflect.String:
		c.text(v.String())
	case reflect.Pointer:
		c.flag(!v.IsNil())
		if !v.IsNil() {
			c.value(v.Elem(), f.elem)
		}
	case reflect.Interface:
		c.flag(!v.IsNil())
		if !v.IsNil() {
			in := v.Elem()
			c.text(in.Type().String())
			c.value(in, c.forms.of(in.Type()))
		}
	case reflect.Slice, reflect.Array:
		n := v.Len()
		c.number(uint64(n))
		for i := range n {
			c.value(v.Index(i), f.elem)
		}
	case reflect.Map:
		c.entries(v, f)
	case reflect.Struct:
		for i, field := range f.fields {
			c.value(v.Field(field), f.of[i])
		}
	default:
		c.err = fmt.Errorf("a value of type %s has no canonical form", v.Type())
	}
}

func (c *canonical) flag(is bool) {
	n := uint64(0)
	if is {
		n = 1
	}
	c.number(n)
}

func (c *canonical) number(n uint64) { c.bytes = binary.AppendUvarint(c.bytes, n) }

func (c *canonical) text(s string) {
	c.number(uint64(len(s)))
	c.bytes = append(c.bytes, s...)
}

// entries writes a map in the order of its entries' bytes.
func (c *canonical) entries(v reflect.Value, f *form) {
	var list []string
	outer := c.bytes
	for entry := v.MapRange(); entry.Next(); {
		c.bytes = nil
		c.value(entry.Key(), f.key)
		c.value(entry.Value(), f.elem)
		list = append(list, string(c.bytes))
	}
	c.bytes = outer
	slices.Sort(list)
	c.number(uint64(len(list)))
	for _, entry := range list {
		c.text(entry)
	}
}
