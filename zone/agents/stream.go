package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tombolo-mesh/tombolo/internal/memory"
	"github.com/tombolo-mesh/tombolo/mesh"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

// Bounds of one stream.
const (
	// Requests for certificates: so many at once, then one a second.
	signBurst, signEvery = 10, time.Second
	// Other frames: so many at once, then one each 20 ms. More is an attack.
	frameBurst, frameEvery = 500, 20 * time.Millisecond
	maxCSR                 = 16 << 10
	maxChunk               = 512 << 10
	// maxInspect is the largest answer; maxInspections are held by the zone at once.
	maxInspect     = 64 << 20
	maxInspections = 8
)

// stream is one connected agent. What Connect does, one after the other, alone sends
// and owns the fields without a lock.
type stream struct {
	server *Server
	rpc    agentv1.AgentService_ConnectServer
	// ctx ends with the membership, before the proxy leaves.
	ctx    context.Context
	cancel context.CancelFunc
	// credential that it came with.
	credential Credential

	key        mesh.Key
	instance   string
	inbounds   map[string]bool
	registered *agentv1.Registered // what the agent is told first; nil once it was
	drainAsked bool
	revoked    atomic.Bool
	asked      bucket // requests for certificates
	said       bucket // other frames

	in     chan *agentv1.AgentFrame
	ended  chan error              // from the receiver, capacity 1
	out    chan *agentv1.ZoneFrame // from workers and Inspect; unbuffered
	resign chan struct{}           // capacity 1: asking twice is asking once
	ending chan struct{}           // capacity 1
	kicked chan error              // capacity 1: the first reason counts
	done   chan struct{}           // closed when the membership is over

	workers sync.WaitGroup

	mu          sync.Mutex
	signing     bool
	nextSign    *agentv1.SignRequest // more than one waiting is refused
	draining    bool
	lastID      uint64
	inspections map[uint64]*inspection

	names namesOf
}

func newStream(s *Server, rpc agentv1.AgentService_ConnectServer, c Credential) *stream {
	st := &stream{server: s, rpc: rpc, credential: c,
		asked: bucket{burst: signBurst, every: signEvery}, said: bucket{burst: frameBurst, every: frameEvery},
		in: make(chan *agentv1.AgentFrame), ended: make(chan error, 1), out: make(chan *agentv1.ZoneFrame),
		resign: make(chan struct{}, 1), ending: make(chan struct{}, 1), kicked: make(chan error, 1), done: make(chan struct{})}
	st.ctx, st.cancel = context.WithCancel(rpc.Context())
	return st
}

// receive hands frames in until the stream ends.
func (st *stream) receive() {
	for {
		f, err := st.rpc.Recv()
		if err != nil {
			st.ended <- err
			return
		}
		select {
		case st.in <- f:
		case <-st.rpc.Context().Done():
			return
		}
	}
}

// first waits for the registration.
func (st *stream) first() (*agentv1.Register, error) {
	t := time.NewTimer(registerTimeout)
	defer t.Stop()
	select {
	case f := <-st.in:
		if r := f.GetRegister(); r != nil {
			return r, nil
		}
		return nil, status.Error(codes.InvalidArgument, "the first frame must be register")
	case err := <-st.ended:
		return nil, fmt.Errorf("stream ended before register: %w", err)
	case err := <-st.kicked:
		return nil, err
	case <-t.C:
		return nil, status.Errorf(codes.DeadlineExceeded, "no register within %s", registerTimeout)
	}
}

// greet tells a new member who it is, and what names there are.
func (st *stream) greet() error {
	f := &agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Registered{Registered: st.registered}}
	st.registered = nil
	if err := st.rpc.Send(f); err != nil {
		return err
	}
	return st.sendNames()
}

// wait serves a member until its stream ends; io.EOF when the agent ended it.
func (st *stream) wait() error {
	for {
		var do func() error
		select {
		case err := <-st.ended:
			return err
		case err := <-st.kicked:
			return err
		case <-st.ctx.Done():
			return st.ctx.Err()
		case f := <-st.in:
			do = func() error { return st.frame(f) }
		case f := <-st.out:
			do = func() error { return st.rpc.Send(f) }
		case <-st.resign:
			do = func() error {
				return st.rpc.Send(&agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Resign{Resign: &agentv1.Resign{}}})
			}
		case <-st.ending:
			do = func() error {
				return st.rpc.Send(&agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Terminating{Terminating: &agentv1.Terminating{}}})
			}
		case <-st.names.changed:
			do = st.sendNames
		}
		if err := memory.Apart(do); err != nil {
			return err
		}
	}
}

