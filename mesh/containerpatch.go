package mesh

import (
	"encoding/json"
	"fmt"
	"strings"
)

// maxPatchOps bounds each list of a ContainerPatch.
const maxPatchOps = 64

// ContainerPatch changes the containers that are injected into pods of a
// Kubernetes zone. It lives in the system namespace of the cluster; pods name it
// in the annotation tombolo.io/container-patches.
type ContainerPatch struct {
	// SidecarPatch is applied to the sidecar container, in order.
	SidecarPatch []JSONPatchOp `json:"sidecarPatch,omitempty"`
	// InitPatch is applied to the init container, in order; a pod that the CNI plugin
	// redirects has none.
	InitPatch []JSONPatchOp `json:"initPatch,omitempty"`
}

// JSONPatchOp is an operation of a JSON patch, RFC 6902.
type JSONPatchOp struct {
	// Op is add, remove, replace, move or copy.
	Op string `json:"op"`
	// Path of the field, a JSON pointer: /resources/limits/memory.
	Path string `json:"path"`
	// From is the source of move and copy.
	From string `json:"from,omitempty"`
	// Value for add and replace. Text that is JSON stands for what it says: "true" is true.
	Value *AnyValue `json:"value,omitempty"`
}

// Validate implements Spec.
func (c *ContainerPatch) Validate() Problems {
	var ps Problems
	if len(c.SidecarPatch)+len(c.InitPatch) == 0 {
		ps.Addf("", "one of sidecarPatch and initPatch must be given")
	}
	for _, list := range []struct {
		field string
		ops   []JSONPatchOp
	}{{"sidecarPatch", c.SidecarPatch}, {"initPatch", c.InitPatch}} {
		if len(list.ops) > maxPatchOps {
			ps.Addf(list.field, "must have at most %d operations, not %d", maxPatchOps, len(list.ops))
			continue
		}
		for i, op := range list.ops {
			op.validate(&ps, fmt.Sprintf("%s[%d]", list.field, i))
		}
	}
	return ps
}

func (o JSONPatchOp) validate(ps *Problems, field string) {
	valued, moved := o.Op == "add" || o.Op == "replace", o.Op == "move" || o.Op == "copy"
	if !valued && !moved && o.Op != "remove" {
		ps.Addf(field+".op", "must be add, remove, replace, move or copy, not %q", o.Op)
		return
	}
	pointer := func(name, value string) {
		if !strings.HasPrefix(value, "/") || len(value) > 1024 {
			ps.Addf(field+"."+name, "must be a JSON pointer as /resources/limits, not %.100q", value)
		}
	}
	pointer("path", o.Path)
	if o.Path == "/name" || strings.HasPrefix(o.Path, "/name/") {
		ps.Addf(field+".path", "must not be the container's name: others know it by that")
	}
	switch {
	case moved:
		pointer("from", o.From)
	case o.From != "":
		ps.Addf(field+".from", "is for move and copy only")
	}
	switch {
	case valued && o.Value == nil:
		ps.Addf(field+".value", "is required for %s", o.Op)
	case !valued && o.Value != nil:
		ps.Addf(field+".value", "is for add and replace only")
	}
}

// Literal is the operation with a value that is text but itself JSON in place of
// that text.
func (o JSONPatchOp) Literal() JSONPatchOp {
	var text string
	if o.Value != nil && json.Unmarshal(o.Value.JSON, &text) == nil && json.Valid([]byte(text)) {
		o.Value = &AnyValue{JSON: json.RawMessage(text)}
	}
	return o
}
