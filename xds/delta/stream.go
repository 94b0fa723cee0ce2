package delta

import (
	"context"
	"slices"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/internal/memory"
)

// Bounds of what a peer may say.
const (
	maxNames     = 10_000 // in a request
	maxSubscribe = 40_000 // names of a type on a stream, and initial versions
	maxName      = 1024   // bytes
	maxTypes     = 16
	maxReason    = 4096 // bytes kept of a NACK's words

	// assignWait is how long a stream waits for its node to be assigned: an agent
	// registers right before its Envoy dials.
	assignWait = 10 * time.Second
	// firstWait is how long a stream may be silent before its first request.
	firstWait = 10 * time.Second
)

// stream is one open stream of a node.
type stream struct {
	server  *Server
	node    *node
	types   map[string]*typeState
	order   []*typeState             // in the order they are served
	carried [carrierTypes]*typeState // those of carriers, nil where not asked for
	seen    int64                    // group version up to which changes are marked
	done    int64                    // group version up to which everything is answered
	nonces  int64
	opened  time.Time
	stuck   bool           // taking clusters back did not help
	holding time.Time      // since when removals of clusters wait
	until   time.Time      // when to look again at what canaries try
	peer    sender         // nil until it is served
	sending bool           // it is queued, or somebody sends on it and will look again; or will, with the peer
	senders sync.WaitGroup // that one
	alarm   *time.Timer    // has it look again
	ended   chan struct{}
	reason  error      // set before ended is closed
	current view       // scratch of view
	settled *view      // what the proxy had when it last had everything
	riding  *typeState // whose one flight is a wave's and not booked by name
}

type sender interface {
	SendMsg(any) error
}

// StreamAggregatedResources refuses the state-of-the-world form.
func (s *Server) StreamAggregatedResources(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return status.Error(codes.Unimplemented, "only incremental discovery is served: set api_type DELTA_GRPC")
}

// DeltaAggregatedResources serves one stream until the peer goes, its node is
// unassigned, or another stream of the node takes its place. It waits; a second
// goroutine reads, and ends with the stream.
func (s *Server) DeltaAggregatedResources(peer discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	if err := s.admit(); err != nil {
		return err
	}
	defer s.dismiss()
	var st *stream
	err := memory.Apart(func() (err error) {
		st, err = s.open(peer)
		return err
	})
	if st != nil {
		defer s.detach(st)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	st.peer, st.sending = peer, false
	st.wakeUp()
	s.mu.Unlock()
	go s.read(st, peer)
	<-st.ended
	st.senders.Wait()
	return st.reason
}

// open makes a stream of what a peer says first. One that is returned must be
// detached, whatever the error.
func (s *Server) open(peer discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) (*stream, error) {
	ctx := peer.Context()
	first, err := firstRequest(peer)
	if err != nil {
		return nil, err
	}
	id, err := s.cfg.Authorize(ctx, first.GetNode())
	if err != nil {
		return nil, err
	}
	if err := s.awaitAssigned(ctx, id); err != nil {
		return nil, err
	}
	st, err := s.attach(id)
	if err != nil {
		return nil, err
	}
	return st, s.handle(st, first)
}

// read takes requests until the stream ends.
func (s *Server) read(st *stream, peer discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) {
	for {
		req, err := peer.Recv()
		if err == nil {
			err = s.handle(st, req)
		}
		if err != nil {
			s.mu.Lock()
			st.end(err)
			s.mu.Unlock()
			return
		}
	}
}

// firstRequest waits for a stream's first word, but not for ever: until then it
// takes a place that others need.
func firstRequest(peer discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) (*discoveryv3.DeltaDiscoveryRequest, error) {
	type request struct {
		*discoveryv3.DeltaDiscoveryRequest
		err error
	}
	got := make(chan request, 1)
	go func() { // ends with the stream at the latest
		r, err := peer.Recv()
		got <- request{r, err}
	}()
	late := time.NewTimer(firstWait)
	defer late.Stop()
	select {
	case r := <-got:
		return r.DeltaDiscoveryRequest, r.err
	case <-late.C:
		return nil, status.Errorf(codes.DeadlineExceeded, "no request within %s", firstWait)
	}
}

func (s *Server) admit() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams >= s.cfg.MaxStreams {
		return status.Errorf(codes.ResourceExhausted, "%d streams are open: no more are served", s.streams)
	}
	s.streams++
	s.metrics.streams.Set(float64(s.streams))
	return nil
}

