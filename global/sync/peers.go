package sync

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tombolo-mesh/tombolo/mesh"
	peersv1 "github.com/tombolo-mesh/tombolo/proto/peers/v1"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// exportPause is the least time between two updates: the first goes out at once,
// a burst coalesces behind it.
const exportPause = 2 * time.Millisecond

// Export tells another instance of global of the zones that are connected to this
// one: everything first, then what changes, until ctx ends or send fails. A send
// that takes long delays nobody; what changes meanwhile goes out as one. It begins
// with a beat, and beats while there is nothing to tell.
func (s *Server) Export(ctx context.Context, send func(*peersv1.Update) error) error {
	told, step := map[memberID]cursor{}, uint64(0)
	beat := time.NewTicker(zonesync.Beat)
	defer beat.Stop()
	for first := true; ; first = false {
		s.mu.Lock()
		changed := s.changed
		var updates []*peersv1.Update
		if first || s.steps != step { // else something changed that is nothing of members
			step, updates = s.steps, s.exportLocked(told)
		}
		s.mu.Unlock()
		if first {
			updates = slices.Concat([]*peersv1.Update{{}}, updates, []*peersv1.Update{{Current: true}})
		}
		for _, u := range updates {
			if err := send(u); err != nil {
				return err
			}
		}
		if len(updates) > 0 && !pause(ctx, exportPause) {
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-beat.C:
			if err := send(&peersv1.Update{}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// memberID tells members apart. The leader has no instance: the record of a
// zone's leader goes on with the next.
type memberID struct{ zone, instance string }

// cursor is what another instance was told of a member.
type cursor struct {
	step    uint64
	cover   mesh.Revision
	session int64
	since   time.Time
	// instance of the zone, which for a leader is not in its id.
	instance string
}

// exportLocked is what differs from what was told, and notes that it was.
func (s *Server) exportLocked(told map[memberID]cursor) []*peersv1.Update {
	var members []*peersv1.Member
	here := map[memberID]bool{}
	for _, name := range slices.Sorted(maps.Keys(s.zones)) {
		z := s.zones[name]
		for _, m := range z.members() {
			if m.stream == nil {
				continue
			}
			id := memberID{zone: name}
			if m != &z.leader {
				id.instance = m.instance
			}
			here[id] = true
			was, known := told[id]
			if known && was.step == m.step {
				continue
			}
			known = known && was.session == m.session && was.since.Equal(m.since) && was.step >= m.reset
			if !known {
				was = cursor{}
			}
			members = append(members, exportMember(id, m, was, !known)...)
			now := cursor{step: m.step, session: m.session, since: m.since, instance: m.instance}
			if n := len(m.covers); n > 0 {
				now.cover = m.covers[n-1]
			}
			told[id] = now
		}
	}
	for id, was := range told {
		if !here[id] {
			delete(told, id)
			members = append(members, &peersv1.Member{Zone: id.zone, Instance: was.instance, Follower: id.instance != "", Session: was.session, Since: timestamppb.New(was.since)})
		}
	}
	var updates []*peersv1.Update
	for _, part := range zonesync.Chunks(members) {
		updates = append(updates, &peersv1.Update{Members: part})
	}
	return updates
}

// exportMember says what is new of a member since a cursor, in as many messages
// as its changes take.
func exportMember(id memberID, m *member, was cursor, reset bool) []*peersv1.Member {
	head := func() *peersv1.Member {
		return &peersv1.Member{Zone: id.zone, Instance: m.instance, Follower: id.instance != "", Session: m.session, Connected: true, Since: timestamppb.New(m.since)}
	}
	first := head()
	first.Version, first.Reset_, first.Applied, first.Settled = m.version, reset, int64(m.applied), int64(m.settled)
	if m.report != nil {
		first.Report = &zonesyncv1.Report{Applied: m.report.Applied, Settled: m.report.Settled, ProxiesConnected: m.report.ProxiesConnected,
			ProxiesTotal: m.report.ProxiesTotal, Problems: m.report.Problems, Time: m.report.Time}
	}
	from, _ := slices.BinarySearch(m.covers, was.cover+1)
	for _, c := range m.covers[from:] {
		first.Covers = append(first.Covers, int64(c))
	}
	out, size := []*peersv1.Member{first}, proto.Size(first)
	for _, p := range m.changes {
		if p.step <= was.step {
			continue
		}
		last := out[len(out)-1]
		n := proto.Size(p.ChangeProgress) + 16
		if size += n; size > zonesync.ChunkBytes && len(last.Changes) > 0 {
			next := head()
			next.Version, next.Applied, next.Settled, next.Report = first.Version, first.Applied, first.Settled, first.Report
			last, size = next, n
			out = append(out, last)
		}
		last.Changes = append(last.Changes, &peersv1.Progress{Change: p.ChangeProgress, SettledNanos: int64(p.settled)})
	}
	return out
}

// Bounds of what another instance of global tells.
const (
	// maxImported zones that this instance does not know by itself.
	maxImported = 10_000
	maxMemberID = 1024 // bytes of a member's instance, and of its version
)

// Import takes what another instance of global tells of a member that is, or no
// longer is, connected to it. What no member says of itself is passed over.
func (s *Server) Import(peer string, u *peersv1.Member) {
	var changes []*zonesyncv1.ChangeProgress
	for _, c := range u.GetChanges() {
		changes = append(changes, c.GetChange())
	}
	reason := mesh.CheckName(u.GetZone())
	if len(u.GetInstance()) > maxMemberID || len(u.GetVersion()) > maxMemberID {
		reason = fmt.Sprintf("an instance or version of more than %d bytes", maxMemberID)
	} else if err := boundReport(changes, u.GetReport().GetProblems()); err != nil {
		reason = err.Error()
	}
	if reason != "" {
		s.log.Warn("another instance of global tells of a member that cannot be", "peer", peer, "zone", clip(u.GetZone()), "reason", reason)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.zones[u.GetZone()] == nil && len(s.zones) >= maxImported {
		return
	}
	z := s.zoneLocked(u.GetZone())
	m := &z.leader
	if u.GetFollower() {
		m = z.followers[u.GetInstance()]
	}
	if !u.GetConnected() {
		// It may be connected elsewhere by now, or to the same instance once more.
		if m != nil && m.peer == peer && m.session == u.GetSession() && m.since.Equal(u.GetSince().AsTime()) {
			s.partLocked(z, m)
			s.bumpLocked()
		}
		return
	}
	since := u.GetSince().AsTime()
	if m == nil {
		if len(z.followers) >= maxFollowers {
			return
		}
		m = &member{}
		z.followers[u.GetInstance()] = m
	}
	if m.online() && m.peer != peer {
		// The newest stream counts. That of a leader has the larger number.
		if older := cmp.Or(cmp.Compare(u.GetSession(), m.session), since.Compare(m.since)) <= 0; older {
			return
		}
		if m.stream != nil {
			m.stream.end(status.Errorf(codes.Aborted, "the zone is connected to instance %q of global", peer))
			m.stream = nil
		}
	}
	if u.GetReset_() || m.session != u.GetSession() {
		s.forgetLocked(m)
	}
	s.stepLocked(m)
	m.peer, m.session, m.instance, m.since, m.version = peer, u.GetSession(), u.GetInstance(), since, u.GetVersion()
	if m.report = u.GetReport(); m.report != nil {
		m.report.Changes = nil // they come apart
	}
	m.applied, m.settled = mesh.Revision(u.GetApplied()), mesh.Revision(u.GetSettled())
	for _, c := range u.GetCovers() {
		m.cover(mesh.Revision(c))
	}
	for _, c := range u.GetChanges() {
		if c.GetChange() != nil {
			m.note(&progress{ChangeProgress: c.GetChange(), settled: time.Duration(c.GetSettledNanos()), step: m.step})
		}
	}
	s.bumpLocked()
}

// partLocked takes a member off the instance of global that it was connected to.
func (s *Server) partLocked(z *zone, m *member) {
	s.stepLocked(m)
	m.peer, m.left, m.since = "", m.peer, time.Now()
	if m != &z.leader {
		delete(z.followers, m.instance)
	}
}

// Unreached says that nothing is known of what is connected to another instance of
// global, which lives. A zone that is not online may be there.
func (s *Server) Unreached(peer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unreached[peer] = true
	s.lostLocked(peer)
}

// Reached says that another instance of global has told all that it knows.
func (s *Server) Reached(peer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.unreached, peer)
	s.bumpLocked()
}

// Lost says that another instance of global is gone, and with it what was connected
// to it.
func (s *Server) Lost(peer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.unreached, peer)
	s.lostLocked(peer)
}

// mayBeAt are the instances of global that a zone which is not online may be
// connected to, though they cannot be asked: the one that had it last, or any.
func (s *Server) mayBeAt(z *zone) []string {
	if z != nil && s.unreached[z.leader.left] {
		return []string{z.leader.left}
	}
	return slices.Sorted(maps.Keys(s.unreached))
}

func (s *Server) lostLocked(peer string) {
	for _, z := range s.zones {
		for _, m := range z.members() {
			if m.peer == peer {
				s.partLocked(z, m)
			}
		}
	}
	s.bumpLocked()
}
