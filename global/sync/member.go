package sync

import (
	"maps"
	"slices"
	gosync "sync"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// maxFollowers bounds the instances of one zone beside the one that leads.
const maxFollowers = 8

// zone is what is known of one zone. Fields below mu of the Server, except facts.
type zone struct {
	name string
	// leader tells the zone's facts; what it reported stays while it is away.
	leader member
	// followers are the other instances that are connected, by instance.
	followers map[string]*member

	// facts serialises what is written for the zone. The index below it is what
	// the store holds, by digest.
	facts    gosync.Mutex
	sequence uint64
	index    *mesh.FactSet
}

// member is one instance of a zone's control plane: where it is connected and
// what it reported of its proxies.
type member struct {
	// stream of one that is connected here; else peer is the instance of global
	// that it is connected to. One without either is away.
	stream *stream
	peer   string
	// left is the instance of global that it was connected to before, if not this one.
	left string
	// session is the number of the fence that a leader has raised.
	session  int64
	instance string
	// since it is connected, or away.
	since   time.Time
	version string

	report  *zonesyncv1.Report
	applied mesh.Revision
	settled mesh.Revision
	// changes that it told of, and covers: the ends of pushes, both ascending and bounded.
	changes []*progress
	covers  []mesh.Revision

	// step of the Server at which it last changed, and at which what it had told
	// before was dropped.
	step, reset uint64
}

// zoneLocked finds a zone, or begins to know it.
func (s *Server) zoneLocked(name string) *zone {
	z := s.zones[name]
	if z == nil {
		z = &zone{name: name, followers: map[string]*member{}}
		s.zones[name] = z
	}
	return z
}

// members of a zone that are known, the leader first.
func (z *zone) members() []*member {
	out := []*member{&z.leader}
	for _, name := range slices.Sorted(maps.Keys(z.followers)) {
		out = append(out, z.followers[name])
	}
	return out
}

// streams of a zone that are open here, the leader's first, if it is there.
func (z *zone) streams() []*stream {
	var out []*stream
	for _, m := range z.members() {
		if m.stream != nil {
			out = append(out, m.stream)
		}
	}
	return out
}

// online: it is connected to some instance of global.
func (m *member) online() bool { return m.stream != nil || m.peer != "" }

// end ends its stream, if it is open here.
func (m *member) end(err error) {
	if m.stream != nil {
		m.stream.end(err)
	}
}

// stepLocked notes that something became known of a member.
func (s *Server) stepLocked(m *member) {
	s.steps++
	m.step = s.steps
}

// forgetLocked drops what a member reported and was sent: it gets a snapshot.
func (s *Server) forgetLocked(m *member) {
	s.stepLocked(m)
	m.report, m.applied, m.settled, m.changes, m.covers, m.reset = nil, 0, 0, nil, nil, m.step
}

// rewindLocked forgets the pushes after a revision, from which it is sent again.
func (s *Server) rewindLocked(m *member, to mesh.Revision) {
	if n, _ := slices.BinarySearch(m.covers, to+1); n < len(m.covers) {
		s.stepLocked(m)
		m.covers, m.reset = m.covers[:n:n], m.step
	}
}
