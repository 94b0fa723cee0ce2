package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Bounds of what the agent carries.
const (
	// maxCarried streams: one Envoy has one, and a second while it reconnects.
	maxCarried = 8
	// maxRequest is as much as a zone takes, in bytes.
	maxRequest = 4 << 20
	// maxResponse bounds what a zone sends: 1 MiB, unless one resource is larger.
	maxResponse = 64 << 20
	maxHeaders  = 64 << 10
	// carryGap is how long a stream waits for the next session, counted from the end of
	// the last: longer than it takes to register with another instance of the zone. A
	// zone that is away for longer is told to Envoy, so that its statistics say it.
	carryGap = 2 * time.Second
)

const (
	adsService = "envoy.service.discovery.v3.AggregatedDiscoveryService"
	adsStream  = "DeltaAggregatedResources"
)

// ads carries Envoy's stream of configuration as a stream of the agent's own
// connection to the zone: of a proxy the zone holds one connection. It reads none of
// what it carries. Each direction holds at most one message beside what the windows
// allow: an Envoy that does not read stops the zone's stream, not the agent's own.
type ads struct {
	log *slog.Logger

	mu      sync.Mutex
	up      *upstream     // nil without a session
	changed chan struct{} // closed when up is replaced
	lost    time.Time     // when the last session ended
	open    int           // streams
}

// upstream is a session with the zone, as streams need it.
type upstream struct {
	ctx   context.Context // ends with the session
	end   context.CancelFunc
	conn  *grpc.ClientConn
	token string
}

func newADS(log *slog.Logger) *ads { return &ads{log: log, changed: make(chan struct{})} }

// begin has streams carried on a connection, by the session token that the zone gave
// on it, until end is called.
func (a *ads) begin(ctx context.Context, conn *grpc.ClientConn, token string) (end func()) {
	up := &upstream{conn: conn, token: token}
	up.ctx, up.end = context.WithCancel(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.replace(up)
	return func() {
		up.end()
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.up == up {
			a.lost = time.Now()
			a.replace(nil)
		}
	}
}

// replace is called with the lock held.
func (a *ads) replace(up *upstream) {
	a.up = up
	close(a.changed)
	a.changed = make(chan struct{})
}

// await is the present session, or the next one where it comes soon.
func (a *ads) await(ctx context.Context) (*upstream, error) {
	for {
		a.mu.Lock()
		up, changed, left := a.up, a.changed, time.Until(a.lost.Add(carryGap))
		a.mu.Unlock()
		if up != nil {
			return up, nil
		}
		if left <= 0 {
			return nil, status.Error(codes.Unavailable, "the agent is not connected to its zone")
		}
		t := time.NewTimer(left)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-t.C:
		}
		t.Stop()
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

func (a *ads) admit() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open >= maxCarried {
		return status.Errorf(codes.ResourceExhausted, "%d streams are open, the most allowed", a.open)
	}
	a.open++
	return nil
}

func (a *ads) dismiss() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open--
}

// serve takes Envoy's streams until ctx ends.
func (a *ads) serve(ctx context.Context, listener net.Listener) error {
	server := grpc.NewServer(grpc.ForceServerCodecV2(opaque{}), grpc.MaxConcurrentStreams(64),
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxHeaderListSize(maxHeaders), grpc.StaticStreamWindowSize(window))
	server.RegisterService(&grpc.ServiceDesc{ServiceName: adsService, HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{
		{StreamName: adsStream, Handler: func(_ any, envoy grpc.ServerStream) error { return a.stream(envoy) }, ServerStreams: true, ClientStreams: true},
	}}, a)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) && ctx.Err() == nil {
		return fmt.Errorf("serve envoy's configuration: %w", err)
	}
	return nil
}

// stream serves one stream of Envoy until it, the zone's or the session ends.
func (a *ads) stream(envoy grpc.ServerStream) error {
	if err := a.admit(); err != nil {
		return err
	}
	defer a.dismiss()
	up, err := a.await(envoy.Context())
	if err != nil {
		return err
	}
	err = up.carry(envoy)
	if up.ctx.Err() != nil { // whatever it broke by: Envoy comes again, and is told only what it has not
		err = status.Error(codes.Unavailable, "the agent's session with the zone has ended")
	}
	a.log.Debug("envoy's stream of configuration ended", "error", err)
	return err
}

// carry copies in both directions. The zone's status is its result.
func (up *upstream) carry(envoy grpc.ServerStream) error {
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(envoy.Context(), metadata.Pairs("authorization", "Bearer "+up.token)))
	defer cancel()
	defer context.AfterFunc(up.ctx, cancel)()
	zone, err := up.conn.NewStream(ctx, &grpc.StreamDesc{StreamName: adsStream, ServerStreams: true, ClientStreams: true},
		discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName,
		grpc.ForceCodecV2(opaque{}), grpc.MaxCallRecvMsgSize(maxResponse))
	if err != nil {
		return err
	}
	go func() { // ends with Envoy's stream, which ends when this method's caller returns
		err := copyMessages(zone, envoy)
		if errors.Is(err, io.EOF) {
			err = zone.CloseSend()
		}
		if err != nil {
			cancel()
		}
	}()
	if err := copyMessages(envoy, zone); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// messages is either end of a stream.
type messages interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

// copyMessages copies until one end fails; io.EOF when the source ended properly, or
// when the zone's stream has ended, of which its receiver knows the reason.
func copyMessages(to, from messages) error {
	for {
		var m mem.BufferSlice
		if err := from.RecvMsg(&m); err != nil {
			return err
		}
		if err := to.SendMsg(m); err != nil {
			return err
		}
	}
}

// opaque is a codec of messages that are not looked at: what is received is a
// mem.BufferSlice, and what is sent gives its buffers up.
type opaque struct{}

// Marshal implements encoding.CodecV2.
func (opaque) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(mem.BufferSlice)
	if !ok {
		return nil, fmt.Errorf("%T is no opaque message", v)
	}
	return m, nil
}

// Unmarshal implements encoding.CodecV2.
func (opaque) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*mem.BufferSlice)
	if !ok {
		return fmt.Errorf("%T is no place for an opaque message", v)
	}
	data.Ref() // the caller frees its own
	*m = data
	return nil
}

// Name implements encoding.CodecV2: what is in the messages.
func (opaque) Name() string { return "proto" }
