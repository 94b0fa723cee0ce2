package zone

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/xds/delta"
	"github.com/tombolo-mesh/tombolo/zone/disk"
)

// maxQuarantines bounds the classes without members whose quarantine is kept.
const maxQuarantines = 1024

// quarantine is what the proxies of a class refused, and the last good resources
// that stand in. It is an input of what is published, as the world is: durable
// before anything follows from it, and never changed in place.
type quarantine struct {
	Refused []refusal
	// Good are resources from before: of what was refused, and of what goes with it.
	Good []good
}

// refusal is a version that Envoy does not take. It holds for as long as the class
// compiles that version: another one is tried.
type refusal struct {
	TypeURL, Name, Version string
	// Reason in Envoy's own words, and the proxy that was the first to say them.
	Reason, Node string
	Since        time.Time
	// Sources are the rules at fault.
	Sources []blamed
}

// blamed is a rule at fault.
type blamed struct {
	Key      mesh.Key
	Path     string
	Revision mesh.Revision
}

func (r *refusal) key() delta.Key { return delta.Key{TypeURL: r.TypeURL, Name: r.Name} }

// good is the last version of a resource that some proxy accepted.
type good struct {
	Resource *delta.Resource
	// Mark up to which it was in force: what changed since is suspect.
	Mark int64
	// Endpoints of a cluster, where they are known.
	Endpoints *ir.EndpointRef `json:",omitempty"`
}

func (g *good) key() delta.Key { return delta.Key{TypeURL: g.Resource.TypeURL, Name: g.Resource.Name} }

// of finds the refusal of a resource in a version.
func (q *quarantine) of(r *delta.Resource) *refusal {
	if q == nil {
		return nil
	}
	for i := range q.Refused {
		if x := &q.Refused[i]; x.Version == r.Version && x.Name == r.Name && x.TypeURL == r.TypeURL {
			return x
		}
	}
	return nil
}

func (q *quarantine) good(k delta.Key) *good {
	if q != nil {
		for i := range q.Good {
			if q.Good[i].key() == k {
				return &q.Good[i]
			}
		}
	}
	return nil
}

// keep adds a last good resource or replaces an older one.
func (q *quarantine) keep(x good) {
	if old := q.good(x.key()); old != nil {
		x.Endpoints = cmp.Or(x.Endpoints, old.Endpoints)
		*old = x
		return
	}
	q.Good = append(q.Good, x)
}

func (q *quarantine) copy() *quarantine {
	if q == nil {
		return &quarantine{}
	}
	return &quarantine{Refused: slices.Clone(q.Refused), Good: slices.Clone(q.Good)}
}

// arrangement is what a class gets instead of what was compiled for it.
type arrangement struct {
	resources []*delta.Resource
	// refs are endpoint sets besides those of the compile.
	refs []ir.EndpointRef
}

// arrange puts last good resources in the place of refused ones. It is a pure
// function of what was compiled and the quarantine.
//
//   - A refused version with a last good one is replaced by it. Without one it stays:
//     a proxy that has none refuses it again, once, and has none; but for a listener
//     that redirected connections would else pass by, which is closed.
//   - What refers to a refused cluster that nobody has stays at its last good version
//     too: a route to nowhere would cost requests.
//   - What a last good version refers to stays, though the compile has it no more.
func arrange(compiled []*delta.Resource, q *quarantine) arrangement {
	if q == nil {
		return arrangement{resources: compiled}
	}
	var missing []string
	have := make(map[delta.Key]bool, len(compiled))
	for _, r := range compiled {
		k := delta.Key{TypeURL: r.TypeURL, Name: r.Name}
		have[k] = true
		if r.TypeURL == xds.ClusterType && q.of(r) != nil && q.good(k) == nil {
			missing = append(missing, r.Name)
		}
	}
	toNowhere := func(r *delta.Resource) bool {
		return slices.ContainsFunc(missing, func(name string) bool { return refers(r, name) })
	}
	var out arrangement
	var held []*delta.Resource
	for _, r := range compiled {
		before := q.good(delta.Key{TypeURL: r.TypeURL, Name: r.Name})
		if before != nil && (q.of(r) != nil || r.TypeURL != xds.ClusterType && toNowhere(r) && !toNowhere(before.Resource)) {
			held = append(held, before.Resource)
			r = before.Resource
		} else if before == nil && q.of(r) != nil {
			if closed := xds.Closed(r); closed != nil {
				r = closed
			}
		}
		out.resources = append(out.resources, r)
	}
	for i := 0; i < len(held); i++ { // grows
		for j := range q.Good {
			x := &q.Good[j]
			if k := x.key(); have[k] || !refers(held[i], k.Name) {
				continue
			}
			have[x.key()] = true
			held = append(held, x.Resource)
			out.resources = append(out.resources, x.Resource)
			if x.Endpoints != nil {
				out.refs = append(out.refs, *x.Endpoints)
			}
		}
	}
	return out
}

