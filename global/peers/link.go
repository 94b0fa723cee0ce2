package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/global/sync"
	peersv1 "github.com/tombolo-mesh/tombolo/proto/peers/v1"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
)

// capabilities is the protocol level.
const capabilities = 1

// Bounds of the pause between dials.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 2 * time.Second
	dialTime   = 3 * time.Second
)

// maxHeaders bounds what another instance says around its messages, errors included.
const maxHeaders = 64 << 10

// link is the connection to one other instance.
type link struct {
	p      *Peers
	id     string
	record record
	ctx    context.Context
	stop   context.CancelFunc
	ended  chan struct{}

	// Below mu of Peers. conn is nil until there was one.
	conn   *grpc.ClientConn
	status Instance
}

func (p *Peers) newLink(ctx context.Context, id string, r record) *link {
	l := &link{p: p, id: id, record: r, ended: make(chan struct{}), status: Instance{ID: id, Address: r.Address, Version: r.Version, Since: time.Now()}}
	l.ctx, l.stop = context.WithCancel(ctx)
	return l
}

// run watches the other instance until it is stopped.
func (l *link) run(fleet Fleet) {
	defer close(l.ended)
	defer fleet.Lost(l.id)
	fleet.Unreached(l.id)
	pauses := &backoff.ExponentialBackOff{InitialInterval: minBackoff, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: maxBackoff}
	pauses.Reset()
	for l.ctx.Err() == nil {
		err := l.watch(fleet, pauses.Reset)
		l.set(nil, err)
		fleet.Unreached(l.id)
		l.p.lookAgain() // it may have left
		timer := time.NewTimer(pauses.NextBackOff())
		select {
		case <-timer.C:
		case <-l.ctx.Done():
		}
		timer.Stop()
	}
}

// watch dials and takes what the other tells until the connection ends.
func (l *link) watch(fleet Fleet, healthy func()) error {
	var older atomic.Bool
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(attentive{credentials.NewTLS(l.p.dialTLS(l.record)), &older}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: dialTime}), grpc.WithMaxHeaderListSize(maxHeaders),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(zonesync.MaxMessageBytes), grpc.MaxCallSendMsgSize(zonesync.MaxMessageBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: zonesync.KeepaliveTime, Timeout: zonesync.KeepaliveTimeout}),
	}, l.p.cfg.DialOptions...)
	conn, err := grpc.NewClient("passthrough:///"+l.record.Address, options...)
	if err != nil {
		return fmt.Errorf("dial instance %s at %s: %w", l.id, l.record.Address, err)
	}
	defer conn.Close()
	stream, err := peersv1.NewPeersClient(conn).Watch(l.ctx, &peersv1.WatchRequest{Capabilities: capabilities})
	if err != nil {
		return fmt.Errorf("watch instance %s at %s: %w", l.id, l.record.Address, err)
	}
	for beats := false; ; {
		u, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("watch instance %s at %s: %w", l.id, l.record.Address, err)
		}
		beats = beats || !u.GetCurrent() && len(u.GetMembers()) == 0
		for _, m := range u.GetMembers() {
			fleet.Import(l.id, m)
		}
		if u.GetCurrent() {
			older.Store(!beats)
			healthy()
			fleet.Reached(l.id)
			l.set(conn, nil)
		}
	}
}

// set notes how the connection is. Each reason is logged once.
func (l *link) set(conn *grpc.ClientConn, err error) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	was := l.status
	l.conn, l.status.Connected, l.status.Error = conn, conn != nil, ""
	if err != nil {
		l.status.Error = err.Error()
	}
	if was.Connected != l.status.Connected {
		l.status.Since = time.Now()
	}
	switch {
	case l.ctx.Err() != nil:
	case conn != nil:
		l.p.log.Info("connected to another instance of global", "instance", l.id, "address", l.record.Address)
	case was.Error != l.status.Error:
		l.p.log.Warn("not connected to another instance of global, trying on", "error", err)
	}
}

// Ask asks an instance about a zone that is connected to it; see sync.Config.
func (p *Peers) Ask(ctx context.Context, instance, zone string, q sync.Question, w io.Writer) error {
	p.mu.Lock()
	l := p.links[instance]
	var conn *grpc.ClientConn
	if l != nil {
		conn = l.conn
	}
	p.mu.Unlock()
	if conn == nil {
		return noAnswer(instance, "it is not connected")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := peersv1.NewPeersClient(conn).Inspect(ctx)
	if err != nil {
		return fromStatus(ctx, instance, err)
	}
	for i, part := range q.Frames(0) {
		ask := &peersv1.Ask{Question: part}
		if i == 0 {
			ask.Zone = zone
		}
		if err := stream.Send(ask); err != nil {
			break // the answer says why
		}
	}
	_ = stream.CloseSend() // the answer says why
	for {
		a, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fromStatus(ctx, instance, err)
		}
		if _, err := w.Write(a.GetChunk()); err != nil {
			return err
		}
	}
}

// inspectErrors are those that callers branch on, and how they cross.
func inspectErrors() map[codes.Code]error {
	return map[codes.Code]error{
		codes.NotFound: sync.ErrZoneOffline, codes.ResourceExhausted: sync.ErrBusy, codes.FailedPrecondition: sync.ErrInspect,
		codes.Unimplemented: sync.ErrOutdated, codes.InvalidArgument: sync.ErrQuestion,
	}
}

func toStatus(err error) error {
	for code, known := range inspectErrors() {
		if errors.Is(err, known) {
			return status.Error(code, err.Error())
		}
	}
	return err
}

// remoteError says what the other instance said, and is the error it stands for.
type remoteError struct {
	text string
	is   error
}

// Error is the other's words.
func (e remoteError) Error() string { return e.text }

// Unwrap is the error that callers branch on.
func (e remoteError) Unwrap() error { return e.is }

// noAnswer is the error of a question to an instance that has the zone.
func noAnswer(instance, why string) error {
	return remoteError{fmt.Sprintf("instance %s of global, which the zone is connected to, does not answer: %s", instance, why), sync.ErrZoneUnknown}
}

func fromStatus(ctx context.Context, instance string, err error) error {
	st := status.Convert(err)
	if known := inspectErrors()[st.Code()]; known != nil {
		return remoteError{st.Message(), known}
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("instance %s of global: %w", instance, ctx.Err())
	case st.Code() == codes.Unavailable, st.Code() == codes.Canceled: // its connection has ended
		return noAnswer(instance, st.Message())
	}
	return fmt.Errorf("instance %s of global: %s", instance, st.Message())
}
