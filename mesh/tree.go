package mesh

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Bounds of what is decoded.
const (
	maxDepth     = 48
	maxNodes     = 200_000 // per document, aliases expanded
	maxDocuments = 10_000
)

type nodeKind uint8

const (
	nullNode nodeKind = iota
	boolNode
	numberNode
	stringNode
	listNode
	objectNode
)

func (k nodeKind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "a list", "an object"}[k]
}

// node is a document before it is known what it means: JSON and YAML alike,
// with the lines, and with what the decoders of both forget (duplicate keys,
// how a scalar was written).
type node struct {
	kind nodeKind
	// text of a scalar: the JSON literal, or the value of a string.
	text string
	// plain is how a YAML boolean, number or null was written, for hints.
	plain string
	line  int
	items []*node
	keys  []nodeKey
}

type nodeKey struct {
	name  string
	plain bool // a YAML boolean used as a key
	line  int
	value *node
}

// get returns the last value of a key, as JSON decoders do.
func (n *node) get(name string) *node {
	for i := len(n.keys) - 1; i >= 0; i-- {
		if n.keys[i].name == name {
			return n.keys[i].value
		}
	}
	return nil
}

// json writes the node in authored order, compact.
func (n *node) json(b *bytes.Buffer) {
	switch n.kind {
	case nullNode:
		b.WriteString("null")
	case boolNode, numberNode:
		b.WriteString(n.text)
	case stringNode:
		writeString(b, n.text)
	case listNode:
		b.WriteByte('[')
		for i, item := range n.items {
			if i > 0 {
				b.WriteByte(',')
			}
			item.json(b)
		}
		b.WriteByte(']')
	case objectNode:
		b.WriteByte('{')
		for i, k := range n.keys {
			if i > 0 {
				b.WriteByte(',')
			}
			writeString(b, k.name)
			b.WriteByte(':')
			k.value.json(b)
		}
		b.WriteByte('}')
	}
}

func writeString(b *bytes.Buffer, s string) {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	// A string always encodes; Encode ends with a newline, which is taken back.
	if err := enc.Encode(s); err == nil {
		b.Truncate(b.Len() - 1)
	}
}

// parseDocuments reads JSON (one document) or YAML (several) into trees. Empty
// documents are left out.
func parseDocuments(data []byte) ([]*node, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("is not UTF-8 text")
	}
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return parseYAML(data)
	}
	n, err := parseJSON(data)
	if err == nil {
		return []*node{n}, nil
	}
	// Flow style YAML begins like JSON, and may go on with more documents.
	if docs, yamlErr := parseYAML(data); yamlErr == nil {
		return docs, nil
	}
	return nil, err
}

type jsonParser struct {
	dec   *json.Decoder
	data  []byte
	line  int
	seen  int64
	nodes int
}

func parseJSON(data []byte) (*node, error) {
	p := &jsonParser{dec: json.NewDecoder(bytes.NewReader(data)), data: data, line: 1}
	p.dec.UseNumber()
	n, err := p.value(0)
	if err != nil {
		return nil, p.explain(err)
	}
	if _, err := p.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("line %d: there is more after the end of the JSON document", p.here())
	}
	return n, nil
}

func (p *jsonParser) explain(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("line %d: the JSON document ends too early", p.here())
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("line %d: not JSON: %w", 1+bytes.Count(p.data[:min(syntax.Offset, int64(len(p.data)))], []byte{'\n'}), err)
	}
	return err
}

// here is the line up to which tokens were read.
func (p *jsonParser) here() int {
	off := p.dec.InputOffset()
	p.line += bytes.Count(p.data[p.seen:off], []byte{'\n'})
	p.seen = off
	return p.line
}

func (p *jsonParser) value(depth int) (*node, error) {
	tok, err := p.dec.Token()
	if err != nil {
		return nil, err
	}
	if p.nodes++; p.nodes > maxNodes {
		return nil, fmt.Errorf("has more than %d values", maxNodes)
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("line %d: is nested deeper than %d levels", p.here(), maxDepth)
	}
	n := &node{line: p.here()}
	switch v := tok.(type) {
	case nil:
	case bool:
		n.kind, n.text = boolNode, strconv.FormatBool(v)
	case json.Number:
		n.kind, n.text = numberNode, v.String()
	case string:
		n.kind, n.text = stringNode, v
	case json.Delim:
		if v == '[' {
			n.kind = listNode
			return n, p.list(n, depth)
		}
		n.kind = objectNode
		return n, p.object(n, depth)
	}
	return n, nil
}

func (p *jsonParser) list(n *node, depth int) error {
	for p.dec.More() {
		item, err := p.value(depth + 1)
		if err != nil {
			return err
		}
		n.items = append(n.items, item)
	}
	_, err := p.dec.Token()
	return err
}

