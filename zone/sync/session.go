package sync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	gosync "sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// reportPause is the least time between two reports: the first goes out at once,
// a burst of progress coalesces behind it.
const reportPause = 2 * time.Millisecond

// frameStream is a stream as the protocol sees it.
type frameStream interface {
	Send(*zonesyncv1.ZoneFrame) error
	Recv() (*zonesyncv1.GlobalFrame, error)
}

// session is one stream: a receiver that applies, and a sender.
type session struct {
	c      *Client
	fs     frameStream
	ctx    context.Context
	cancel context.CancelCauseFunc
	// follower: facts are the leader's to tell.
	follower bool

	welcome   chan *zonesyncv1.Welcome
	wake      chan struct{}
	factsAcks chan *zonesyncv1.FactsAck
	answers   chan *zonesyncv1.InspectResponse

	// The receiver's own: what a snapshot or a push collects.
	snapshot   []mesh.Resource
	inSnapshot bool
	needed     bool
	partial    []*zonesyncv1.Change
	partialTo  int64
	collected  int
	healthy    func()
	// pulse of global, and seek, which finds another instance when that stops; nil: none is sought.
	pulse *pulse
	seek  seek

	// asked are the questions of which more is to come; the receiver's own.
	asked map[uint64]*zonesync.Question

	mu    gosync.Mutex
	ack   int64
	acked bool
	// refresh asks for a report, retry for what was refused of the facts.
	refresh, retry bool
	nack           *zonesyncv1.Nack
	inspections    map[uint64]context.CancelFunc
	inspecting     gosync.WaitGroup
	watching       gosync.WaitGroup
}

// serve runs the protocol on a stream until it ends. It calls the stream's end, which
// must make Recv and Send return, and has no goroutine left when it returns. Without
// elsewhere it stays with a global that is silent.
func (c *Client) serve(o *opened, healthy func(), elsewhere seek) error {
	ctx, cancel := context.WithCancelCause(o.ctx)
	defer cancel(nil)
	c.mu.Lock()
	c.end = cancel
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.end = nil
		c.mu.Unlock()
	}()
	s := &session{
		c: c, fs: o.fs, ctx: ctx, cancel: cancel, healthy: healthy, pulse: &o.pulse, seek: elsewhere, follower: c.cfg.Follower != nil && c.cfg.Follower(),
		welcome: make(chan *zonesyncv1.Welcome, 1), wake: make(chan struct{}, 1),
		factsAcks: make(chan *zonesyncv1.FactsAck, 1), answers: make(chan *zonesyncv1.InspectResponse, 4),
		inspections: map[uint64]context.CancelFunc{}, asked: map[uint64]*zonesync.Question{},
	}
	var both gosync.WaitGroup
	both.Add(2)
	go func() { defer both.Done(); cancel(s.receive()) }()
	go func() { defer both.Done(); cancel(s.send()) }()
	<-ctx.Done()
	o.end()
	both.Wait()
	s.inspecting.Wait()
	s.watching.Wait()
	return context.Cause(ctx)
}

// receive takes frames until the stream ends.
func (s *session) receive() error {
	greeted := false
	for {
		s.pulse.listen()
		frame, err := s.fs.Recv()
		s.pulse.busy()
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		if w := frame.GetWelcome(); w != nil {
			if greeted {
				return errors.New("global sent a second welcome")
			}
			if w.GetCapabilities() < zonesync.MinCapabilities {
				return fmt.Errorf("global's capability level is %d, at least %d is needed", w.GetCapabilities(), zonesync.MinCapabilities)
			}
			greeted, s.needed = true, w.GetSnapshot()
			if !s.needed {
				s.healthy()
			}
			if w.GetCapabilities() >= zonesync.BeatCapabilities && s.seek != nil {
				s.watching.Go(func() { s.watch() })
			}
			s.welcome <- w
			continue
		}
		if !greeted {
			return errors.New("the first frame of global is not welcome")
		}
		if err := s.handle(frame); err != nil {
			return err
		}
	}
}

// handle takes one frame after the welcome. Frames of an unknown type are
// ignored: a newer global may send them.
func (s *session) handle(frame *zonesyncv1.GlobalFrame) error {
	switch f := frame.GetFrame().(type) {
	case *zonesyncv1.GlobalFrame_Snapshot:
		return s.takeSnapshot(f.Snapshot)
	case *zonesyncv1.GlobalFrame_Push:
		return s.takePush(f.Push)
	case *zonesyncv1.GlobalFrame_FactsAck:
		select {
		case s.factsAcks <- f.FactsAck:
		case <-s.ctx.Done():
		}
	case *zonesyncv1.GlobalFrame_Inspect:
		s.ask(f.Inspect)
	case *zonesyncv1.GlobalFrame_InspectCancel:
		delete(s.asked, f.InspectCancel.GetId())
		s.mu.Lock()
		if cancel := s.inspections[f.InspectCancel.GetId()]; cancel != nil {
			cancel()
		}
		s.mu.Unlock()
	case *zonesyncv1.GlobalFrame_Beat:
	default:
		s.c.metrics.unknown.Inc()
	}
	return nil
}

