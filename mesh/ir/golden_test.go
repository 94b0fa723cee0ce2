package ir_test

import (
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/tombolo-mesh/tombolo/internal/golden"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/irtest"
)

func TestGolden(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, a *txtar.Archive) map[string]string {
		return irtest.Case(t, a, compiler())
	})
}

func compiler() irtest.Compiler {
	return irtest.Compiler{Proxy: ir.Compile, Endpoints: ir.CompileEndpoints}
}
