package archtest

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/tombolo-mesh/tombolo"

// room is a row of the table: a package (or, with "/...", a tree), what of ours
// it may import, and why.
type room struct {
	path string
	may  []string
	why  string
}

// rooms is who may import whom. The longest matching path decides.
func rooms() []room {
	return []room{
		{"identity/...", []string{"identity/..."}, "foundation: who is who, usable everywhere"},
		{"internal/...", nil, "foundation: small tools that know nothing of the house"},
		{"internal/gen", []string{"mesh", "mesh/schema"}, "derives files from kinds, decides nothing"},
		{"internal/pgtest", []string{"internal/ports"}, "starts servers for tests, knows no schema"},
		{"mesh", []string{"identity/..."}, "the domain is pure: shared by global, zone and CLI, testable without I/O"},
		{"mesh/schema", []string{"mesh", "identity/..."}, "schemas are derived from kinds alone"},
		{"mesh/ir", []string{"mesh", "identity/..."}, "what proxies must do, said without Envoy, so that policy has Envoy-free tests"},
		{"mesh/ir/effect", []string{"mesh", "mesh/ir", "mesh/ir/irtest", "internal/..."}, "what a difference means, in words, where no Envoy is known"},
		{"mesh/ir/explain", []string{"mesh", "mesh/ir", "mesh/ir/effect", "mesh/ir/irtest", "identity", "internal/..."}, "the way of a call in words, read from what was compiled; zone and global put halves together"},
		{"mesh/ir/irtest", []string{"mesh", "mesh/ir", "internal/..."}, "worlds for tests of compilers"},
		{"mesh/meshtest", []string{"mesh", "identity/...", "internal/..."}, "builders for tests of the domain"},
		{"ingress", []string{"mesh", "mesh/ir", "identity/..."}, "an ingress is one more compiler, not one more server"},
		{"xds", []string{"mesh", "mesh/ir", "identity/...", "xds/delta"}, "a pure mapping from ir to Envoy"},
		{"xds/delta", []string{"internal/memory"}, "a protocol: reusable and fuzzable alone, knows no mesh"},
		{"xds/xdstest", []string{"xds/delta", "internal/..."}, "a fake Envoy speaks xDS, not mesh"},
		{"global/...", []string{"global/...", "mesh", "mesh/schema", "mesh/ir/effect", "mesh/ir/explain", "identity/...", "proto/zonesync/...", "proto/peers/...", "migrations", "internal/..."}, "global authors and distributes; it cannot know Envoy"},
		{"global/store/...", []string{"global/store/...", "mesh", "migrations", "internal/...", "identity/..."}, "stores know resources, nothing of who asks"},
		{"zone/...", []string{"zone/...", "mesh", "mesh/ir", "mesh/ir/explain", "mesh/ir/effect", "ingress", "xds", "xds/delta", "identity/...", "proto/...", "internal/..."}, "a zone meets global in proto alone"},
		{"zone/world", []string{"mesh", "mesh/ir", "internal/..."}, "tables and recorded reads, no protocol"},
		{"zone/disk", []string{"mesh", "identity/...", "internal/...", "proto/zonesync/..."}, "the one state file; resources lie in it as they travel"},
		{"zone/sync", []string{"mesh", "proto/zonesync/...", "internal/..."}, "the protocol's zone side, no engine"},
		{"zone/platform", []string{"mesh"}, "what a platform says to the engine, without either"},
		{"zone/agents", []string{"mesh", "proto/agent/...", "internal/..."}, "the server for agents, the same on every platform"},
		{"zone/universal", []string{"zone/agents", "mesh", "proto/agent/...", "identity/...", "internal/..."}, "a platform feeds the engine through an interface"},
		{"zone/kube", []string{"zone/platform", "zone/agents", "zone/kube/cluster", "mesh", "proto/agent/...", "internal/..."}, "a platform feeds the engine through an interface"},
		{"zone/kube/host", []string{"zone/platform", "zone/agents", "zone/disk", "zone/kube/...", "zone/kube", "mesh", "internal/..."}, "puts together what one process does in a cluster"},
		{"zone/check", []string{"identity/token", "internal/serverca"}, "looks at a zone from outside, as a person would"},
		{"zone/kube/check", []string{"zone/check", "zone/kube/cluster", "mesh"}, "looks at a cluster from outside, without a zone"},
		{"zone/kube/cluster", []string{"internal/..."}, "the connection to a cluster, which knows nothing of a mesh"},
		{"zone/kube/nodes", []string{"zone/kube/cluster"}, "about nodes and pods of the cluster, nothing of a mesh"},
		{"zone/kube/webhook", []string{"zone/kube/cluster", "mesh", "identity/...", "internal/...", "agent/redirect", "agent/appprobe"}, "says in pods what the agent does there, in the agent's own types"},
		{"agent/...", []string{"agent/...", "proto/agent/...", "identity/...", "internal/..."}, "small and privileged, beside every application"},
		{"proto/...", []string{"proto/..."}, "wire only"},
		{"proto/zonesync", []string{"mesh", "mesh/ir/effect", "proto/zonesync/..."}, "resources and answers to wire and back, the same on both sides"},
		{"migrations", nil, "embedded data"},
		{"deploy/helm", nil, "the chart, rendered without Helm: values to manifests, nothing of a mesh"},
		{"bench/...", []string{"bench/...", "mesh", "proto/...", "internal/..."}, "measures the binaries from outside, and speaks their protocols"},
		{"e2e/...", []string{"e2e/...", "internal/...", "mesh", "identity/..."}, "a black box: binaries and their APIs"},
		{"cmd/...", []string{"..."}, "the only place that knows which parts exist"},
	}
}

