package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/agent/dns"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

const (
	capabilities    = 1
	registerTimeout = 10 * time.Second
	// A zone that hangs is noticed after 20 s: gRPC pings no more often, and one that is
	// short of processors for some seconds has all the same to be waited for. A host that
	// is gone without a word is noticed by the kernel, once pingTimeout has passed.
	pingInterval, pingTimeout = 10 * time.Second, 10 * time.Second
	// window is how much of a stream is on its way that nobody reads, in bytes. Static: to
	// find out by pings what the way takes would cost the zone a ping for each response.
	window = 256 << 10
	// replacedPause is how long an agent stays away after another of its name took its
	// place, so that two by mistake do not chase each other out without end.
	replacedPause  = 10 * time.Second
	inspectChunk   = 512 << 10
	maxInspect     = 64 << 20
	maxInspections = 4
)

// errZoneAway is the outcome of a drain when there is no zone to ask.
var errZoneAway = errors.New("zone is not connected")

// linkConfig is what a link needs.
type linkConfig struct {
	agent        Config
	manifest     []byte
	instance     string
	envoyVersion string
	renew        *renewer
	probes       *prober
	admin        *admin
	ads          *ads
	names        *dns.Server // nil without
	log          *slog.Logger
}

// link is the agent's side of the stream to the zone. It reconnects for ever.
type link struct {
	cfg linkConfig

	// registered gets each answer of the zone; capacity 1, the newest replaces.
	registered chan *agentv1.Registered
	drains     chan chan<- error
	leaves     chan struct{}
	left       chan struct{} // closed when the stream ended after leave

	mu       sync.Mutex
	up       bool
	stopping bool
	ever     bool // registered once
	reason   string
}

func newLink(cfg linkConfig) *link {
	return &link{cfg: cfg, registered: make(chan *agentv1.Registered, 1), drains: make(chan chan<- error),
		leaves: make(chan struct{}), left: make(chan struct{})}
}

// run connects again and again until ctx ends. It fails only when the zone says,
// before it ever took the proxy, that the manifest is wrong.
func (l *link) run(ctx context.Context) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, time.Second
	reason := ""
	for {
		if l.isStopping() || ctx.Err() != nil {
			close(l.left)
			<-ctx.Done()
			return nil
		}
		registered, err := l.session(ctx)
		if l.isStopping() || ctx.Err() != nil {
			continue
		}
		if registered {
			wait.Reset()
			reason = ""
		}
		if !l.ever && !l.cfg.agent.Kubernetes && status.Code(err) == codes.InvalidArgument {
			return fmt.Errorf("zone refuses the dataplane: %s", status.Convert(err).Message())
		}
		if text := errorText(err); text != reason {
			reason = text
			l.setAway(text)
			l.cfg.log.Warn("zone is away, trying on", "zone", l.cfg.agent.ZoneAddress, "error", text)
		}
		pause := wait.NextBackOff()
		if status.Code(err) == codes.Aborted {
			pause = jitter(replacedPause)
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
	}
}

func errorText(err error) string {
	if s, ok := status.FromError(err); ok && err != nil {
		return s.Code().String() + ": " + s.Message()
	}
	return fmt.Sprint(err)
}

func (l *link) isStopping() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopping
}

// away says why the zone has not taken the proxy yet, in one line; empty once it did.
func (l *link) away() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reason
}

func (l *link) setAway(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reason = reason
}

func (l *link) setUp(up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up = up
}

// drain asks the zone to take the proxy out of every endpoint set and waits until
// it did. After it, the link does not register again.
func (l *link) drain(ctx context.Context) error {
	l.mu.Lock()
	l.stopping = true
	up := l.up
	l.mu.Unlock()
	if !up {
		return errZoneAway
	}
	done := make(chan error, 1)
	select {
	case l.drains <- done:
	case <-l.left:
		return errZoneAway
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leave ends the stream properly and waits until the zone knows.
func (l *link) leave(ctx context.Context) {
	l.mu.Lock()
	l.stopping = true
	up := l.up
	l.mu.Unlock()
	if !up {
		return
	}
	select {
	case l.leaves <- struct{}{}:
	case <-l.left:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-l.left:
	case <-ctx.Done():
	}
}

func (l *link) dial() (*grpc.ClientConn, error) {
	pem, err := l.cfg.agent.zoneCA()
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("zone CA: %s has no PEM certificate", cmp.Or(l.cfg.agent.ZoneCA, "the given text"))
	}
	return grpc.NewClient("passthrough:///"+l.cfg.agent.ZoneAddress,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			RootCAs: roots, ServerName: l.cfg.agent.ZoneServerName, MinVersion: tls.VersionTLS12})),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: grpcbackoff.DefaultConfig, MinConnectTimeout: 3 * time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingInterval, Timeout: pingTimeout}),
		grpc.WithContextDialer(dialTCP), grpc.WithMaxHeaderListSize(maxHeaders),
		grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(2*window),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<20)),
		grpc.WithDisableServiceConfig())
}

