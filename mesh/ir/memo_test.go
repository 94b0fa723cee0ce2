package ir_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/irtest"
)

// What is remembered is what would be found, problems included, and is forgotten when
// what it follows from changes.
func TestMemo(t *testing.T) {
	a, err := txtar.ParseFile("testdata/trust.txtar")
	if err != nil {
		t.Fatal(err)
	}
	manifests := string(a.Files[0].Data)
	var memo ir.Memo
	var last *ir.Proxy
	for _, text := range []string{
		manifests,
		strings.ReplaceAll(manifests, "trustDomain: default.east", "trustDomain: another"), // vouched for by nobody
		strings.Replace(manifests, "-----BEGIN", "x\n        -----BEGIN", 1),
		strings.ReplaceAll(manifests, "spec: {provider: {type: Bundled}}", `spec: {provider: {type: Bundled}, spiffeID: {trustDomain: "all.{{ .Zone }}.example"}}`),
		manifests,
	} {
		w, class := parse(t, text)
		for range 2 {
			got, want := memo.Compile(w, class), ir.Compile(w, class)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("remembered\n%v\n%v\nfound\n%v\n%v", got.Trust, got.Problems, want.Trust, want.Problems)
			}
			if last != nil && slices.Equal(last.Trust, got.Trust) && slices.Equal(last.Problems, got.Problems) {
				t.Error("no change: the case tests nothing")
			}
		}
		last = memo.Compile(w, class)
	}
	if p := memo.Compile(irtest.New("east"), &ir.Class{ID: "x", Mesh: mesh.DefaultMesh}); len(p.Trust) > 0 {
		t.Errorf("trust of a mesh without any: %v", p.Trust)
	}
}
