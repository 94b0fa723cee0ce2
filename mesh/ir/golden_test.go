package ir_test

import (
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/tombolo-mesh/tombolo/internal/golden"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/irtest"
)

// Each case has worlds ("east.yaml" is the world as zone east sees it, all.yaml
// belongs to every zone), and for each zone what is asked of it ("east.ask") and
// answered ("want.east").
func TestGolden(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, a *txtar.Archive) map[string]string {
		return goldenCase(t, a, ir.Compile)
	})
}

func goldenCase(t *testing.T, a *txtar.Archive, compile irtest.Compiler) map[string]string {
	got := map[string]string{}
	all, _ := golden.File(a, "all.yaml")
	for _, f := range a.Files {
		zone, ok := strings.CutSuffix(f.Name, ".ask")
		if !ok {
			continue
		}
		own, _ := golden.File(a, zone+".yaml")
		w, err := irtest.Parse(zone, all, own)
		if err != nil {
			t.Fatalf("zone %s: %v", zone, err)
		}
		text, err := irtest.Answer(w, compile, string(f.Data))
		if err != nil {
			t.Fatalf("zone %s: %v", zone, err)
		}
		got["want."+zone] = text
	}
	return got
}
