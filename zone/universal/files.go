package universal

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Bounds of a folder of manifests.
const (
	maxFiles    = 1000
	maxFileSize = 1 << 20
)

// LoadResources reads the manifests of a folder (.yaml, .yml, .json; not below
// it) that a zone may own: its services, ingress addresses and bundles. Proxies
// come with their agents, and not from files. What is wrong with one document is
// told and keeps it out alone. Resources are in order of their keys.
func LoadResources(zone, dir string) ([]mesh.Resource, []mesh.FileProblem) {
	var problems []mesh.FileProblem
	whole := func(file string, err error) {
		problems = append(problems, mesh.FileProblem{File: file, Problem: mesh.Problem{Reason: err.Error()}})
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		whole(dir, err)
		return nil, problems
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		ext := filepath.Ext(e.Name())
		return e.IsDir() || strings.HasPrefix(e.Name(), ".") || !slices.Contains([]string{".yaml", ".yml", ".json"}, ext)
	})
	if len(entries) > maxFiles {
		whole(dir, fmt.Errorf("has %d manifests, at most %d are allowed", len(entries), maxFiles))
		return nil, problems
	}
	found := map[mesh.Key]string{}
	var out []mesh.Resource
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		manifests, err := readManifests(path)
		if err != nil {
			whole(path, err)
			continue
		}
		for _, m := range manifests {
			r, ps := ownResource(zone, &m)
			if first, twice := found[r.Key]; len(ps) == 0 && twice {
				ps.Addf("name", "the same resource is in %s already", first)
			}
			for _, p := range ps {
				problems = append(problems, mesh.FileProblem{File: path, Document: m.Document, Line: m.Line, Kind: m.Resource.Kind, Name: m.Resource.Name, Problem: p})
			}
			if len(ps) == 0 {
				found[r.Key] = path
				out = append(out, r)
			}
		}
	}
	slices.SortFunc(out, func(a, b mesh.Resource) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return out, problems
}

func readManifests(path string) ([]mesh.Manifest, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFileSize {
		return nil, fmt.Errorf("has %d bytes, at most %d are allowed", info.Size(), maxFileSize)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return mesh.DecodeManifests(data, maxFileSize)
}

func ownResource(zone string, m *mesh.Manifest) (mesh.Resource, mesh.Problems) {
	m.Resource.Zone = zone
	r := m.Resource
	var ps mesh.Problems
	kind, ok := mesh.KindByName(r.Kind)
	switch {
	case ok && (r.Kind == mesh.KindDataplane || r.Kind == mesh.KindWorkload):
		ps.Addf("type", "a %s comes with its agent, and not from a file", r.Kind)
		return r, ps
	case ok && !kind.Flow.Has(mesh.ZoneToGlobal):
		ps.Addf("type", "a zone may not own a %s: apply it at global", r.Kind)
		return r, ps
	}
	if ps = m.Validate(); len(ps) > 0 || !ok {
		return r, ps
	}
	r.Labels, ps = mesh.ComputeLabels(r, m.Decoded, mesh.EnvUniversal)
	return r, ps
}
