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
		e.discover(k)
		switch {
		case k.Kind == mesh.KindMeshService:
			e.ensureService(k)
			e.dirty[unitOf("service", k.Mesh, k.Name)] = true
			if u := unitOf("workload", k.Mesh, k.Name); e.units[u] != nil {
				e.dirty[u] = true
			}
		case is && e.derived(k):
			e.log.Warn("resource of a file is not taken", "kind", string(k.Kind), "name", k.Name, "reason", "the zone makes one of that name itself")
			delete(e.files, k)
		case is:
			b.local = append(b.local, mesh.Change{Resource: r})
		default:
			b.local = append(b.local, mesh.Change{Deleted: true, Resource: mesh.Resource{Key: k}})
		}
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
