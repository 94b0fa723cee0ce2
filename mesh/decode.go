package mesh

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// DefaultManifestLimit bounds manifests where the caller has no bound of its own.
const DefaultManifestLimit = 16 << 20

// Form is how a manifest is written.
type Form uint8

const (
	// FormREST has type, mesh, name, labels and spec (or the fields of the spec).
	FormREST Form = iota
	// FormKubernetes has apiVersion, kind, metadata and spec.
	FormKubernetes
)

// Manifest is one decoded document.
type Manifest struct {
	// Document counts from 1; Line is where it begins.
	Document, Line int
	// Form it was written in.
	Form Form
	// Resource with canonical labels as authored and the spec as compact JSON in authored order.
	Resource Resource
	// Decoded spec; nil when the kind is unknown.
	Decoded Spec
	// Problems found while decoding: unknown fields, duplicate keys, wrong types.
	Problems Problems

	// body is where the spec begins in the document: "spec", or "" at its top level.
	body   string
	inline bool
	root   *node
	covers func(Problem) bool
}

// DecodeManifests reads resources from JSON or YAML of one or more documents,
// in the REST or the Kubernetes form. It is strict: what it does not know is a
// problem of the manifest. The error is for text that cannot be read at all;
// limit (octets) of 0 is DefaultManifestLimit.
func DecodeManifests(data []byte, limit int) ([]Manifest, error) {
	return decodeManifests(data, limit, Key{})
}

// DecodeManifest reads one resource, which may leave out kind, mesh and name
// where want has them (from the path of a request) and must agree with it.
func DecodeManifest(data []byte, limit int, want Key) (Manifest, error) {
	all, err := decodeManifests(data, limit, want)
	if err != nil {
		return Manifest{}, err
	}
	if len(all) != 1 {
		return Manifest{}, fmt.Errorf("has %d documents; exactly one is allowed", len(all))
	}
	return all[0], nil
}

func decodeManifests(data []byte, limit int, want Key) ([]Manifest, error) {
	if limit <= 0 {
		limit = DefaultManifestLimit
	}
	if len(data) > limit {
		return nil, fmt.Errorf("has %d octets; at most %d are allowed", len(data), limit)
	}
	docs, err := parseDocuments(data)
	if err != nil {
		return nil, err
	}
	out := make([]Manifest, 0, len(docs))
	for i, doc := range docs {
		d := decoder{m: Manifest{Document: i + 1, Line: doc.line, root: doc}, want: want}
		d.document(doc)
		d.m.Problems = d.s.problems
		d.m.covers = d.s.covers
		out = append(out, d.m)
	}
	return out, nil
}

// Validate returns every problem of the manifest: those found while decoding,
// those of its metadata and those of its spec, with the paths that its author
// sees, by line.
func (m *Manifest) Validate() Problems {
	out := slices.Clone(m.Problems)
	if m.Decoded == nil {
		return out
	}
	for _, p := range ValidateResource(m.Resource, m.Decoded) {
		p.Field = m.authorPath(p.Field)
		if m.covers == nil || !m.covers(p) {
			out = append(out, p)
		}
	}
	slices.SortStableFunc(out, func(a, b Problem) int { return m.LineOf(a.Field) - m.LineOf(b.Field) })
	return out
}

// authorPath turns a path of the REST form into one of the form that was written.
func (m *Manifest) authorPath(field string) string {
	switch {
	case m.inline && m.body != "" && !isMetadata(field):
		return join(m.body, field)
	case m.Form == FormREST:
		return field
	case field == "mesh":
		return `metadata.labels["kuma.io/mesh"]`
	case isMetadata(field):
		return "metadata." + field
	}
	return field
}

func isMetadata(field string) bool {
	head, _, _ := strings.Cut(field, "[")
	return head == "name" || head == "labels" || head == "mesh" || head == "type"
}

// decoder turns one tree into a manifest.
type decoder struct {
	m    Manifest
	s    strict
	want Key
	kind Kind
}

