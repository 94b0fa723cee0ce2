package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
	"github.com/tombolo-mesh/tombolo/xds/delta"
	"github.com/tombolo-mesh/tombolo/xds/xdstest"
)

type deltaStream = discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer

// adsFunc is a zone's xDS server in a function.
type adsFunc func(deltaStream) error

func (f adsFunc) DeltaAggregatedResources(s deltaStream) error { return f(s) }

func (f adsFunc) StreamAggregatedResources(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return status.Error(codes.Unimplemented, "the agent carries this too")
}

// serveADS serves Envoy's socket, and returns a connection to it.
func serveADS(t *testing.T, a *ads) *grpc.ClientConn {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent-test-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "xds.sock")
	listener, err := listenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := a.serve(ctx, listener); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(64<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponse)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); cancel(); all.Wait(); _ = os.RemoveAll(dir) })
	return conn
}

// startLink is an agent's link to a zone and the socket of its Envoy, without either's
// process.
func startLink(t *testing.T, z *fakeZone) (*ads, *grpc.ClientConn) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(testToken), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Config{Dataplane: "x", TokenFile: filepath.Join(dir, "token"), ZoneAddress: z.address, ZoneCA: z.caFile}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	a := newADS(log)
	l := newLink(linkConfig{agent: cfg, instance: "i", renew: newRenewer(log, func([]byte, []byte) error { return nil }),
		probes: newProber(log), admin: newAdmin(filepath.Join(dir, "no.sock")), ads: a, log: log})
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { _ = l.run(ctx) })
	t.Cleanup(func() { cancel(); all.Wait() })
	return a, serveADS(t, a)
}

func open(t *testing.T, ctx context.Context, conn *grpc.ClientConn) discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient {
	t.Helper()
	s, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func minute(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func hasSession(a *ads) func() bool {
	return func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.up != nil
	}
}

// echo answers each request with a response of its nonce and so many bytes.
func echo(size int) adsFunc {
	return func(s deltaStream) error {
		for {
			r, err := s.Recv()
			if err != nil {
				return err
			}
			if err := s.Send(&discoveryv3.DeltaDiscoveryResponse{Nonce: r.ResponseNonce, Resources: []*discoveryv3.Resource{
				{Resource: &anypb.Any{Value: bytes.Repeat([]byte(r.ResponseNonce), size)}}}}); err != nil {
				return err
			}
		}
	}
}

func ping(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient, nonce string) (*discoveryv3.DeltaDiscoveryResponse, error) {
	if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: nonce}); err != nil {
		return nil, err
	}
	return s.Recv()
}

// TestCarriesTheServersStream: a delta server behind the agent configures an Envoy, and
// after the zone was away sends nothing again.
func TestCarriesTheServersStream(t *testing.T) {
	z := newFakeZone(t)
	server := delta.New(delta.Config{Authorize: func(_ context.Context, n *corev3.Node) (string, error) { return n.GetId(), nil }})
	resource := func(version string) *delta.Resource {
		return &delta.Resource{TypeURL: xdstest.ClusterType, Name: "app", Version: version}
	}
	server.Assign("web", "group", nil)
	server.Publish("group", 1, false, delta.NewSet([]*delta.Resource{resource("1")}))
	z.ads = server
	z.start()
	_, conn := startLink(t, z)
	envoy := xdstest.New(xdstest.Config{Node: "web"})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		_ = until(ctx, 10*time.Millisecond, func() bool { _ = envoy.Run(ctx, conn); return false })
	})
	defer func() { cancel(); all.Wait() }()
	has := func(version string) func() bool {
		return func() bool { return envoy.Config()[xdstest.ClusterType]["app"] == version && server.InSync("web") }
	}
	eventually(t, "configured", has("1"))
	server.Publish("group", 2, false, delta.NewSet([]*delta.Resource{resource("2")}))
	eventually(t, "changed", has("2"))
	envoy.Received()

	z.stop()
	eventually(t, "the zone is away", func() bool { return server.Connected() == 0 })
	z.start()
	eventually(t, "back", has("2"))
	server.Publish("group", 3, false, delta.NewSet([]*delta.Resource{resource("3")}))
	eventually(t, "changed again", has("3"))
	if got := envoy.Received(); len(got) != 1 || !strings.Contains(got[0], "app") {
		t.Errorf("since the zone is back: %q", got)
	}
	if faults := envoy.Faults(); len(faults) > 0 {
		t.Error(faults)
	}
}

