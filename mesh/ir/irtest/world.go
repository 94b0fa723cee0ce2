// Package irtest has a world of manifests for tests of compilers: in flow
// manifests as users write them, out flows an ir.Reader.
//
// A manifest may carry what a zone would add: the label zone names the zone
// that owns the resource, status is what that zone reports, creationTime and
// revision are what a store would say.
package irtest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// World is a set of resources as one zone sees them. It implements ir.Reader
// and notes what was read. It is not safe for concurrent use.
type World struct {
	zone      string
	objects   map[mesh.Key]*ir.Object
	counters  map[string]uint64
	addresses map[mesh.Key][]string
	reads     map[string]bool
	lists     map[ir.Query][]*ir.Object // answers so far, until the next change
}

// New is an empty world of a zone.
func New(zone string) *World {
	return &World{zone: zone, objects: map[mesh.Key]*ir.Object{}, counters: map[string]uint64{}, reads: map[string]bool{}}
}

// Parse is a world with the manifests in it, one or several YAML documents each.
func Parse(zone string, manifests ...[]byte) (*World, error) {
	w := New(zone)
	for _, m := range manifests {
		if err := w.Add(m); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// Add puts the resources of a manifest into the world, replacing those of the same key.
func (w *World) Add(manifest []byte) error {
	for i, doc := range bytes.Split(append([]byte("\n"), manifest...), []byte("\n---")) {
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		o, err := Decode(doc)
		if err != nil {
			return fmt.Errorf("document %d: %w", i, err)
		}
		w.Put(o)
	}
	return nil
}

// header is what every manifest has around its spec.
type header struct {
	Type         mesh.KindName     `json:"type"`
	Mesh         string            `json:"mesh"`
	Name         string            `json:"name"`
	Labels       map[string]string `json:"labels"`
	Spec         json.RawMessage   `json:"spec"`
	Status       json.RawMessage   `json:"status"`
	CreationTime time.Time         `json:"creationTime"`
	Revision     mesh.Revision     `json:"revision"`
}

// Decode reads one manifest in the REST form.
func Decode(doc []byte) (*ir.Object, error) {
	body, err := yaml.YAMLToJSON(doc)
	if err != nil {
		return nil, err
	}
	var h header
	if err := json.Unmarshal(body, &h); err != nil {
		return nil, err
	}
	kind, ok := mesh.KindByName(h.Type)
	if !ok {
		return nil, fmt.Errorf("type %q is not a kind", h.Type)
	}
	if kind.Inline {
		if h.Spec, err = inlineSpec(body); err != nil {
			return nil, err
		}
	}
	spec := kind.New()
	if len(h.Spec) > 0 {
		if err := json.Unmarshal(h.Spec, spec); err != nil {
			return nil, fmt.Errorf("%s %s: %w", h.Type, h.Name, err)
		}
	}
	labels := mesh.CanonicalLabels(h.Labels)
	key := mesh.Key{Kind: h.Type, Mesh: h.Mesh, Zone: labels[mesh.LabelZone], Name: h.Name}
	if kind.Scope == mesh.ScopeMesh && key.Mesh == "" {
		key.Mesh = "default"
	}
	return &ir.Object{
		Resource: mesh.Resource{Key: key, Labels: labels, Spec: h.Spec, Status: h.Status, Created: h.CreationTime, Revision: h.Revision},
		Decoded:  spec,
	}, nil
}

// inlineSpec is what is left of a manifest without the header.
func inlineSpec(body []byte) (json.RawMessage, error) {
	var rest map[string]json.RawMessage
	if err := json.Unmarshal(body, &rest); err != nil {
		return nil, err
	}
	for _, name := range []string{"type", "mesh", "name", "labels", "status", "creationTime", "revision"} {
		delete(rest, name)
	}
	return json.Marshal(rest)
}

// Put adds or replaces one object.
func (w *World) Put(o *ir.Object) {
	w.objects[o.Key] = o
	w.lists = nil
}

// Delete removes one object.
func (w *World) Delete(key mesh.Key) {
	delete(w.objects, key)
	w.lists = nil
}

// Objects are all of a kind in a mesh, sorted by key; an empty mesh means any.
func (w *World) Objects(kind mesh.KindName, meshName string) []*ir.Object {
	return w.filter(func(o *ir.Object) bool { return o.Kind == kind && (meshName == "" || o.Mesh == meshName) })
}

// SetCounter sets a counter of the zone.
func (w *World) SetCounter(name string, n uint64) { w.counters[name] = n }

// Reads are the questions that were asked, sorted, and forgets them.
func (w *World) Reads() []string {
	out := make([]string, 0, len(w.reads))
	for r := range w.reads {
		out = append(out, r)
	}
	slices.Sort(out)
	w.reads = map[string]bool{}
	return out
}

// Zone implements ir.Reader.
func (w *World) Zone() string { return w.zone }

// Get implements ir.Reader.
func (w *World) Get(key mesh.Key) (*ir.Object, bool) {
	w.reads["get "+key.String()] = true
	o, ok := w.objects[key]
	return o, ok
}

// List implements ir.Reader.
func (w *World) List(q ir.Query) []*ir.Object {
	w.reads[strings.TrimSpace(fmt.Sprintf("list %s/%s by %s %s", q.Kind, q.Mesh, q.Index, q.Value))] = true
	out, ok := w.lists[q]
	if !ok {
		out = w.filter(func(o *ir.Object) bool {
			return o.Kind == q.Kind && o.Mesh == q.Mesh && indexed(o, q)
		})
		if w.lists == nil {
			w.lists = map[ir.Query][]*ir.Object{}
		}
		w.lists[q] = out
	}
	return slices.Clone(out)
}

func indexed(o *ir.Object, q ir.Query) bool {
	switch q.Index {
	case ir.ByMesh:
		return true
	case ir.ByDisplayName:
		return o.DisplayName() == q.Value
	case ir.ByWorkload:
		return o.Labels[mesh.LabelWorkload] == q.Value
	case ir.ByZone:
		return o.Zone == q.Value
	case ir.ByLabel:
		for k, v := range o.Labels {
			if ir.IndexedLabel(k) && v != "" && ir.LabelValue(o.Labels[mesh.LabelNamespace], k, v) == q.Value {
				return true
			}
		}
		return false
	default:
		return false
	}
}

// Counter implements ir.Reader.
func (w *World) Counter(name string) uint64 {
	w.reads["counter "+name] = true
	return w.counters[name]
}

// Addresses implements ir.Reader.
func (w *World) Addresses(service mesh.Key) []string {
	w.reads["addresses "+service.String()] = true
	return w.addresses[service]
}

// SetAddresses says where a service is called.
func (w *World) SetAddresses(service mesh.Key, addresses ...string) {
	if w.addresses == nil {
		w.addresses = map[mesh.Key][]string{}
	}
	w.addresses[service] = addresses
}

func (w *World) filter(is func(*ir.Object) bool) []*ir.Object {
	var out []*ir.Object
	for _, o := range w.objects {
		if is(o) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b *ir.Object) int { return cmp.Compare(a.Key.String(), b.Key.String()) })
	return out
}

// Class is the class of a Dataplane of the world's own zone; it is a class of
// its own when something calls the proxy by name.
func (w *World) Class(meshName, name string) (*ir.Class, *ir.Instance, error) {
	key := mesh.Key{Kind: mesh.KindDataplane, Mesh: meshName, Zone: w.zone, Name: name}
	o, ok := w.objects[key]
	if !ok {
		return nil, nil, fmt.Errorf("no %s", key)
	}
	class, instance := ir.ClassOf(o)
	if ir.NamedProxies(w, meshName)[o.DisplayName()] {
		class = class.Named(o)
	}
	return class, instance, nil
}