// refers says that a resource names another: somewhere in it stands a string that
// is the name and nothing else.
func refers(r *delta.Resource, name string) bool {
	text := binary.AppendUvarint(nil, uint64(len(name)))
	return bytes.Contains(r.Body, append(text, name...))
}

// rearrange makes the last compile of a class, and its quarantine, what is to be published.
func (e *engine) rearrange(c *class) {
	a := arrange(c.compiled, e.quarantines[c.ir.ID])
	c.set = delta.NewSet(a.resources)
	refs := c.refs
	for _, ref := range a.refs {
		if !slices.ContainsFunc(refs, func(x ir.EndpointRef) bool { return x.Name == ref.Name }) {
			refs = append(slices.Clip(refs), ref)
		}
	}
	if len(a.refs) > 0 {
		refs = slices.SortedFunc(slices.Values(refs), func(a, b ir.EndpointRef) int { return strings.Compare(a.Name, b.Name) })
	}
	e.useLayer(c, refs)
}

// reconsider brings a class's quarantine up to a new compile: refusals of versions
// that are compiled no more end, and with the last one all of it. What stays keeps
// what the class had until now, as the last good of what the compile changes.
func (e *engine) reconsider(c *class, next []*delta.Resource) {
	id := c.ir.ID
	old := e.quarantines[id]
	if old == nil {
		if c.set == nil && e.running && len(e.quarantines) > 0 {
			e.inherit(c, next)
		}
		return
	}
	q := old.copy()
	set := delta.NewSet(next)
	q.Refused = slices.DeleteFunc(q.Refused, func(x refusal) bool {
		now := set.Get(x.TypeURL, x.Name)
		return now == nil || now.Version != x.Version
	})
	if len(q.Refused) > 0 && c.set != nil {
		for _, k := range c.set.Diff(set) {
			if r := c.set.Get(k.TypeURL, k.Name); r != nil && old.of(r) == nil {
				q.keep(e.goodOf(c, delta.Good{Resource: r, Mark: int64(e.mark) - 1}))
			}
		}
	}
	e.setQuarantine(map[string]*quarantine{id: q})
}

// inherit gives a class that is new what others of the same resources found out.
// It takes over clusters and routes alone, of which nothing depends on who the
// proxy is.
func (e *engine) inherit(c *class, next []*delta.Resource) {
	q := &quarantine{}
	for _, id := range slices.Sorted(maps.Keys(e.quarantines)) {
		other := e.quarantines[id]
		for _, r := range next {
			k := delta.Key{TypeURL: r.TypeURL, Name: r.Name}
			x, before := other.of(r), other.good(k)
			if x == nil || before == nil || q.of(r) != nil || r.TypeURL != xds.ClusterType && r.TypeURL != xds.RouteType {
				continue
			}
			if strings.HasPrefix(r.Name, xds.InboundName("")) {
				continue
			}
			q.Refused, q.Good = append(q.Refused, *x), append(q.Good, *before)
		}
	}
	if len(q.Refused) > 0 {
		e.setQuarantine(map[string]*quarantine{c.ir.ID: q})
	}
}