func (d *decoder) document(doc *node) {
	if doc.kind != objectNode {
		d.s.problems.Addf("", "must be an object with type, name and spec, not %s", doc.kind)
		return
	}
	if doc.get("apiVersion") != nil || doc.get("metadata") != nil {
		d.m.Form = FormKubernetes
		d.kubernetes(doc)
		return
	}
	d.rest(doc)
}

// text reads a string field; absent and null are empty.
func (d *decoder) text(doc *node, path, name string) string {
	n := doc.get(name)
	if n == nil {
		return ""
	}
	before := len(d.s.problems)
	if d.s.value(n, stringType(), join(path, name)); len(d.s.problems) > before || n.kind != stringNode {
		return ""
	}
	return n.text
}

// setKind finds the kind, and says what is wrong otherwise.
func (d *decoder) setKind(field, name string) bool {
	if name == "" && !d.s.covers(Problem{Field: field}) {
		name = string(d.want.Kind)
	}
	k, ok := KindByName(KindName(name))
	switch {
	case ok && d.want.Kind != "" && k.Name != d.want.Kind:
		d.s.problems.Addf(field, "is %s, but the request is for a %s", k.Name, d.want.Kind)
	case ok:
	case name != "":
		d.s.problems.Addf(field, "unknown kind %q; known are %s", abridge(name), kindNames())
	case !d.s.covers(Problem{Field: field}):
		d.s.problems.Addf(field, "is required; known kinds are %s", kindNames())
	}
	d.kind, d.m.inline = k, k.Inline
	d.m.Resource.Kind = k.Name
	return ok
}

func kindNames() string {
	var names []string
	for _, k := range Kinds() {
		names = append(names, string(k.Name))
	}
	return strings.Join(names, ", ")
}

