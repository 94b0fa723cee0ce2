package zone

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tombolo-mesh/tombolo/mesh"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
	"github.com/tombolo-mesh/tombolo/xds/delta"
	zonesync "github.com/tombolo-mesh/tombolo/zone/sync"
)

// Bounds of a report.
const (
	maxReported = 256
	maxNames    = 10
	maxProblems = 256
	// remember is for how long a settled change stays in reports, so that one
	// that was lost on its way does not matter.
	remember = 30 * time.Second
	// countEvery is how often those are counted who are done with a change that others
	// are behind with.
	countEvery = 25 * time.Millisecond
)

// problem is something wrong with a resource.
type problem struct {
	key     mesh.Key
	reason  string
	proxies int
	// path of the rule inside the spec, where it is known.
	path string
	// typeURL and resource that Envoy refused; empty for what a compile found.
	typeURL, resource string
	// quarantined: the last good one is in force instead.
	quarantined bool
}

// tracker counts how far changes came. It implements zonesync.Reports.
type tracker struct {
	// wake tells the loop that groups made progress.
	wake    chan struct{}
	changed chan struct{}

	mu       sync.Mutex
	groups   map[string]bool // dirty
	counting bool            // soon
	synced   map[string]bool // nodes whose Envoy has everything for the first time
	marks    map[int64]*markProgress
	upTo     int64                 // applied
	open     map[string][]openMark // by group
	present  int
	total    int
	problems []problem
	// bell is closed, and made anew, at each progress.
	bell chan struct{}
}

// markProgress is how far the proxies came with one revision.
type markProgress struct {
	arrived time.Time
	settled time.Time
	// groups, until it is settled; then final is what they came to.
	groups map[string]*groupProgress
	final  *zonesyncv1.ChangeProgress
}

// openMark is a publication that proxies are behind with.
type openMark struct {
	mark      int64
	published time.Time
	behind    int
}

// groupProgress sums up the publications of one mark in a group: the proxies of
// the widest one, of which some are behind in any.
type groupProgress struct {
	nodes, behind, rejected int
	behindNodes             []string
	rejections              []delta.Rejection
	settled                 time.Time
	// closed is what settled publications said.
	closed delta.Progress
}

var _ zonesync.Reports = (*tracker)(nil)

func newTracker() *tracker {
	return &tracker{wake: make(chan struct{}, 1), changed: make(chan struct{}, 1), groups: map[string]bool{}, synced: map[string]bool{},
		marks: map[int64]*markProgress{}, open: map[string][]openMark{}, bell: make(chan struct{})}
}

// onProgress is called by the xDS server. How many are done is asked for now and
// then; what settles is news.
func (t *tracker) onProgress(group string, settled bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.groups[group] = true
	if settled {
		ring(t.wake)
	} else if !t.counting {
		t.counting = true
		time.AfterFunc(countEvery, t.count)
	}
}

func (t *tracker) count() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counting = false
	ring(t.wake)
}

// onInSync is called by the xDS server.
func (t *tracker) onInSync(node string) {
	t.mu.Lock()
	t.synced[node] = true
	t.mu.Unlock()
	ring(t.wake)
}

// warm takes the nodes whose Envoy can serve now.
func (t *tracker) warm() map[string]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.synced) == 0 {
		return nil
	}
	out := t.synced
	t.synced = map[string]bool{}
	return out
}

// dirty takes the groups that made progress.
func (t *tracker) dirty() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := slices.Sorted(maps.Keys(t.groups))
	clear(t.groups)
	return out
}

// begin notes what a batch published, before anything is asked about it.
func (t *tracker) begin(b *batch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b.applied > 0 {
		t.mark(int64(b.mark), b.now)
	}
	for g := range b.published {
		t.groups[g] = true
	}
}

// applied notes that everything up to a revision is published, and that what
// proxies have to do with it is known.
func (t *tracker) applied(b *batch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.upTo = max(t.upTo, int64(b.applied))
	t.close(b.now)
	ring(t.changed)
}

// reset forgets every change: global's history is another.
func (t *tracker) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.upTo = 0
	clear(t.marks)
	clear(t.open)
}

// restart begins at the revision that the disk holds.
func (t *tracker) restart(rev mesh.Revision) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.upTo = int64(rev)
}

func (t *tracker) mark(rev int64, now time.Time) *markProgress {
	m := t.marks[rev]
	if m == nil {
		m = &markProgress{arrived: now, groups: map[string]*groupProgress{}}
		t.marks[rev] = m
	}
	return m
}

// forget drops a group that has no proxies any more.
func (t *tracker) forget(group string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, group)
	delete(t.groups, group)
	for _, m := range t.marks {
		delete(m.groups, group)
	}
}