// leave ends what is done for the agent, and waits for it.
func (st *stream) leave() {
	st.cancel()
	close(st.done)
	st.workers.Wait()
}

// sendNames brings the agent's table up to date, if it asked for one.
func (st *stream) sendNames() error {
	frames, err := st.names.next()
	if err != nil {
		return err
	}
	for _, f := range frames {
		if err := st.rpc.Send(f); err != nil {
			return err
		}
	}
	return nil
}

func (st *stream) frame(f *agentv1.AgentFrame) error {
	if f.GetInspect() == nil && !st.said.take(time.Now()) {
		return status.Error(codes.ResourceExhausted, "too many frames")
	}
	switch m := f.Frame.(type) {
	case *agentv1.AgentFrame_Register:
		return status.Error(codes.InvalidArgument, "register comes once, first")
	case *agentv1.AgentFrame_Sign:
		if reason := st.refuseSign(m.Sign); reason != "" {
			st.server.metrics.signed.WithLabelValues("limited").Inc()
			return st.rpc.Send(signError(m.Sign.Id, reason))
		}
	case *agentv1.AgentFrame_Health:
		st.server.cfg.Proxies.Health(st.key, st.instance, notReady(m.Health.NotReady, st.inbounds))
	case *agentv1.AgentFrame_Drain:
		st.drainAsked = true
		st.startDrain()
	case *agentv1.AgentFrame_Inspect:
		return st.inspected(m.Inspect)
	}
	return nil // frames of a newer agent are not for us
}

// refuseSign has a request answered, or says why not.
func (st *stream) refuseSign(r *agentv1.SignRequest) string {
	if len(r.Csr) > maxCSR {
		return fmt.Sprintf("csr has %d bytes, at most %d are allowed", len(r.Csr), maxCSR)
	}
	if !st.asked.take(time.Now()) {
		return fmt.Sprintf("too many certificate requests, one each %s is allowed", signEvery)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case !st.signing:
		st.signing = true
		st.workers.Go(func() { st.sign(r) })
	case st.nextSign == nil:
		st.nextSign = r
	default:
		return "a certificate request is waiting already"
	}
	return ""
}

func signError(id uint64, reason string) *agentv1.ZoneFrame {
	return &agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Signed{Signed: &agentv1.Signed{Id: id, Error: reason}}}
}

func (st *stream) put(f *agentv1.ZoneFrame) {
	select {
	case st.out <- f:
	case <-st.ctx.Done():
	}
}

// sign asks the zone for certificates, one after the other, until none is asked for.
func (st *stream) sign(r *agentv1.SignRequest) {
	for r != nil && st.ctx.Err() == nil {
		st.put(st.signed(r))
		st.mu.Lock()
		r, st.nextSign = st.nextSign, nil
		st.signing = r != nil
		st.mu.Unlock()
	}
}

func (st *stream) signed(r *agentv1.SignRequest) *agentv1.ZoneFrame {
	svid, err := st.server.cfg.Proxies.Sign(st.ctx, st.key, st.instance, r.Csr)
	if err != nil {
		st.server.metrics.signed.WithLabelValues("refused").Inc()
		return signError(r.Id, err.Error())
	}
	st.server.metrics.signed.WithLabelValues("signed").Inc()
	return &agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Signed{Signed: &agentv1.Signed{
		Id: r.Id, SpiffeId: svid.SpiffeID, Chain: svid.Chain,
		NotAfter: timestamppb.New(svid.NotAfter), RenewAt: timestamppb.New(svid.RenewAt),
	}}}
}

// startDrain takes the proxy out of every endpoint set, unless that is under way.
func (st *stream) startDrain() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.draining {
		return
	}
	st.draining = true
	st.workers.Go(func() {
		err := st.server.cfg.Proxies.Drain(st.ctx, st.key, st.instance)
		st.mu.Lock()
		st.draining = false
		st.mu.Unlock()
		if err != nil {
			st.server.cfg.Log.Warn("drain failed", "proxy", st.key.String(), "error", err)
			return // the agent's own bound ends its wait
		}
		st.put(&agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Drained{Drained: &agentv1.Drained{}}})
	})
}