// judge takes what proxies said of what was published.
func (e *engine) judge(b *batch, verdicts []delta.Verdict) {
	changed := map[string]*quarantine{}
	at := func(id string) *quarantine {
		if changed[id] == nil {
			changed[id] = e.quarantines[id].copy()
		}
		return changed[id]
	}
	withheld := map[string][]delta.Rejection{}
	type version struct{ typeURL, resource, version string }
	acquitted := map[version]int{} // where in the list
	for i, v := range verdicts {
		if v.Accepted {
			acquitted[version{v.TypeURL, v.Resource, v.Version}] = i
		}
	}
	for i, v := range verdicts {
		if !v.Accepted && i < acquitted[version{v.TypeURL, v.Resource, v.Version}] {
			continue // another proxy took it meanwhile
		}
		if v.Accepted {
			for id, q := range e.quarantines {
				if q.of(&delta.Resource{TypeURL: v.TypeURL, Name: v.Resource, Version: v.Version}) != nil {
					x := at(id)
					x.Refused = slices.DeleteFunc(x.Refused, func(r refusal) bool {
						return r.TypeURL == v.TypeURL && r.Name == v.Resource && r.Version == v.Version
					})
				}
			}
			continue
		}
		c := e.classes[v.Group]
		if c == nil || c.set == nil {
			continue
		}
		i := slices.IndexFunc(c.compiled, func(r *delta.Resource) bool { return r.TypeURL == v.TypeURL && r.Name == v.Resource })
		if i < 0 || c.compiled[i].Version != v.Version {
			continue // it has moved on, or is the proxy's own, or what stands in: there is nothing better
		}
		now := c.compiled[i]
		q := at(v.Group)
		if q.of(now) != nil {
			continue
		}
		q.Refused = slices.DeleteFunc(q.Refused, func(r refusal) bool { return r.TypeURL == v.TypeURL && r.Name == v.Resource })
		for _, x := range e.cfg.delta.LastGood(v.Group) {
			if now := c.set.Get(x.Resource.TypeURL, x.Resource.Name); now == nil || now.Version != x.Resource.Version {
				q.keep(e.goodOf(c, x))
			}
		}
		x := refusal{TypeURL: v.TypeURL, Name: v.Resource, Version: v.Version, Reason: v.Reason, Node: v.Node, Since: b.now.UTC()}
		if kept := q.good(x.key()); kept != nil && c.tightens(x, kept) {
			e.log.Warn("refused by a proxy, and not quarantined: it lets fewer in than the last good one", "class", v.Group, "proxy", v.Node,
				"resource", v.Resource, "reason", v.Reason, "rev", int64(e.mark))
			continue
		}
		q.Refused = append(q.Refused, e.attribute(c, x, q.good(x.key())))
		withheld[v.Group] = append(withheld[v.Group], v.Rejection)
		e.log.Warn("refused by a proxy and by none accepted: the class keeps the last good one", "class", v.Group, "proxy", v.Node,
			"type", v.TypeURL, "resource", v.Resource, "kept", q.good(delta.Key{TypeURL: v.TypeURL, Name: v.Resource}) != nil,
			"reason", v.Reason, "rev", int64(e.mark))
	}
	e.setQuarantine(changed)
	for id := range changed {
		c := e.classes[id]
		if c == nil || c.proxy == nil {
			continue
		}
		if list := withheld[id]; list != nil {
			e.cfg.delta.Withhold(id, list)
		}
		e.rearrange(c)
		b.publish[id] = b.publish[id] || false
	}
}

// permissionForm is a permission and the version of the resource that says it.
type permissionForm struct {
	name, version string
	permission    ir.Permission
}

// maxForms bounds the versions of one permission that are remembered.
const maxForms = 4

// permissionForms adds a compile's permissions to those before; the oldest go.
func permissionForms(before []permissionForm, r compiled) []permissionForm {
	out := slices.Clone(before)
	for _, in := range r.proxy.Inbounds {
		name := xds.PermissionName(in.Name)
		i := slices.IndexFunc(r.resources, func(x *delta.Resource) bool { return x.TypeURL == xds.ExtensionType && x.Name == name })
		if i < 0 {
			continue
		}
		form := permissionForm{name, r.resources[i].Version, in.Permission}
		out = slices.DeleteFunc(out, func(x permissionForm) bool { return x.name == form.name && x.version == form.version })
		out = append(out, form)
	}
	return slices.Clone(out[max(0, len(out)-maxForms*len(r.proxy.Inbounds)):])
}

