package agents

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

// maxNames is the most names in one frame.
const maxNames = 1000

// Names is the table of names of a mesh at one moment. It is immutable; what it
// sends is encoded once for all agents.
type Names struct {
	names []*agentv1.Name // sorted
	// id tells tables of a board from each other.
	id uint64

	mu   sync.Mutex
	full []*agentv1.ZoneFrame
	// since has the frames for who has the table of an id.
	since map[uint64][]*agentv1.ZoneFrame
}

// NewNames makes a table of names, of which there is one each.
func NewNames(names []*agentv1.Name) *Names {
	names = slices.Clone(names)
	slices.SortFunc(names, func(a, b *agentv1.Name) int { return strings.Compare(a.Name, b.Name) })
	return &Names{names: names, since: map[uint64][]*agentv1.ZoneFrame{}}
}

// Equal reports whether two tables say the same.
func (n *Names) Equal(other *Names) bool {
	return slices.EqualFunc(n.names, other.names, sameName)
}

func sameName(a, b *agentv1.Name) bool {
	return a.Name == b.Name && a.TtlSeconds == b.TtlSeconds && slices.Equal(a.Addresses, b.Addresses)
}

// frames bring an agent that has a table (nil: none) up to this one.
func (n *Names) frames(has *Names) ([]*agentv1.ZoneFrame, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if has == nil {
		if n.full == nil {
			frames, err := encodeNames(&agentv1.Names{Reset_: true, Set: n.names})
			if err != nil {
				return nil, err
			}
			n.full = frames
		}
		return n.full, nil
	}
	frames, ok := n.since[has.id]
	if ok {
		return frames, nil
	}
	frames, err := encodeNames(n.diff(has))
	if err == nil {
		n.since[has.id] = frames // as many as there are tables that late agents have
	}
	return frames, err
}

// diff of two sorted lists.
func (n *Names) diff(has *Names) *agentv1.Names {
	out := &agentv1.Names{}
	i, j := 0, 0
	for i < len(has.names) || j < len(n.names) {
		switch {
		case j == len(n.names) || i < len(has.names) && has.names[i].Name < n.names[j].Name:
			out.Removed = append(out.Removed, has.names[i].Name)
			i++
		case i == len(has.names) || n.names[j].Name < has.names[i].Name:
			out.Set = append(out.Set, n.names[j])
			j++
		default:
			if !sameName(has.names[i], n.names[j]) {
				out.Set = append(out.Set, n.names[j])
			}
			i, j = i+1, j+1
		}
	}
	return out
}

// encodeNames splits a change into frames that are encoded already: to the
// encoder they are bytes to copy.
func encodeNames(all *agentv1.Names) ([]*agentv1.ZoneFrame, error) {
	var out []*agentv1.ZoneFrame
	part := &agentv1.Names{Reset_: all.Reset_}
	for {
		n := min(len(all.Set), maxNames)
		part.Set, all.Set = all.Set[:n], all.Set[n:]
		m := min(len(all.Removed), maxNames-n)
		part.Removed, all.Removed = all.Removed[:m], all.Removed[m:]
		part.More = len(all.Set)+len(all.Removed) > 0
		text, err := proto.Marshal(&agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Names{Names: part}})
		if err != nil {
			return nil, fmt.Errorf("encode names: %w", err)
		}
		frame := &agentv1.ZoneFrame{}
		frame.ProtoReflect().SetUnknown(text)
		out = append(out, frame)
		if !part.More {
			return out, nil
		}
		part = &agentv1.Names{}
	}
}

// Board shows the newest table of each mesh. Its zero value is ready to use and
// safe for concurrent use. Who reads has at most one table to catch up with,
// however many came in between.
type Board struct {
	mu     sync.Mutex
	meshes map[string]*posted
	lastID uint64
}

type posted struct {
	names *Names
	// changed is closed when there is another.
	changed chan struct{}
}

func (b *Board) of(mesh string) *posted {
	if b.meshes == nil {
		b.meshes = map[string]*posted{}
	}
	p := b.meshes[mesh]
	if p == nil {
		p = &posted{changed: make(chan struct{})}
		b.meshes[mesh] = p
	}
	return p
}

// Post shows a table in place of the former; it must not have been posted before.
func (b *Board) Post(mesh string, names *Names) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.of(mesh)
	if p.names != nil && p.names.Equal(names) {
		return
	}
	b.lastID++
	names.id = b.lastID
	p.names = names
	close(p.changed)
	p.changed = make(chan struct{})
}

// Read returns the newest table, nil if there was none yet, and a channel that is
// closed when there is another.
func (b *Board) Read(mesh string) (*Names, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.of(mesh)
	return p.names, p.changed
}

// namesOf are the names that one stream sent.
type namesOf struct {
	board *Board // nil: the agent did not ask
	mesh  string
	sent  *Names
	// changed is nil, and so never ready, for who did not ask.
	changed <-chan struct{}
}

// next returns what has to be sent now.
func (n *namesOf) next() ([]*agentv1.ZoneFrame, error) {
	if n.board == nil {
		return nil, nil
	}
	newest, changed := n.board.Read(n.mesh)
	n.changed = changed
	if newest == nil || newest == n.sent {
		return nil, nil
	}
	frames, err := newest.frames(n.sent)
	if err != nil {
		return nil, err
	}
	n.sent = newest
	return frames, nil
}