func (s *session) collect(m proto.Message) error {
	if s.collected += proto.Size(m); s.collected > s.c.limits.bytes {
		return fmt.Errorf("global sent more than %d bytes that belong together", s.c.limits.bytes)
	}
	return nil
}

// takeSnapshot collects chunks and replaces the copy at the last one.
func (s *session) takeSnapshot(chunk *zonesyncv1.SnapshotChunk) error {
	if !s.inSnapshot {
		s.inSnapshot, s.snapshot, s.partial, s.collected = true, nil, nil, 0
	}
	if err := s.collect(chunk); err != nil {
		return err
	}
	for _, m := range chunk.GetResources() {
		s.snapshot = append(s.snapshot, zonesync.ToResource(m))
	}
	if !chunk.GetLast() {
		return nil
	}
	to := Position{Revision: mesh.Revision(chunk.GetTo().GetRevision()), Digest: chunk.GetTo().GetDigest()}
	resources := s.c.trusts.snapshot(s.snapshot, s.c.lied)
	s.inSnapshot, s.snapshot = false, nil
	start := time.Now()
	if err := s.c.cfg.Replica.Replace(to, resources); err != nil {
		s.refuse(to.Revision, fmt.Errorf("replace by the snapshot of revision %d: %w", to.Revision, err))
		return nil
	}
	s.needed = false
	s.c.metrics.apply.Observe(time.Since(start).Seconds())
	s.c.log.Info("snapshot applied", "rev", int64(to.Revision), "resources", len(resources))
	s.applied(to.Revision, true, true)
	return nil
}

// takePush collects the parts of a push and applies them together.
func (s *session) takePush(p *zonesyncv1.Push) error {
	if s.needed || s.inSnapshot {
		// What came before a snapshot is of no use.
		return nil
	}
	if s.partial != nil && s.partialTo != p.GetTo().GetRevision() {
		return errors.New("global mixed the parts of two pushes")
	}
	if s.partial == nil {
		s.collected = 0
	}
	if err := s.collect(p); err != nil {
		return err
	}
	parts := append(s.partial, p.GetChanges()...)
	if p.GetPartial() {
		s.partial, s.partialTo = append(make([]*zonesyncv1.Change, 0, len(parts)), parts...), p.GetTo().GetRevision()
		return nil
	}
	s.partial = nil
	at := s.c.cfg.Replica.Position()
	to := Position{Revision: mesh.Revision(p.GetTo().GetRevision()), Digest: p.GetTo().GetDigest()}
	switch from := mesh.Revision(p.GetFrom()); {
	case to.Revision <= at.Revision:
		// A duplicate.
		s.applied(at.Revision, false, false)
		return nil
	case from > at.Revision:
		s.refuse(to.Revision, fmt.Errorf("push from revision %d does not follow %d", from, at.Revision))
		return nil
	}
	changes := make([]mesh.Change, 0, len(parts))
	for _, m := range parts {
		if c := (mesh.Change{Revision: mesh.Revision(m.GetRevision()), Deleted: m.GetDeleted(), Resource: zonesync.ToResource(m.GetResource())}); c.Revision > at.Revision {
			changes = append(changes, c)
		}
	}
	changes = s.c.trusts.changes(changes, s.c.lied)
	start := time.Now()
	if err := s.c.cfg.Replica.Apply(to, changes); err != nil {
		s.refuse(to.Revision, fmt.Errorf("apply up to revision %d: %w", to.Revision, err))
		return nil
	}
	s.c.metrics.apply.Observe(time.Since(start).Seconds())
	s.c.log.Debug("push applied", "rev", int64(to.Revision), "changes", len(changes))
	verdicts := slices.ContainsFunc(changes, func(c mesh.Change) bool {
		return c.Resource.Kind == mesh.KindMesh || c.Resource.Kind == mesh.KindMeshIdentity
	})
	s.applied(to.Revision, false, verdicts)
	return nil
}

// applied acknowledges. Global ignores reports from before it knows that a
// snapshot was taken, so the report goes again; and what global refused of the
// facts may be right by what came with this.
func (s *session) applied(rev mesh.Revision, refresh, retry bool) {
	s.healthy()
	s.mu.Lock()
	s.ack, s.acked = int64(rev), true
	s.refresh, s.retry = s.refresh || refresh, s.retry || retry
	s.mu.Unlock()
	s.poke()
}

// refuse asks for a snapshot; pushes are ignored until it comes.
func (s *session) refuse(rev mesh.Revision, err error) {
	s.c.log.Warn("refusing what global sent", "rev", int64(rev), "error", err)
	s.needed = true
	s.mu.Lock()
	s.nack, s.acked = &zonesyncv1.Nack{Revision: int64(rev), Reason: shorten(err.Error(), 1024)}, false
	s.mu.Unlock()
	s.poke()
}

