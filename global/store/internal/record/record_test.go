package record

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
)

func sample() mesh.Resource {
	return mesh.Resource{Key: mesh.Key{Kind: "Mesh", Mesh: "m", Zone: "z", Name: "n"}, Labels: map[string]string{"b": "1", "a": ""},
		Spec: []byte(`{}`), Status: []byte(`1`), Revision: 300, Created: time.UnixMicro(-5).UTC(), Modified: time.UnixMicro(1e15).UTC()}
}

func TestRoundTrip(t *testing.T) {
	for _, c := range []mesh.Change{
		{Revision: 300, Resource: sample(), Author: "user:a", Time: time.UnixMicro(7).UTC()},
		{Revision: 1, Deleted: true, Resource: mesh.Resource{Key: sample().Key}},
	} {
		b := AppendChange(nil, c)
		got, err := Change(b)
		if err != nil || !cmp.Equal(got, c) {
			t.Errorf("%v\n%s", err, cmp.Diff(c, got))
		}
		for n := range b { // cut anywhere it is corrupt
			if _, err := Change(b[:n]); err == nil {
				t.Errorf("the first %d of %d bytes decode", n, len(b))
			}
		}
		r := AppendResource(nil, c.Resource)
		if got, err := Labels(r); err != nil || !cmp.Equal(got, c.Resource.Labels) {
			t.Errorf("labels %v, %v", got, err)
		}
		clear(b)
		if !cmp.Equal(got, c) {
			t.Error("the change shares memory with its bytes")
		}
	}
}

func FuzzChange(f *testing.F) {
	f.Add(AppendChange(nil, mesh.Change{Revision: 1, Resource: sample(), Author: "a", Time: time.UnixMicro(7)}))
	f.Add(AppendChange(nil, mesh.Change{Deleted: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Change(b)
		if err != nil {
			return
		}
		again, err := Change(AppendChange(nil, c))
		if err != nil || !cmp.Equal(c, again) {
			t.Fatalf("%v\n%s", err, cmp.Diff(c, again))
		}
	})
}