// tightens says that a refused permission lets fewer in than the last good one, or
// that nobody can tell. One proxy that refuses, be it old or hostile, must not keep
// open what its whole class is to close: who refuses keeps what it has, and who
// starts lets nobody in.
func (c *class) tightens(x refusal, kept *good) bool {
	if x.TypeURL != xds.ExtensionType || !strings.HasPrefix(x.Name, xds.PermissionName("")) {
		return false
	}
	form := func(version string) *permissionForm {
		for i := range c.permissions {
			if f := &c.permissions[i]; f.name == x.Name && f.version == version {
				return f
			}
		}
		return nil
	}
	old, next := form(kept.Resource.Version), form(x.Version)
	return old == nil || next == nil || ir.Tightens(old.permission, next.permission)
}

// goodOf makes a last good one of what a class had, with a cluster's endpoints.
func (e *engine) goodOf(c *class, x delta.Good) good {
	out := good{Resource: x.Resource, Mark: x.Mark}
	if x.Resource.TypeURL != xds.ClusterType {
		return out
	}
	for _, ref := range c.formerRefs {
		if ref.Name == x.Resource.Name {
			out.Endpoints = &ref
		}
	}
	return out
}

// setQuarantine makes quarantines durable and has them in force; one without
// refusals ends.
func (e *engine) setQuarantine(changed map[string]*quarantine) {
	if len(changed) == 0 {
		return
	}
	u := disk.Update{Quarantine: map[string][]byte{}}
	for id, q := range changed {
		if len(q.Refused) == 0 {
			if _, ok := e.quarantines[id]; ok {
				u.Quarantine[id] = nil
			}
			delete(e.quarantines, id)
			continue
		}
		slices.SortFunc(q.Refused, func(a, b refusal) int { return cmp.Or(cmp.Compare(a.TypeURL, b.TypeURL), cmp.Compare(a.Name, b.Name)) })
		slices.SortFunc(q.Good, func(a, b good) int {
			return cmp.Or(cmp.Compare(a.Resource.TypeURL, b.Resource.TypeURL), cmp.Compare(a.Resource.Name, b.Resource.Name))
		})
		u.Quarantine[id], e.quarantines[id] = mustJSON(q), q
	}
	if u.Empty() {
		return
	}
	if err := e.cfg.disk.Commit(u); err != nil {
		e.metrics.diskErrors.Inc()
		e.log.Error("quarantine not saved", "error", err)
	}
}

// restoreQuarantines takes what the disk holds.
func (e *engine) restoreQuarantines(texts map[string][]byte) error {
	for id, text := range texts {
		q := &quarantine{}
		if err := json.Unmarshal(text, q); err != nil {
			return fmt.Errorf("restore quarantine of class %s: %w", id, err)
		}
		q.Good = slices.DeleteFunc(q.Good, func(x good) bool { return x.Resource == nil })
		e.quarantines[id] = q
	}
	return nil
}

// leaveQuarantine is called for a class without members. Its quarantine waits for
// them to come back, unless too many do.
func (e *engine) leaveQuarantine(id string) {
	if _, ok := e.quarantines[id]; ok && len(e.quarantines) > maxQuarantines {
		e.setQuarantine(map[string]*quarantine{id: {}})
	}
}

// quarantined visits the refusals in force, with the class and the last good one.
func (e *engine) quarantined(visit func(c *class, x *refusal, kept *good)) {
	for id, q := range e.quarantines {
		c := e.classes[id]
		if c == nil || len(c.members) == 0 {
			continue
		}
		for i := range q.Refused {
			visit(c, &q.Refused[i], q.good(q.Refused[i].key()))
		}
	}
}

// attribute notes the rules at fault: of those that the resource was made of the
// ones that changed since its last good version, if some did.
func (e *engine) attribute(c *class, x refusal, kept *good) refusal {
	var dataplane mesh.Key
	if members := sortedKeys(c.members); len(members) > 0 {
		dataplane = members[0]
	}
	var all, newer []blamed
	for _, s := range sourcesOf(c.proxy, x.TypeURL, x.Name, dataplane) {
		at := blamed{s.Key, s.Path, s.Revision}
		all = append(all, at)
		if kept != nil && s.Revision > mesh.Revision(kept.Mark) {
			newer = append(newer, at)
		}
	}
	if x.Sources = newer; len(newer) == 0 {
		x.Sources = all
	}
	return x
}
