package mesh

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// RESTName is the name in paths and lists: a zone's resource is "<name>.<zone>".
func (k Key) RESTName() string {
	if k.Zone == "" {
		return k.Name
	}
	return k.Name + "." + k.Zone
}

// KRIOf is the KRI of a resource, or of a section of it; "" for kinds without a short form.
func KRIOf(r *Resource, section string) string {
	k, ok := KindByName(r.Kind)
	if !ok || k.Short == "" {
		return ""
	}
	return KRI(k.Short, r.Mesh, r.Zone, r.Labels[LabelNamespace], r.DisplayName(), section)
}

// EncodeResource writes the REST form of a resource: type, mesh, name, labels,
// creationTime, modificationTime, kri, spec (or its fields, for inline kinds)
// and status. The same resource gives the same bytes.
func EncodeResource(r Resource) ([]byte, error) {
	k, ok := KindByName(r.Kind)
	if !ok {
		return nil, fmt.Errorf("encode %s: unknown kind", r.Key)
	}
	var b bytes.Buffer
	b.WriteByte('{')
	field := func(name string, v any) error {
		raw, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode %s: %s: %w", r.Key, name, err)
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		writeString(&b, name)
		b.WriteByte(':')
		b.Write(raw)
		return nil
	}
	type part struct {
		name string
		skip bool
		v    any
	}
	kri := KRIOf(&r, "")
	for _, p := range []part{
		{"type", false, r.Kind},
		{"mesh", r.Mesh == "", r.Mesh},
		{"name", false, r.RESTName()},
		{"labels", len(r.Labels) == 0, r.Labels},
		{"creationTime", r.Created.IsZero(), r.Created.UTC().Format(time.RFC3339Nano)},
		{"modificationTime", r.Modified.IsZero(), r.Modified.UTC().Format(time.RFC3339Nano)},
		{"kri", kri == "", kri},
	} {
		if p.skip {
			continue
		}
		if err := field(p.name, p.v); err != nil {
			return nil, err
		}
	}
	if err := encodeSpec(k, r, &b, field); err != nil {
		return nil, err
	}
	if len(r.Status) > 0 {
		if err := field("status", r.Status); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func encodeSpec(k Kind, r Resource, b *bytes.Buffer, field func(string, any) error) error {
	spec := bytes.TrimSpace(r.Spec)
	if len(spec) == 0 {
		spec = []byte("{}")
	}
	if !k.Inline {
		return field("spec", json.RawMessage(spec))
	}
	n, err := parseJSON(spec)
	if err != nil || n.kind != objectNode {
		return fmt.Errorf("encode %s: its stored spec is no JSON object", r.Key)
	}
	for _, key := range n.keys {
		b.WriteByte(',')
		writeString(b, key.name)
		b.WriteByte(':')
		key.value.json(b)
	}
	return nil
}