// dialTCP has the kernel look every second whether the peer is there, once it was
// silent for five. It gives up after gRPC's pingTimeout, which is the kernel's too.
func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: time.Second, Count: 5}}
	return d.DialContext(ctx, "tcp", address)
}

// session is one connection, from dialling to its end.
func (l *link) session(ctx context.Context) (registered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var workers sync.WaitGroup
	defer workers.Wait()
	defer cancel()
	token, err := readBounded(l.cfg.agent.TokenFile, maxToken)
	if err != nil {
		return false, fmt.Errorf("token: %w", err)
	}
	conn, err := l.dial()
	if err != nil {
		return false, err
	}
	defer conn.Close()
	stream, err := agentv1.NewAgentServiceClient(conn).Connect(
		metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(string(token))))
	if err != nil {
		return false, err
	}
	s := &session{link: l, conn: conn, stream: stream, out: make(chan *agentv1.AgentFrame, 1), inspections: make(chan struct{}, maxInspections), workers: &workers}
	defer s.close()
	return s.run(ctx)
}

// session is the state of one stream. One goroutine owns it and alone sends.
type session struct {
	*link
	conn        *grpc.ClientConn
	stream      agentv1.AgentService_ConnectClient
	out         chan *agentv1.AgentFrame // from inspections
	inspections chan struct{}            // tokens
	workers     *sync.WaitGroup
	health      []string // as the zone knows it
	drained     chan<- error
	leaving     bool
}

func (s *session) run(ctx context.Context) (registered bool, err error) {
	if err := s.register(); err != nil {
		for errors.Is(err, io.EOF) { // nobody else receives yet
			if _, reason := s.stream.Recv(); reason != nil {
				return false, reason
			}
		}
		return false, err
	}
	in := make(chan *agentv1.ZoneFrame)
	ended := make(chan error, 1)
	s.workers.Go(func() {
		for {
			f, err := s.stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case in <- f:
			case <-ctx.Done():
				return
			}
		}
	})
	deadline := time.NewTimer(registerTimeout)
	defer deadline.Stop()
	select {
	case f := <-in:
		r := f.GetRegistered()
		if r == nil {
			return false, fmt.Errorf("zone answered %T to the registration", f.Frame)
		}
		defer s.cfg.ads.begin(ctx, s.conn, r.SessionToken)()
		s.welcome(r)
	case err := <-ended:
		return false, err
	case <-deadline.C:
		return false, fmt.Errorf("zone did not answer the registration within %s", registerTimeout)
	}
	defer s.setUp(false)
	defer s.cfg.renew.disconnected()
	return true, s.loop(ctx, in, ended)
}

func (s *session) register() error {
	notReady := []string{unknownHealth}
	if s.cfg.agent.Kubernetes && !s.ever {
		notReady = nil // kubelets say who is ready, unless the zone asks
	}
	if s.ever {
		notReady = s.cfg.probes.notReady()
	}
	s.health = notReady
	return s.send(&agentv1.AgentFrame{Frame: &agentv1.AgentFrame_Register{Register: &agentv1.Register{
		Dataplane: s.cfg.manifest, Instance: s.cfg.instance, AgentVersion: s.cfg.agent.Version,
		EnvoyVersion: s.cfg.envoyVersion, Capabilities: capabilities, NotReady: notReady, Names: s.cfg.names != nil, PodIps: s.cfg.agent.PodIPs,
	}}})
}

// send fails with io.EOF when the stream has ended; whoever receives is told why.
func (s *session) send(f *agentv1.AgentFrame) error { return s.stream.Send(f) }

func (s *session) welcome(r *agentv1.Registered) {
	if slices.Equal(s.health, []string{unknownHealth}) {
		s.health = nil
		for _, p := range r.Probes {
			s.health = append(s.health, p.Inbound)
		}
		slices.Sort(s.health)
	}
	s.ever = true
	s.cfg.log.Info("registered", "zone", r.Zone, "node", r.NodeId)
	s.cfg.probes.set(r.Probes)
	select {
	case <-s.registered:
	default:
	}
	s.registered <- r
	s.setUp(true)
	s.setAway("")
	s.cfg.renew.connected()
}

