package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/tombolo-mesh/tombolo/global/api/access"
	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// attempts of a write without precondition that concurrent writes disturb.
const attempts = 8

// What became of a document.
const (
	actionCreated   = "created"
	actionUpdated   = "updated"
	actionUnchanged = "unchanged"
)

// Result is what became of one document.
type Result struct {
	// Kind, Mesh and Name of it.
	Kind mesh.KindName `json:"kind"`
	Mesh string        `json:"mesh,omitempty"`
	Name string        `json:"name"`
	// Action is created, updated or unchanged.
	Action string `json:"action"`
	// Revision of the resource after the write; 0 in a dry run that would change it.
	Revision mesh.Revision `json:"revision,omitempty"`
}

// Written is the answer to a write.
type Written struct {
	// Revision of the last change; nothing changed when First is 0, and then it
	// is the last revision of what was named.
	Revision mesh.Revision `json:"revision"`
	// First revision of the write; every change up to Revision is its.
	First mesh.Revision `json:"firstRevision,omitempty"`
	// Warnings for the author.
	Warnings []string `json:"warnings"`
	// Results by document, for PUT /resources.
	Results []Result `json:"results,omitempty"`
}

// document is a manifest on its way to the store.
type document struct {
	resource mesh.Resource
	spec     mesh.Spec
}

// writer plans a write against what the store holds, and carries it out.
// Everything that was read is a precondition of the batch, so that the plan is
// the truth when it commits, and else is made again.
type writer struct {
	s     *Server
	user  string
	match precondition
	dry   bool
	// weakening says what is done about callers who get in by the write.
	weakening consent
	warnings  []string
}

// plan of one attempt.
type plan struct {
	ops     []store.Op
	results []Result
	// changes says for each op after the guards whether it makes a change; target
	// is the result it belongs to, or -1.
	changes []bool
	target  []int
}

// errRace: a precondition of the plan, not of the client, did not hold.
var errRace = errors.New("disturbed by concurrent writes")

func (w *writer) write(ctx context.Context, docs []document) (Written, error) {
	var weakened []string
	for try := 1; ; try++ {
		p, err := w.plan(ctx, docs)
		if err != nil {
			return Written{}, err
		}
		if try == 1 {
			found, err := w.s.weakens(ctx, p.ops, w.weakening)
			if err != nil {
				return Written{}, err
			}
			weakened = found
		}
		w.warnings = append(w.warnings, weakened...)
		out, err := w.commit(ctx, p)
		switch {
		case err == nil:
			return out, nil
		case !errors.Is(err, store.ErrConflict):
			return Written{}, err
		case try == attempts:
			return Written{}, problem(http.StatusConflict, "%s %d times; try again", errRace, attempts)
		}
	}
}

