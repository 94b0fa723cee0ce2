package zone

import (
	"cmp"
	"encoding/json"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/tombolo-mesh/tombolo/ingress"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/xds/delta"
	"github.com/tombolo-mesh/tombolo/zone/disk"
	"github.com/tombolo-mesh/tombolo/zone/world"
)

// class is a class of proxies with what is published to it.
type class struct {
	ir      *ir.Class
	unit    world.Unit
	members map[mesh.Key]*proxy
	// proxy is the last compile, hash its digest.
	proxy *ir.Proxy
	hash  string
	// instances is the digest of what the members' own resources are built from.
	instances ir.Digest
	// set is what all its proxies share, layer their endpoints.
	set   *delta.Set
	layer *layer
	// compiled is what proxy was built into, refs the endpoint sets that go with it,
	// formerRefs those of the compile before.
	compiled         []*delta.Resource
	refs, formerRefs []ir.EndpointRef
	// permissions of inbounds in the versions that were published lately.
	permissions []permissionForm
	// failure says why the last compile could not be built; the one before stays.
	failure string
}

// set is one endpoint set.
type set struct {
	ref      ir.EndpointRef
	unit     world.Unit
	endpoint *ir.EndpointSet
	hash     string
	resource *delta.Resource
	layers   map[*layer]bool
}

// layer is the endpoints of all classes that refer to the same sets.
type layer struct {
	key   string
	sets  []*set
	set   *delta.Set
	users map[*class]bool
}

// bundle is the trust of a mesh.
type bundle struct {
	trust []ir.TrustBundle
	set   *delta.Set
}

// classFor finds a class or makes it, to be compiled in this batch.
func (e *engine) classFor(c *ir.Class) *class {
	x := e.classes[c.ID]
	if x == nil {
		x = &class{ir: c, unit: unitOf("class", c.ID), members: map[mesh.Key]*proxy{}}
		e.classes[c.ID] = x
		e.vacant[c.ID] = true
		e.dirty[x.unit] = true
	}
	return x
}

// due takes the dirty units of a kind out of the queue, sorted.
func (e *engine) due(kind string) []world.Unit {
	var out []world.Unit
	for u := range e.dirty {
		if strings.HasPrefix(string(u), kind+"/") {
			out = append(out, u)
			delete(e.dirty, u)
		}
	}
	slices.Sort(out)
	return out
}

// compileSets brings endpoint sets up to date. Those who lost a host are urgent.
func (e *engine) compileSets(b *batch) {
	type change struct {
		urgent    bool
		resources []*delta.Resource
	}
	changed := map[*layer]*change{}
	for _, u := range e.due("set") {
		s := e.sets[strings.TrimPrefix(string(u), "set/")]
		if s == nil {
			continue
		}
		urgent, differs := e.compileSet(s)
		if !differs {
			continue
		}
		for l := range s.layers {
			if changed[l] == nil {
				changed[l] = &change{}
			}
			changed[l].urgent = changed[l].urgent || urgent
			changed[l].resources = append(changed[l].resources, s.resource)
		}
	}
	for l, x := range changed {
		l.set = l.set.With(x.resources...)
		for c := range l.users {
			b.publish[c.ir.ID] = b.publish[c.ir.ID] || x.urgent
		}
	}
}

func (e *engine) compileSet(s *set) (urgent, differs bool) {
	var next *ir.EndpointSet
	e.world.Read(s.unit, func(r ir.Reader) {
		if s.ref.Kind == ir.ExportSet {
			next = ingress.CompileEndpoints(r, s.ref)
		} else {
			next = ir.CompileEndpoints(r, s.ref)
		}
	})
	e.metrics.compiles.WithLabelValues("endpoints").Inc()
	hash := next.Hash()
	if s.endpoint != nil && hash == s.hash {
		return false, false
	}
	resource, err := xds.BuildEndpoints(next)
	if err != nil {
		e.log.Error("endpoints not built; the last ones stay", "set", s.ref.Name, "error", err)
		return false, false
	}
	urgent = s.endpoint != nil && lostHost(s.endpoint.Hosts, next.Hosts)
	differs = s.resource == nil || s.resource.Version != resource.Version
	s.endpoint, s.hash, s.resource = next, hash, resource
	return urgent, differs
}