func (s *session) loop(ctx context.Context, in <-chan *agentv1.ZoneFrame, ended <-chan error) error {
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return err
		case f := <-in:
			err = s.receive(ctx, f)
		case f := <-s.out:
			err = s.send(f)
		case <-s.cfg.renew.timer.C:
			var r *agentv1.SignRequest
			if r, err = s.cfg.renew.request(); err == nil {
				err = s.send(&agentv1.AgentFrame{Frame: &agentv1.AgentFrame_Sign{Sign: r}})
			}
		case <-s.cfg.probes.changed:
			err = s.reportHealth()
		case done := <-s.drains:
			s.drained = done
			err = s.send(&agentv1.AgentFrame{Frame: &agentv1.AgentFrame_Drain{Drain: &agentv1.Drain{}}})
		case <-s.leaves:
			s.leaving = true
			err = s.stream.CloseSend()
		}
		if errors.Is(err, io.EOF) {
			return reason(in, ended)
		}
		if err != nil {
			return err
		}
	}
}

// reason why a stream has ended, which comes after what was received before.
func reason(in <-chan *agentv1.ZoneFrame, ended <-chan error) error {
	for {
		select {
		case <-in:
		case err := <-ended:
			return err
		}
	}
}

func (s *session) reportHealth() error {
	now := s.cfg.probes.notReady()
	if slices.Equal(now, s.health) {
		return nil
	}
	s.health = now
	return s.send(&agentv1.AgentFrame{Frame: &agentv1.AgentFrame_Health{Health: &agentv1.Health{NotReady: now}}})
}

func (s *session) receive(ctx context.Context, f *agentv1.ZoneFrame) error {
	switch m := f.Frame.(type) {
	case *agentv1.ZoneFrame_Signed:
		s.cfg.renew.signed(m.Signed)
	case *agentv1.ZoneFrame_Resign:
		s.cfg.renew.resign()
	case *agentv1.ZoneFrame_Terminating:
		s.cfg.admin.sendAway(ctx, s.cfg.log)
	case *agentv1.ZoneFrame_Names:
		if s.cfg.names != nil {
			s.cfg.names.Apply(m.Names)
		}
	case *agentv1.ZoneFrame_Drained:
		if s.drained != nil {
			s.drained <- nil
			s.drained = nil
		}
	case *agentv1.ZoneFrame_Inspect:
		select {
		case s.inspections <- struct{}{}:
			s.workers.Go(func() {
				defer func() { <-s.inspections }()
				s.inspect(ctx, m.Inspect)
			})
		default:
			return s.send(inspectError(m.Inspect.Id, fmt.Errorf("%d inspections are under way, the most allowed", maxInspections)))
		}
	}
	return nil // frames of a newer zone are not for us
}

func (s *session) close() {
	if s.drained != nil {
		s.drained <- errZoneAway
	}
}

func inspectError(id uint64, err error) *agentv1.AgentFrame {
	return &agentv1.AgentFrame{Frame: &agentv1.AgentFrame_Inspect{Inspect: &agentv1.InspectResponse{Id: id, Last: true, Error: err.Error()}}}
}

// inspect answers in chunks, through the goroutine that sends: a slow stream slows
// the reading of Envoy's answer, nothing piles up.
func (s *session) inspect(ctx context.Context, r *agentv1.InspectRequest) {
	put := func(f *agentv1.AgentFrame) bool {
		select {
		case s.out <- f:
			return true
		case <-ctx.Done():
			return false
		}
	}
	body, err := s.cfg.admin.inspect(ctx, r.Path)
	if err != nil {
		put(inspectError(r.Id, err))
		return
	}
	defer body.Close()
	total := 0
	for {
		chunk := make([]byte, inspectChunk)
		n, err := io.ReadFull(body, chunk)
		total += n
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		switch {
		case err != nil && !last:
			put(inspectError(r.Id, err))
			return
		case total > maxInspect:
			put(inspectError(r.Id, fmt.Errorf("answer is larger than %d bytes", maxInspect)))
			return
		}
		f := &agentv1.AgentFrame{Frame: &agentv1.AgentFrame_Inspect{Inspect: &agentv1.InspectResponse{Id: r.Id, Chunk: chunk[:n], Last: last}}}
		if !put(f) || last {
			return
		}
	}
}
