package delta

import (
	"hash/maphash"
	"iter"
)

// Proxies of a class subscribe to the same names, which are most of what a stream
// in sync would hold. So the sets of names are shared between streams, whatever
// their groups: a stream holds the one that equals its own, or nearly, and what
// differs.

// exact is how many names there are for each that may differ from the shared set:
// to share anew costs as much as the whole set, so it is done once for many.
const exact = 16

// names are what a stream subscribed to of a type. The zero value is empty.
type names struct {
	shared *sharedNames        // nil is none
	added  map[string]struct{} // not in shared
	lost   map[string]struct{} // in shared, but not subscribed to
}

// sharedNames do not change. Those that are registered have holders.
type sharedNames struct {
	set     map[string]struct{}
	key     namesKey
	holders int
}

// namesKey is the same for equal sets, and rarely for others.
type namesKey struct {
	len int
	sum uint64
}

// registry finds a set of names again that some stream holds.
type registry struct {
	seed maphash.Seed
	sets map[namesKey]*sharedNames
}

func newRegistry() *registry {
	return &registry{seed: maphash.MakeSeed(), sets: map[namesKey]*sharedNames{}}
}

func (n *names) has(name string) bool {
	if n.inShared(name) {
		_, lost := n.lost[name]
		return !lost
	}
	_, ok := n.added[name]
	return ok
}

func (n *names) inShared(name string) bool {
	if n.shared == nil {
		return false
	}
	_, ok := n.shared.set[name]
	return ok
}

func (n *names) len() int {
	count := len(n.added) - len(n.lost)
	if n.shared != nil {
		count += len(n.shared.set)
	}
	return count
}

func (n *names) add(name string) {
	if n.inShared(name) {
		delete(n.lost, name)
		return
	}
	put(&n.added, name)
}

func (n *names) remove(name string) {
	if n.inShared(name) {
		put(&n.lost, name)
		return
	}
	delete(n.added, name)
}

func (n *names) all() iter.Seq[string] {
	return func(yield func(string) bool) {
		if n.shared != nil {
			for name := range n.shared.set {
				if _, lost := n.lost[name]; !lost && !yield(name) {
					return
				}
			}
		}
		for name := range n.added {
			if !yield(name) {
				return
			}
		}
	}
}

// share looks for the set that equals n once enough differs from the one that it
// holds, or anything when it is to be exact, and registers it when no stream has it.
func (r *registry) share(n *names, exactly bool) {
	differ := len(n.added) + len(n.lost)
	if differ == 0 {
		n.added, n.lost = nil, nil
		return
	}
	if !exactly && differ <= n.len()/exact {
		return
	}
	key := namesKey{len: n.len()}
	for name := range n.all() {
		key.sum += maphash.String(r.seed, name)
	}
	found := r.sets[key]
	switch {
	case key.len == 0:
		found = nil
	case found == nil:
		found = &sharedNames{set: n.copy(), key: key}
		r.sets[key] = found
	case !n.equal(found.set):
		found = &sharedNames{set: n.copy(), key: key} // two sets of one key: the second is not shared
	}
	if found != nil {
		found.holders++
	}
	r.release(n)
	n.shared = found
}

func (n *names) copy() map[string]struct{} {
	set := make(map[string]struct{}, n.len())
	for name := range n.all() {
		set[name] = struct{}{}
	}
	return set
}

// equal compares with a set of the same length.
func (n *names) equal(set map[string]struct{}) bool {
	for name := range n.all() {
		if _, ok := set[name]; !ok {
			return false
		}
	}
	return true
}

// release empties n, and forgets a set that nobody holds any more.
func (r *registry) release(n *names) {
	if s := n.shared; s != nil {
		if s.holders--; s.holders == 0 && r.sets[s.key] == s {
			delete(r.sets, s.key)
		}
	}
	*n = names{}
}