func lostHost(old, next []ir.Host) bool {
	type place struct {
		address, gateway, peer string
		port                   uint32
	}
	have := map[place]bool{}
	for _, h := range next {
		have[place{h.Address, h.Gateway, h.Peer, h.Port}] = true
	}
	return slices.ContainsFunc(old, func(h ir.Host) bool { return !have[place{h.Address, h.Gateway, h.Peer, h.Port}] })
}

func (l *layer) build() {
	resources := make([]*delta.Resource, 0, len(l.sets))
	for _, s := range l.sets {
		if s.resource != nil {
			resources = append(resources, s.resource)
		}
	}
	l.set = delta.NewSet(resources)
}

// compiled is the outcome of one class's compile.
type compiled struct {
	class     *class
	proxy     *ir.Proxy
	hash      string
	instances ir.Digest
	resources []*delta.Resource
	err       error
}

// compileClasses brings classes up to date, those in parallel that can be. A
// tightened permission of a TCP inbound bumps a counter that the class reads, so
// that it is compiled once more.
func (e *engine) compileClasses(b *batch) {
	for m := range b.moves { // who comes from elsewhere may be let in by fewer
		if c := e.classes[m.to]; c != nil {
			e.dirty[c.unit] = true
		}
	}
	for range maxRounds {
		var due []*class
		for _, u := range e.due("class") {
			if c := e.classes[strings.TrimPrefix(string(u), "class/")]; c != nil && len(c.members) > 0 {
				due = append(due, c)
			}
		}
		if len(due) == 0 {
			return
		}
		results := e.compileAll(due)
		bumps := e.tighten(b, results)
		if len(bumps) > 0 {
			e.apply(b, world.Batch{Counters: bumps})
			maps.Copy(e.counters, bumps)
		}
		for _, r := range results {
			if !e.dirty[r.class.unit] { // else its result is out of date already
				e.accept(b, r)
			}
		}
	}
	e.log.Error("classes do not settle")
}

// compileAll compiles classes; nil, when nobody waits for it any more.
func (e *engine) compileAll(due []*class) []compiled {
	results := make([]compiled, len(due))
	workers := min(cmp.Or(e.cfg.workers, runtime.GOMAXPROCS(0)), len(due))
	work := func(w int) { // a part in one piece: neighbours are alike, and share what one of them builds
		for i := w * len(due) / workers; i < (w+1)*len(due)/workers && !e.isLeft(); i++ {
			results[i] = e.compileClass(due[i])
		}
	}
	var wg sync.WaitGroup
	for w := 1; w < workers; w++ {
		wg.Go(func() { work(w) })
	}
	work(0) // here, so that a fork with one worker stays in its own goroutine
	wg.Wait()
	if e.isLeft() {
		return nil
	}
	return results
}

func (e *engine) isLeft() bool { return e.cfg.left != nil && e.cfg.left() }

func (e *engine) compileClass(c *class) compiled {
	out := compiled{class: c}
	e.world.ReadSpecs(c.unit, func(r ir.Reader) {
		if c.ir.Role == ir.Ingress {
			out.proxy = ingress.Compile(r, c.ir)
		} else {
			out.proxy = e.memo.Compile(r, c.ir)
		}
	})
	e.metrics.compiles.WithLabelValues("class").Inc()
	digests := e.memo.Digests(out.proxy)
	out.instances = digests.Rest
	if out.hash = digests.Hash; c.proxy != nil && out.hash == c.hash && c.failure == "" {
		return out
	}
	out.resources, out.err = e.built.Build(out.proxy, digests)
	return out
}

// accept makes a compile the class's configuration.
func (e *engine) accept(b *batch, r compiled) {
	c := r.class
	if r.err != nil {
		c.failure = r.err.Error()
		e.log.Error("class not built; the last configuration stays", "class", c.ir.ID, "error", r.err)
		return
	}
	if c.proxy != nil && r.hash == c.hash && c.failure == "" {
		e.settle(c, r.proxy) // problems may differ
		return
	}
	urgent := c.proxy != nil && tightened(c.proxy, r.proxy)
	same := c.proxy != nil && c.instances == r.instances && r.instances != ir.Digest{}
	e.settle(c, r.proxy)
	c.hash, c.instances, c.failure = r.hash, r.instances, ""
	c.refs, c.formerRefs = ir.EndpointRefs(r.proxy), c.refs
	e.reconsider(c, r.resources)
	c.compiled = r.resources
	c.permissions = permissionForms(c.permissions, r)
	e.rearrange(c)
	e.trust(b, c)
	b.publish[c.ir.ID] = b.publish[c.ir.ID] || urgent
	if same {
		return
	}
	for k := range c.members {
		b.assign[k] = true
	}
}

