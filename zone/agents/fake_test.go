package agents_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/internal/serverca"
	"github.com/tombolo-mesh/tombolo/mesh"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
	"github.com/tombolo-mesh/tombolo/zone/agents"
	"github.com/tombolo-mesh/tombolo/zone/universal"
)

const sidecar = `
type: Dataplane
mesh: default
name: web-1
labels: {kuma.io/workload: web}
networking:
  address: 127.0.0.1
  inbound:
  - {name: main, port: 8080, servicePort: 9090}
  - {name: admin, port: 8081, servicePort: 9091, serviceProbe: {interval: 2s, unhealthyThreshold: 3}}
  - {name: aside, port: 8082, servicePort: 9092, state: Ignored}
`

// fakeProxies records what the server makes of agents.
type fakeProxies struct {
	mu      sync.Mutex
	joined  []agents.Proxy
	healthy [][]string
	drained int
	left    []bool // clean
	joinErr error
	signErr error
	hold    chan struct{} // closed: drains go on
	events  chan string   // every call, in order
}

func newFakeProxies() *fakeProxies {
	p := &fakeProxies{hold: make(chan struct{}), events: make(chan string, 10_000)}
	close(p.hold)
	return p
}

func (p *fakeProxies) Join(_ context.Context, proxy agents.Proxy) (agents.Joined, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.joinErr != nil {
		return agents.Joined{}, p.joinErr
	}
	p.joined = append(p.joined, proxy)
	p.events <- "join " + proxy.Resource.Key.String()
	return agents.Joined{NodeID: proxy.Resource.Mesh + "." + proxy.Resource.Name, NodeCluster: "web", SessionToken: "session"}, nil
}

func (p *fakeProxies) Health(_ mesh.Key, _ string, notReady []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.healthy = append(p.healthy, notReady)
	p.events <- "health"
}

func (p *fakeProxies) Drain(ctx context.Context, _ mesh.Key, _ string) error {
	p.events <- "drain"
	select {
	case <-p.hold:
	case <-ctx.Done():
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drained++
	return nil
}

func (p *fakeProxies) Leave(_ mesh.Key, _ string, clean bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = append(p.left, clean)
	if clean {
		p.events <- "leave clean"
	} else {
		p.events <- "leave broken"
	}
}

func (p *fakeProxies) Sign(_ context.Context, _ mesh.Key, _ string, csr []byte) (agents.SVID, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.signErr != nil {
		return agents.SVID{}, p.signErr
	}
	if string(csr) != "csr" {
		return agents.SVID{}, errors.New("other csr")
	}
	return agents.SVID{SpiffeID: "spiffe://x/y", Chain: []byte("chain"), NotAfter: time.Unix(200, 0), RenewAt: time.Unix(100, 0)}, nil
}

func (p *fakeProxies) proxy(t *testing.T, i int) agents.Proxy {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.joined) <= i {
		t.Fatalf("%d proxies joined, want one more", len(p.joined))
	}
	return p.joined[i]
}

// expect waits for the next calls.
func (p *fakeProxies) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-p.events:
			if got != w {
				t.Fatalf("got %q, want %q", got, w)
			}
		case <-time.After(60 * time.Second):
			t.Fatalf("no %q within 60 s", w)
		}
	}
}

func (p *fakeProxies) quiet(t *testing.T) {
	t.Helper()
	select {
	case got := <-p.events:
		t.Fatalf("unexpected %q", got)
	default:
	}
}

// bench is a server on loopback, over TLS.
type bench struct {
	t       *testing.T
	proxies *fakeProxies
	server  *agents.Server
	conn    *grpc.ClientConn
	key     token.Key

	mu       sync.Mutex
	verifier *token.Verifier
	// ahead is by how much the clock that tokens are checked against is.
	ahead atomic.Int64
}

