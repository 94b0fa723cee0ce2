package dns

import (
	"net/netip"
	"sync"

	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

// maxNames bounds the table; a zone that sends more is not believed.
const maxNames = 200_000

// entry is what a name leads to.
type entry struct {
	four, six []netip.Addr
	ttl       uint32
}

// table is the names of the mesh. It outlives the connection to the zone.
type table struct {
	mu      sync.RWMutex
	names   map[string]entry
	reverse map[netip.Addr]string
	// staged collects the parts of a table until the last has come; nil between.
	staged map[string]entry
	// reset says that staged replaces names, else it changes them; an empty entry
	// (no ttl, no addresses) removes.
	reset bool
	// first is closed when the first table is complete.
	first    chan struct{}
	complete bool
}

func newTable() *table {
	return &table{names: map[string]entry{}, reverse: map[netip.Addr]string{}, first: make(chan struct{})}
}

// apply takes a part.
func (t *table) apply(n *agentv1.Names) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.Reset_ {
		t.staged, t.reset = map[string]entry{}, true
	}
	if t.staged == nil {
		t.staged, t.reset = map[string]entry{}, false
	}
	for _, name := range n.Removed {
		if t.reset {
			delete(t.staged, name)
		} else {
			t.staged[name] = entry{}
		}
	}
	for _, x := range n.Set {
		if len(t.staged) < maxNames {
			t.staged[x.Name] = entryOf(x)
		}
	}
	if !n.More {
		t.commit()
	}
}

func (t *table) commit() {
	if t.reset {
		clear(t.names)
		clear(t.reverse)
	}
	for name, e := range t.staged {
		old, had := t.names[name]
		if had {
			if a, ok := old.virtual(); ok && t.reverse[a] == name {
				for _, x := range append(old.four, old.six...) {
					delete(t.reverse, x)
				}
			}
			delete(t.names, name)
		}
		if len(e.four)+len(e.six) == 0 || len(t.names) >= maxNames {
			continue
		}
		t.names[name] = e
		if _, ok := e.virtual(); !ok {
			continue
		}
		for _, x := range append(e.four, e.six...) {
			// Of several names of one address the first in order is its name.
			if first, taken := t.reverse[x]; !taken || name < first {
				t.reverse[x] = name
			}
		}
	}
	t.staged = nil
	if !t.complete && t.reset {
		t.complete = true
		close(t.first)
	}
}

func entryOf(n *agentv1.Name) entry {
	e := entry{ttl: n.TtlSeconds}
	for _, text := range n.Addresses {
		a, err := netip.ParseAddr(text)
		if err != nil {
			continue // of a newer zone
		}
		if a.Is4() {
			e.four = append(e.four, a)
		} else {
			e.six = append(e.six, a)
		}
	}
	return e
}

// virtual reports whether the addresses are virtual ones of the zone, and the
// IPv4 one: a pair whose last 32 bits are the same. Whose addresses somebody else
// gave, such as ClusterIPs, is somebody else's to say in reverse.
func (e *entry) virtual() (netip.Addr, bool) {
	if len(e.four) != 1 || len(e.six) != 1 {
		return netip.Addr{}, false
	}
	four, six := e.four[0].As4(), e.six[0].As16()
	return e.four[0], four == [4]byte(six[12:])
}

func (t *table) find(name string) (entry, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e, ok := t.names[name]
	return e, ok
}

func (t *table) nameOf(a netip.Addr) (string, uint32, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	name, ok := t.reverse[a]
	return name, t.names[name].ttl, ok
}

func (t *table) ready() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.complete
}
