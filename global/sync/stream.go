package sync

import (
	"context"
	"errors"
	"fmt"
	gosync "sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// silentRevisions is how far a zone's position may fall behind, by changes that
// do not concern it, before a push without changes moves it on.
const silentRevisions = 1024

// stream is one zone's stream: a receiver, a sender and a writer of facts.
type stream struct {
	s     *Server
	fs    frameStream
	token string
	// zone and member of it, and the epoch and revision of the feed when it joined,
	// are set before run.
	zone     *zone
	member   *member
	instance string
	follower bool
	// capabilities is the protocol level of the zone.
	capabilities uint32
	// fence that a leader writes facts with.
	fence  store.Fence
	epoch  int
	joined mesh.Revision
	ctx    context.Context
	end    context.CancelCauseFunc

	hello chan *zonesyncv1.Hello
	// ready is closed when the zone's state belongs to this stream; the receiver
	// waits for it after the hello.
	ready chan struct{}
	// control frames go ahead of pushes. Bounded: a full queue holds back the receiver.
	control chan *zonesyncv1.GlobalFrame
	// wake tells the sender that an ack or nack came.
	wake  chan struct{}
	facts *factsInbox

	// sending is held while a frame is sent: a beat may come between two of the sender.
	sending gosync.Mutex

	mu       gosync.Mutex
	inflight []sent
	unacked  int
	// sentTo is the zone's position once it has taken all that was sent.
	sentTo       mesh.Revision
	snapshotTo   mesh.Revision
	snapshotting bool
	nacked       bool
	inspections  map[uint64]*inspection
	lastInspect  uint64
}

// sent is a push or snapshot that was not acknowledged yet.
type sent struct {
	to    mesh.Revision
	bytes int
	at    time.Time
}

func newStream(s *Server, fs frameStream, token string) *stream {
	ctx, end := context.WithCancelCause(fs.Context())
	return &stream{
		s: s, fs: fs, token: token, ctx: ctx, end: end,
		hello: make(chan *zonesyncv1.Hello, 1), ready: make(chan struct{}), control: make(chan *zonesyncv1.GlobalFrame, 32),
		wake: make(chan struct{}, 1), facts: newFactsInbox(), inspections: map[uint64]*inspection{},
	}
}

func (st *stream) awaitHello() (*zonesyncv1.Hello, error) {
	timeout := time.NewTimer(zonesync.HelloTimeout)
	defer timeout.Stop()
	select {
	case hello := <-st.hello:
		return hello, nil
	case <-timeout.C:
		return nil, status.Error(codes.DeadlineExceeded, "no hello")
	case <-st.ctx.Done():
		return nil, context.Cause(st.ctx)
	}
}

// run serves an admitted stream until it ends, and returns why.
func (st *stream) run(hello *zonesyncv1.Hello) error {
	ctx := st.ctx
	defer st.closeInspections()
	var position *zonesyncv1.FactsPosition
	if !st.follower {
		var err error
		if position, err = st.s.openFacts(ctx, st); err != nil {
			return err
		}
	}
	resume, err := st.resume(ctx, hello.GetResume())
	if err != nil {
		return err
	}
	close(st.ready)
	welcome := &zonesyncv1.Welcome{
		Capabilities: zonesync.Capabilities, Version: st.s.cfg.Version, Instance: st.s.cfg.Instance,
		Facts: position, Snapshot: resume < 0,
	}
	if err := st.send(&zonesyncv1.GlobalFrame{Frame: &zonesyncv1.GlobalFrame_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	var both gosync.WaitGroup
	both.Add(1)
	go func() {
		defer both.Done()
		if err := st.writeFacts(ctx); err != nil {
			st.end(err)
		}
	}()
	// A blocked Send ends with the stream, which ends when the handler returns.
	st.s.streams.Add(1)
	go func() { defer st.s.streams.Done(); st.end(st.push(ctx, resume)) }()
	if st.capabilities >= zonesync.BeatCapabilities {
		st.s.streams.Add(1)
		go func() { defer st.s.streams.Done(); st.beat(ctx) }()
	}
	<-ctx.Done()
	both.Wait()
	return context.Cause(ctx)
}

// resume decides where the zone's copy goes on: at the revision returned, or
// with a snapshot when that is negative.
func (st *stream) resume(ctx context.Context, at *zonesyncv1.Position) (mesh.Revision, error) {
	rev := mesh.Revision(at.GetRevision())
	resume := mesh.Revision(-1)
	if rev > 0 {
		digest, err := st.s.cfg.Store.DigestAt(ctx, rev)
		switch {
		case errors.Is(err, store.ErrCompacted) || errors.Is(err, store.ErrNotFound):
		case err != nil:
			return 0, fmt.Errorf("read the digest of revision %d: %w", rev, err)
		case string(digest) == at.GetDigest():
			resume = rev
		}
		// The feed must not be older than what the zone holds already.
		if resume > 0 {
			if err := st.s.feed.reach(ctx, resume); err != nil {
				return 0, err
			}
		}
	}
	st.s.mu.Lock()
	switch {
	case st.member.stream != st:
	case resume < 0:
		st.s.forgetLocked(st.member)
	default:
		st.s.rewindLocked(st.member, resume)
	}
	st.s.mu.Unlock()
	st.mu.Lock()
	st.snapshotting, st.sentTo = resume < 0, max(resume, 0)
	st.mu.Unlock()
	return resume, nil
}

// receive reads frames until the stream ends. It never blocks on the zone's own
// progress, except that a full control queue or facts inbox holds it back.
func (st *stream) receive() {
	greeted := false
	for {
		frame, err := st.fs.Recv()
		if err != nil {
			st.end(fmt.Errorf("receive: %w", err))
			return
		}
		if st.ctx.Err() != nil {
			return
		}
		if hello := frame.GetHello(); hello != nil {
			if greeted {
				st.end(status.Error(codes.InvalidArgument, "a second hello"))
				return
			}
			greeted = true
			st.hello <- hello
			continue
		}
		if !greeted {
			st.end(status.Error(codes.InvalidArgument, "the first frame must be hello"))
			return
		}
		if err := st.handle(frame); err != nil {
			st.end(err)
			return
		}
	}
}

// handle takes one frame after the hello. Frames of an unknown type are ignored:
// a newer zone may send them.
func (st *stream) handle(frame *zonesyncv1.ZoneFrame) error {
	select {
	case <-st.ready:
	case <-st.ctx.Done():
		return context.Cause(st.ctx)
	}
	switch f := frame.GetFrame().(type) {
	case *zonesyncv1.ZoneFrame_Ack:
		return st.handleAck(mesh.Revision(f.Ack.GetRevision()))
	case *zonesyncv1.ZoneFrame_Nack:
		return st.handleNack(f.Nack)
	case *zonesyncv1.ZoneFrame_Facts:
		if st.follower {
			return status.Error(codes.InvalidArgument, "facts of an instance that does not lead")
		}
		return st.facts.add(st.ctx, f.Facts)
	case *zonesyncv1.ZoneFrame_Report:
		return st.handleReport(f.Report)
	case *zonesyncv1.ZoneFrame_Inspect:
		st.handleInspect(f.Inspect)
	default:
		st.s.metrics.unknown.Inc()
	}
	return nil
}

func (st *stream) handleAck(rev mesh.Revision) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if rev > st.sentTo {
		return status.Errorf(codes.InvalidArgument, "ack of revision %d, which was not sent", rev)
	}
	if st.nacked || st.snapshotting && (st.snapshotTo == 0 || rev < st.snapshotTo) {
		return nil
	}
	st.snapshotting = false
	now := time.Now()
	for len(st.inflight) > 0 && st.inflight[0].to <= rev {
		st.s.metrics.ack.Observe(now.Sub(st.inflight[0].at).Seconds())
		st.unacked -= st.inflight[0].bytes
		st.inflight = st.inflight[1:]
	}
	st.s.log.Debug("acknowledged", "zone", st.zone.name, "rev", rev)
	st.poke()
	return nil
}

func (st *stream) handleNack(nack *zonesyncv1.Nack) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.s.log.Warn("zone refused a push", "zone", st.zone.name, "rev", nack.GetRevision(), "reason", clip(nack.GetReason()))
	st.s.metrics.nacks.Inc()
	if st.snapshotting && st.snapshotTo != 0 {
		return status.Errorf(codes.Aborted, "the zone cannot take a snapshot: %s", clip(nack.GetReason()))
	}
	if !st.snapshotting {
		st.nacked = true
		st.poke()
	}
	return nil
}

func (st *stream) poke() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// beat tells the zone that this instance runs, whatever the sender waits for: a
// database that is away is no reason to go to another instance.
func (st *stream) beat(ctx context.Context) {
	tick := time.NewTicker(zonesync.Beat)
	defer tick.Stop()
	frame := &zonesyncv1.GlobalFrame{Frame: &zonesyncv1.GlobalFrame_Beat{Beat: &zonesyncv1.Beat{}}}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !st.sending.TryLock() {
			continue // what is sent just now says it as well
		}
		err := st.fs.Send(frame)
		st.sending.Unlock()
		if err != nil {
			return // the receiver says why
		}
	}
}

// send is called by the sender alone, and for the welcome before it starts.
func (st *stream) send(frame *zonesyncv1.GlobalFrame) error {
	st.sending.Lock()
	defer st.sending.Unlock()
	st.s.metrics.sent.Add(float64(proto.Size(frame)))
	if err := st.fs.Send(frame); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// enqueue hands a control frame to the sender.
func (st *stream) enqueue(ctx context.Context, frame *zonesyncv1.GlobalFrame) error {
	select {
	case st.control <- frame:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-st.ctx.Done():
		return context.Cause(st.ctx)
	}
}