func (p *jsonParser) object(n *node, depth int) error {
	for p.dec.More() {
		tok, err := p.dec.Token()
		if err != nil {
			return err
		}
		name, _ := tok.(string)
		line := p.here()
		v, err := p.value(depth + 1)
		if err != nil {
			return err
		}
		n.keys = append(n.keys, nodeKey{name: name, line: line, value: v})
	}
	_, err := p.dec.Token()
	return err
}

func parseYAML(data []byte) ([]*node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var out []*node
	for i := 1; ; i++ {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, fmt.Errorf("document %d: not YAML: %s", i, strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if i > maxDocuments {
			return out, fmt.Errorf("has more than %d documents", maxDocuments)
		}
		p := &yamlParser{}
		n, err := p.node(&doc, 0)
		if err != nil {
			return out, fmt.Errorf("document %d: %w", i, err)
		}
		if n.kind != nullNode {
			out = append(out, n)
		}
	}
}

type yamlParser struct{ nodes int }

func (p *yamlParser) node(y *yaml.Node, depth int) (*node, error) {
	if p.nodes++; p.nodes > maxNodes {
		return nil, fmt.Errorf("has more than %d values, aliases counted", maxNodes)
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("line %d: is nested deeper than %d levels", y.Line, maxDepth)
	}
	switch y.Kind {
	case yaml.DocumentNode:
		if len(y.Content) == 0 {
			return &node{}, nil
		}
		return p.node(y.Content[0], depth)
	case yaml.AliasNode:
		return p.node(y.Alias, depth+1)
	case yaml.SequenceNode:
		n := &node{kind: listNode, line: y.Line}
		for _, c := range y.Content {
			item, err := p.node(c, depth+1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
		return n, nil
	case yaml.MappingNode:
		return p.mapping(y, depth)
	case yaml.ScalarNode:
		return scalar(y)
	}
	return &node{line: y.Line}, nil
}

func (p *yamlParser) mapping(y *yaml.Node, depth int) (*node, error) {
	n := &node{kind: objectNode, line: y.Line}
	for i := 0; i+1 < len(y.Content); i += 2 {
		key := y.Content[i]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("line %d: a key must be text", key.Line)
		}
		if key.Tag == "!!merge" {
			return nil, fmt.Errorf("line %d: merge keys (<<) are not supported", key.Line)
		}
		v, err := p.node(y.Content[i+1], depth+1)
		if err != nil {
			return nil, err
		}
		n.keys = append(n.keys, nodeKey{name: key.Value, line: key.Line, value: v, plain: key.Style == 0 && isBoolWord(key.Value)})
	}
	return n, nil
}

// isBoolWord reports whether YAML 1.1, which many tools read, takes a plain
// scalar for a boolean.
func isBoolWord(s string) bool {
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off", "true", "false":
		return len(s) > 1 || s == "y" || s == "Y" || s == "n" || s == "N"
	}
	return false
}

func boolOf(s string) string {
	switch strings.ToLower(s) {
	case "y", "yes", "on", "true":
		return "true"
	}
	return "false"
}

func scalar(y *yaml.Node) (*node, error) {
	n := &node{kind: stringNode, text: y.Value, line: y.Line}
	quoted := y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	if y.Style&yaml.TaggedStyle != 0 && y.Tag != "!!str" {
		return nil, fmt.Errorf("line %d: tag %s is not supported", y.Line, y.Tag)
	}
	if quoted || y.Style&yaml.TaggedStyle != 0 {
		return n, nil
	}
	if isBoolWord(y.Value) {
		return &node{kind: boolNode, text: boolOf(y.Value), plain: y.Value, line: y.Line}, nil
	}
	switch y.Tag {
	case "!!null":
		return &node{kind: nullNode, plain: y.Value, line: y.Line}, nil
	case "!!int", "!!float":
		text, err := yamlNumber(y)
		if err != nil {
			return nil, err
		}
		return &node{kind: numberNode, text: text, plain: y.Value, line: y.Line}, nil
	}
	return n, nil
}

// yamlNumber is the JSON form of a YAML number.
func yamlNumber(y *yaml.Node) (string, error) {
	var v any
	if err := y.Decode(&v); err != nil {
		return "", fmt.Errorf("line %d: %q is no number", y.Line, y.Value)
	}
	switch x := v.(type) {
	case int:
		return strconv.Itoa(x), nil
	case int64:
		return strconv.FormatInt(x, 10), nil
	case uint64:
		return strconv.FormatUint(x, 10), nil
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return "", fmt.Errorf("line %d: %s is not allowed", y.Line, y.Value)
		}
		b, err := json.Marshal(x)
		return string(b), err
	}
	return "", fmt.Errorf("line %d: %q is no number", y.Line, y.Value)
}
