package ir

import (
	"slices"
	"sync"
)

// Memo remembers what the compiles of a mesh's classes have in common, for as long as
// what that follows from stays as it is: the trust of the mesh, whose certificates cost
// more to read than many a class to compile. The zero value is ready; it is safe for
// concurrent use, and holds one entry for each mesh.
type Memo struct {
	forms  forms
	mu     sync.Mutex
	meshes map[string]remembered
}

// remembered is the trust of a mesh, and what it follows from. Objects do not change:
// a write makes another.
type remembered struct {
	zone               string
	identities, trusts []*Object
	bundles            []TrustBundle
	problems           []Problem
}

// Compile is [Compile], but for what is remembered.
func (m *Memo) Compile(r Reader, c *Class) *Proxy { return compile(r, c, m) }

func (m *Memo) trust(mesh, zone string, identities, trusts []*Object) (remembered, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x, ok := m.meshes[mesh]
	return x, ok && x.zone == zone && slices.Equal(x.identities, identities) && slices.Equal(x.trusts, trusts)
}

func (m *Memo) remember(mesh string, x remembered) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(x.trusts) == 0 {
		delete(m.meshes, mesh)
		return
	}
	if m.meshes == nil {
		m.meshes = map[string]remembered{}
	}
	m.meshes[mesh] = x
}
