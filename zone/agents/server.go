package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/internal/memory"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

const (
	capabilities    = 1
	registerTimeout = 10 * time.Second
	defaultStreams  = 20_000
	maxInstance     = 64
	maxVersion      = 128
	// unknownHealth says that the agent has not probed anything yet: nothing is ready.
	unknownHealth = "*"
)

// Config of a Server.
type Config struct {
	// Zone is the name of this zone.
	Zone string
	// Proxies is what the zone does for agents.
	Proxies Proxies
	// Admitter decides who may join.
	Admitter Admitter
	// Names has the tables of names for the agents that ask; nil for none.
	Names *Board
	// XDSAddress tells agents whose Envoys connect by themselves, as before tombolo-agent
	// carried their streams, where the xDS server is; empty: where they dialled.
	XDSAddress string
	// MaxStreams bounds connected agents, default 20000.
	MaxStreams int
	// Log for state changes; default discards.
	Log *slog.Logger
	// Registerer for metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
}

// Server implements tombolo.agent.v1.AgentService.
type Server struct {
	agentv1.UnimplementedAgentServiceServer
	cfg     Config
	metrics *metrics
	// inspections bounds the answers that are held in memory at once.
	inspections chan struct{}

	mu      sync.Mutex
	streams map[*stream]bool
	closed  bool
}

// New makes a server. Register it with agentv1.RegisterAgentServiceServer on a
// server made with ServerOptions.
func New(cfg Config) *Server {
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = defaultStreams
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, metrics: newMetrics(cfg.Registerer), inspections: make(chan struct{}, maxInspections), streams: map[*stream]bool{}}
}

// Bounds of a connection, which hold for strangers too.
const (
	// handshakeTime bounds TLS and the beginning of HTTP/2.
	handshakeTime = 10 * time.Second
	maxHeaders    = 64 << 10
)

// ServerOptions are what a gRPC server for agents and Envoys needs: it drops a
// peer that pings without end, sends headers without end or does not finish its
// handshake. It sends no pings: the kernel finds hosts that are gone, agents and Envoys
// ping by themselves, and a server that was short of processors for a moment must not
// cut all of them off.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ConnectionTimeout(handshakeTime), grpc.MaxHeaderListSize(maxHeaders),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: math.MaxInt64}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}
}

// Connect implements AgentService: one agent, from its registration to its end.
func (s *Server) Connect(rpc agentv1.AgentService_ConnectServer) error {
	err := s.connect(rpc)
	if err != nil && !errors.Is(err, io.EOF) {
		if status.Code(err) == codes.Unknown {
			err = status.Error(codes.Unavailable, err.Error())
		}
		return err
	}
	return nil
}

// connect waits nearly always, and so works apart.
func (s *Server) connect(rpc agentv1.AgentService_ConnectServer) error {
	var st *stream
	err := memory.Apart(func() (err error) {
		st, err = s.begin(rpc)
		return err
	})
	if st != nil {
		defer s.remove(st)
		defer st.cancel()
	}
	if err != nil {
		return err
	}
	if err = memory.Apart(st.greet); err == nil {
		err = st.wait()
	}
	st.leave()
	return s.left(st, err)
}

// begin takes an agent's word for who it is, and makes its proxy a member. A stream
// that is returned must be removed, whatever the error.
func (s *Server) begin(rpc agentv1.AgentService_ConnectServer) (*stream, error) {
	ctx := rpc.Context()
	credential, err := s.authenticate(ctx)
	if err != nil {
		s.refuse("token", err)
		return nil, err
	}
	st := newStream(s, rpc, credential)
	if err := s.add(st); err != nil {
		s.refuse("limit", err)
		return nil, err
	}
	go st.receive() // ends with the stream, that is, soon after Connect returns
	register, err := st.first()
	if err != nil {
		s.refuse("protocol", err)
		return st, err
	}
	proxy, err := s.admit(ctx, credential, register)
	if err != nil {
		s.refuse("dataplane", err)
		return st, err
	}
	proxy.Control = st
	st.key, st.instance, st.inbounds = proxy.Resource.Key, proxy.Instance, probed(proxy.Probes)
	if register.Names {
		st.names = namesOf{board: s.cfg.Names, mesh: st.key.Mesh}
	}
	joined, err := s.cfg.Proxies.Join(ctx, proxy)
	if err != nil {
		s.refuse("join", err)
		return st, err
	}
	s.logOf(st).Info("proxy joined", "not_ready", proxy.NotReady)
	st.registered = &agentv1.Registered{
		NodeId: joined.NodeID, NodeCluster: joined.NodeCluster, Zone: s.cfg.Zone, SessionToken: joined.SessionToken,
		Capabilities: capabilities, Probes: proxy.Probes, XdsAddress: s.cfg.XDSAddress,
	}
	return st, nil
}

