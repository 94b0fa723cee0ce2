package sync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	gosync "sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// Config of a Server.
type Config struct {
	// Store of resources and changes. Required.
	Store store.Store
	// Authorize says which zone a token is for, or why it is for none: wrong,
	// expired or revoked. An error that wraps store.ErrUnavailable means that it
	// cannot be told now; it refuses a new stream and leaves an open one. Required.
	Authorize func(ctx context.Context, token string) (zone string, err error)
	// Instance of this process, for people.
	Instance string
	// Version of the software, for people.
	Version string
	// Log, default discards.
	Log *slog.Logger
	// Registerer of metrics; nil registers none.
	Registerer prometheus.Registerer
	// WindowBytes that a zone may leave unacknowledged before nothing more is
	// sent, default 4 MiB.
	WindowBytes int
	// PushBytes is about how much one push carries, default 1 MiB.
	PushBytes int
	// Ask asks another instance of global about a zone that is connected to it. Nil:
	// there are no others.
	Ask func(ctx context.Context, instance, zone string, q Question, w io.Writer) error
}

// recheckEvery bounds how long a token that expired keeps its open stream.
const recheckEvery = time.Minute

// Server is global's side of every zone's stream. It is safe for concurrent use.
type Server struct {
	zonesyncv1.UnimplementedZoneSyncServer
	cfg     Config
	log     *slog.Logger
	view    view
	feed    *feed
	metrics *metrics
	recheck chan struct{}

	mu    gosync.Mutex
	zones map[string]*zone
	// unreached are the other instances of global that live and cannot be reached.
	unreached map[string]bool
	closed    bool
	// steps counts what became known of members, see member.step.
	steps uint64
	// changed is closed and replaced whenever the status of a zone or change may differ.
	changed chan struct{}
	streams gosync.WaitGroup
}

// New makes a server. Run must be running before zones are served.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.WindowBytes == 0 {
		cfg.WindowBytes = 4 << 20
	}
	if cfg.PushBytes == 0 {
		cfg.PushBytes = 1 << 20
	}
	return &Server{
		cfg: cfg, log: cfg.Log, view: newView(), feed: newFeed(cfg.Store, cfg.Log), metrics: newMetrics(cfg.Registerer),
		recheck: make(chan struct{}, 1), zones: map[string]*zone{}, unreached: map[string]bool{}, changed: make(chan struct{}),
	}
}

// Bounds of a connection, which hold for strangers too.
const (
	// handshakeTime bounds TLS and the beginning of HTTP/2.
	handshakeTime = 10 * time.Second
	maxHeaders    = 64 << 10
	maxStreams    = 64
)

// ServerOptions are the gRPC options that the protocol needs: bounds of messages
// and connections, and keepalives so that a cut link is noticed.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(zonesync.MaxMessageBytes),
		grpc.MaxSendMsgSize(zonesync.MaxMessageBytes),
		grpc.ConnectionTimeout(handshakeTime), grpc.MaxHeaderListSize(maxHeaders), grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: zonesync.KeepaliveTime, Timeout: zonesync.KeepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: zonesync.KeepaliveTime / 2, PermitWithoutStream: true}),
	}
}

// Register adds the service to a gRPC server made with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) { zonesyncv1.RegisterZoneSyncServer(r, s) }

// Run reads the store's changes and ends every stream when ctx ends. It returns
// after the last stream has ended.
func (s *Server) Run(ctx context.Context) error {
	watch := make(chan struct{})
	rechecks := make(chan struct{})
	go func() { defer close(watch); s.watchFeed(ctx) }()
	go func() { defer close(rechecks); s.runRechecks(ctx) }()
	err := s.feed.run(ctx)
	<-watch
	<-rechecks
	s.mu.Lock()
	s.closed = true
	for _, z := range s.zones {
		for _, st := range z.streams() {
			st.end(status.Error(codes.Unavailable, "global is shutting down"))
		}
	}
	s.mu.Unlock()
	s.streams.Wait()
	return err
}

// Ready reports whether the store was read once, and the server takes zones.
func (s *Server) Ready() bool {
	select {
	case <-s.feed.ready:
		return true
	default:
		return false
	}
}