// outside is who may import a foreign module, and why nobody else.
func outside() map[string]room {
	return map[string]room{
		"github.com/jackc/pgx/v5":                      {may: []string{"global/store/postgres", "internal/pgtest", "e2e/..."}, why: "one room speaks SQL"},
		"github.com/jackc/tern/v2":                     {may: []string{"global/store/postgres"}, why: "one room migrates"},
		"go.etcd.io/bbolt":                             {may: []string{"global/store/embedded", "zone/disk"}, why: "one file format each for global and zone"},
		"github.com/spf13/cobra":                       {may: []string{"cmd/..."}, why: "commands live in cmd"},
		"k8s.io":                                       {may: []string{"zone/kube/..."}, why: "only a Kubernetes zone knows Kubernetes"},
		"github.com/envoyproxy/go-control-plane":       {may: []string{"xds/...", "agent/...", "zone/...", "e2e/...", "bench/..."}, why: "Envoy's words stay in the rooms that speak to Envoy"},
		"github.com/golang-jwt/jwt/v5":                 {may: []string{"identity/..."}, why: "one room signs and verifies tokens"},
		"github.com/containernetworking/cni":           {may: []string{"agent/cni"}, why: "one room answers container runtimes"},
		"github.com/google/nftables":                   {may: []string{"agent/redirect"}, why: "one room tells the kernel what to redirect"},
		"github.com/vbauerster/mpb/v8":                 {may: []string{"cmd/..."}, why: "progress bars are for people"},
		"github.com/prometheus/client_golang/promhttp": {may: []string{"global/...", "zone/..."}, why: "servers serve metrics"},
	}
}

type pkg struct {
	path    string // below the module, "" for its root
	imports map[string][]string
	files   []*ast.File
	names   []string
	fset    *token.FileSet
}

func TestImports(t *testing.T) {
	for _, p := range load(t) {
		row, ok := rowOf(p.path)
		if !ok {
			t.Errorf("%s: no row in rooms(): say what it may import and why", p.path)
			continue
		}
		for imported, files := range p.imports {
			if ours, ok := strings.CutPrefix(imported, module+"/"); ok {
				if strings.HasPrefix(ours, "cmd/") && !strings.HasPrefix(p.path, "cmd/") {
					t.Errorf("%s imports %s: nothing imports cmd (%s)", p.path, ours, files[0])
				} else if !matches(row.may, ours) && ours != p.path {
					t.Errorf("%s imports %s (%s): may import %v only: %s", p.path, ours, files[0], row.may, row.why)
				}
				continue
			}
			for prefix, rule := range outside() {
				if (imported == prefix || strings.HasPrefix(imported, prefix+"/")) && !matches(rule.may, p.path) {
					t.Errorf("%s imports %s (%s): only %v may: %s", p.path, imported, files[0], rule.may, rule.why)
				}
			}
		}
	}
}

func TestEveryRowIsUsed(t *testing.T) {
	pkgs := load(t)
	for _, row := range rooms() {
		used := false
		for _, p := range pkgs {
			used = used || matches([]string{row.path}, p.path)
		}
		if !used {
			t.Errorf("rooms(): no package for row %q", row.path)
		}
		if row.why == "" {
			t.Errorf("rooms(): row %q gives no reason", row.path)
		}
	}
}

func TestDocumented(t *testing.T) {
	for _, p := range load(t) {
		documented := false
		for i, f := range p.files {
			documented = documented || f.Doc != nil && len(f.Doc.Text()) > 20
			if strings.HasSuffix(p.names[i], ".pb.go") {
				documented = true
				continue
			}
			for _, decl := range f.Decls {
				for _, name := range undocumented(decl) {
					t.Errorf("%s: %s has no doc comment", p.names[i], name)
				}
			}
		}
		if !documented {
			t.Errorf("%s: no package doc: say what flows in and out", p.path)
		}
	}
}

func TestNoHiddenState(t *testing.T) {
	for _, p := range load(t) {
		for i, f := range p.files {
			if strings.HasSuffix(p.names[i], ".pb.go") {
				continue
			}
			for _, decl := range f.Decls {
				switch d := decl.(type) {
				case *ast.FuncDecl:
					if d.Name.Name == "init" && d.Recv == nil {
						t.Errorf("%s: func init: say it in a constructor or a literal list", p.names[i])
					}
				case *ast.GenDecl:
					if d.Tok == token.VAR {
						checkVars(t, p, i, d)
					}
				}
			}
		}
	}
}

