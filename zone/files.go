package zone

import (
	"maps"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/universal"
)

// loadFiles makes the resources of a folder the zone's own, in place of those
// that it held before.
func (e *engine) loadFiles(cancel <-chan struct{}, dir string) error {
	resources, problems := universal.LoadResources(e.cfg.zone, dir)
	for _, p := range problems {
		e.log.Warn("resource of a file is not taken", "reason", p.String())
	}
	return e.do(cancel, func(b *batch) { e.takeFiles(b, resources) })
}

func (e *engine) takeFiles(b *batch, resources []mesh.Resource) {
	old := e.files
	e.files = map[mesh.Key]mesh.Resource{}
	for _, r := range resources {
		e.files[r.Key] = r
	}
	all := maps.Clone(old)
	maps.Copy(all, e.files)
	for _, k := range slices.SortedFunc(maps.Keys(all), compareKeys) {
		r, is := e.files[k]
		if was, ok := old[k]; ok && is && sameResource(was, r) {
			continue
		}
		if is && k.Kind != mesh.KindMeshService && k.Kind != mesh.KindHostnameGenerator && e.derived(k) {
			e.log.Warn("resource of a file is not taken", "kind", string(k.Kind), "name", k.Name, "reason", "the zone makes one of that name itself")
			delete(e.files, k)
			continue
		}
		e.declared(b, k, r, is)
	}
}

// declared takes a change of what somebody declared to be the zone's own; e.files
// has it, or has it no more.
func (e *engine) declared(b *batch, k mesh.Key, r mesh.Resource, is bool) {
	e.discover(k)
	switch {
	case k.Kind == mesh.KindMeshService:
		unit := unitOf("service", k.Mesh, k.Name)
		if is {
			e.ensureService(k)
			e.dirty[unit] = true
		} else {
			b.local = append(b.local, e.drop(unit)...)
		}
		if u := unitOf("workload", k.Mesh, k.Name); e.units[u] != nil {
			e.dirty[u] = true
		}
	case k.Kind == mesh.KindHostnameGenerator:
		e.dirty[unitGenerators] = true
	case is:
		b.local = append(b.local, mesh.Change{Resource: r})
	default:
		b.local = append(b.local, mesh.Change{Deleted: true, Resource: mesh.Resource{Key: k}})
	}
}

// derived reports whether some unit stands for a resource.
func (e *engine) derived(k mesh.Key) bool {
	for _, u := range e.units {
		if _, ok := u.outputs[k]; ok {
			return true
		}
	}
	return false
}
