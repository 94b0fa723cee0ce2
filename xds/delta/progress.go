package delta

import (
	"cmp"
	"slices"
	"time"
)

// Bounds of what a group remembers.
const (
	maxOpen    = 128     // publications not settled, and settled ones not yet asked for
	maxLog     = 64      // publications that a stream can catch up with by their keys
	maxLogKeys = 1 << 14 // keys in them; beyond either a stream compares everything
	maxShown   = 10      // nodes and rejections in a Progress
)

// group is proxies that share what is published.
type group struct {
	name      string
	server    *Server
	layers    []*Set
	published bool
	mark      int64
	version   int64 // counts publications that changed something
	log       []change
	logKeys   int
	members   int                  // assigned nodes
	streams   map[*stream]struct{} // of its connected nodes
	open      []*publication       // not settled, oldest first
	settled   []Progress
	good      map[Key]Good     // accepted, and replaced or removed by what nobody accepted yet
	notified  bool             // OnProgress was called and Progress not yet
	waves     map[course]*wave // to version
	scouts    []*stream        // canaries of what was published last
	// awaiting are versions that some of its streams wait for others to try.
	awaiting map[proof]struct{}
	alarm    *time.Timer // wakes those who sleep meanwhile
	// gathering: what was published waits for the next step; stepped is when the last was.
	gathering bool
	stepped   time.Time
}

// change is what a publication changed, for streams to catch up with.
type change struct {
	version int64
	keys    []Key
	urgent  bool
}

type publication struct {
	Progress
	version int64
	keys    map[Key]struct{}
	// withheld are resources that were replaced before all nodes had them, see Withhold.
	withheld   []Rejection
	withheldAt time.Time
}

func (g *group) publish(mark int64, urgent bool, layers []*Set, now time.Time) {
	keys := g.server.diff(g.layers, layers)
	first := !g.published
	g.succeed(keys, layers)
	g.layers, g.published, g.mark = layers, true, mark
	p := &publication{Progress: Progress{Mark: mark, Published: now}, keys: make(map[Key]struct{}, len(keys))}
	if len(keys) == 0 && !first {
		g.settle(p, now)
		return
	}
	g.version++
	g.waves, g.scouts = nil, nil
	p.version = g.version
	for _, k := range keys {
		p.keys[k] = struct{}{}
	}
	g.remember(change{g.version, keys, urgent})
	p.Nodes, p.Behind = len(g.streams), len(g.streams)
	if p.Nodes == 0 {
		g.settle(p, now)
		return
	}
	if len(g.open) == maxOpen {
		g.open = slices.Delete(g.open, 0, 1)
	}
	g.open = append(g.open, p)
	clear(g.awaiting) // who still waits says so again
	if g.gathers(keys, now) {
		g.notify(false)
		return
	}
	sleep := g.trying(keys, urgent, now)
	for st := range g.streams {
		if !sleep || st.settled == nil {
			st.wakeUp()
		}
	}
	g.notify(false)
}

func (g *group) remember(c change) {
	g.log = append(g.log, c)
	g.logKeys += len(c.keys)
	for len(g.log) > maxLog || g.logKeys > maxLogKeys && len(g.log) > 0 {
		g.logKeys -= len(g.log[0].keys)
		g.log = slices.Delete(g.log, 0, 1)
	}
}

// since visits what changed after a version; false means it is not remembered.
func (g *group) since(version int64, visit func(k Key, urgent bool)) bool {
	if version == g.version {
		return true
	}
	if len(g.log) == 0 || g.log[0].version > version+1 {
		return false
	}
	for _, c := range g.log {
		if c.version > version {
			for _, k := range c.keys {
				visit(k, c.urgent)
			}
		}
	}
	return true
}

// join counts a stream into every unsettled publication.
func (g *group) join(st *stream) {
	g.streams[st] = struct{}{}
	st.done, st.seen = 0, g.version
	if len(g.open) == 0 {
		st.done = g.version
	}
	for _, p := range g.open {
		p.Nodes++
		p.Behind++
	}
	g.notify(false)
}

// leave takes a stream out of the publications that it is not done with.
func (g *group) leave(st *stream) {
	delete(g.streams, st)
	now := g.server.now()
	for _, p := range g.open {
		if p.version > st.done {
			p.Nodes--
			p.Behind--
		}
	}
	g.sweep(now)
	g.notify(false)
}

// advance counts a stream as done with everything that is published.
func (g *group) advance(st *stream, now time.Time) {
	if st.done == g.version {
		return
	}
	for _, p := range g.open {
		if p.version <= st.done {
			continue
		}
		p.Behind--
		refused := false
		for k, r := range st.node.rejected {
			if _, ok := p.keys[k]; ok {
				refused = true
				if len(p.Rejections) < maxShown {
					p.Rejections = append(p.Rejections, *r)
				}
			}
		}
		if len(p.withheld) > 0 && !refused && !st.opened.After(p.withheldAt) {
			refused = true
			if len(p.Rejections) == 0 {
				p.Rejections = append(p.Rejections, p.withheld[:min(len(p.withheld), maxShown)]...)
			}
		}
		if refused {
			p.Rejected++
		} else {
			p.Done++
		}
	}
	st.done = g.version
	g.sweep(now)
	g.notify(false)
}

// sweep settles publications that nobody is behind with.
func (g *group) sweep(now time.Time) {
	g.open = slices.DeleteFunc(g.open, func(p *publication) bool {
		if p.Behind == 0 {
			g.settle(p, now)
		}
		return p.Behind == 0
	})
}

func (g *group) settle(p *publication, now time.Time) {
	p.Settled = now
	g.forget(p)
	if len(g.settled) == maxOpen {
		g.settled = slices.Delete(g.settled, 0, 1)
	}
	slices.SortFunc(p.Rejections, compareRejections)
	g.settled = append(g.settled, p.Progress)
	g.notify(true)
}

// notify tells of progress: at once when something settled, else once until asked.
func (g *group) notify(settled bool) {
	if g.server.cfg.OnProgress == nil || g.notified && !settled {
		return
	}
	g.notified = true
	g.server.events = append(g.server.events, func() { g.server.cfg.OnProgress(g.name, settled) })
}

func (g *group) appendProgress(list []Progress) []Progress {
	from := len(list)
	list = append(list, g.settled...)
	g.settled, g.notified = nil, false
	var behind []string
	for _, p := range g.open {
		shown := p.Progress
		shown.Rejections = slices.Clone(p.Rejections)
		slices.SortFunc(shown.Rejections, compareRejections)
		if len(behind) < min(p.Behind, maxShown) { // who is behind with an older one is behind with this one
			behind = g.behind(p.version)
		}
		shown.BehindNodes = behind
		list = append(list, shown)
	}
	slices.SortStableFunc(list[from:], func(a, b Progress) int { return cmp.Compare(a.Mark, b.Mark) })
	return list
}

// behind names nodes that are not done with a version, sorted.
func (g *group) behind(version int64) []string {
	names := make([]string, 0, maxShown)
	for st := range g.streams {
		if st.done < version {
			names = append(names, st.node.id)
		}
		if len(names) == maxShown {
			break
		}
	}
	slices.Sort(names)
	return names
}

func compareRejections(a, b Rejection) int {
	return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.TypeURL, b.TypeURL), cmp.Compare(a.Resource, b.Resource))
}
