package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tombolo-mesh/tombolo/identity"
	"github.com/tombolo-mesh/tombolo/identity/ca"
	"github.com/tombolo-mesh/tombolo/internal/ports"
	"github.com/tombolo-mesh/tombolo/internal/serverca"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

const (
	testToken   = "a-dataplane-token"
	spiffeID    = "spiffe://default.east.mesh.local/workload/web"
	listenerURL = "type.googleapis.com/envoy.config.listener.v3.Listener"
	clusterURL  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
)

// fakeZone speaks both protocols of a zone to one agent and its Envoy: one inbound
// with TLS in front of the application.
type fakeZone struct {
	agentv1.UnimplementedAgentServiceServer
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	t         *testing.T
	tls       *tls.Config
	caFile    string
	address   string // host:port, the same after a restart
	authority *ca.Authority
	inbound   int // port that Envoy listens on
	app       int // port of the application

	mu        sync.Mutex
	server    *grpc.Server
	session   string
	cluster   string                                       // name of the node's cluster; "" is web
	ads       discoveryv3.AggregatedDiscoveryServiceServer // in place of the listener and the cluster
	refuse    error                                        // answer to registrations
	registers []*agentv1.Register
	health    [][]string
	agent     *fakeStream // newest
	ends      []error
	envoys    int
	sent      int               // responses to Envoys
	peers     map[string]string // connections that streams came by last: "agent", "envoy"
	onDrain   func()
}

type fakeStream struct {
	mu  sync.Mutex
	rpc agentv1.AgentService_ConnectServer
	in  chan *agentv1.InspectResponse
	// kick ends the stream when it is closed.
	kick chan struct{}
}

func (s *fakeStream) send(f *agentv1.ZoneFrame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rpc.Send(f)
}

func newFakeZone(t *testing.T) *fakeZone {
	t.Helper()
	dir := t.TempDir()
	server, err := serverca.New(serverca.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Load(); err != nil {
		t.Fatal(err)
	}
	td, err := identity.ParseTrustDomain("default.east.mesh.local")
	if err != nil {
		t.Fatal(err)
	}
	authority, err := ca.New(td, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &fakeZone{t: t, tls: server.TLS(), caFile: filepath.Join(dir, serverca.CAFile),
		address: fmt.Sprintf("127.0.0.1:%d", ports.Free(t)), authority: authority, inbound: ports.Free(t), session: "session-1"}
}

// start serves until stop or the end of the test.
func (z *fakeZone) start() {
	z.t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { // as zones do: the kernel gives up on who takes nothing
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, 0x12, 1800)
		})
	}}
	l, err := lc.Listen(z.t.Context(), "tcp", z.address)
	if err != nil {
		z.t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(z.tls)))
	agentv1.RegisterAgentServiceServer(server, z)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, z)
	z.mu.Lock()
	z.server = server
	z.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	z.t.Cleanup(func() { server.Stop(); <-done })
}

func (z *fakeZone) stop() {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.server.Stop()
}

// get reads a field under the lock.
func get[T any](z *fakeZone, f func() T) T {
	z.mu.Lock()
	defer z.mu.Unlock()
	return f()
}

