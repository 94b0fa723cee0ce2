package schema

import (
	"embed"
	"fmt"
	"reflect"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
)

//go:embed examples/*.yaml
var examples embed.FS

// Example is a valid manifest of a kind in the REST form, as YAML.
func Example(k mesh.Kind) ([]byte, error) {
	b, err := examples.ReadFile("examples/" + strings.ToLower(string(k.Name)) + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("example of %s: %w", k.Name, err)
	}
	return b, nil
}

// PageName is the file name of a kind's reference page.
func PageName(k mesh.Kind) string { return strings.ToLower(string(k.Name)) + ".md" }

// Page is the reference page of a kind, as Markdown, written from the given
// docs (nil for those that are built in).
func Page(k mesh.Kind, docs Docs) ([]byte, error) {
	if docs == nil {
		docs = embedded()
	}
	example, err := Example(k)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	t := reflect.TypeOf(k.New()).Elem()
	fmt.Fprintf(&b, "# %s\n\n%s.\n\n", k.Name, capital(k.Summary))
	if doc := docs[t.Name()]; doc != "" {
		fmt.Fprintf(&b, "%s\n\n", doc)
	}
	fmt.Fprintf(&b, "| | |\n|---|---|\n")
	for _, row := range facts(k) {
		fmt.Fprintf(&b, "| %s | %s |\n", row[0], row[1])
	}
	fmt.Fprintf(&b, "\n## Example\n\n```yaml\n%s```\n\n## Fields\n\n", example)
	rows := tree(t, docs, "", map[reflect.Type]bool{})
	if len(rows) == 0 {
		b.WriteString("The spec has no fields.\n")
		return []byte(b.String()), nil
	}
	where := "Paths are below `spec`."
	if k.Inline {
		where = "Paths are at the top level of the manifest (below `spec` in the Kubernetes form)."
	}
	fmt.Fprintf(&b, "%s `*` marks what is required.\n\n| field | type | meaning |\n|---|---|---|\n", where)
	for _, r := range rows {
		fmt.Fprintf(&b, "| `%s`%s | %s | %s |\n", r.path, r.star, r.kind, strings.ReplaceAll(r.doc, "|", "\\|"))
	}
	return []byte(b.String()), nil
}

func facts(k mesh.Kind) [][2]string {
	scope, path := "global", "/"+k.Plural()
	if k.Scope == mesh.ScopeMesh {
		scope, path = "mesh", "/meshes/{mesh}/"+k.Plural()
	}
	out := [][2]string{{"scope", scope}, {"REST", "`" + path + "`"}}
	if k.Short != "" {
		out = append(out, [2]string{"short", "`" + k.Short + "`"})
	}
	name := "lower-case letters, digits, `-` and `.`, at most 253 octets"
	if k.DNSLabel {
		name = "an RFC 1035 label, at most 63 octets"
	}
	out = append(out, [2]string{"name", name}, [2]string{"travels", flow(k)})
	if k.AdminOnly {
		out = append(out, [2]string{"readable by", "administrators only"})
	}
	if p := k.Policy; p != nil {
		out = append(out, [2]string{"targets", targets(p)})
	}
	return out
}

func flow(k mesh.Kind) string {
	var parts []string
	if k.Flow.Has(mesh.GlobalToZones) {
		parts = append(parts, "written at global, pushed to every zone")
	}
	if k.Flow.Has(mesh.ZoneToGlobal) {
		parts = append(parts, "owned by a zone, reported to global")
	}
	if k.Flow.Has(mesh.AcrossZones) {
		parts = append(parts, "pushed on to the other zones")
	}
	if len(parts) == 0 {
		return "stays at global"
	}
	return strings.Join(parts, "; ")
}

func targets(p *mesh.PolicyShape) string {
	parts := []string{"`targetRef`: Mesh, Dataplane"}
	if p.To {
		var kinds []string
		for _, k := range p.ToKinds {
			kinds = append(kinds, string(k))
		}
		parts = append(parts, "`to[].targetRef`: "+strings.Join(kinds, ", "))
	}
	if p.Rules {
		rules := "`rules` (inbound)"
		if p.Matches {
			rules += ", with `matches`"
		}
		parts = append(parts, rules)
	}
	return strings.Join(parts, "; ")
}

type row struct{ path, star, kind, doc string }

// tree lists the fields of a struct and, below each, those of its parts. A type
// that contains itself is shown once a branch.
func tree(t reflect.Type, docs Docs, prefix string, open map[reflect.Type]bool) []row {
	if open[t] {
		return nil
	}
	open[t] = true
	defer delete(open, t)
	var out []row
	for _, f := range fields(t) {
		path := prefix + f.name
		inner, kind := f.goType, ""
		for inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Slice && inner.Elem().Kind() != reflect.Uint8 {
			inner, path = inner.Elem(), path+"[]"
			kind = "list of "
		}
		r := row{path: path, kind: kind + word(inner), doc: oneLine(docs[t.Name()+"."+f.goName])}
		if f.required {
			r.star = " *"
		}
		out = append(out, r)
		if inner.Kind() == reflect.Struct {
			out = append(out, tree(inner, docs, path+".", open)...)
		}
	}
	return out
}

func word(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[mesh.Duration]():
		return "duration"
	case reflect.TypeFor[mesh.Decimal]():
		return "number or decimal string"
	case reflect.TypeFor[mesh.IntOrString]():
		return "number or string"
	case reflect.TypeFor[mesh.AnyValue]():
		return "any value"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.Uint32, reflect.Int:
		return "integer"
	case reflect.Map:
		return "map of strings"
	case reflect.Struct:
		return "object"
	case reflect.Slice:
		return "base64"
	}
	return "string"
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// Index lists the pages of every kind, as Markdown.
func Index() []byte {
	var b strings.Builder
	b.WriteString("# Kinds\n\nGenerated from the types of package `mesh` by `make generate`.\n\n| kind | short | what it is |\n|---|---|---|\n")
	for _, k := range mesh.Kinds() {
		fmt.Fprintf(&b, "| [%s](%s) | %s | %s |\n", k.Name, PageName(k), k.Short, k.Summary)
	}
	return []byte(b.String())
}
