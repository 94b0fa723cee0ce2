package zone

import (
	"maps"
	"slices"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/xds/delta"
)

// What a zone sees of a staged change: documents in the place of what global's
// store holds, that others may not write meanwhile. It ends with the same documents
// at a new revision, or with what the store holds.

// push is the rig's, and remembers what the store holds.
func (h *history) push(changes ...mesh.Change) func(b *batch) {
	for _, c := range changes {
		switch _, over := h.staged[c.Resource.Key]; {
		case over:
		case c.Deleted:
			delete(h.store, c.Resource.Key)
		default:
			h.store[c.Resource.Key] = c.Resource
		}
	}
	return h.rig.push(changes...)
}

// writable are the changes that global takes: nobody else writes what is staged.
func (h *history) writable(changes []mesh.Change) []mesh.Change {
	return slices.DeleteFunc(changes, func(c mesh.Change) bool { _, over := h.staged[c.Resource.Key]; return over })
}

// rollout is a step of a staged change: its beginning, its end, or all of one that
// returns at once.
func (h *history) rollout() {
	h.t.Helper()
	switch {
	case h.staged == nil && h.rnd.IntN(2) == 0:
		h.stagedAndReturned()
	case h.staged == nil:
		h.stage(1+h.rnd.IntN(3), func(mesh.Resource) bool { return true })
	case h.rnd.IntN(2) == 0:
		h.last = "staged: return"
		h.must(h.unstage())
	default:
		h.last = "staged: done"
		h.promote()
	}
}

func (h *history) must(ops ...func(b *batch)) {
	h.t.Helper()
	if err := h.turn(ops...); err != nil {
		h.t.Fatal(err)
	}
}

// stage begins one of some documents.
func (h *history) stage(documents int, may func(mesh.Resource) bool) {
	h.t.Helper()
	h.last = "staged:"
	m := h.pick("default", "default", "other")
	docs := map[mesh.Key]mesh.Resource{}
	for range documents {
		for _, c := range h.policy(m) {
			if !c.Deleted && may(c.Resource) {
				docs[c.Resource.Key] = c.Resource
			}
		}
	}
	if len(docs) > 0 {
		h.staged = docs
		h.must(h.documents())
	}
}

// documents are what the stage's zones are told.
func (h *history) documents() func(b *batch) {
	var changes []mesh.Change
	for _, k := range sortedKeys(h.staged) {
		changes = append(changes, put(h.staged[k]))
	}
	return h.push(changes...)
}

// unstage ends it with what the store holds, told as a change or with a snapshot.
func (h *history) unstage() func(b *batch) {
	var changes []mesh.Change
	for _, k := range sortedKeys(h.staged) {
		if was, ok := h.store[k]; ok {
			changes = append(changes, put(was))
		} else {
			changes = append(changes, del(k))
		}
	}
	h.staged = nil
	if h.rnd.IntN(3) > 0 {
		return h.push(changes...)
	}
	h.last += " snapshot"
	var all []mesh.Change
	for _, k := range sortedKeys(h.e.synced) {
		if was, ok := h.store[k]; ok {
			all = append(all, put(was))
		} else {
			all = append(all, del(k))
		}
	}
	return func(b *batch) {
		b.must.ReplaceResources = true
		h.push(all...)(b)
	}
}

// promote ends it with the author's write: the zone has it all already, so that no
// proxy is told anything.
func (h *history) promote() {
	h.t.Helper()
	before := len(h.out.log)
	h.must(h.documents())
	if d := cmp.Diff(h.out.log[:before], h.out.log); d != "" {
		h.t.Errorf("%s: proxies are told what they have:\n%s", h.last, d)
	}
	docs := h.staged
	h.staged = nil
	maps.Copy(h.store, docs)
	h.promoted++
}

// stagedAndReturned is a staged change that a guard takes back, perhaps after a
// refusal or a restart: it leaves nothing behind.
func (h *history) stagedAndReturned() {
	h.t.Helper()
	for _, id := range sorted(h.e.quarantines) { // what is refused already would be tried again
		q := h.e.quarantines[id]
		if q == nil { // went with another
			continue
		}
		var all []delta.Verdict
		for _, x := range q.Refused {
			all = append(all, accepted(id, &x))
		}
		h.must(func(b *batch) { h.e.judge(b, all) })
	}
	for _, name := range []string{"web-1", "api-1", "db-1"} { // else it may change nothing
		h.must(h.join(h.dataplane("default", name)))
	}
	before, counters, changes := h.configured(), maps.Clone(h.e.counters), false
	for range 8 { // until there is an effect
		h.stage(6, h.returnable)
		if changes = !maps.EqualFunc(before, h.configured(), maps.Equal); changes || h.rnd.IntN(8) == 0 {
			break
		}
		h.must(h.unstage())
	}
	refused := false
	for range h.rnd.IntN(3) {
		if op := h.refuse(func(node string, x *delta.Resource) bool { return before[node][x.TypeURL+" "+x.Name] != string(x.Body) }); op != nil {
			h.must(op)
			refused = true
		}
	}
	forgets := len(h.e.files) > 0 // what a restart loses: files, until they are read again, and who drains
	for _, p := range h.e.proxies {
		forgets = forgets || p.draining || p.presence != present
	}
	if !forgets && h.rnd.IntN(4) == 0 {
		h.last += " restart"
		h.restart()
	}
	h.last += " return"
	h.must(h.unstage())
	if !changes || !maps.Equal(counters, h.e.counters) { // who was let in by fewer meanwhile starts new connections
		return
	}
	h.returned++
	if refused {
		h.refusedStages++
	}
	if d := cmp.Diff(before, h.configured()); d != "" {
		h.t.Errorf("%s: left behind (-before +after):\n%s", h.last, d)
	}
	for id, q := range h.e.quarantines {
		if h.e.classes[id] != nil { // else it waits for the class to come back
			h.t.Errorf("%s: %s is in quarantine still: %s", h.last, id, mustJSON(q))
		}
	}
}

// returnable are documents that can be taken back without a trace. Authorities and
// addresses of services stay, by design, and so does a tightened permission's counter.
func (h *history) returnable(r mesh.Resource) bool {
	switch r.Kind {
	case mesh.KindMeshTimeout, mesh.KindMeshHTTPRoute, mesh.KindMeshTCPRoute:
	case mesh.KindMeshTrafficPermission:
		if h.rnd.IntN(4) > 0 {
			return false
		}
	default:
		return false
	}
	was, ok := h.store[r.Key]
	if !ok {
		return true
	}
	_, err := mesh.DecodeSpec(r.Kind, was.Spec)
	return err == nil // else the last one that can be read stays, and that is the stage's
}

// configured is what each proxy has, by node.
func (h *history) configured() map[string]map[string]string {
	all := map[string]map[string]string{}
	for _, p := range h.e.proxies {
		all[p.node] = published(h.out, p)
	}
	return all
}
