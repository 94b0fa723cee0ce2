package delta

import (
	"slices"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// A change reaches thousands of streams at once, and a goroutine for each costs more
// than what it has to do. So a few look what there is to send, on all streams. What they
// send themselves is a small wave, to a peer that has answered everything before: gRPC
// holds up only who sends on a stream of which 64 KiB have not left yet. For whatever
// else is sent the stream has a goroutine.

const (
	// maxInline is what a dispatcher sends by itself, in bytes of resources.
	maxInline = 32 << 10
	// dispatchTime is for how long a dispatcher may be at one response before another
	// takes its place: a peer that answers what it has not read can hold it up.
	dispatchTime = 50 * time.Millisecond
)

// dispatch is who sends to whom. The server's lock guards it.
type dispatch struct {
	most    int // dispatchers
	queue   []*stream
	first   int // of the queue
	running []*dispatcher
	watched bool
}

type dispatcher struct {
	sending bool
	turns   int  // responses that it began
	seen    int  // turns, when it was last looked after
	lost    bool // another has its place: it ends when it can
}

// enqueue has a dispatcher look what there is to send on a stream.
func (s *Server) enqueue(st *stream) {
	s.dispatch.queue = append(s.dispatch.queue, st)
	s.staff()
}

// staff adds a dispatcher where one more has something to do and room.
func (s *Server) staff() {
	p := &s.dispatch
	if p.first == len(p.queue) || len(p.running) >= p.most {
		return
	}
	d := &dispatcher{}
	p.running = append(p.running, d)
	go s.dispatchAs(d)
	if !p.watched {
		p.watched = true
		time.AfterFunc(dispatchTime, s.watchDispatch)
	}
}

// watchDispatch replaces who is held up.
func (s *Server) watchDispatch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.dispatch
	p.running = slices.DeleteFunc(p.running, func(d *dispatcher) bool {
		d.lost, d.seen = d.sending && d.seen == d.turns, d.turns
		return d.lost
	})
	s.staff()
	if p.watched = len(p.running) > 0; p.watched {
		time.AfterFunc(dispatchTime, s.watchDispatch)
	}
}

// dispatchAs serves the queue until it is empty.
func (s *Server) dispatchAs(d *dispatcher) {
	s.mu.Lock()
	for !d.lost {
		st := s.dispatch.pop()
		if st == nil {
			break
		}
		resp := st.look(s.now())
		if resp == nil {
			st.rest()
			continue
		}
		msg, small := st.message(resp)
		if !small {
			go st.send(msg)
			continue
		}
		d.sending, d.turns = true, d.turns+1
		s.unlock()
		err := st.peer.SendMsg(msg)
		s.mu.Lock()
		d.sending = false
		st.sent(err)
	}
	s.dispatch.running = slices.DeleteFunc(s.dispatch.running, func(other *dispatcher) bool { return other == d })
	s.staff() // what was queued since
	s.unlock()
}

func (p *dispatch) pop() *stream {
	if p.first == len(p.queue) {
		return nil
	}
	st := p.queue[p.first]
	p.queue[p.first] = nil
	if p.first++; p.first*2 >= len(p.queue) { // each is moved once at most, on the average
		left := copy(p.queue, p.queue[p.first:])
		clear(p.queue[left:])
		p.queue, p.first = p.queue[:left], 0
	}
	return st
}

// wakeUp has somebody look what there is to send, unless they are at it. The caller
// holds the lock. What accumulates while the peer takes nothing is marks.
func (st *stream) wakeUp() {
	if st.sending || st.reason != nil {
		return
	}
	st.sending = true
	if st.peer != nil {
		st.senders.Add(1)
		st.server.enqueue(st)
	}
}

// look is what there is to send now, if anything.
func (st *stream) look(now time.Time) *discoveryv3.DeltaDiscoveryResponse {
	if st.reason != nil {
		return nil
	}
	resp, until := st.next(now)
	if resp == nil && !until.IsZero() {
		st.lookAgain(until.Sub(now))
	}
	return resp
}

// send sends what may have to wait for the peer.
func (st *stream) send(msg any) {
	err := st.peer.SendMsg(msg)
	st.server.mu.Lock()
	st.sent(err)
	st.server.unlock()
}

// sent looks for more, or ends the stream.
func (st *stream) sent(err error) {
	if err != nil {
		st.end(err)
		st.rest()
		return
	}
	st.server.enqueue(st)
}

// rest ends the sending that wakeUp began.
func (st *stream) rest() {
	st.sending = false
	st.senders.Done()
}

// lookAgain wakes the stream up after a while.
func (st *stream) lookAgain(after time.Duration) {
	if st.alarm != nil {
		st.alarm.Reset(after)
		return
	}
	st.alarm = time.AfterFunc(after, func() {
		st.server.mu.Lock()
		defer st.server.mu.Unlock()
		st.wakeUp()
	})
}