// update takes what the xDS server says of a group.
func (t *tracker) update(group string, list []delta.Progress, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	touched := map[int64]*groupProgress{}
	at := func(rev int64, when time.Time) *groupProgress {
		if g := touched[rev]; g != nil {
			return g
		}
		m := t.mark(rev, when)
		if !m.settled.IsZero() {
			// What the zone itself changed since then is no concern of the revision.
			touched[rev] = &groupProgress{}
			return touched[rev]
		}
		g := m.groups[group]
		if g == nil {
			g = &groupProgress{}
			m.groups[group] = g
		}
		g.nodes, g.behind, g.rejected, g.settled = g.closed.Nodes, 0, g.closed.Rejected, g.closed.Settled
		g.behindNodes, g.rejections = nil, g.closed.Rejections
		touched[rev] = g
		return g
	}
	for _, p := range t.open[group] {
		at(p.mark, p.published)
	}
	open := t.open[group][:0]
	for _, p := range list {
		g := at(p.Mark, p.Published)
		if !p.Settled.IsZero() {
			g.closed.Nodes, g.closed.Rejected = max(g.closed.Nodes, p.Nodes), max(g.closed.Rejected, p.Rejected)
			if len(p.Rejections) > 0 {
				g.closed.Rejections = p.Rejections
			}
			if p.Settled.After(g.closed.Settled) {
				g.closed.Settled = p.Settled
			}
		} else {
			open = append(open, openMark{p.Mark, p.Published, p.Behind})
			g.behind = max(g.behind, p.Behind)
			g.behindNodes = p.BehindNodes
		}
		g.nodes, g.rejected = max(g.nodes, p.Nodes), max(g.rejected, p.Rejected)
		if len(p.Rejections) > 0 {
			g.rejections = p.Rejections
		}
		if p.Settled.After(g.settled) {
			g.settled = p.Settled
		}
	}
	if len(open) == 0 {
		delete(t.open, group)
	} else {
		t.open[group] = open
	}
}

// updated notes what follows from updates.
func (t *tracker) updated(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.close(now)
	close(t.bell)
	t.bell = make(chan struct{})
	ring(t.changed)
}

// close notes which marks are settled now, and forgets old ones.
func (t *tracker) close(now time.Time) {
	for rev, m := range t.marks {
		if rev > t.upTo {
			continue
		}
		if !m.settled.IsZero() {
			if now.Sub(m.settled) > remember && len(t.marks) > 1 {
				delete(t.marks, rev)
			}
			continue
		}
		behind := false
		last := m.arrived
		for _, g := range m.groups {
			behind = behind || g.behind > 0
			if g.settled.After(last) {
				last = g.settled
			}
		}
		if !behind {
			m.settled = last
			m.final, m.groups = m.report(rev), nil
		}
	}
	t.trim()
}

// trim bounds the marks: the oldest go first, but never the one that holds the
// settled revision back.
func (t *tracker) trim() {
	if len(t.marks) <= maxReported {
		return
	}
	revs := slices.Sorted(maps.Keys(t.marks))
	if i := slices.IndexFunc(revs, func(rev int64) bool { return t.marks[rev].settled.IsZero() }); i >= 0 {
		revs = slices.Delete(revs, i, i+1)
	}
	for _, rev := range revs[:max(0, len(t.marks)-maxReported)] {
		delete(t.marks, rev)
	}
}

// status notes what the loop knows besides.
func (t *tracker) status(present, total int, problems []problem) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.present != present || t.total != total || !slices.Equal(t.problems, problems) {
		t.present, t.total, t.problems = present, total, problems
		ring(t.changed)
	}
}