// abridge keeps what is quoted back to the author short.
func abridge(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

func (d *decoder) rest(doc *node) {
	known := []string{"type", "mesh", "name", "labels", "creationTime", "modificationTime", "kri", "status"}
	if !d.setKind("type", d.text(doc, "", "type")) {
		return
	}
	r := &d.m.Resource
	r.Mesh, r.Name = d.text(doc, "", "mesh"), d.text(doc, "", "name")
	d.labels(doc.get("labels"), "labels")
	d.agree("mesh", "name")
	body, path := doc.get("spec"), "spec"
	if d.kind.Inline && body == nil {
		body, path = &node{kind: objectNode, line: doc.line}, ""
		for _, k := range doc.keys {
			if !slices.Contains(known, k.name) {
				body.keys = append(body.keys, k)
			}
		}
	} else {
		known = append(known, "spec")
		d.unknown(doc, "", known)
	}
	d.s.duplicates(without(doc, body, path), "", join)
	d.spec(body, path)
}

// without leaves out fields that are checked as part of the spec.
func without(doc, body *node, path string) *node {
	if path != "" {
		return doc
	}
	rest := &node{kind: objectNode}
	for _, k := range doc.keys {
		if body.get(k.name) == nil {
			rest.keys = append(rest.keys, k)
		}
	}
	return rest
}

func (d *decoder) unknown(n *node, path string, known []string) {
	for _, k := range n.keys {
		if !slices.Contains(known, k.name) {
			d.s.problems.Addf(join(path, k.name), "unknown field; %s", allowed(known))
		}
	}
}

func (d *decoder) kubernetes(doc *node) {
	version := d.text(doc, "", "apiVersion")
	if version != "kuma.io/v1alpha1" && version != "tombolo.io/v1alpha1" && !d.s.covers(Problem{Field: "apiVersion"}) {
		d.s.problems.Addf("apiVersion", "must be tombolo.io/v1alpha1 or kuma.io/v1alpha1, not %q", abridge(version))
		return
	}
	if !d.setKind("kind", d.text(doc, "", "kind")) {
		return
	}
	d.unknown(doc, "", []string{"apiVersion", "kind", "metadata", "mesh", "spec", "status"})
	d.s.duplicates(doc, "", join)
	r := &d.m.Resource
	meta := doc.get("metadata")
	switch {
	case meta == nil || meta.kind == nullNode:
		meta = &node{kind: objectNode}
	case meta.kind != objectNode:
		d.s.wrong(meta, "metadata", "an object")
		return
	}
	d.unknown(meta, "metadata", []string{"name", "namespace", "labels", "annotations", "uid", "resourceVersion", "generation",
		"creationTimestamp", "deletionTimestamp", "managedFields", "ownerReferences", "finalizers", "selfLink"})
	d.s.duplicates(meta, "metadata", join)
	r.Name = d.text(meta, "metadata", "name")
	d.labels(meta.get("labels"), "metadata.labels")
	namespace := d.text(meta, "metadata", "namespace")
	if namespace == kumaNamespace && strings.HasPrefix(version, "kuma.io/") {
		namespace = SystemNamespace // what its author means
	}
	d.namespace(namespace)
	if d.kind.Scope == ScopeMesh {
		if r.Mesh = r.Labels[LabelMesh]; r.Mesh == "" {
			r.Mesh = d.text(doc, "", "mesh")
		}
		if r.Mesh == "" && d.want.Mesh == "" {
			r.Mesh = DefaultMesh
		}
	}
	d.agree(`metadata.labels["kuma.io/mesh"]`, "metadata.name")
	d.spec(doc.get("spec"), "spec")
}

// namespace becomes a label, as it is one of everything that comes from Kubernetes.
func (d *decoder) namespace(ns string) {
	if ns == "" {
		return
	}
	r := &d.m.Resource
	if have, ok := r.Labels[LabelNamespace]; ok && have != ns {
		d.s.problems.Addf("metadata.labels["+`"`+LabelNamespace+`"]`, "is %q, but metadata.namespace is %q", abridge(have), abridge(ns))
		return
	}
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	r.Labels[LabelNamespace] = ns
}

// agree completes mesh and name from what the request says, or compares them.
func (d *decoder) agree(meshField, nameField string) {
	r := &d.m.Resource
	check := func(field string, have *string, want string) {
		switch {
		case want == "" || *have == want:
		case *have == "" && !d.s.covers(Problem{Field: field}):
			*have = want
		case *have != "":
			d.s.problems.Addf(field, "is %q, but the request is for %q", abridge(*have), want)
		}
	}
	check(meshField, &r.Mesh, d.want.Mesh)
	check(nameField, &r.Name, d.want.Name)
}

func (d *decoder) labels(n *node, path string) {
	if n == nil || n.kind == nullNode {
		return
	}
	d.s.value(n, stringMapType(), path)
	if len(n.keys) == 0 {
		return
	}
	labels, authored := map[string]string{}, map[string]string{}
	for _, k := range n.keys {
		key := CanonicalLabel(k.name)
		if have, dup := labels[key]; dup && have != k.value.text && authored[key] != k.name {
			d.s.problems.Addf(labelPath(path, k.name), "means the same as %s, but has another value", authored[key])
		}
		labels[key], authored[key] = k.value.text, k.name
	}
	d.m.Resource.Labels = labels
}

// spec decodes the body; what is of the wrong type is left out.
func (d *decoder) spec(body *node, path string) {
	spec := d.kind.New()
	d.m.Decoded, d.m.body = spec, path
	d.m.Resource.Spec = json.RawMessage("{}")
	if body == nil || body.kind == nullNode {
		return
	}
	var raw bytes.Buffer
	body.json(&raw)
	d.m.Resource.Spec = raw.Bytes()
	d.s.value(body, specType(spec), path)
	var checked bytes.Buffer
	body.json(&checked)
	if err := json.Unmarshal(checked.Bytes(), spec); err != nil {
		d.s.problems.Addf(path, "cannot be decoded: %v", err)
		d.m.Decoded = nil
	}
}

// DecodeSpec decodes the stored spec of a resource. It is tolerant: fields that
// it does not know are ignored, so that a newer peer's resources still work.
func DecodeSpec(kind KindName, spec []byte) (Spec, error) {
	k, ok := KindByName(kind)
	if !ok {
		return nil, fmt.Errorf("decode spec: unknown kind %q", abridge(string(kind)))
	}
	out := k.New()
	if len(bytes.TrimSpace(spec)) == 0 {
		return out, nil
	}
	if err := json.Unmarshal(spec, out); err != nil {
		return nil, fmt.Errorf("decode spec of %s: %w", kind, err)
	}
	return out, nil
}