// Recheck authorizes the token of every open stream again and ends those that
// are no longer valid. Call it after a change of revocations; it does not block.
func (s *Server) Recheck() {
	select {
	case s.recheck <- struct{}{}:
	default:
	}
}

func (s *Server) runRechecks(ctx context.Context) {
	tick := time.NewTicker(recheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.recheck:
		case <-tick.C:
		}
		s.mu.Lock()
		var open []*stream
		for _, z := range s.zones {
			open = append(open, z.streams()...)
		}
		s.mu.Unlock()
		for _, st := range open {
			name, err := s.cfg.Authorize(ctx, st.token)
			if ctx.Err() != nil {
				return
			}
			switch {
			case errors.Is(err, store.ErrUnavailable):
			case err != nil:
				st.end(status.Errorf(codes.Unauthenticated, "zone token: %v", err))
			case name != st.zone.name:
				st.end(status.Errorf(codes.PermissionDenied, "the token is for zone %q", name))
			}
		}
	}
}

// watchFeed ends streams of a history that was replaced, and of zones that were
// deleted or whose facts were changed by another, and wakes who waits for a status.
func (s *Server) watchFeed(ctx context.Context) {
	secrets := mesh.Revision(0)
	for {
		s.mu.Lock()
		_, epoch, wake := s.feed.now()
		zones, _, _ := s.feed.fleet()
		for _, z := range s.zones {
			for _, st := range z.streams() {
				if st.epoch != epoch {
					st.end(status.Error(codes.Unavailable, "the store has another history"))
				} else if _, known := zones[z.name]; !known {
					st.end(status.Error(codes.Unavailable, "the zone was deleted"))
				} else if !st.follower && s.feed.meddledAfter(z.name, st.joined) {
					// It has to compare its facts again, and a new stream does.
					st.end(status.Error(codes.Unavailable, "what the zone owns was changed at global"))
				}
			}
		}
		s.bumpLocked()
		s.mu.Unlock()
		if now := s.feed.secretsAt(); now != secrets {
			secrets = now
			s.Recheck() // a token may have been revoked, by any instance of global
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) bumpLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Sync implements the gRPC service.
func (s *Server) Sync(fs grpc.BidiStreamingServer[zonesyncv1.ZoneFrame, zonesyncv1.GlobalFrame]) error {
	token := ""
	if md, ok := metadata.FromIncomingContext(fs.Context()); ok {
		for _, v := range md.Get("authorization") {
			if t, ok := strings.CutPrefix(v, "Bearer "); ok {
				token = t
			}
		}
	}
	return s.serve(fs, token)
}

// frameStream is a stream as the protocol sees it.
type frameStream interface {
	Send(*zonesyncv1.GlobalFrame) error
	Recv() (*zonesyncv1.ZoneFrame, error)
	Context() context.Context
}

// serve runs one stream to its end. The error is a gRPC status.
func (s *Server) serve(fs frameStream, token string) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return status.Error(codes.Unavailable, "global is shutting down")
	}
	s.streams.Add(1)
	s.mu.Unlock()
	defer s.streams.Done()

	if token == "" {
		return status.Error(codes.Unauthenticated, "metadata authorization must be \"Bearer <zone token>\"")
	}
	name, err := s.cfg.Authorize(fs.Context(), token)
	if errors.Is(err, store.ErrUnavailable) {
		return status.Errorf(codes.Unavailable, "zone token: %v", err)
	} else if err != nil {
		s.log.Info("zone refused", "error", err)
		return status.Errorf(codes.Unauthenticated, "zone token: %v", err)
	}
	st := newStream(s, fs, token)
	s.streams.Add(1)
	go func() { defer s.streams.Done(); st.receive() }()
	hello, err := st.awaitHello()
	if err == nil {
		err = s.admit(st, hello, name)
	}
	if err == nil {
		err = st.run(hello)
		s.leave(st, err)
	}
	st.end(err)
	if _, ok := status.FromError(err); !ok {
		err = status.Error(codes.Unavailable, err.Error())
	}
	return err
}