// TestStatusOfTheZone: words and code of the zone travel, and so does a proper end.
func TestStatusOfTheZone(t *testing.T) {
	z := newFakeZone(t)
	var result error
	z.ads = adsFunc(func(s deltaStream) error {
		for {
			if _, err := s.Recv(); errors.Is(err, io.EOF) {
				return result
			} else if err != nil {
				return err
			}
		}
	})
	z.start()
	a, conn := startLink(t, z)
	eventually(t, "registered", hasSession(a))
	for _, want := range []error{nil, status.Error(codes.PermissionDenied, "the session token is for another node")} {
		result = want
		s := open(t, minute(t), conn)
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		_, err := s.Recv()
		if want == nil && !errors.Is(err, io.EOF) || want != nil && status.Convert(err).String() != status.Convert(want).String() {
			t.Errorf("%v, want %v", err, want)
		}
	}
	whole, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(minute(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := whole.Recv(); status.Code(err) != codes.Unimplemented || strings.Contains(err.Error(), "carries") {
		t.Errorf("another method: %v", err)
	}
}

func TestBigMessages(t *testing.T) {
	z := newFakeZone(t)
	z.ads = echo(10 << 20)
	z.start()
	a, conn := startLink(t, z)
	eventually(t, "registered", hasSession(a))
	s := open(t, minute(t), conn)
	for _, nonce := range []string{"a", "b"} {
		r, err := ping(s, nonce)
		if err != nil || r.Nonce != nonce || !bytes.Equal(r.Resources[0].Resource.Value, bytes.Repeat([]byte(nonce), 10<<20)) {
			t.Fatalf("%s: %v", nonce, err)
		}
	}
	// As much as a zone takes, and no more.
	if r, err := ping(s, "c"); err != nil || r.Nonce != "c" {
		t.Fatal(err)
	}
	if _, err := ping(s, strings.Repeat("x", maxRequest+1)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a request of more than %d bytes: %v", maxRequest, err)
	}
}

func TestTooManyStreams(t *testing.T) {
	z := newFakeZone(t)
	z.ads = echo(1)
	z.start()
	a, conn := startLink(t, z)
	eventually(t, "registered", hasSession(a))
	ctx, cancel := context.WithCancel(minute(t))
	defer cancel()
	for range maxCarried {
		if _, err := ping(open(t, ctx, conn), "a"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := open(t, ctx, conn).Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more: %v", err)
	}
	cancel()
	eventually(t, "places are free again", func() bool {
		_, err := ping(open(t, minute(t), conn), "a")
		return err == nil
	})
}

// TestWaitsForTheNextSession: but only for one that follows soon, and what was carried
// on the last one ends.
func TestWaitsForTheNextSession(t *testing.T) {
	z := newFakeZone(t)
	var tokens []string
	z.ads = adsFunc(func(s deltaStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		z.mu.Lock()
		tokens = append(tokens, md.Get("authorization")...)
		z.mu.Unlock()
		return echo(1)(s)
	})
	z.start()
	a := newADS(slog.New(slog.DiscardHandler))
	envoy := serveADS(t, a)
	if _, err := open(t, minute(t), envoy).Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("before the first session: %v", err)
	}

	cfg, err := Config{Dataplane: "x", TokenFile: "x", ZoneAddress: z.address, ZoneCA: z.caFile}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	zone, err := newLink(linkConfig{agent: cfg}).dial()
	if err != nil {
		t.Fatal(err)
	}
	defer zone.Close()
	z.session = "one"
	end := a.begin(t.Context(), zone, "one")
	s := open(t, minute(t), envoy)
	if _, err := ping(s, "a"); err != nil {
		t.Fatal(err)
	}
	end()
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "session") {
		t.Errorf("the session's end: %v", err)
	}

	a.mu.Lock()
	a.lost = time.Now().Add(time.Hour) // however slow this machine is
	a.mu.Unlock()
	next := open(t, minute(t), envoy)
	answered := make(chan error, 1)
	go func() { _, err := ping(next, "b"); answered <- err }()
	eventually(t, "it waits", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.open == 1
	})
	select {
	case err := <-answered:
		t.Fatal("answered without a session:", err)
	default:
	}
	z.mu.Lock()
	z.session = "two"
	z.mu.Unlock()
	end = a.begin(t.Context(), zone, "two")
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if got, want := get(z, func() []string { return slices.Clone(tokens) }), []string{"Bearer one", "Bearer two"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	end()

	a.mu.Lock()
	a.lost = time.Now().Add(-carryGap)
	a.mu.Unlock()
	if _, err := open(t, minute(t), envoy).Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("long after the last session: %v", err)
	}
}