func (w *writer) plan(ctx context.Context, docs []document) (*plan, error) {
	p := &plan{}
	ordered := slices.Clone(docs)
	slices.SortStableFunc(ordered, func(a, b document) int { return rankOf(a) - rankOf(b) })
	given := map[mesh.Key]bool{}
	w.warnings = nil
	for _, d := range docs {
		given[d.resource.Key] = true
		if spec, ok := d.spec.(mesh.Cautious); ok {
			for _, text := range spec.Warnings() {
				w.warnings = append(w.warnings, fmt.Sprintf("%s %s: %s", d.resource.Kind, d.resource.Name, text))
			}
		}
	}
	if err := w.s.notStaged(ctx, slices.Collect(maps.Keys(given))...); err != nil {
		return nil, err
	}
	if err := w.guards(ctx, docs, given, p); err != nil {
		return nil, err
	}
	for _, d := range ordered {
		if err := w.put(ctx, d, given, p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// rankOf puts meshes before what is in them.
func rankOf(d document) int {
	if d.resource.Kind == mesh.KindMesh {
		return 0
	}
	return 1
}

// guards make the meshes that are written into a precondition: a put of what is
// there changes nothing, but conflicts when the mesh changed or went away.
func (w *writer) guards(ctx context.Context, docs []document, given map[mesh.Key]bool, p *plan) error {
	seen := map[string]bool{}
	for _, d := range docs {
		name := d.resource.Mesh
		if name == "" || seen[name] || given[mesh.Key{Kind: mesh.KindMesh, Name: name}] {
			continue
		}
		seen[name] = true
		m, err := w.s.meshExists(ctx, name)
		if err != nil {
			return err
		}
		p.add(store.Op{Resource: m, IfRevision: &m.Revision}, false, -1)
	}
	return nil
}

func (p *plan) add(op store.Op, changes bool, target int) {
	p.ops, p.changes, p.target = append(p.ops, op), append(p.changes, changes), append(p.target, target)
}

func (w *writer) put(ctx context.Context, d document, given map[mesh.Key]bool, p *plan) error {
	r := d.resource
	if k, ok := mesh.KindByName(r.Kind); ok {
		if key, err := w.s.key(ctx, k, r.Mesh, r.Name); err != nil {
			return err
		} else if key.Zone != "" {
			return problem(http.StatusConflict, "zone %q owns %s %q; it is read-only here, change it there", key.Zone, key.Kind, key.Name)
		}
	}
	old, err := w.s.cfg.Store.Get(ctx, r.Key)
	exists := err == nil
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err := w.match.check(old.Revision, exists); err != nil {
		return err
	}
	r.Status = old.Status
	if exists && sameJSON(old.Spec, r.Spec) {
		r.Spec = old.Spec // another order of fields is no change
	}
	res := Result{Kind: r.Kind, Mesh: r.Mesh, Name: r.Name, Action: actionUpdated, Revision: old.Revision}
	changes := true
	switch {
	case !exists:
		res.Action, old.Revision = actionCreated, 0
	case store.SameContent(old, r):
		res.Action, changes = actionUnchanged, false
	}
	p.results = append(p.results, res)
	rev := old.Revision
	p.add(store.Op{Resource: r, IfRevision: &rev}, changes, len(p.results)-1)
	if r.Kind == mesh.KindMesh && !exists {
		return w.defaults(d, given, p)
	}
	return nil
}

// sameJSON reports whether two specs say the same, in whatever order.
func sameJSON(a, b []byte) bool {
	decode := func(data []byte) (v any, ok bool) {
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		err := d.Decode(&v)
		return v, err == nil
	}
	x, okX := decode(a)
	y, okY := decode(b)
	return okX && okY && reflect.DeepEqual(x, y)
}

// defaults are created with a mesh, in the same batch: a mesh has an identity
// and token keys from its first moment.
func (w *writer) defaults(d document, given map[mesh.Key]bool, p *plan) error {
	ops, err := MeshDefaults(d.resource.Name, d.spec)
	if err != nil {
		return err
	}
	for _, op := range ops {
		if !given[op.Resource.Key] {
			p.add(op, true, -1)
		}
	}
	return nil
}

// MeshDefaults are the writes that come with the creation of a mesh.
func MeshDefaults(name string, spec mesh.Spec) ([]store.Op, error) {
	m, ok := spec.(*mesh.Mesh)
	if !ok {
		return nil, fmt.Errorf("defaults of mesh %s: spec is a %T", name, spec)
	}
	var ops []store.Op
	for _, r := range mesh.DefaultResources(name, m.SkipCreatingInitialPolicies) {
		ops = append(ops, store.Op{Resource: r, IfRevision: new(mesh.Revision)})
	}
	keys, err := access.MeshOps(name)
	if err != nil {
		return nil, fmt.Errorf("keys of mesh %s: %w", name, err)
	}
	return append(ops, keys...), nil
}

// commit writes the plan and works out the revision of each resource.
func (w *writer) commit(ctx context.Context, p *plan) (Written, error) {
	out := Written{Warnings: w.warnings, Results: p.results}
	if out.Warnings == nil {
		out.Warnings = []string{}
	}
	total := 0
	for _, c := range p.changes {
		if c {
			total++
		}
	}
	if w.dry || total == 0 {
		for i, r := range p.results {
			out.Revision = max(out.Revision, r.Revision)
			if w.dry && r.Action != actionUnchanged {
				p.results[i].Revision = 0
			}
		}
		return out, nil
	}
	began := time.Now()
	at, err := w.s.cfg.Store.Write(ctx, w.user, p.ops)
	if err != nil {
		return out, err
	}
	w.s.metrics.stages.WithLabelValues("commit").Observe(time.Since(began).Seconds())
	out.Revision, out.First = at.Revision, at.Revision-mesh.Revision(total)+1
	next := out.First
	for i, c := range p.changes {
		if !c {
			continue
		}
		if t := p.target[i]; t >= 0 {
			p.results[t].Revision = next
		}
		next++
	}
	return out, nil
}

// deletion is everything that goes away with a resource.
func (s *Server) deletion(ctx context.Context, old mesh.Resource) ([]store.Op, error) {
	ops := []store.Op{{Delete: true, Resource: mesh.Resource{Key: old.Key}, IfRevision: &old.Revision}}
	var below store.Query
	switch old.Kind {
	case mesh.KindMesh:
		below = store.Query{Mesh: old.Name}
	case mesh.KindZone:
		for _, z := range s.cfg.Fleet.Zones() {
			if z.Name == old.Name && z.Online {
				return nil, problem(http.StatusConflict,
					"zone %q is connected; stop its control plane first, or put enabled: false to withhold what it owns", old.Name)
			}
		}
		below = store.Query{Zone: &old.Name}
	default:
		return ops, nil
	}
	for _, k := range mesh.Kinds() {
		if k.Scope != mesh.ScopeMesh || old.Kind == mesh.KindZone && !k.Flow.Has(mesh.ZoneToGlobal) {
			continue
		}
		below.Kind = k.Name
		page, err := s.cfg.Store.List(ctx, below)
		if err != nil {
			return nil, err
		}
		if old.Kind == mesh.KindMesh && k.Name == mesh.KindDataplane && page.Total > 0 {
			return nil, dataplanesRemain(old.Name, page)
		}
		for _, r := range page.Items {
			ops = append(ops, store.Op{Delete: true, Resource: mesh.Resource{Key: r.Key}, IfRevision: &r.Revision})
		}
	}
	// What is inside goes first, so that no zone sees a resource without its mesh.
	slices.Reverse(ops)
	return ops, nil
}

func dataplanesRemain(name string, page store.Page) error {
	var names []string
	for _, r := range page.Items[:min(5, len(page.Items))] {
		names = append(names, r.Key.RESTName())
	}
	more := ""
	if page.Total > len(names) {
		more = fmt.Sprintf(" and %d more", page.Total-len(names))
	}
	return problem(http.StatusConflict, "mesh %q still has %s: %s%s; stop them first",
		name, count(page.Total, "dataplane"), joinNames(names), more)
}

// erase deletes a resource with what belongs to it.
func (s *Server) erase(ctx context.Context, user string, key mesh.Key, match precondition, c consent) (Written, error) {
	warnings := []string{}
	for try := 1; ; try++ {
		old, err := s.cfg.Store.Get(ctx, key)
		if errors.Is(err, store.ErrNotFound) && match.set() {
			return Written{}, match.check(0, false)
		}
		if err != nil {
			return Written{}, err
		}
		if err := match.check(old.Revision, true); err != nil {
			return Written{}, err
		}
		if err := s.notStaged(ctx, key); err != nil {
			return Written{}, err
		}
		ops, err := s.deletion(ctx, old)
		if err != nil {
			return Written{}, err
		}
		if try == 1 {
			found, err := s.weakens(ctx, ops, c)
			if err != nil {
				return Written{}, err
			}
			warnings = append(warnings, found...)
		}
		at, err := s.cfg.Store.Write(ctx, user, ops)
		if errors.Is(err, store.ErrConflict) && try < attempts {
			continue
		}
		if errors.Is(err, store.ErrConflict) {
			return Written{}, problem(http.StatusConflict, "%s %d times; try again", errRace, attempts)
		}
		if err != nil {
			return Written{}, err
		}
		return Written{Revision: at.Revision, First: at.Revision - mesh.Revision(len(ops)) + 1, Warnings: warnings}, nil
	}
}