func newBench(t *testing.T, change func(*agents.Config)) *bench {
	t.Helper()
	key, err := token.GenerateKey(token.KeyID(token.Dataplane, 1))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, proxies: newFakeProxies(), key: key}
	b.trust(token.NewVerifier([]token.PublicKey{key.Public()}, nil))
	cfg := agents.Config{Zone: "east", Proxies: b.proxies, XDSAddress: "127.0.0.1:1", Admitter: universal.Admitter{Zone: "east", Verifier: func(mesh string) *token.Verifier {
		b.mu.Lock()
		defer b.mu.Unlock()
		if mesh != "default" {
			return nil
		}
		return b.verifier
	}, Now: func() time.Time { return time.Now().Add(time.Duration(b.ahead.Load())) }}}
	if change != nil {
		change(&cfg)
	}
	b.server = agents.New(cfg)
	authority, err := serverca.New(serverca.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Load(); err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(append(agents.ServerOptions(), grpc.Creds(credentials.NewTLS(authority.TLS())))...)
	agentv1.RegisterAgentServiceServer(server, b.server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.CAPEM())
	b.conn, err = grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.conn.Close(); server.Stop(); <-done })
	return b
}

func (b *bench) trust(v *token.Verifier) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.verifier = v
}

func claims(change func(*token.Claims)) token.Claims {
	c := token.Claims{ID: "t-1", Use: token.Dataplane, Mesh: "default", Workload: "web",
		Issued: time.Now().Add(-time.Hour), Expires: time.Now().Add(time.Hour)}
	if change != nil {
		change(&c)
	}
	return c
}

func (b *bench) sign(c token.Claims) string {
	b.t.Helper()
	raw, err := b.key.Sign(c)
	if err != nil {
		b.t.Fatal(err)
	}
	return raw
}

// client is an agent by hand.
type client struct {
	t      *testing.T
	stream agentv1.AgentService_ConnectClient
	cancel context.CancelFunc
}

func (b *bench) connect(raw string) *client {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	b.t.Cleanup(cancel)
	if raw != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+raw)
	}
	stream, err := agentv1.NewAgentServiceClient(b.conn).Connect(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	return &client{t: b.t, stream: stream, cancel: cancel}
}

func register(manifest string) *agentv1.Register {
	return &agentv1.Register{Dataplane: []byte(manifest), Instance: "i-1", AgentVersion: "1", EnvoyVersion: "1.40.0", Capabilities: 1,
		NotReady: []string{"*"}}
}

func (c *client) register(r *agentv1.Register) {
	c.t.Helper()
	// An error of the server shows in Recv.
	_ = c.stream.Send(&agentv1.AgentFrame{Frame: &agentv1.AgentFrame_Register{Register: r}})
}

func (c *client) send(f *agentv1.AgentFrame) {
	c.t.Helper()
	if err := c.stream.Send(f); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) recv() *agentv1.ZoneFrame {
	c.t.Helper()
	f, err := c.stream.Recv()
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

// member is a client that was admitted.
func (b *bench) member() *client {
	b.t.Helper()
	c := b.connect(b.sign(claims(nil)))
	c.register(register(sidecar))
	if c.recv().GetRegistered() == nil {
		b.t.Fatal("not registered")
	}
	b.proxies.expect(b.t, "join Dataplane/default/east/web-1")
	return c
}

func sign(id uint64, csr string) *agentv1.AgentFrame {
	return &agentv1.AgentFrame{Frame: &agentv1.AgentFrame_Sign{Sign: &agentv1.SignRequest{Id: id, Csr: []byte(csr)}}}
}

func health(names ...string) *agentv1.AgentFrame {
	return &agentv1.AgentFrame{Frame: &agentv1.AgentFrame_Health{Health: &agentv1.Health{NotReady: names}}}
}

func drain() *agentv1.AgentFrame {
	return &agentv1.AgentFrame{Frame: &agentv1.AgentFrame_Drain{Drain: &agentv1.Drain{}}}
}
