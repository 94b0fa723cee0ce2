package sync

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sort"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// maxProgress bounds the changes and pushes that are remembered of a zone.
const maxProgress = 1024

// progress is the newest that a zone said of a change.
type progress struct {
	*zonesyncv1.ChangeProgress
	// settled is the time from the commit to when this said that it is settled.
	settled time.Duration
	// step of the Server at which it was said.
	step uint64
}

// cover remembers the end of a push: all changes up to it are one for the instance.
func (st *stream) cover(to mesh.Revision) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if m := st.member; m.stream == st && m.cover(to) {
		st.s.stepLocked(m)
	}
}

func (z *member) cover(to mesh.Revision) bool {
	if n := len(z.covers); n > 0 && z.covers[n-1] >= to {
		return false
	}
	z.covers = append(z.covers, to)
	if n := len(z.covers); n > 2*maxProgress {
		z.covers = append([]mesh.Revision(nil), z.covers[n-maxProgress:]...)
	}
	return true
}

// note takes what was said of a change, and keeps when it settled.
func (z *member) note(p *progress) {
	i, known := slices.BinarySearchFunc(z.changes, p.GetRevision(), func(p *progress, r int64) int {
		return cmp.Compare(p.GetRevision(), r)
	})
	if known {
		p.settled = cmp.Or(p.settled, z.changes[i].settled)
		z.changes[i] = p
		return
	}
	z.changes = slices.Insert(z.changes, i, p)
	if n := len(z.changes); n > maxProgress {
		z.changes = append([]*progress(nil), z.changes[n-maxProgress:]...)
	}
}

// handleReport takes a zone's report. It never reaches beyond what was sent.
func (st *stream) handleReport(r *zonesyncv1.Report) error {
	if len(r.GetChanges()) > zonesync.MaxReportItems {
		return status.Errorf(codes.InvalidArgument, "a report of more than %d changes", zonesync.MaxReportItems)
	}
	if err := boundReport(r.GetChanges(), r.GetProblems()); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	st.mu.Lock()
	sentTo, snapshotting := st.sentTo, st.snapshotting
	st.mu.Unlock()
	if snapshotting {
		// It may speak of a history that the snapshot replaces.
		return nil
	}
	now := time.Now()
	s, z := st.s, st.member
	s.mu.Lock()
	defer s.mu.Unlock()
	if z.stream != st {
		return nil
	}
	s.stepLocked(z)
	z.report = r
	z.applied = max(0, min(mesh.Revision(r.GetApplied()), sentTo))
	z.settled = max(0, min(mesh.Revision(r.GetSettled()), sentTo))
	for _, c := range r.GetChanges() {
		rev := mesh.Revision(c.GetRevision())
		if rev <= 0 || rev > sentTo {
			continue
		}
		p := &progress{ChangeProgress: c, step: z.step}
		z.note(p)
		if p.settled == 0 && (c.GetSettleMicros() > 0 || rev <= z.settled) {
			if commit, ok := s.feed.recall(rev); ok {
				p.settled = max(now.Sub(commit.time), time.Nanosecond)
				s.metrics.settle.Observe(p.settled.Seconds())
				s.log.Debug("settled", "zone", st.zone.name, "rev", rev, "done", c.GetDone(), "rejected", c.GetRejected(), "took", p.settled)
			}
		}
	}
	s.bumpLocked()
	return nil
}

// boundReport refuses lists of a report that are too long and cuts its texts, which
// are kept, and told to other instances of global.
func boundReport(changes []*zonesyncv1.ChangeProgress, problems []*zonesyncv1.ResourceProblem) error {
	if len(problems) > zonesync.MaxReportItems {
		return fmt.Errorf("a report of more than %d problems", zonesync.MaxReportItems)
	}
	for _, c := range changes {
		if len(c.GetBehindNames()) > zonesync.MaxReportNames || len(c.GetRejections()) > zonesync.MaxReportNames {
			return fmt.Errorf("a report of more than %d names of a change", zonesync.MaxReportNames)
		}
		for i, name := range c.GetBehindNames() {
			c.BehindNames[i] = shorten(name, 256)
		}
		for _, x := range c.GetRejections() {
			x.Proxy, x.TypeUrl, x.Resource, x.Reason = shorten(x.Proxy, 256), shorten(x.TypeUrl, 256), shorten(x.Resource, 512), shorten(x.Reason, 4096)
		}
	}
	for _, p := range problems {
		p.Kind, p.Mesh, p.Zone, p.Name = shorten(p.Kind, 256), shorten(p.Mesh, 256), shorten(p.Zone, 256), shorten(p.Name, 256)
		p.Path, p.TypeUrl, p.Resource, p.Reason = shorten(p.Path, 512), shorten(p.TypeUrl, 256), shorten(p.Resource, 512), shorten(p.Reason, 4096)
	}
	return nil
}