func (z *fakeZone) Connect(rpc agentv1.AgentService_ConnectServer) error {
	md, _ := metadata.FromIncomingContext(rpc.Context())
	if got := md.Get("authorization"); !slices.Equal(got, []string{"Bearer " + testToken}) {
		return fmt.Errorf("authorization is %q", got)
	}
	f, err := rpc.Recv()
	if err != nil {
		return err
	}
	s := &fakeStream{rpc: rpc, in: make(chan *agentv1.InspectResponse, 100), kick: make(chan struct{})}
	z.mu.Lock()
	refuse, session, cluster := z.refuse, z.session, cmp.Or(z.cluster, "web")
	z.registers = append(z.registers, f.GetRegister())
	z.agent = s
	z.came("agent", rpc.Context())
	z.mu.Unlock()
	if refuse != nil {
		return refuse
	}
	err = s.send(&agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Registered{Registered: &agentv1.Registered{
		NodeId: "default.web-1", NodeCluster: cluster, Zone: "east", SessionToken: session, Capabilities: 1,
		Probes: []*agentv1.Probe{{Inbound: "main", Address: "127.0.0.1", Port: uint32(z.app), IntervalMillis: 50}},
	}}})
	served := make(chan error, 1)
	go func() { // ends with the stream
		err := err
		for err == nil {
			var f *agentv1.AgentFrame
			if f, err = rpc.Recv(); err == nil {
				err = z.frame(s, f)
			}
		}
		served <- err
	}()
	select {
	case err = <-served:
	case <-s.kick:
		return status.Error(codes.Unavailable, "kicked")
	}
	z.mu.Lock()
	z.ends = append(z.ends, err)
	z.mu.Unlock()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (z *fakeZone) frame(s *fakeStream, f *agentv1.AgentFrame) error {
	switch m := f.Frame.(type) {
	case *agentv1.AgentFrame_Sign:
		id, err := identity.ParseID(spiffeID)
		if err != nil {
			return err
		}
		now := time.Now()
		chain, err := z.authority.Sign(m.Sign.Csr, id, time.Hour, now)
		if err != nil {
			return err
		}
		return s.send(&agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Signed{Signed: &agentv1.Signed{Id: m.Sign.Id, SpiffeId: spiffeID, Chain: chain,
			NotAfter: timestamppb.New(now.Add(time.Hour)), RenewAt: timestamppb.New(now.Add(time.Hour / 2))}}})
	case *agentv1.AgentFrame_Health:
		z.mu.Lock()
		z.health = append(z.health, m.Health.NotReady)
		z.mu.Unlock()
	case *agentv1.AgentFrame_Drain:
		if f := get(z, func() func() { return z.onDrain }); f != nil {
			f()
		}
		return s.send(&agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Drained{Drained: &agentv1.Drained{}}})
	case *agentv1.AgentFrame_Inspect:
		s.in <- m.Inspect
	}
	return nil
}

// DeltaAggregatedResources sends the listener and the cluster once per stream.
func (z *fakeZone) DeltaAggregatedResources(rpc discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	md, _ := metadata.FromIncomingContext(rpc.Context())
	if got, want := md.Get("authorization"), "Bearer "+get(z, func() string { return z.session }); !slices.Equal(got, []string{want}) {
		return fmt.Errorf("authorization is %q", got)
	}
	z.mu.Lock()
	z.envoys++
	z.came("envoy", rpc.Context())
	ads := z.ads
	z.mu.Unlock()
	if ads != nil {
		return ads.DeltaAggregatedResources(rpc)
	}
	sent := map[string]bool{}
	for {
		r, err := rpc.Recv()
		if err != nil {
			return err
		}
		if r.ErrorDetail != nil {
			z.t.Errorf("envoy refuses %s: %s", r.TypeUrl, r.ErrorDetail.Message)
		}
		var m interface {
			proto.Message
			GetName() string
		}
		switch r.TypeUrl {
		case listenerURL:
			m = z.listener()
		case clusterURL:
			m = z.appCluster()
		}
		if m == nil || sent[r.TypeUrl] {
			continue
		}
		sent[r.TypeUrl] = true
		if r.InitialResourceVersions[m.GetName()] == "1" {
			continue
		}
		if err := rpc.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: r.TypeUrl, Nonce: r.TypeUrl,
			Resources: []*discoveryv3.Resource{{Name: m.GetName(), Version: "1", Resource: pack(m)}}}); err != nil {
			return err
		}
		z.mu.Lock()
		z.sent++
		z.mu.Unlock()
	}
}

// came notes by which connection; the caller holds the lock.
func (z *fakeZone) came(who string, ctx context.Context) {
	if z.peers == nil {
		z.peers = map[string]string{}
	}
	if p, ok := peer.FromContext(ctx); ok {
		z.peers[who] = p.Addr.String()
	}
}

