package zone

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/zone/world"
)

// Stages in which derived facts follow from each other.
const (
	stageTokens = iota
	stageAuthority
	stageNamed
	stageProxy
	stageService
	stageAddresses
	stageNames
	stageCompile // sets and classes: nothing is derived from them
)

// derivation is the work of a unit.
type derivation func(e *engine, b *batch, r ir.Reader) []mesh.Resource

// unit is something that follows from reads of the world.
type unit struct {
	id    world.Unit
	stage int
	// specs: the unit does not care for what only the status of a resource says.
	specs bool
	// derive returns the resources that the unit stands for. It belongs to no engine,
	// so that a fork runs it on its own state.
	derive derivation
	// outputs are what it returned last.
	outputs map[mesh.Key]mesh.Resource
}

func compareUnits(a, b *unit) int {
	return cmp.Or(cmp.Compare(a.stage, b.stage), cmp.Compare(a.id, b.id))
}

func unitOf(kind string, parts ...string) world.Unit {
	id := kind
	for _, p := range parts {
		id += "/" + p
	}
	return world.Unit(id)
}

// ensure makes a unit, dirty, if there is none.
func (e *engine) ensure(id world.Unit, stage int, derive derivation) *unit {
	u := e.units[id]
	if u == nil {
		u = &unit{id: id, stage: stage, derive: derive, outputs: map[mesh.Key]mesh.Resource{}}
		e.units[id] = u
		e.dirty[id] = true
	}
	return u
}

// drop forgets a unit and returns the end of what it stood for.
func (e *engine) drop(id world.Unit) []mesh.Change {
	u := e.units[id]
	if u == nil {
		return nil
	}
	delete(e.units, id)
	delete(e.dirty, id)
	e.world.Forget(id)
	return outputChanges(u, nil)
}

// runUnit derives, and returns how its outputs changed.
func (e *engine) runUnit(b *batch, u *unit) []mesh.Change {
	var out []mesh.Resource
	read := e.world.Read
	if u.specs {
		read = e.world.ReadSpecs
	}
	read(u.id, func(r ir.Reader) { out = u.derive(e, b, r) })
	return outputChanges(u, out)
}

func outputChanges(u *unit, out []mesh.Resource) []mesh.Change {
	var changes []mesh.Change
	next := make(map[mesh.Key]mesh.Resource, len(out))
	for _, r := range out {
		next[r.Key] = r
	}
	for _, k := range slices.SortedFunc(maps.Keys(u.outputs), compareKeys) {
		if _, ok := next[k]; !ok {
			changes = append(changes, mesh.Change{Deleted: true, Resource: mesh.Resource{Key: k}})
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(next), compareKeys) {
		if old, ok := u.outputs[k]; !ok || !sameResource(old, next[k]) {
			changes = append(changes, mesh.Change{Resource: next[k]})
		}
	}
	u.outputs = next
	return changes
}

func sameResource(a, b mesh.Resource) bool {
	return maps.Equal(a.Labels, b.Labels) && bytes.Equal(a.Spec, b.Spec) && bytes.Equal(a.Status, b.Status)
}

func compareKeys(a, b mesh.Key) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Mesh, b.Mesh), cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Name, b.Name))
}

func sortedKeys[V any](m map[mesh.Key]V) []mesh.Key {
	return slices.SortedFunc(maps.Keys(m), compareKeys)
}

// discover makes the units that a mesh needs as soon as anything of it is known.
func (e *engine) discover(key mesh.Key) {
	name := key.Mesh
	if key.Kind == mesh.KindMesh {
		name = key.Name
	}
	if name == "" || e.units[unitOf("named", name)] != nil {
		return
	}
	e.ensure(unitOf("tokens", name), stageTokens, func(e *engine, b *batch, r ir.Reader) []mesh.Resource { return e.deriveTokens(b, r, name) })
	e.ensure(unitOf("authority", name), stageAuthority, func(e *engine, b *batch, r ir.Reader) []mesh.Resource { return e.deriveTrust(b, r, name) })
	e.ensure(unitOf("named", name), stageNamed, func(e *engine, b *batch, r ir.Reader) []mesh.Resource { return e.deriveNamed(r, name) }).specs = true
	e.ensure(unitOf("vips", name), stageAddresses, func(e *engine, b *batch, r ir.Reader) []mesh.Resource { return e.deriveVIPs(b, r, name) }).specs = true
	e.ensure(unitOf("names", name), stageNames, func(e *engine, b *batch, r ir.Reader) []mesh.Resource { return e.deriveNames(b, r, name) }).specs = true
}

// deriveNamed finds the proxies that somebody calls by name. They have classes of
// their own, so the ones for which that changed are dirty.
func (e *engine) deriveNamed(r ir.Reader, meshName string) []mesh.Resource {
	old, next := e.named[meshName], ir.NamedProxies(r, meshName)
	if maps.Equal(old, next) {
		return nil
	}
	e.named[meshName] = next
	for _, p := range e.proxies {
		name := p.resource.DisplayName()
		if p.resource.Mesh == meshName && old[name] != next[name] {
			e.dirty[p.unit] = true
		}
	}
	return nil
}