// Change is the state of a revision now, in every enabled zone. A change that
// does not concern a zone is done there, with no proxy affected.
func (s *Server) Change(rev mesh.Revision) ChangeStatus {
	zones, _, _ := s.feed.fleet()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changeLocked(rev, zones)
}

func (s *Server) changeLocked(rev mesh.Revision, zones map[string]bool) ChangeStatus {
	out := ChangeStatus{Revision: rev, Zones: []ZoneProgress{}, Complete: true}
	commit, known := s.feed.recall(rev)
	for _, name := range slices.Sorted(maps.Keys(zones)) {
		if !zones[name] {
			continue
		}
		p := ZoneProgress{Zone: name, State: Done}
		if !known || s.view.concerns(name, commit.key) {
			p = zoneProgress(name, s.zones[name], rev)
			if at := s.mayBeAt(s.zones[name]); p.State == Offline && len(at) > 0 {
				p.State, p.MayBeAt = Unknown, at
			}
		}
		out.Complete = out.Complete && (p.State == Done || p.State == Rejected)
		out.Zones = append(out.Zones, p)
	}
	return out
}

// zoneProgress is how far a change that concerns a zone came there: over all
// instances of its control plane, each of which counts the proxies that it serves.
func zoneProgress(name string, z *zone, rev mesh.Revision) ZoneProgress {
	if z == nil {
		return ZoneProgress{Zone: name, State: Offline}
	}
	p := z.leader.progress(name, rev)
	for _, instance := range slices.Sorted(maps.Keys(z.followers)) {
		p = p.and(z.followers[instance].progress(name, rev))
	}
	return p
}

// and sums up two instances of a zone: it stands as the one that is less far.
func (p ZoneProgress) and(q ZoneProgress) ZoneProgress {
	p.Affected, p.Done, p.Behind, p.Rejected = p.Affected+q.Affected, p.Done+q.Done, p.Behind+q.Behind, p.Rejected+q.Rejected
	p.BehindNames = append(p.BehindNames, q.BehindNames...)
	p.BehindNames = p.BehindNames[:min(len(p.BehindNames), zonesync.MaxReportNames)]
	p.Rejections = append(p.Rejections, q.Rejections...)
	p.Rejections = p.Rejections[:min(len(p.Rejections), zonesync.MaxReportNames)]
	p.Settled = max(p.Settled, q.Settled)
	for _, state := range []ZoneState{Offline, Behind, Rejected} {
		if p.State == state || q.State == state {
			p.State = state
			break
		}
	}
	if p.State == Behind || p.State == Offline {
		p.Settled = 0
	}
	return p
}

// progress of a change among the proxies of one instance.
func (z *member) progress(name string, rev mesh.Revision) ZoneProgress {
	p := ZoneProgress{Zone: name, State: Offline}
	said := z.said(rev)
	if said.ChangeProgress != nil {
		p.Affected, p.Done, p.Behind, p.Rejected = int(said.GetAffected()), int(said.GetDone()), int(said.GetBehind()), int(said.GetRejected())
		p.BehindNames = slices.Clone(said.GetBehindNames())
		for _, r := range said.GetRejections() {
			p.Rejections = append(p.Rejections, Rejection{Proxy: r.GetProxy(), TypeURL: r.GetTypeUrl(), Resource: r.GetResource(), Reason: r.GetReason()})
		}
		p.Settled = said.settled
	}
	switch {
	case z.settled >= rev || said.GetSettleMicros() > 0:
		p.State, p.Behind, p.BehindNames = Done, 0, nil
		if p.Rejected > 0 {
			p.State = Rejected
		}
	case z.online():
		p.State, p.Settled = Behind, 0
	}
	return p
}

