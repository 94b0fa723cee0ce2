package xds

import (
	"runtime"
	"sync"
	"weak"

	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/xds/delta"
)

// Cache remembers what parts of an ir.Proxy were built into, for as long as
// somebody uses it: most classes of a mesh call the same services, so that they
// share resources, and a change of one service builds that one anew. The zero value is
// ready; it is safe for concurrent use.
type Cache struct {
	mu    sync.Mutex
	known map[part]weak.Pointer[delta.Resource]
}

// part is all that a resource is built from: a node of a proxy or a part of one, its
// zone, and whether its class is transparent. No builder may look at more.
type part struct {
	kind, zone  string
	transparent bool
	node        ir.Digest
}

// Build is [Build], but for the cache. The digests are of p.
func (c *Cache) Build(p *ir.Proxy, of ir.Digests) ([]*delta.Resource, error) { return build(p, c, of) }

// resource finds what was built from a part, or builds it.
func (c *Cache) resource(p part, fresh func() (*delta.Resource, error)) (*delta.Resource, error) {
	c.mu.Lock()
	r := c.known[p].Value()
	c.mu.Unlock()
	if r != nil {
		return r, nil
	}
	r, err := fresh()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if earlier := c.known[p].Value(); earlier != nil {
		return earlier, nil
	}
	if c.known == nil {
		c.known = map[part]weak.Pointer[delta.Resource]{}
	}
	c.known[p] = weak.Make(r)
	runtime.AddCleanup(r, c.forget, p)
	return r, nil
}

// forget drops a part that nobody uses, unless it was built again meanwhile.
func (c *Cache) forget(p part) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w, ok := c.known[p]; ok && w.Value() == nil {
		delete(c.known, p)
	}
}
