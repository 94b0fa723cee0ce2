package delta

import (
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Server serves delta ADS.
//
// One lock guards all state: what is done under it is a few map operations per
// request or response. Responses are encoded and sent, and callbacks called,
// without it.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	cfg     Config
	metrics *metrics
	now     func() time.Time

	mu    sync.Mutex
	nodes map[string]*node
	// refusing are those of nodes that may have rejections: few.
	refusing map[*node]struct{}
	groups   map[string]*group
	waiting  map[string]chan struct{} // closed when the node is assigned
	streams  int
	proven   map[proof]struct{}
	trials   map[proof]*trial
	// retired were proven and replaced, contested were refused by a node: the value
	// says that another accepted it. verdicts are news of them.
	retired   map[proof]struct{}
	contested map[proof]bool
	verdicts  []Verdict
	refusals  int64 // counts them
	memo      []memo
	names     *registry // of all streams
	events    []func()
	flushing  bool
	dispatch  dispatch
	pace      time.Duration // that steps of endpoints take
}

// proof is a version of a resource that some Envoy has accepted.
type proof struct {
	Key
	version string
}

// maxProven bounds the memory of accepted versions; beyond it they are proven anew.
const maxProven = 1 << 18

// node is what the server knows of one proxy, connected or not.
type node struct {
	id       string
	group    *group
	own      *Set
	stream   *stream // nil when not connected
	rejected map[Key]*Rejection
	// lacking is when the proxy refused a cluster that it never had, lackingIn the
	// version of the group that had it.
	lacking   time.Time
	lackingIn int64
	// refusedAt is when it last refused something that may name clusters.
	refusedAt time.Time
	// spoilt are clusters whose content the proxy refused, or may have: until it gets
	// another one it can keep them among those that warm, and answer for no cluster.
	spoilt map[string]spoil
	// doubted are the last versions of clusters that the proxy refused, or may have: it
	// passes over them when they come again, and ACKs, which says nothing of them.
	doubted map[string]string
	// What the proxy had on its last stream, for the bytes.
	last *view
	kept map[Key]*Resource
	// maybe are clusters and listeners that it was sent and did not answer for.
	maybe map[Key]struct{}
}

// spoil is what was sent of a cluster, and what the proxy had before: nil is nothing.
type spoil struct {
	version string
	before  *Resource
}

// New makes a server; it starts nothing. Register it with
// discoveryv3.RegisterAggregatedDiscoveryServiceServer.
func New(cfg Config) *Server {
	if cfg.ClustersTimeout <= 0 {
		cfg.ClustersTimeout = time.Second
	}
	if cfg.MaxStreams <= 0 {
		cfg.MaxStreams = 20000
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, metrics: newMetrics(cfg.Registerer), now: time.Now,
		nodes: map[string]*node{}, refusing: map[*node]struct{}{}, groups: map[string]*group{}, waiting: map[string]chan struct{}{}, proven: map[proof]struct{}{}, trials: map[proof]*trial{},
		retired: map[proof]struct{}{}, contested: map[proof]bool{}, names: newRegistry(),
		dispatch: dispatch{most: runtime.GOMAXPROCS(0)},
	}
}

// Publish gives a group its newest layers: a node of the group sees their union
// with its own set. Where a name is in several, a node's own set wins, then the
// last layer. Layers are compared by pointer first, so pass the same *Set
// when it did not change. Mark is an opaque growing number (the zone's revision);
// publishing what is equal to the last publication affects nobody and settles at once.
// Urgent publications (an endpoint removed, a permission tightened) overtake others
// in the queues of streams: their endpoints, secrets and extension configurations
// go first and wait for no cluster.
//
// A group that was never published sends nothing to its nodes: an Envoy that
// reconnects to a zone that is still starting keeps what it has.
func (s *Server) Publish(group string, mark int64, urgent bool, layers ...*Set) {
	s.mu.Lock()
	g := s.group(group)
	g.publish(mark, urgent, slices.Clone(layers), s.now())
	s.unlock()
}

// Assign puts a node into a group and gives it resources of its own (may be nil).
func (s *Server) Assign(node, group string, own *Set) {
	s.mu.Lock()
	s.assign(node, s.group(group), own)
	s.unlock()
}

