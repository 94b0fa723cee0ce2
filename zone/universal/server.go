package universal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

const (
	capabilities    = 1
	registerTimeout = 10 * time.Second
	defaultStreams  = 20_000
)

// Config of a Server.
type Config struct {
	// Zone is the name of this zone.
	Zone string
	// Proxies is what the zone does for agents.
	Proxies Proxies
	// Verifier has the keys and revocations of a mesh's dataplane tokens; nil when
	// the mesh is not known here.
	Verifier func(mesh string) *token.Verifier
	// XDSAddress tells Envoys where the xDS server is; empty: where their agent dialled.
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

// ServerOptions are what a gRPC server for agents and Envoys needs: it notices a
// peer that is gone without a word, and drops one that pings without end, sends
// headers without end or does not finish its handshake.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ConnectionTimeout(handshakeTime), grpc.MaxHeaderListSize(maxHeaders),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 5 * time.Second, Timeout: 2 * time.Second}),
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

func (s *Server) connect(rpc agentv1.AgentService_ConnectServer) error {
	ctx := rpc.Context()
	raw, claims, err := s.authenticate(ctx)
	if err != nil {
		s.refuse("token", err)
		return err
	}
	st := newStream(s, rpc, raw, claims)
	if err := s.add(st); err != nil {
		s.refuse("limit", err)
		return err
	}
	defer s.remove(st)
	go st.receive() // ends with the stream, that is, soon after this method returns
	register, err := st.first()
	if err != nil {
		s.refuse("protocol", err)
		return err
	}
	proxy, err := s.admit(claims, register)
	if err != nil {
		s.refuse("dataplane", err)
		return err
	}
	proxy.Control = st
	st.key, st.instance, st.inbounds = proxy.Resource.Key, proxy.Instance, probed(proxy.Spec)
	joined, err := s.cfg.Proxies.Join(ctx, proxy)
	if err != nil {
		s.refuse("join", err)
		return err
	}
	log := s.cfg.Log.With("proxy", st.key.String(), "instance", st.instance)
	log.Info("proxy joined", "not_ready", proxy.NotReady)
	err = st.run(ctx, &agentv1.Registered{
		NodeId: joined.NodeID, NodeCluster: joined.NodeCluster, Zone: s.cfg.Zone, SessionToken: joined.SessionToken,
		Capabilities: capabilities, Probes: probes(proxy.Spec), XdsAddress: s.cfg.XDSAddress,
	})
	// Whose token was revoked is forgotten at once, and its Envoy's session with it.
	clean := errors.Is(err, io.EOF) && st.drainAsked || st.revoked.Load()
	if s.isClosed() {
		// The zone itself stops: that says nothing about its proxies.
		return status.Error(codes.Unavailable, "zone is stopping")
	}
	s.cfg.Proxies.Leave(st.key, st.instance, clean)
	log.Info("proxy left", "clean", clean, "reason", fmt.Sprint(err))
	return err
}

// authenticate looks at the token before anything else is read.
func (s *Server) authenticate(ctx context.Context) (raw string, c token.Claims, err error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return "", c, status.Error(codes.Unauthenticated, "metadata must have one authorization: Bearer <dataplane token>")
	}
	raw, ok := strings.CutPrefix(values[0], "Bearer ")
	if !ok {
		return "", c, status.Error(codes.Unauthenticated, "authorization must be Bearer <dataplane token>")
	}
	name := token.MeshOf(raw)
	verifier := s.cfg.Verifier(name)
	if name == "" || verifier == nil || verifier.Empty() {
		// Without keys there is nothing to say of the token itself, but of its use.
		if _, err := token.NewVerifier(nil, nil).Verify(raw, token.Dataplane, time.Now()); err != nil && !errors.Is(err, token.ErrUnknownKey) {
			return "", c, status.Error(codes.Unauthenticated, err.Error())
		}
		return "", c, status.Errorf(codes.Unauthenticated, "mesh %.63q has no keys in zone %s: it does not exist, or has not arrived yet", name, s.cfg.Zone)
	}
	c, err = verifier.Verify(raw, token.Dataplane, time.Now())
	if err != nil {
		return "", c, status.Error(codes.Unauthenticated, err.Error())
	}
	if c.Zone != "" && c.Zone != s.cfg.Zone {
		return "", c, status.Errorf(codes.PermissionDenied, "token is for zone %.63q, this is zone %s", c.Zone, s.cfg.Zone)
	}
	return raw, c, nil
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

// Recheck looks again at the tokens of connected agents. Call it when keys or
// revocations changed. It ends the streams of tokens that were revoked, or whose
// key was taken away while others are there. That a token expired meanwhile ends
// nothing, and neither does a mesh without any key: absence of what says who may
// come is no word against those who are in.
func (s *Server) Recheck() {
	for _, st := range s.snapshot() {
		verifier := s.cfg.Verifier(st.claims.Mesh)
		if verifier == nil || verifier.Empty() {
			continue
		}
		// As of when it was issued: expiry shall not hide what else is wrong.
		if _, err := verifier.Verify(st.raw, token.Dataplane, st.claims.Issued); err != nil {
			st.revoked.Store(true)
			st.Close(status.Error(codes.Unauthenticated, err.Error()))
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

// probes are the ports that the agent shall watch: every inbound that is not
// ignored, by connecting to the application.
func probes(d *mesh.Dataplane) []*agentv1.Probe {
	var out []*agentv1.Probe
	for i := range d.Networking.Inbound {
		in := &d.Networking.Inbound[i]
		if in.State == mesh.StateIgnored {
			continue
		}
		address, port := in.Application(d.Networking.Address)
		p := &agentv1.Probe{Inbound: in.SectionName(), Address: address, Port: port,
			IntervalMillis: 250, TimeoutMillis: 200, UnhealthyThreshold: 1, HealthyThreshold: 1}
		if sp := in.ServiceProbe; sp != nil {
			p.IntervalMillis, p.TimeoutMillis = millis(sp.Interval, time.Second), millis(sp.Timeout, 500*time.Millisecond)
			p.UnhealthyThreshold, p.HealthyThreshold = orOne(sp.UnhealthyThreshold), orOne(sp.HealthyThreshold)
		}
		out = append(out, p)
	}
	return out
}

func millis(d *mesh.Duration, def time.Duration) uint32 {
	if d != nil {
		def = d.Duration
	}
	return uint32(min(max(def, time.Millisecond), time.Hour) / time.Millisecond)
}

func orOne(n *uint32) uint32 {
	if n == nil {
		return 1
	}
	return max(1, *n)
}

// probed are the names of the inbounds that the agent watches.
func probed(d *mesh.Dataplane) map[string]bool {
	out := map[string]bool{}
	for _, p := range probes(d) {
		out[p.Inbound] = true
	}
	return out
}
