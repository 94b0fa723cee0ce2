package api

import (
	"net/http"
	"testing"

	"github.com/tombolo-mesh/tombolo/global/api/access"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// FuzzPrecondition: whatever the header, it is read or refused, and a list of
// tags never lets a revision through that is not in it.
func FuzzPrecondition(f *testing.F) {
	for _, seed := range []string{"", "*", `"1"`, `"1", "2"`, `W/"3"`, `"x"`, `"`, `1`, "`1`", `"-4"`, `"99999999999999999999"`} {
		f.Add(seed, int64(2))
	}
	f.Fuzz(func(t *testing.T, header string, rev int64) {
		p, err := preconditionOf(http.Header{"If-Match": {header}})
		if err != nil {
			if problemOf(err).Status != http.StatusBadRequest {
				t.Errorf("refused with %v", err)
			}
			return
		}
		if !p.set() || p.any {
			return
		}
		in := false
		for _, r := range p.revisions {
			in = in || r == mesh.Revision(rev)
		}
		if ok := p.check(mesh.Revision(rev), true) == nil; ok != in {
			t.Errorf("%q lets revision %d through: %v", header, rev, ok)
		}
		if p.check(mesh.Revision(rev), false) == nil {
			t.Errorf("%q lets an absent resource through", header)
		}
	})
}

// FuzzBatch: any body is decoded or refused, with documents numbered from 1.
func FuzzBatch(f *testing.F) {
	for _, seed := range []string{"", "[]", "[1]", `[{"type":"Mesh","name":"a"}]`, "type: Mesh\nname: a\n---\ntype: Zone\n", "[[", "{}", "- a"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		list, err := decodeBatch(body)
		if err != nil {
			return
		}
		for i := range list {
			if list[i].Document < 1 {
				t.Errorf("document %d", list[i].Document)
			}
			list[i].Validate()
		}
	})
}

// FuzzPeek: nothing that is no token has a use of ours by accident of parsing.
func FuzzPeek(f *testing.F) {
	f.Add("a.b.c")
	f.Add("e30.eyJhdWQiOlsidG9tYm9sby96b25lIl19.x")
	f.Fuzz(func(t *testing.T, raw string) {
		_ = access.Peek(raw)
	})
}