// TestStalledEnvoy: an Envoy that does not read holds up its own stream, at the zone,
// and neither the agent's stream nor its memory.
func TestStalledEnvoy(t *testing.T) {
	const size, messages = 256 << 10, 400 // 100 MiB
	z := newFakeZone(t)
	var sent atomic.Int64
	z.ads = adsFunc(func(s deltaStream) error {
		r := &discoveryv3.DeltaDiscoveryResponse{Resources: []*discoveryv3.Resource{{Resource: &anypb.Any{Value: make([]byte, size)}}}}
		for range messages {
			if err := s.Send(r); err != nil {
				return err
			}
			sent.Add(1)
		}
		return nil
	})
	z.start()
	a, conn := startLink(t, z)
	eventually(t, "registered", hasSession(a))
	before := live()
	s := open(t, minute(t), conn)
	// The zone comes no further, and for longer than its kernel waits for who has no room.
	last, since := int64(-1), time.Now()
	eventually(t, "the zone waits", func() bool {
		if now := sent.Load(); now != last {
			last, since = now, time.Now()
		}
		return last > 0 && time.Since(since) > 3*time.Second
	})
	if held := sent.Load() * size; held > 8<<20 {
		t.Errorf("%d bytes were sent to an Envoy that reads nothing", held)
	}
	if grown := live() - before; grown > 16<<20 { // zone and Envoy are in it
		t.Errorf("%d bytes are held", grown)
	}
	agent := get(z, func() *fakeStream { return z.agent })
	for id := range uint64(20) {
		if err := agent.send(&agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Inspect{Inspect: &agentv1.InspectRequest{Id: id, Path: "/no"}}}); err != nil {
			t.Fatal(err)
		}
		select {
		case r := <-agent.in:
			if r.Id != id || r.Error == "" {
				t.Errorf("%+v", r)
			}
		case <-time.After(time.Minute):
			t.Fatal("the agent's own stream waits for its Envoy")
		}
	}
	got := 0
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Resources[0].Resource.Value) != size {
			t.Errorf("message %d is cut", got)
		}
		got++
	}
	if got != messages {
		t.Errorf("%d messages of %d", got, messages)
	}
}

// live is the memory in use, in bytes.
func live() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestDeadZoneIsNoticed: the kernel looks for the zone's host by itself.
func TestDeadZoneIsNoticed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := dialTCP(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if idle := keepAliveIdle(t, c); idle != 5 {
		t.Errorf("the kernel asks after %d s of silence", idle)
	}
}

func TestOpaque(t *testing.T) {
	if _, err := (opaque{}).Marshal(&discoveryv3.Resource{}); err == nil {
		t.Error("a message that is not opaque is marshalled")
	}
	if err := (opaque{}).Unmarshal(nil, &discoveryv3.Resource{}); err == nil {
		t.Error("a message that is not opaque is filled")
	}
}

// keepAliveIdle is the kernel's setting, in seconds; 0 where it does not look.
func keepAliveIdle(t *testing.T, c net.Conn) (seconds int) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		if on, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE); err != nil || on == 0 {
			return
		}
		seconds, _ = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE)
	}); err != nil {
		t.Fatal(err)
	}
	return seconds
}
