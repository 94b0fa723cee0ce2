package mesh

import (
	"fmt"
	"slices"
	"strings"
	"text/template/parse"
)

// maxTemplate bounds the text of a template.
const maxTemplate = 1024

// template is a parsed template. Only {{ .Field }} and {{ label "key" }} exist:
// nothing that loops or calls, so that any author's text is cheap.
type template struct {
	parts []templatePart
}

// templatePart is text, or one of field and label with its source for errors.
type templatePart struct {
	text, field, label, source string
}

// parseTemplate parses a text that may name the given fields.
func parseTemplate(text string, fields ...string) (*template, error) {
	if len(text) > maxTemplate {
		return nil, fmt.Errorf("has %d octets; a template has at most %d", len(text), maxTemplate)
	}
	trees, err := parse.Parse("template", text, "", "", map[string]any{"label": true})
	if err != nil {
		return nil, fmt.Errorf("is no template: %s", strings.TrimPrefix(err.Error(), "template: template:"))
	}
	tree := trees["template"]
	if tree == nil || tree.Root == nil || len(trees) > 1 {
		return nil, fmt.Errorf("is no template: only text, {{ .Field }} and {{ label \"key\" }} are allowed")
	}
	t := &template{}
	for _, node := range tree.Root.Nodes {
		part, ok := templatePartOf(node, fields)
		if !ok {
			return nil, fmt.Errorf("%s: only {{ .%s }}, .%s and {{ label \"key\" }} are allowed", node, fields[0], strings.Join(fields[1:], ", ."))
		}
		t.parts = append(t.parts, part)
	}
	return t, nil
}

func templatePartOf(node parse.Node, fields []string) (templatePart, bool) {
	if t, ok := node.(*parse.TextNode); ok {
		return templatePart{text: string(t.Text)}, true
	}
	action, ok := node.(*parse.ActionNode)
	if !ok || len(action.Pipe.Decl) > 0 || len(action.Pipe.Cmds) != 1 {
		return templatePart{}, false
	}
	part := templatePart{source: node.String()}
	args := action.Pipe.Cmds[0].Args
	switch first := args[0].(type) {
	case *parse.FieldNode:
		if len(args) != 1 || len(first.Ident) != 1 || !slices.Contains(fields, first.Ident[0]) {
			return templatePart{}, false
		}
		part.field = first.Ident[0]
		return part, true
	case *parse.IdentifierNode:
		if len(args) != 2 || first.Ident != "label" || args[1].Type() != parse.NodeString {
			return templatePart{}, false
		}
		part.label = args[1].(*parse.StringNode).Text
		return part, true
	}
	return templatePart{}, false
}

// labels that the template asks for, as written.
func (t *template) labels() []string {
	var out []string
	for _, p := range t.parts {
		if p.label != "" {
			out = append(out, p.label)
		}
	}
	return out
}

// expand fills the template in; limit bounds the outcome, in octets.
func (t *template) expand(field, label func(name string) (string, error), limit int) (string, error) {
	var b strings.Builder
	for _, p := range t.parts {
		if p.source == "" {
			b.WriteString(p.text)
			continue
		}
		get, name := field, p.field
		if name == "" {
			get, name = label, p.label
		}
		value, err := get(name)
		if err != nil {
			return "", err
		}
		if strings.Contains(value, "/") {
			return "", fmt.Errorf("%s is %q; a value must not contain '/'", p.source, value)
		}
		b.WriteString(value)
		if b.Len() > limit {
			return "", fmt.Errorf("yields more than %d octets", limit)
		}
	}
	return b.String(), nil
}