func (s *Server) assign(id string, g *group, own *Set) {
	n := s.nodes[id]
	if n == nil {
		n = &node{id: id, group: g, own: own}
		s.nodes[id] = n
		g.members++
		if c := s.waiting[id]; c != nil {
			close(c)
			delete(s.waiting, id)
		}
		return
	}
	keys := n.own.Diff(own)
	n.own = own
	st := n.stream
	if old := n.group; old != g {
		old.members--
		n.group = g
		g.members++
		if st != nil {
			old.leave(st)
			g.join(st)
			st.rescan()
		}
		s.drop(old)
	}
	if st != nil {
		for _, k := range keys {
			st.mark(k, false)
		}
		st.wakeUp()
	}
}

// Unassign forgets a node; its stream, if any, is ended.
func (s *Server) Unassign(node string) {
	s.mu.Lock()
	if n := s.nodes[node]; n != nil {
		delete(s.nodes, node)
		delete(s.refusing, n)
		n.group.members--
		if n.stream != nil {
			n.group.leave(n.stream)
			n.stream.end(status.Errorf(codes.Unavailable, "node %q is not assigned any more", node))
			n.stream = nil
			s.connected(node, false)
		}
		s.drop(n.group)
	}
	s.unlock()
}

// drop forgets a group that has neither nodes nor content.
func (s *Server) drop(g *group) {
	if g.members == 0 && !g.published {
		delete(s.groups, g.name)
	}
}

// Retire forgets a group that has no nodes, with what was published to it.
// A group with nodes stays.
func (s *Server) Retire(group string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[group]; g != nil && g.members == 0 {
		delete(s.groups, group)
		s.untry(g)
	}
}

func (s *Server) group(name string) *group {
	g := s.groups[name]
	if g == nil {
		g = &group{name: name, server: s, streams: map[*stream]struct{}{}}
		s.groups[name] = g
	}
	return g
}

// Progress of a group: every publication that is not settled, oldest first, and
// the ones settled since the last call.
//
// A node counts while it is connected: one that leaves is taken out of every
// unsettled publication, one that connects joins them all. A node is done with a
// publication when it answered everything that was published up to it or later.
// At most 128 publications are kept unsettled (and as many settled ones for the
// next call): beyond that the oldest is dropped, and settles with the next mark.
func (s *Server) Progress(group string) []Progress { return s.AppendProgress(nil, group) }

// AppendProgress appends Progress of a group to a list, for those who ask often.
func (s *Server) AppendProgress(list []Progress, group string) []Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[group]; g != nil {
		return g.appendProgress(list)
	}
	return list
}

// InSync reports whether a node is connected and has ACKed all that its group has.
func (s *Server) InSync(node string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[node]
	return n != nil && n.stream != nil && len(n.rejected) == 0 && n.stream.isSettled()
}

// Connected counts nodes with an open stream.
func (s *Server) Connected() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := 0
	for _, g := range s.groups {
		count += len(g.streams)
	}
	return count
}

// Rejections in force: resources that some node refuses now, sorted by node, type
// and name. What a node refused is forgotten when the resource changes or goes,
// and when a fresh Envoy takes the node's place.
func (s *Server) Rejections() []Rejection {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Rejection
	for n := range s.refusing {
		if len(n.rejected) == 0 {
			delete(s.refusing, n)
			continue
		}
		v := view{n.group.layers, n.own}
		for k, r := range n.rejected {
			if v.version(k.TypeURL, k.Name) == r.Version {
				list = append(list, *r)
			}
		}
	}
	slices.SortFunc(list, compareRejections)
	return list
}

func (s *Server) prove(k Key, version string) {
	if version == "" {
		return
	}
	if len(s.proven) >= maxProven {
		clear(s.proven)
	}
	s.proven[proof{k, version}] = struct{}{}
	s.end(proof{k, version})
}

// connected queues the callback that tells so.
func (s *Server) connected(node string, is bool) {
	if s.cfg.OnConnect != nil {
		s.events = append(s.events, func() { s.cfg.OnConnect(node, is) })
	}
}

// unlock gives up the lock and calls queued callbacks in order, without it. A callback
// may call the server; what that queues is called by the unlock that is running.
func (s *Server) unlock() {
	if s.flushing || len(s.events) == 0 {
		s.mu.Unlock()
		return
	}
	s.flushing = true
	for len(s.events) > 0 {
		events := s.events
		s.events = nil
		s.mu.Unlock()
		for _, call := range events {
			call()
		}
		s.mu.Lock()
	}
	s.flushing = false
	s.mu.Unlock()
}
