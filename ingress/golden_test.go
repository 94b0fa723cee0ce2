package ingress_test

import (
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/tombolo-mesh/tombolo/ingress"
	"github.com/tombolo-mesh/tombolo/internal/golden"
	"github.com/tombolo-mesh/tombolo/mesh/ir/irtest"
)

func TestGolden(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, a *txtar.Archive) map[string]string {
		return irtest.Case(t, a, irtest.Compiler{Proxy: ingress.Compile, Endpoints: ingress.CompileEndpoints})
	})
}