// TestAgentStaysSmall: the agent is in every pod and holds privileges.
func TestAgentStaysSmall(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", module+"/cmd/tombolo-agent").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, dep := range strings.Fields(string(out)) {
		for _, banned := range []string{"github.com/jackc/pgx", "go.etcd.io/bbolt", "k8s.io/client-go"} {
			if strings.HasPrefix(dep, banned) {
				t.Errorf("tombolo-agent links %s", dep)
			}
		}
	}
}

// immutable are initializers of package variables that nobody can change by
// accident: sentinel errors, compiled patterns, flags of tests, options passed by
// value, compile-time assertions and embedded files.
func immutable(value ast.Expr) bool {
	switch v := value.(type) {
	case *ast.CallExpr:
		switch f := v.Fun.(type) {
		case *ast.SelectorExpr:
			x, ok := f.X.(*ast.Ident)
			if !ok {
				return false
			}
			switch x.Name + "." + f.Sel.Name {
			case "errors.New", "fmt.Errorf", "regexp.MustCompile", "template.Must", "flag.Bool":
				return true
			}
		case *ast.ParenExpr: // var _ I = (*T)(nil)
			return true
		}
	case *ast.CompositeLit:
		if s, ok := v.Type.(*ast.SelectorExpr); ok {
			return strings.HasSuffix(s.Sel.Name, "Options")
		}
	}
	return false
}

func checkVars(t *testing.T, p *pkg, file int, d *ast.GenDecl) {
	for _, spec := range d.Specs {
		v := spec.(*ast.ValueSpec)
		for i, name := range v.Names {
			embedded := d.Doc != nil && hasEmbed(d.Doc) || v.Doc != nil && hasEmbed(v.Doc)
			if name.Name == "_" || embedded || i < len(v.Values) && immutable(v.Values[i]) {
				continue
			}
			// Set at link time, by -ldflags -X.
			if name.Name == "version" {
				continue
			}
			t.Errorf("%s: package variable %s: make it a constant, a function or a field", p.names[file], name.Name)
		}
	}
}

func hasEmbed(doc *ast.CommentGroup) bool {
	for _, c := range doc.List {
		if strings.HasPrefix(c.Text, "//go:embed") {
			return true
		}
	}
	return false
}

func undocumented(decl ast.Decl) []string {
	var out []string
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || exportedReceiver(d.Recv)) {
			out = append(out, "func "+d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && s.Doc == nil && d.Doc == nil {
					out = append(out, "type "+s.Name.Name)
				}
			case *ast.ValueSpec:
				for _, n := range s.Names {
					if n.IsExported() && s.Doc == nil && d.Doc == nil && s.Comment == nil {
						out = append(out, n.Name)
					}
				}
			}
		}
	}
	return out
}

func exportedReceiver(recv *ast.FieldList) bool {
	typ := recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.IndexListExpr:
			typ = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}

func rowOf(path string) (room, bool) {
	best, found := room{}, false
	for _, r := range rooms() {
		// An exact row beats the tree that it is in.
		longer := len(strings.TrimSuffix(r.path, "...")) > len(strings.TrimSuffix(best.path, "..."))
		if matches([]string{r.path}, path) && (!found || longer || r.path == path) {
			best, found = r, true
		}
	}
	return best, found
}

func matches(patterns []string, path string) bool {
	for _, p := range patterns {
		if tree, ok := strings.CutSuffix(p, "..."); ok {
			if tree == "" || path == strings.TrimSuffix(tree, "/") || strings.HasPrefix(path, tree) {
				return true
			}
		} else if p == path {
			return true
		}
	}
	return false
}

// load parses every package of the module with `go list`'s view of which files
// belong to it; tests may import what they need.
func load(t *testing.T) []*pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles", module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pkgs []*pkg
	for d := json.NewDecoder(out); ; {
		var listed struct {
			ImportPath, Dir string
			GoFiles         []string
		}
		if err := d.Decode(&listed); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, parse(t, strings.TrimPrefix(listed.ImportPath, module+"/"), listed.Dir, listed.GoFiles))
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	sort.Slice(pkgs, func(i, j int) bool { return pkgs[i].path < pkgs[j].path })
	return pkgs
}

func parse(t *testing.T, path, dir string, files []string) *pkg {
	t.Helper()
	p := &pkg{path: path, imports: map[string][]string{}, fset: token.NewFileSet()}
	for _, name := range files {
		full := filepath.Join(dir, name)
		f, err := parser.ParseFile(p.fset, full, nil, parser.ParseComments)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		p.files, p.names = append(p.files, f), append(p.names, path+"/"+name)
		for _, i := range f.Imports {
			imported, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			p.imports[imported] = append(p.imports[imported], name)
		}
	}
	return p
}
