package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPortsAreReserved: nobody listens at port 0 to tell the port after closing it,
// which an outgoing connection of anyone may be given before it is bound again.
// internal/ports is for that.
func TestPortsAreReserved(t *testing.T) {
	root := filepath.Join("..", "..")
	seen := 0
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		seen++
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && choosesAndCloses(fn) {
				t.Errorf("%s: %s listens at port 0 and closes before it returns: take a port of internal/ports", fset.Position(fn.Pos()), fn.Name.Name)
			}
		}
		return nil
	})
	if err != nil || seen < 500 {
		t.Errorf("%d files read: %v", seen, err)
	}
}

func TestChoosesAndCloses(t *testing.T) {
	for body, want := range map[string]bool{
		`l, _ := net.Listen("tcp", "127.0.0.1:0"); defer l.Close(); return l.Addr().Port`:            true,
		`l, _ := net.Listen("tcp", ":0"); p := l.Addr().Port; _ = l.Close(); return p`:               true,
		`l, _ := net.Listen("tcp", ":0"); return l.Addr().Port, l.Close()`:                           true,
		`l, _ := net.Listen("tcp", ":0"); t.Cleanup(func() { l.Close() }); return l.Addr().String()`: false,
		`l, _ := net.Listen("tcp", "10.0.0.1:80"); defer l.Close(); return l.Addr().Port`:            false,
	} {
		f, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\nfunc f() int {"+body+"}", 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := choosesAndCloses(f.Decls[0].(*ast.FuncDecl)); got != want {
			t.Errorf("%s: %v", body, got)
		}
	}
}

// choosesAndCloses: a function with a result listens at port 0, and closes that
// listener itself, not in a function that it hands on.
func choosesAndCloses(fn *ast.FuncDecl) bool {
	if fn.Type.Results == nil || fn.Body == nil {
		return false
	}
	listeners, closes := map[string]bool{}, false
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			return false
		case *ast.AssignStmt:
			if name, ok := n.Lhs[0].(*ast.Ident); ok && listensAtZero(n.Rhs[0]) {
				listeners[name.Name] = true
			}
		case *ast.SelectorExpr:
			if name, ok := n.X.(*ast.Ident); ok && n.Sel.Name == "Close" {
				closes = closes || listeners[name.Name]
			}
		}
		return true
	})
	return closes
}

func listensAtZero(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !strings.HasPrefix(f.Sel.Name, "Listen") {
		return false
	}
	for _, arg := range call.Args {
		if lit, ok := arg.(*ast.BasicLit); ok && strings.HasSuffix(lit.Value, `:0"`) {
			return true
		}
	}
	return false
}