func (s *session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// send is the only sender: hello, then whatever is due, the newest of each.
func (s *session) send() error {
	at := s.c.cfg.Replica.Position()
	hello := &zonesyncv1.Hello{
		Zone: s.c.cfg.Zone, Capabilities: zonesync.Capabilities, Version: s.c.cfg.Version, Instance: s.c.cfg.Instance,
		Resume:   &zonesyncv1.Position{Revision: int64(at.Revision), Digest: at.Digest},
		Follower: s.follower,
	}
	if err := s.sendFrame(&zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Hello{Hello: hello}}); err != nil {
		return err
	}
	timeout := time.NewTimer(zonesync.HelloTimeout)
	defer timeout.Stop()
	select {
	case w := <-s.welcome:
		s.c.connected(w)
		if !s.follower {
			s.c.facts.welcome(w.GetFacts())
		}
	case <-timeout.C:
		return errors.New("global sent no welcome")
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
	return s.sendAll()
}

func (s *session) sendAll() error {
	checkFacts, report, retrying := true, true, false
	var reportedAt time.Time
	quiet := time.NewTimer(0)
	defer quiet.Stop()
	for {
		refresh, retry, err := s.sendAcks()
		if err != nil {
			return err
		}
		report = report || refresh
		// What is on its way may have been judged before, and its refusal come after:
		// the retry waits for that answer.
		if retrying = retrying || retry; retrying && !s.c.facts.outstanding() {
			retrying, checkFacts = false, s.c.facts.retry() || checkFacts
		}
		if checkFacts && !s.follower && !s.c.facts.outstanding() {
			checkFacts = false
			if err := s.sendFacts(); err != nil {
				return err
			}
		}
		if report {
			if wait := reportPause - time.Since(reportedAt); !reportedAt.IsZero() && wait > 0 {
				quiet.Reset(wait)
			} else {
				report, reportedAt = false, time.Now()
				if err := s.sendReport(); err != nil {
					return err
				}
			}
		}
		select {
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		case <-s.wake:
		case <-quiet.C:
		case <-s.c.cfg.Facts.FactsChanged():
			checkFacts = true
		case <-s.c.cfg.Reports.ReportChanged():
			report = true
		case ack := <-s.factsAcks:
			s.c.acknowledged(ack)
			checkFacts = true
		case answer := <-s.answers:
			if err := s.sendFrame(&zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Inspect{Inspect: answer}}); err != nil {
				return err
			}
		}
	}
}

// sendAcks sends the newest ack or nack, and tells what is due after it.
func (s *session) sendAcks() (refresh, retry bool, err error) {
	s.mu.Lock()
	ack, acked, nack := s.ack, s.acked, s.nack
	refresh, retry = s.refresh, s.retry
	s.acked, s.nack, s.refresh, s.retry = false, nil, false, false
	s.mu.Unlock()
	if nack != nil {
		err = s.sendFrame(&zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Nack{Nack: nack}})
	}
	if acked && err == nil {
		err = s.sendFrame(&zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Ack{Ack: &zonesyncv1.Ack{Revision: ack}}})
	}
	return refresh, retry, err
}

func (s *session) sendReport() error {
	r := s.c.cfg.Reports.Report()
	if r == nil {
		return nil
	}
	return s.sendFrame(&zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Report{Report: bounded(r)}})
}

// bounded cuts a report to the bounds of the protocol: the oldest changes go
// first, then the details of the oldest.
func bounded(r *zonesyncv1.Report) *zonesyncv1.Report {
	fits := len(r.GetChanges()) <= zonesync.MaxReportItems && len(r.GetProblems()) <= zonesync.MaxReportItems &&
		!slices.ContainsFunc(r.GetChanges(), func(c *zonesyncv1.ChangeProgress) bool {
			return len(c.GetBehindNames()) > zonesync.MaxReportNames || len(c.GetRejections()) > zonesync.MaxReportNames
		})
	if fits && proto.Size(r) <= zonesync.MaxFrameBytes {
		return r
	}
	r = proto.Clone(r).(*zonesyncv1.Report)
	r.Changes = r.Changes[max(0, len(r.Changes)-zonesync.MaxReportItems):]
	r.Problems = r.Problems[:min(len(r.Problems), zonesync.MaxReportItems)]
	for _, c := range r.Changes {
		c.BehindNames = c.BehindNames[:min(len(c.BehindNames), zonesync.MaxReportNames)]
		c.Rejections = c.Rejections[:min(len(c.Rejections), zonesync.MaxReportNames)]
	}
	size := proto.Size(r)
	for i := 0; i < len(r.Changes) && size > zonesync.MaxFrameBytes; i++ {
		size -= proto.Size(r.Changes[i])
		r.Changes[i].BehindNames, r.Changes[i].Rejections = nil, nil
		size += proto.Size(r.Changes[i])
	}
	for len(r.Problems) > 0 && size > zonesync.MaxFrameBytes {
		size -= proto.Size(r.Problems[len(r.Problems)-1])
		r.Problems = r.Problems[:len(r.Problems)-1]
	}
	return r
}

func (s *session) sendFrame(f *zonesyncv1.ZoneFrame) error {
	s.c.metrics.sent.Add(float64(proto.Size(f)))
	if err := s.fs.Send(f); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// shorten cuts foreign text, at a character: half of one would fail the frame.
func shorten(text string, n int) string {
	if len(text) > n {
		return strings.ToValidUTF8(text[:n], "") + "…"
	}
	return text
}