// oneConnection says whether agent and Envoy came by the same connection last.
func (z *fakeZone) oneConnection() bool {
	return get(z, func() bool { return z.peers["agent"] != "" && z.peers["agent"] == z.peers["envoy"] })
}

func pack(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return a
}

func socket(port int) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)}}}}
}

func (z *fakeZone) appCluster() *clusterv3.Cluster {
	return &clusterv3.Cluster{Name: "app", ConnectTimeout: durationpb.New(time.Second),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: "app", Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: socket(z.app)}}}}}}}}
}

func (z *fakeZone) listener() *listenerv3.Listener {
	hcm := &hcmv3.HttpConnectionManager{StatPrefix: "in",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{{
			Name: "all", Domains: []string{"*"}, Routes: []*routev3.Route{{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "app"}}}}}}}}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&routerv3.Router{})}}}}
	source := &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3, InitialFetchTimeout: durationpb.New(0),
		ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
			ApiType: corev3.ApiConfigSource_DELTA_GRPC, TransportApiVersion: corev3.ApiVersion_V3, SetNodeOnFirstMessageOnly: true,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: "agent_sds"}}}}}}}
	secure := &tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: "identity", SdsConfig: source}}}}
	return &listenerv3.Listener{Name: "in", Address: socket(z.inbound), TrafficDirection: corev3.TrafficDirection_INBOUND,
		FilterChains: []*listenerv3.FilterChain{{Name: "in",
			TransportSocket: &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(secure)}},
			Filters:         []*listenerv3.Filter{{Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(hcm)}}}}}}
}

// client calls the inbound and verifies the certificate that the agent got.
func (z *fakeZone) client() *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(z.authority.Certificate())
	return &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, // a SPIFFE ID is no host name: VerifyConnection does it all
		VerifyConnection: func(s tls.ConnectionState) error {
			leaf := s.PeerCertificates[0]
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots}); err != nil {
				return err
			}
			if id, err := identity.IDOf(leaf); err != nil || id.String() != spiffeID {
				return fmt.Errorf("peer is %s: %w", id, err)
			}
			return nil
		}}}}
}

// call makes one request and returns the serial number of the peer's certificate,
// and whether it asked to close the connection.
func (z *fakeZone) call(ctx context.Context, c *http.Client, path string) (serial string, closing bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d%s", z.inbound, path), nil)
	if err != nil {
		return "", false, err
	}
	response, err := c.Do(r)
	if err != nil {
		return "", false, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return "", false, err
	}
	if response.StatusCode != http.StatusOK {
		return "", false, fmt.Errorf("status %s", response.Status)
	}
	return response.TLS.PeerCertificates[0].SerialNumber.String(), response.Close, nil
}

// envoyPath finds Envoy, or skips.
func envoyPath(t *testing.T) string {
	t.Helper()
	for _, p := range []string{os.Getenv("TOMBOLO_ENVOY"), "envoy", filepath.Join("..", ".cache", "envoy", "envoy")} {
		if p == "" {
			continue
		}
		if path, err := lookPath(p); err == nil {
			return path
		}
	}
	if os.Getenv("TOMBOLO_REQUIRE_ENVOY") != "" {
		t.Fatal("no Envoy: set TOMBOLO_ENVOY")
	}
	t.Skip("no Envoy: set TOMBOLO_ENVOY, or run make tools")
	return ""
}

func lookPath(p string) (string, error) {
	if !strings.Contains(p, "/") {
		for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
			if _, err := os.Stat(filepath.Join(dir, p)); err == nil {
				return filepath.Join(dir, p), nil
			}
		}
		return "", os.ErrNotExist
	}
	abs, err := filepath.Abs(p)
	if err != nil {
		return "", err
	}
	_, err = os.Stat(abs)
	return abs, err
}

// eventually polls until f holds.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if until(ctx, 10*time.Millisecond, f) != nil {
		t.Fatalf("not within a minute: %s", what)
	}
}