// left tells that a member's stream has ended, and returns what its agent is told.
func (s *Server) left(st *stream, err error) error {
	// Whose token was revoked is forgotten at once, and its Envoy's session with it.
	clean := errors.Is(err, io.EOF) && st.drainAsked || st.revoked.Load()
	if s.isClosed() {
		// The zone itself stops: that says nothing about its proxies.
		return status.Error(codes.Unavailable, "zone is stopping")
	}
	s.cfg.Proxies.Leave(st.key, st.instance, clean)
	s.logOf(st).Info("proxy left", "clean", clean, "reason", fmt.Sprint(err))
	return err
}

func (s *Server) logOf(st *stream) *slog.Logger {
	return s.cfg.Log.With("proxy", st.key.String(), "instance", st.instance)
}

// authenticate looks at the token before anything else is read.
func (s *Server) authenticate(ctx context.Context) (Credential, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return nil, status.Error(codes.Unauthenticated, "metadata must have one authorization: Bearer <token>")
	}
	raw, ok := strings.CutPrefix(values[0], "Bearer ")
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "authorization must be Bearer <token>")
	}
	return s.cfg.Admitter.Authenticate(ctx, raw)
}

// admit checks what every platform bounds, and lets the platform decide.
func (s *Server) admit(ctx context.Context, c Credential, r *agentv1.Register) (Proxy, error) {
	invalid := func(format string, args ...any) (Proxy, error) {
		return Proxy{}, status.Errorf(codes.InvalidArgument, format, args...)
	}
	switch {
	case r.Instance == "" || len(r.Instance) > maxInstance:
		return invalid("instance must have 1 to %d bytes", maxInstance)
	case len(r.AgentVersion) > maxVersion || len(r.EnvoyVersion) > maxVersion:
		return invalid("versions must have at most %d bytes", maxVersion)
	case r.Capabilities < capabilities:
		return invalid("capabilities must be %d or more, not %d", capabilities, r.Capabilities)
	}
	proxy, err := s.cfg.Admitter.Admit(ctx, c, r)
	if err != nil {
		return Proxy{}, err
	}
	proxy.Instance, proxy.AgentVersion, proxy.EnvoyVersion = r.Instance, r.AgentVersion, r.EnvoyVersion
	proxy.NotReady = notReady(r.NotReady, probed(proxy.Probes))
	return proxy, nil
}

func (s *Server) refuse(reason string, err error) {
	s.metrics.refused.WithLabelValues(reason).Inc()
	s.cfg.Log.Warn("agent refused", "reason", reason, "error", status.Convert(err).Message())
}

func (s *Server) add(st *stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return status.Error(codes.Unavailable, "zone is stopping")
	case len(s.streams) >= s.cfg.MaxStreams:
		return status.Errorf(codes.ResourceExhausted, "%d agents are connected, the most allowed", len(s.streams))
	}
	s.streams[st] = true
	s.metrics.streams.Inc()
	return nil
}

func (s *Server) remove(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st)
	s.metrics.streams.Dec()
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *Server) snapshot() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*stream, 0, len(s.streams))
	for st := range s.streams {
		out = append(out, st)
	}
	return out
}

// Close ends every stream for the zone's own sake: no proxy leaves by it, since a
// zone that stops knows nothing against them. Call it before the gRPC server stops.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	for _, st := range s.snapshot() {
		st.Close(status.Error(codes.Unavailable, "zone is stopping"))
	}
}

// Recheck looks again at the credentials of connected agents, and ends the
// streams of those that are not good any more. Call it when keys, revocations or
// whatever else the Admitter goes by has changed.
func (s *Server) Recheck() {
	for _, st := range s.snapshot() {
		if err := s.cfg.Admitter.Recheck(st.credential); err != nil {
			st.revoked.Store(true)
			st.Close(err)
		}
	}
}

// Connected counts agents.
func (s *Server) Connected() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

type metrics struct {
	streams prometheus.Gauge
	refused *prometheus.CounterVec
	signed  *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		streams: prometheus.NewGauge(prometheus.GaugeOpts{Name: "tombolo_zone_agents", Help: "Agents that are connected."}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tombolo_zone_agents_refused_total",
			Help: "Agents that were not admitted, by reason: token, limit, protocol, dataplane, join."}, []string{"reason"}),
		signed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tombolo_zone_sign_requests_total",
			Help: "Certificate requests of proxies, by result: signed, refused, limited."}, []string{"result"}),
	}
	if r != nil {
		r.MustRegister(m.streams, m.refused, m.signed)
	}
	return m
}