func (s *Server) dismiss() {
	s.mu.Lock()
	s.streams--
	s.metrics.streams.Set(float64(s.streams))
	s.mu.Unlock()
}

func (s *Server) awaitAssigned(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, assignWait)
	defer cancel()
	s.mu.Lock()
	if s.nodes[id] != nil {
		s.mu.Unlock()
		return nil
	}
	assigned := s.waiting[id]
	if assigned == nil {
		assigned = make(chan struct{})
		s.waiting[id] = assigned
	}
	s.mu.Unlock()
	select {
	case <-assigned:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		if s.waiting[id] == assigned {
			delete(s.waiting, id)
			close(assigned) // others that wait for it find no node and are refused
		}
		s.mu.Unlock()
		return status.Errorf(codes.Unavailable, "node %q is not registered", id)
	}
}

// attach makes a stream the stream of its node; an older one is ended.
func (s *Server) attach(id string) (*stream, error) {
	s.mu.Lock()
	n := s.nodes[id]
	if n == nil {
		s.mu.Unlock()
		return nil, status.Errorf(codes.Unavailable, "node %q is not registered", id)
	}
	st := &stream{server: s, node: n, types: map[string]*typeState{}, opened: s.now(), ended: make(chan struct{})}
	if old := n.stream; old != nil {
		n.group.leave(old)
		old.abandon()
		old.end(status.Errorf(codes.Aborted, "another stream of node %q took over", id))
	} else {
		s.connected(id, true)
	}
	n.stream = st
	n.group.join(st)
	s.unlock()
	return st, nil
}

func (s *Server) detach(st *stream) {
	s.mu.Lock()
	st.end(status.Error(codes.Canceled, "stream ended"))
	if n := st.node; n.stream == st {
		st.abandon()
		n.stream = nil
		n.group.leave(st)
		s.connected(n.id, false)
	}
	for _, t := range st.order {
		s.names.release(&t.names)
	}
	s.unlock()
}

// end stops the stream; the first reason stands.
func (st *stream) end(reason error) {
	if st.reason == nil {
		st.reason = reason
		if st.alarm != nil {
			st.alarm.Stop()
		}
		close(st.ended)
	}
}

func (st *stream) view() *view {
	st.current.layers, st.current.own = st.node.group.layers, st.node.own
	return &st.current
}

func (st *stream) mark(k Key, urgent bool) {
	if t := st.types[k.TypeURL]; t != nil {
		t.mark(k.Name, urgent)
	}
}

// rescan marks everything, for a stream that missed too much or changed its group.
func (st *stream) rescan() {
	v := st.view()
	for _, t := range st.order {
		t.scan(v)
	}
	for k := range st.node.rejected {
		st.mark(k, false)
	}
}

// scan marks every name that the proxy has, should have or asked for.
func (t *typeState) scan(v *view) {
	visit := func(name string) { t.mark(name, false) }
	for name := range t.names.all() {
		visit(name)
	}
	for name := range t.over {
		visit(name)
	}
	if t.wildcard {
		v.each(t.typeURL, visit)
		if t.base != nil {
			t.base.each(t.typeURL, visit)
		}
	}
}

// isSettled says that everything was answered, and that the proxy came far
// enough to ask for clusters and listeners where it should have some.
func (st *stream) isSettled() bool {
	g := st.node.group
	if st.reason != nil || !g.published || st.seen != g.version {
		return false
	}
	for _, t := range st.order {
		if !t.idle() {
			return false
		}
	}
	v := st.view()
	return (st.types[clusterType] != nil || !v.has(clusterType)) && (st.types[listenerType] != nil || !v.has(listenerType))
}

// settle books that the stream is settled, if it is.
func (st *stream) settle(now time.Time) bool {
	if !st.isSettled() {
		return false
	}
	v := st.view()
	if st.settled == nil && st.server.cfg.OnInSync != nil {
		st.server.events = append(st.server.events, func() { st.server.cfg.OnInSync(st.node.id) })
	}
	first := st.settled == nil
	if first || st.settled.own != v.own || !slices.Equal(st.settled.layers, v.layers) {
		st.settled = &view{layers: v.layers, own: v.own}
	}
	for _, t := range st.order {
		if first {
			st.server.names.share(&t.names, true)
		}
		if !st.refusing(t.typeURL) {
			t.settle(st.settled)
		}
	}
	st.node.group.advance(st, now)
	return true
}

func (st *stream) refusing(typeURL string) bool {
	for k := range st.node.rejected {
		if k.TypeURL == typeURL {
			return true
		}
	}
	return false
}