// settle makes a compile the class's, and remembers whether there is something to tell of it.
func (e *engine) settle(c *class, p *ir.Proxy) {
	c.proxy = p
	if len(p.Problems) > 0 {
		e.faulty[c.ir.ID] = true
	} else {
		delete(e.faulty, c.ir.ID)
	}
}

// trust updates the mesh's bundles from a compile. An empty set never replaces
// one that trusts somebody.
func (e *engine) trust(b *batch, c *class) {
	name := c.ir.Mesh
	have := e.bundles[name]
	if c.ir.Role == ir.Ingress || len(c.proxy.Trust) == 0 || have != nil && slices.Equal(have.trust, c.proxy.Trust) {
		return
	}
	r, err := xds.BuildBundles(c.proxy.Trust)
	if err != nil {
		e.log.Error("bundles not built; the last ones stay", "mesh", name, "error", err)
		return
	}
	e.bundles[name] = &bundle{trust: c.proxy.Trust, set: delta.NewSet([]*delta.Resource{r})}
	for _, other := range e.classes {
		if other.ir.Mesh == name && other.proxy != nil {
			b.publish[other.ir.ID] = b.publish[other.ir.ID] || false
		}
	}
}

// useLayer gives a class the layer of the sets that it refers to.
func (e *engine) useLayer(c *class, refs []ir.EndpointRef) {
	var key strings.Builder
	for _, r := range refs {
		text, _ := json.Marshal(r) // strings and numbers
		key.Write(text)
	}
	if c.layer != nil && c.layer.key == key.String() {
		return
	}
	old := c.layer
	l := e.layers[key.String()]
	if l == nil {
		l = &layer{key: key.String(), users: map[*class]bool{}}
		for _, ref := range refs {
			s := e.setFor(ref)
			s.layers[l] = true
			l.sets = append(l.sets, s)
		}
		l.build()
		e.layers[l.key] = l
	}
	l.users[c] = true
	c.layer = l
	e.leaveLayer(c, old)
}

func (e *engine) setFor(ref ir.EndpointRef) *set {
	s := e.sets[ref.Name]
	if s == nil {
		s = &set{ref: ref, unit: unitOf("set", ref.Name), layers: map[*layer]bool{}}
		e.sets[ref.Name] = s
		e.compileSet(s)
		delete(e.dirty, s.unit)
	}
	return s
}

func (e *engine) leaveLayer(c *class, l *layer) {
	if l == nil {
		return
	}
	delete(l.users, c)
	if len(l.users) > 0 {
		return
	}
	delete(e.layers, l.key)
	for _, s := range l.sets {
		delete(s.layers, l)
		if len(s.layers) == 0 {
			delete(e.sets, s.ref.Name)
			delete(e.dirty, s.unit)
			e.world.Forget(s.unit)
		}
	}
}

// publishUrgent lets removed endpoints go ahead of the classes' compiles.
func (e *engine) publishUrgent(b *batch) {
	for _, id := range slices.Sorted(maps.Keys(b.publish)) {
		if b.publish[id] {
			e.publishClass(b, id, true)
			delete(b.publish, id)
		}
	}
}

// publishAll publishes what is left, urgent groups first. Who stays in a group
// gets its own resources before that, so that its acknowledgement counts for both;
// who comes to one gets them with the group, after that.
func (e *engine) publishAll(b *batch) {
	unchanged := map[*class]bool{}
	keys := sortedKeys(b.assign)
	hand := func(coming bool) {
		for _, k := range keys {
			p := e.proxies[k]
			if p == nil || p.class == nil || p.class.proxy == nil || coming != (p.group != p.class.ir.ID) {
				continue
			}
			if !p.owns || coming || !unchanged[p.class] {
				if same := e.assign(p); same {
					unchanged[p.class] = true
				}
			}
			p.owns = true
		}
	}
	hand(false)
	e.publishUrgent(b)
	for _, id := range slices.Sorted(maps.Keys(b.publish)) {
		e.publishClass(b, id, false)
	}
	hand(true)
}