// admit checks a hello against the token and makes the stream the zone's.
func (s *Server) admit(st *stream, hello *zonesyncv1.Hello, name string) error {
	if hello.GetZone() != name {
		s.log.Warn("zone refused", "zone", clip(hello.GetZone()), "error", "token of another zone", "bound", name)
		return status.Errorf(codes.PermissionDenied, "hello of zone %q with the token of zone %q", clip(hello.GetZone()), name)
	}
	if hello.GetCapabilities() < zonesync.MinCapabilities {
		return status.Errorf(codes.FailedPrecondition, "the zone's capability level is %d, at least %d is needed", hello.GetCapabilities(), zonesync.MinCapabilities)
	}
	if err := s.ensureZone(st.ctx, name); err != nil {
		return err
	}
	if !hello.GetFollower() {
		// From here on no older stream of the zone writes its facts, wherever it is.
		var err error
		if st.fence, err = s.cfg.Store.Raise(st.ctx, "zone:"+name); err != nil {
			return status.Errorf(codes.Unavailable, "raise the zone's fence: %v", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return status.Error(codes.Unavailable, "global is shutting down")
	}
	z := s.zoneLocked(name)
	st.instance, st.follower, st.capabilities = clip(hello.GetInstance()), hello.GetFollower(), hello.GetCapabilities()
	m := &z.leader
	if st.follower {
		if m = z.followers[st.instance]; m == nil {
			if len(z.followers) >= maxFollowers {
				return status.Errorf(codes.ResourceExhausted, "zone %q has %d followers, the most allowed", name, maxFollowers)
			}
			m = &member{}
			z.followers[st.instance] = m
		}
	} else {
		if m.online() && m.session > st.fence.Number {
			return status.Errorf(codes.Aborted, "a newer stream of zone %q was opened meanwhile", name)
		}
		if f := z.followers[st.instance]; f != nil { // it leads now
			f.end(status.Errorf(codes.Aborted, "instance %q leads now", st.instance))
		}
	}
	m.end(status.Errorf(codes.Aborted, "replaced by a newer stream of instance %q", st.instance))
	m.instance, m.session, m.peer, m.left = st.instance, st.fence.Number, "", ""
	m.since, m.version = time.Now(), clip(hello.GetVersion())
	head, epoch, _ := s.feed.now()
	st.joined, st.epoch = head.Revision, epoch
	st.zone, st.member, m.stream = z, m, st
	s.stepLocked(m)
	s.metrics.streams.Inc()
	s.bumpLocked()
	s.log.Info("zone connected", "zone", name, "instance", st.instance, "follower", st.follower, "version", clip(hello.GetVersion()), "rev", hello.GetResume().GetRevision())
	return nil
}

// leave takes an ended stream off its zone, unless a newer one has done so.
func (s *Server) leave(st *stream, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.metrics.streams.Dec()
	if st.member.stream == st {
		st.member.stream = nil
		st.member.since = time.Now()
		s.stepLocked(st.member)
		if st.follower { // its proxies go to another instance, which reports them
			delete(st.zone.followers, st.instance)
		}
		s.bumpLocked()
	}
	s.log.Info("zone disconnected", "zone", st.zone.name, "instance", st.instance, "follower", st.follower, "error", err)
}

// ensureZone makes the Zone resource at a zone's first hello.
func (s *Server) ensureZone(ctx context.Context, name string) error {
	if err := s.feed.waitReady(ctx); err != nil {
		return err
	}
	if zones, _, _ := s.feed.fleet(); has(zones, name) {
		return nil
	}
	absent := mesh.Revision(0)
	key := mesh.Key{Kind: mesh.KindZone, Name: name}
	at, err := s.cfg.Store.Write(ctx, zoneAuthor(name), []store.Op{{
		Resource:   mesh.Resource{Key: key, Labels: map[string]string{}, Spec: []byte(`{"enabled":true}`)},
		IfRevision: &absent,
	}})
	if errors.Is(err, store.ErrConflict) {
		if at, err = s.cfg.Store.Head(ctx); err != nil {
			return fmt.Errorf("read the head: %w", err)
		}
	} else if err != nil {
		return fmt.Errorf("create zone %s: %w", name, err)
	}
	return s.feed.reach(ctx, at.Revision)
}

func has[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}

// clip shortens foreign text for messages and logs.
func clip(text string) string {
	return shorten(text, 80)
}