// Terminating implements Control.
func (st *stream) Terminating() {
	select {
	case st.ending <- struct{}{}:
	default:
	}
}

// Resign implements Control.
func (st *stream) Resign() {
	select {
	case st.resign <- struct{}{}:
	default:
	}
}

// Close implements Control.
func (st *stream) Close(reason error) {
	if reason == nil {
		reason = errors.New("closed by the zone")
	}
	if status.Code(reason) == codes.Unknown {
		reason = status.Error(codes.Aborted, reason.Error())
	}
	select {
	case st.kicked <- reason:
	default:
	}
}

// inspection collects one answer. Memory is bounded by maxInspect each and
// maxInspections in all; what is more fails, and the stream is never held up.
type inspection struct {
	chunks [][]byte
	size   int
	wake   chan struct{} // capacity 1
	ended  bool
	err    error
}

// Inspect implements Control.
func (st *stream) Inspect(ctx context.Context, path string, w io.Writer) error {
	select {
	case st.server.inspections <- struct{}{}:
		defer func() { <-st.server.inspections }()
	default:
		return fmt.Errorf("inspect: %d inspections are under way, the most allowed", maxInspections)
	}
	in := &inspection{wake: make(chan struct{}, 1)}
	st.mu.Lock()
	st.lastID++
	id := st.lastID
	if st.inspections == nil {
		st.inspections = map[uint64]*inspection{}
	}
	st.inspections[id] = in
	st.mu.Unlock()
	defer func() {
		st.mu.Lock()
		delete(st.inspections, id)
		st.mu.Unlock()
	}()
	select {
	case st.out <- &agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Inspect{Inspect: &agentv1.InspectRequest{Id: id, Path: path}}}:
	case <-st.done:
		return errors.New("inspect: the agent is not connected")
	case <-ctx.Done():
		return fmt.Errorf("inspect: %w", ctx.Err())
	}
	for {
		chunks, ended, err := st.take(in)
		for _, c := range chunks {
			if _, err := w.Write(c); err != nil {
				return fmt.Errorf("inspect: %w", err)
			}
		}
		if ended {
			return err
		}
		select {
		case <-in.wake:
		case <-st.done:
			return errors.New("inspect: the agent disconnected")
		case <-ctx.Done():
			return fmt.Errorf("inspect: %w", ctx.Err())
		}
	}
}

func (st *stream) take(in *inspection) (chunks [][]byte, ended bool, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	chunks, in.chunks = in.chunks, nil
	return chunks, in.ended, in.err
}

// inspected files a chunk. One that nobody waits for is dropped.
func (st *stream) inspected(r *agentv1.InspectResponse) error {
	if len(r.Chunk) > maxChunk {
		return status.Errorf(codes.InvalidArgument, "inspect chunk has %d bytes, at most %d are allowed", len(r.Chunk), maxChunk)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	in := st.inspections[r.Id]
	if in == nil || in.ended {
		return nil
	}
	in.size += len(r.Chunk)
	switch {
	case r.Error != "":
		in.ended, in.err = true, fmt.Errorf("inspect: agent: %.1000s", r.Error)
	case in.size > maxInspect:
		in.ended, in.chunks, in.err = true, nil, fmt.Errorf("inspect: answer is larger than %d bytes", maxInspect)
	default:
		in.chunks, in.ended = append(in.chunks, r.Chunk), r.Last
	}
	select {
	case in.wake <- struct{}{}:
	default:
	}
	return nil
}

// bucket allows a burst, and then one each interval.
type bucket struct {
	burst int
	every time.Duration
	used  int
	last  time.Time
}

func (b *bucket) take(now time.Time) bool {
	if !b.last.IsZero() {
		if back := int(now.Sub(b.last) / b.every); back > 0 {
			b.used = max(0, b.used-back)
			b.last = b.last.Add(time.Duration(back) * b.every)
		}
	} else {
		b.last = now
	}
	if b.used >= b.burst {
		return false
	}
	b.used++
	return true
}