func (e *engine) publishClass(b *batch, id string, urgent bool) {
	c := e.classes[id]
	if c == nil || c.proxy == nil {
		return
	}
	layers := []*delta.Set{c.set, c.layer.set}
	if t := e.bundles[c.ir.Mesh]; t != nil && c.ir.Role != ir.Ingress {
		layers = append(layers, t.set)
	}
	e.cfg.delta.Publish(id, int64(e.mark), urgent, layers...)
	b.published[id] = true
}

// assign builds what a proxy has of its own and hands it over. It reports whether
// that is what the proxy had: since the rest of a class differs in addresses
// alone, then none of them needs to be built again.
func (e *engine) assign(p *proxy) (same bool) {
	resources, err := xds.BuildInstance(p.class.proxy, p.own)
	if err != nil {
		e.log.Error("listeners not built; the last ones stay", "proxy", p.resource.Key.String(), "error", err)
		return false
	}
	if p.group == p.class.ir.ID && p.owns && sameVersions(p.ownResources, resources) {
		return true
	}
	p.group, p.ownSet, p.ownResources = p.class.ir.ID, delta.NewSet(resources), resources
	e.cfg.delta.Assign(p.node, p.group, p.ownSet)
	return false
}

func sameVersions(a, b []*delta.Resource) bool {
	return slices.EqualFunc(a, b, func(x, y *delta.Resource) bool {
		return x.TypeURL == y.TypeURL && x.Name == y.Name && x.Version == y.Version
	})
}

// tightened reports whether some inbound lets fewer in than before.
func tightened(old, next *ir.Proxy) bool {
	for i := range old.Inbounds {
		for j := range next.Inbounds {
			if old.Inbounds[i].Name == next.Inbounds[j].Name && ir.Tightens(old.Inbounds[i].Permission, next.Inbounds[j].Permission) {
				return true
			}
		}
	}
	return false
}

// tighten compares the permissions of TCP inbounds with the last ones in force,
// those before a restart included, and returns the counters to set. What is in
// force is durable before it is published.
func (e *engine) tighten(b *batch, results []compiled) map[string]uint64 {
	bumps := map[string]uint64{}
	u := disk.Update{Permissions: map[string][]byte{}, Counters: bumps}
	inForce := map[string]ir.Permission{}
	for _, r := range results {
		for _, in := range r.proxy.Inbounds {
			if in.Protocol.IsHTTP() {
				continue
			}
			name := ir.TightenCounter(r.class.ir.ID, in.Name)
			old, known := e.permissions[name]
			count := e.counters[name]
			if known && ir.Tightens(old, in.Permission) {
				count++
			}
			for m := range b.moves { // proxies that come from another class
				from := ir.TightenCounter(m.from, in.Name)
				before, ok := e.permissions[from]
				if m.to != r.class.ir.ID || !ok {
					continue
				}
				if ir.Tightens(before, in.Permission) {
					count = max(count, e.counters[from]+1)
				} else if !known {
					count = max(count, e.counters[from])
				}
			}
			if count != e.counters[name] {
				bumps[name] = count
			}
			text := mustJSON(in.Permission)
			if !known || string(mustJSON(old)) != string(text) {
				u.Permissions[name], inForce[name] = text, in.Permission
			}
		}
	}
	if u.Empty() {
		return nil
	}
	if err := e.cfg.disk.Commit(u); err != nil {
		e.metrics.diskErrors.Inc()
		e.log.Error("permissions in force not saved", "error", err)
	}
	maps.Copy(e.permissions, inForce)
	return bumps
}

// release forgets classes and services that nobody is left of.
func (e *engine) release(b *batch) {
	vacant := e.vacant
	e.vacant = map[string]bool{}
	for id := range vacant {
		c := e.classes[id]
		if c == nil || len(c.members) > 0 {
			continue
		}
		delete(e.classes, id)
		delete(e.faulty, id)
		delete(e.dirty, c.unit)
		e.world.Forget(c.unit)
		e.leaveLayer(c, c.layer)
		e.tracker.forget(id)
		e.cfg.delta.Retire(id)
		e.leaveQuarantine(id)
		for _, in := range c.ir.Inbounds {
			name := ir.TightenCounter(id, in.Name)
			if _, ok := e.permissions[name]; ok {
				// The counter stays: the class may come back, and its members with
				// connections from before.
				delete(e.permissions, name)
				if b.late.Permissions == nil {
					b.late.Permissions = map[string][]byte{}
				}
				b.late.Permissions[name] = nil
			}
		}
	}
}
