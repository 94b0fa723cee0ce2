package ir

import (
	"slices"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// NameTable is what the proxies of a mesh resolve by themselves.
type NameTable struct {
	// Names, sorted.
	Names []Name
	// Problems of generators that gave a service no name, sorted as they counted.
	Problems []mesh.HostnameProblem
}

// Name is a hostname with where it leads.
type Name struct {
	mesh.Hostname
	// Addresses as Reader.Addresses has them, at least one.
	Addresses []string
}

// Names are the hostnames of the services of a mesh, as this zone answers them.
// A service that is called nowhere has none.
func Names(r Reader, meshName string) *NameTable {
	list := func(kind mesh.KindName, meshName string) []mesh.PolicyResource {
		var out []mesh.PolicyResource
		for _, o := range r.List(Query{Kind: kind, Mesh: meshName, Index: ByMesh}) {
			out = append(out, mesh.PolicyResource(*o))
		}
		return out
	}
	services := append(list(mesh.KindMeshService, meshName), list(mesh.KindMeshMultiZoneService, meshName)...)
	called := make(map[mesh.Key][]string, len(services))
	services = slices.DeleteFunc(services, func(s mesh.PolicyResource) bool {
		called[s.Key] = r.Addresses(s.Key)
		return len(called[s.Key]) == 0
	})
	names, problems := mesh.Hostnames(list(mesh.KindHostnameGenerator, ""), services, r.Zone())
	t := &NameTable{Problems: problems}
	for _, n := range names {
		t.Names = append(t.Names, Name{Hostname: n, Addresses: called[n.Service]})
	}
	return t
}

// Find a name, in lower case and without the last dot.
func (t *NameTable) Find(name string) (Name, bool) {
	i, ok := slices.BinarySearchFunc(t.Names, name, func(n Name, s string) int { return strings.Compare(n.Name, s) })
	if !ok {
		return Name{}, false
	}
	return t.Names[i], true
}