// wait returns when no proxy of some groups is behind.
func (t *tracker) wait(ctx context.Context, groups map[string]bool) error {
	for {
		t.mu.Lock()
		bell, behind := t.bell, false
		for g := range groups {
			behind = behind || slices.ContainsFunc(t.open[g], func(p openMark) bool { return p.behind > 0 })
		}
		t.mu.Unlock()
		if !behind {
			return nil
		}
		select {
		case <-bell:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ReportChanged implements zonesync.Reports.
func (t *tracker) ReportChanged() <-chan struct{} { return t.changed }

// Report implements zonesync.Reports.
func (t *tracker) Report() *zonesyncv1.Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &zonesyncv1.Report{Applied: t.upTo, Settled: t.upTo, Time: timestamppb.Now(),
		ProxiesConnected: uint32(t.present), ProxiesTotal: uint32(t.total)}
	for _, rev := range slices.Sorted(maps.Keys(t.marks)) {
		m := t.marks[rev]
		if rev > t.upTo {
			continue
		}
		if m.final != nil {
			r.Changes = append(r.Changes, m.final)
		} else {
			r.Changes = append(r.Changes, m.report(rev))
			r.Settled = min(r.Settled, rev-1)
		}
	}
	for _, p := range t.problems[:min(len(t.problems), maxProblems)] {
		r.Problems = append(r.Problems, &zonesyncv1.ResourceProblem{Kind: string(p.key.Kind), Mesh: p.key.Mesh, Zone: p.key.Zone,
			Name: p.key.Name, Reason: p.reason, Proxies: uint32(p.proxies),
			Path: p.path, TypeUrl: p.typeURL, Resource: p.resource, Quarantined: p.quarantined})
	}
	return r
}

func (m *markProgress) report(rev int64) *zonesyncv1.ChangeProgress {
	out := &zonesyncv1.ChangeProgress{Revision: rev}
	var named []string // groups of which there is more to say than numbers
	for name, g := range m.groups {
		out.Affected += uint32(g.nodes)
		out.Behind += uint32(g.behind)
		out.Rejected += uint32(g.rejected)
		out.Done += uint32(max(0, g.nodes-g.behind-g.rejected))
		if len(g.behindNodes)+len(g.rejections) > 0 {
			named = append(named, name)
		}
	}
	slices.Sort(named)
	for _, name := range named {
		g := m.groups[name]
		for _, n := range g.behindNodes {
			if len(out.BehindNames) < maxNames {
				out.BehindNames = append(out.BehindNames, n)
			}
		}
		for _, x := range g.rejections {
			if len(out.Rejections) < maxNames {
				out.Rejections = append(out.Rejections, &zonesyncv1.Rejection{Proxy: x.Node, TypeUrl: x.TypeURL, Resource: x.Resource, Reason: x.Reason})
			}
		}
	}
	if !m.settled.IsZero() {
		out.SettleMicros = uint64(max(1, m.settled.Sub(m.arrived).Microseconds()))
	}
	return out
}

// progress asks the xDS server about every group that moved.
func (e *engine) progress() {
	groups := e.tracker.dirty()
	now := time.Now()
	for _, g := range groups {
		if e.classes[g] != nil {
			e.asked = e.cfg.delta.AppendProgress(e.asked[:0], g)
			e.tracker.update(g, e.asked, now)
			clear(e.asked)
		}
	}
	if len(groups) > 0 {
		e.tracker.updated(now)
	}
	// Presumed are those that are believed to live: after a restart of the zone nobody
	// is gone before there was time to come back.
	e.tracker.status(e.census[present]+e.census[presumed], len(e.proxies), e.problems())
	e.moved.ring()
}

// problems are everything that is wrong with resources: undecodable, not to be
// honoured by a compile, or refused by proxies. Sorted, one for each resource,
// rule and reason.
func (e *engine) problems() []problem {
	sum := map[problem]int{}
	for _, p := range e.replicaProblems() {
		sum[problem{key: p.key, reason: p.reason}] += 0
	}
	for id := range e.faulty {
		c := e.classes[id]
		for _, p := range c.proxy.Problems {
			sum[problem{key: p.Source, reason: p.Reason}] += len(c.members)
		}
	}
	refused := func(at blamed, x *refusal, quarantined bool, proxies int) {
		sum[problem{key: at.Key, path: at.Path, reason: refusedByProxy + x.Name + ": " + x.Reason,
			typeURL: x.TypeURL, resource: x.Name, quarantined: quarantined}] += proxies
	}
	type place struct {
		class *class
		key   delta.Key
	}
	known := map[place]bool{}
	e.quarantined(func(c *class, x *refusal, kept *good) {
		known[place{c, x.key()}] = true
		for _, at := range x.Sources {
			refused(at, x, kept != nil, len(c.members))
		}
	})
	for _, r := range e.cfg.delta.Rejections() {
		meshName, name, _ := strings.Cut(r.Node, ".")
		p := e.proxies[mesh.Key{Kind: mesh.KindDataplane, Mesh: meshName, Zone: e.cfg.zone, Name: name}]
		if p == nil || p.class == nil || p.class.proxy == nil || known[place{p.class, delta.Key{TypeURL: r.TypeURL, Name: r.Resource}}] {
			continue
		}
		for _, s := range sourcesOf(p.class.proxy, r.TypeURL, r.Resource, p.resource.Key) {
			refused(blamed{Key: s.Key, Path: s.Path}, &refusal{TypeURL: r.TypeURL, Name: r.Resource, Reason: r.Reason}, false, 1)
		}
	}
	out := make([]problem, 0, len(sum))
	for x, n := range sum {
		x.proxies = n
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b problem) int {
		return cmp.Or(compareKeys(a.key, b.key), cmp.Compare(a.path, b.path), cmp.Compare(a.reason, b.reason), cmp.Compare(a.typeURL, b.typeURL))
	})
	e.metrics.quarantined.Set(float64(len(e.quarantines)))
	return out
}