// said finds the progress of a revision: its own, or that of the push it was part of.
// Without any it is the zero progress.
func (z *member) said(rev mesh.Revision) progress {
	i := sort.Search(len(z.covers), func(i int) bool { return z.covers[i] >= rev })
	if i == len(z.covers) {
		return progress{}
	}
	end := z.covers[i]
	j := sort.Search(len(z.changes), func(j int) bool { return mesh.Revision(z.changes[j].GetRevision()) >= rev })
	if j < len(z.changes) && mesh.Revision(z.changes[j].GetRevision()) <= end {
		return *z.changes[j]
	}
	return progress{}
}

// watchEvery is how often the states of a change are told that are not its last.
const watchEvery = 100 * time.Millisecond

// WatchChange calls fn with each new state of a revision until fn returns false
// or ctx ends. The first call is immediate, and so is that of a complete state;
// those between are at most ten a second, however many proxies and zones there are.
func (s *Server) WatchChange(ctx context.Context, rev mesh.Revision, fn func(ChangeStatus) bool) error {
	var last ChangeStatus
	pause := time.NewTimer(0)
	defer pause.Stop()
	var held <-chan time.Time // of a state that is told later
	var next time.Time
	for first := true; ; first = false {
		zones, _, _ := s.feed.fleet()
		s.mu.Lock()
		now, changed := s.changeLocked(rev, zones), s.changed
		s.mu.Unlock()
		held = nil
		if first || !reflect.DeepEqual(now, last) {
			if wait := time.Until(next); now.Complete || wait <= 0 {
				last, next = now, time.Now().Add(watchEvery)
				if !fn(now) {
					return nil
				}
			} else {
				pause.Reset(wait)
				held = pause.C
			}
		}
		select {
		case <-changed:
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Zones lists every known zone, sorted by name.
func (s *Server) Zones() []ZoneStatus {
	zones, _, _ := s.feed.fleet()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []ZoneStatus{}
	for _, name := range slices.Sorted(maps.Keys(zones)) {
		zs := ZoneStatus{Name: name}
		if z := s.zones[name]; z == nil || !z.leader.online() {
			zs.MayBeAt = s.mayBeAt(z)
		}
		if z := s.zones[name]; z != nil {
			zs.Online, zs.Since, zs.Version, zs.Applied = z.leader.online(), z.leader.since, z.leader.version, int64(z.leader.applied)
			if zs.Global = z.leader.peer; z.leader.stream != nil {
				zs.Global = s.cfg.Instance
			}
			for _, m := range z.members() {
				if m.online() {
					zs.Instances++
				}
			}
			zs.Connected, zs.Total = int(z.leader.report.GetProxiesConnected()), int(z.leader.report.GetProxiesTotal())
			zs.Reported = z.leader.report != nil
			zs.Problems = problemsOf(z.leader.report)
			for _, instance := range slices.Sorted(maps.Keys(z.followers)) {
				f := z.followers[instance]
				zs.Applied = min(zs.Applied, int64(f.applied))
				for _, p := range problemsOf(f.report) {
					if i := slices.IndexFunc(zs.Problems, func(q ResourceProblem) bool { return q.Key == p.Key && q.Reason == p.Reason && q.Path == p.Path }); i >= 0 {
						zs.Problems[i].Proxies += p.Proxies
					} else if len(zs.Problems) < zonesync.MaxReportItems {
						zs.Problems = append(zs.Problems, p)
					}
				}
			}
		}
		out = append(out, zs)
	}
	return out
}

func problemsOf(r *zonesyncv1.Report) []ResourceProblem {
	var out []ResourceProblem
	for _, p := range r.GetProblems() {
		key := mesh.Key{Kind: mesh.KindName(p.GetKind()), Mesh: p.GetMesh(), Zone: p.GetZone(), Name: p.GetName()}
		out = append(out, ResourceProblem{Key: key, Kind: p.GetKind(), Mesh: p.GetMesh(), Zone: p.GetZone(),
			Name: p.GetName(), Reason: p.GetReason(), Proxies: int(p.GetProxies()),
			Path: p.GetPath(), TypeURL: p.GetTypeUrl(), Resource: p.GetResource(), Quarantined: p.GetQuarantined()})
	}
	return out
}

func sortKeys(keys []mesh.Key) {
	slices.SortFunc(keys, func(a, b mesh.Key) int { return strings.Compare(a.String(), b.String()) })
}
