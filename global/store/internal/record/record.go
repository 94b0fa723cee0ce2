// Package record is the binary form of resources and changes: in the embedded
// file and in snapshots on their way out. In flow resources, out flow bytes,
// and back. The form starts with a version, so that later ones can be told apart.
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
)

const version = 1

// ErrCorrupt: the bytes are not a record.
var ErrCorrupt = errors.New("corrupt record")

// AppendResource appends a resource to b.
func AppendResource(b []byte, r mesh.Resource) []byte {
	b = append(b, version)
	b = appendText(b, r.Kind)
	b = appendText(b, r.Mesh)
	b = appendText(b, r.Zone)
	b = appendText(b, r.Name)
	b = binary.AppendUvarint(b, uint64(len(r.Labels)))
	for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
		b = appendText(b, k)
		b = appendText(b, r.Labels[k])
	}
	b = binary.AppendUvarint(b, uint64(r.Revision))
	b = appendTime(b, r.Created)
	b = appendTime(b, r.Modified)
	b = appendText(b, r.Spec)
	return appendText(b, r.Status)
}

// Resource reads what AppendResource wrote. The result shares no memory with b.
func Resource(b []byte) (mesh.Resource, error) {
	d := decoder{b: b}
	r := d.resource(true)
	return r, d.end()
}

// Labels reads the labels alone, without copying the spec.
func Labels(b []byte) (map[string]string, error) {
	d := decoder{b: b}
	r := d.resource(false)
	return r.Labels, d.err
}

// AppendChange appends a change to b.
func AppendChange(b []byte, c mesh.Change) []byte {
	deleted := byte(0)
	if c.Deleted {
		deleted = 1
	}
	b = append(b, version, deleted)
	b = binary.AppendUvarint(b, uint64(c.Revision))
	b = appendText(b, c.Author)
	b = appendTime(b, c.Time)
	return AppendResource(b, c.Resource)
}

// Change reads what AppendChange wrote.
func Change(b []byte) (mesh.Change, error) {
	d := decoder{b: b}
	d.version()
	c := mesh.Change{Deleted: d.byte() == 1}
	c.Revision = mesh.Revision(d.uvarint())
	c.Author = string(d.bytes())
	c.Time = d.time()
	c.Resource = d.resource(true)
	return c, d.end()
}

// ChangeKey reads the key alone of what AppendChange wrote.
func ChangeKey(b []byte) (mesh.Key, error) {
	d := decoder{b: b}
	d.version()
	d.byte()
	d.uvarint()
	d.bytes()
	d.time()
	d.version()
	k := mesh.Key{Kind: mesh.KindName(d.bytes())}
	k.Mesh, k.Zone, k.Name = string(d.bytes()), string(d.bytes()), string(d.bytes())
	return k, d.err
}

func appendText[T ~string | ~[]byte](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// A time is a byte that says whether there is one, then its Unix microseconds.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	return binary.AppendVarint(append(b, 1), t.UnixMicro())
}

type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%s: %w", what, ErrCorrupt)
	}
	d.b = nil
}

func (d *decoder) end() error {
	if d.err == nil && len(d.b) != 0 {
		d.fail("bytes after the end")
	}
	return d.err
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("too short")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) version() {
	if v := d.byte(); d.err == nil && v != version {
		d.fail(fmt.Sprintf("version %d, this program reads %d", v, version))
	}
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("bad number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail("bad length")
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) time() time.Time {
	if d.byte() == 0 {
		return time.Time{}
	}
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("bad time")
		return time.Time{}
	}
	d.b = d.b[n:]
	return time.UnixMicro(v).UTC()
}

func (d *decoder) resource(whole bool) mesh.Resource {
	d.version()
	var r mesh.Resource
	r.Kind = mesh.KindName(d.bytes())
	r.Mesh = string(d.bytes())
	r.Zone = string(d.bytes())
	r.Name = string(d.bytes())
	if n := d.uvarint(); n > uint64(len(d.b)) {
		d.fail("bad count of labels")
	} else if n > 0 {
		r.Labels = make(map[string]string, n)
		for range n {
			k := string(d.bytes())
			r.Labels[k] = string(d.bytes())
		}
	}
	if !whole || d.err != nil {
		return r
	}
	r.Revision = mesh.Revision(d.uvarint())
	r.Created = d.time()
	r.Modified = d.time()
	if b := d.bytes(); len(b) > 0 {
		r.Spec = append([]byte(nil), b...)
	}
	if b := d.bytes(); len(b) > 0 {
		r.Status = append([]byte(nil), b...)
	}
	return r
}
