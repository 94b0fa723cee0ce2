package mesh

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// FileProblem is a problem of one document of a file.
type FileProblem struct {
	// File as it was named.
	File string
	// Document counts from 1; 0 when the file as a whole cannot be read.
	Document int
	// Line where it is, as near as is known; 0 when unknown.
	Line int
	// Kind and Name of the resource, as far as they are known.
	Kind KindName
	Name string
	// Problem itself.
	Problem Problem
}

// String is one line: "web.yaml:12: MeshTimeout slow: spec.to: is required …".
func (p FileProblem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Kind != "" {
		b.WriteString(string(p.Kind) + " ")
	}
	if p.Name != "" {
		b.WriteString(p.Name + " ")
	}
	if p.Kind != "" || p.Name != "" {
		s := strings.TrimSuffix(b.String(), " ")
		b.Reset()
		b.WriteString(s + ": ")
	}
	if p.Problem.Field != "" {
		b.WriteString(p.Problem.Field + ": ")
	}
	b.WriteString(p.Problem.Reason)
	return b.String()
}

// ValidateManifests checks a file of manifests without a control plane and
// returns every problem. Two documents that are the same resource are one too.
func ValidateManifests(name string, data []byte) []FileProblem {
	manifests, err := DecodeManifests(data, 0)
	if err != nil {
		return []FileProblem{{File: name, Problem: Problem{Reason: err.Error()}}}
	}
	var out []FileProblem
	seen := map[Key]int{}
	for i := range manifests {
		m := &manifests[i]
		key := m.Resource.Key
		m.Resource.Zone = offlineZone(m)
		if ns := namespaceOf(&m.Resource); ns != "" && m.Form == FormKubernetes {
			m.Resource.Name = NamespacedName(m.Resource.Name, ns)
		}
		same := key
		same.Name = NamespacedName(key.Name, m.Resource.Labels[LabelNamespace])
		problems := m.Validate()
		if first, dup := seen[same]; dup && key.Name != "" {
			problems.Addf("", "is the same resource as document %d", first)
		} else {
			seen[same] = m.Document
		}
		if m.Decoded != nil && len(problems) == 0 {
			env := EnvUniversal
			if m.Form == FormKubernetes {
				env = EnvKubernetes
			}
			_, more := ComputeLabels(m.Resource, m.Decoded, env)
			problems = append(problems, more...)
		}
		for _, p := range problems {
			out = append(out, FileProblem{File: name, Document: m.Document, Line: m.LineOf(p.Field), Kind: key.Kind, Name: key.Name, Problem: p})
		}
	}
	return out
}

// ValidateIn is Validate for what is written into the cluster of a Kubernetes
// zone: the zone owns it, by the name and the namespace of its object, and the
// role of a policy must follow from its spec.
func (m *Manifest) ValidateIn(zone string) Problems {
	if m.Decoded == nil {
		return m.Validate()
	}
	authored := m.Resource
	r := authored
	r.Zone, r.Name = zone, NamespacedName(r.Name, r.Labels[LabelNamespace])
	m.Resource = r
	defer func() { m.Resource = authored }()
	out := m.Validate()
	_, problems := ComputeLabels(r, m.Decoded, EnvKubernetes)
	for _, p := range problems {
		p.Field = m.authorPath(p.Field)
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// offlineZone guesses the zone that will own a resource, as its labels say it:
// the ones that zones write, and everything that is applied to a zone's cluster.
func offlineZone(m *Manifest) string {
	k, _ := KindByName(m.Resource.Kind)
	if m.Form != FormKubernetes && (k.Policy != nil || !k.Flow.Has(ZoneToGlobal)) {
		return ""
	}
	if zone := m.Resource.Labels[LabelZone]; zone != "" {
		return zone
	}
	if m.Resource.Labels[LabelOrigin] == OriginZone {
		return "unknown"
	}
	return ""
}

// LineOf finds the line of a field, or of the part of it that is there.
func (m *Manifest) LineOf(field string) int {
	n, line := m.root, m.Line
	for n != nil && field != "" {
		var step string
		step, field = nextStep(field)
		var next *node
		switch n.kind {
		case objectNode:
			for _, k := range n.keys {
				if k.name == step {
					next, line = k.value, k.line
				}
			}
		case listNode:
			if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(n.items) {
				next = n.items[i]
				line = next.line
			}
		}
		n = next
	}
	return line
}

// nextStep takes a path apart: a name, [3] or ["free key"].
func nextStep(path string) (step, rest string) {
	path = strings.TrimPrefix(path, ".")
	if !strings.HasPrefix(path, "[") {
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			return path, ""
		}
		return path[:end], path[end:]
	}
	if quoted, err := strconv.QuotedPrefix(path[1:]); err == nil {
		if key, err := strconv.Unquote(quoted); err == nil {
			return key, strings.TrimPrefix(path[1+len(quoted):], "]")
		}
	}
	step, rest, _ = strings.Cut(path[1:], "]")
	return step, rest
}
