package agents_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
	"github.com/tombolo-mesh/tombolo/zone/agents"
)

func TestJoin(t *testing.T) {
	b := newBench(t, nil)
	c := b.connect(b.sign(claims(nil)))
	c.register(register(sidecar))
	want := &agentv1.Registered{NodeId: "default.web-1", NodeCluster: "web", Zone: "east", SessionToken: "session", Capabilities: 1, XdsAddress: "127.0.0.1:1",
		Probes: []*agentv1.Probe{
			{Inbound: "main", Address: "127.0.0.1", Port: 9090, IntervalMillis: 250, TimeoutMillis: 200, UnhealthyThreshold: 1, HealthyThreshold: 1},
			{Inbound: "admin", Address: "127.0.0.1", Port: 9091, IntervalMillis: 2000, TimeoutMillis: 500, UnhealthyThreshold: 3, HealthyThreshold: 1},
		}}
	if diff := cmp.Diff(want, c.recv().GetRegistered(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	p := b.proxies.proxy(t, 0)
	if p.Resource.Key != (mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "east", Name: "web-1"}) || p.Instance != "i-1" || p.EnvoyVersion != "1.40.0" {
		t.Errorf("joined %+v", p)
	}
	if p.Resource.Labels[mesh.LabelWorkload] != "web" || p.Resource.Labels[mesh.LabelZone] != "east" || p.Resource.Labels[mesh.LabelOrigin] != "zone" {
		t.Errorf("labels %v", p.Resource.Labels)
	}
	if !slices.Equal(p.NotReady, []string{"admin", "main"}) {
		t.Errorf("before the first probe, not ready is %v", p.NotReady)
	}
	if b.server.Connected() != 1 {
		t.Error("connected:", b.server.Connected())
	}
}

func TestWhoIsRefused(t *testing.T) {
	b := newBench(t, nil)
	revoked := token.NewVerifier([]token.PublicKey{b.key.Public()}, []token.Revocation{{ID: "gone"}})
	b.trust(revoked)
	other, err := token.GenerateKey(b.key.ID())
	if err != nil {
		t.Fatal(err)
	}
	forged, err := other.Sign(claims(nil))
	if err != nil {
		t.Fatal(err)
	}
	good := b.sign(claims(nil))
	with := func(f func(*token.Claims)) string { return b.sign(claims(f)) }
	cases := []struct {
		name, raw string
		manifest  string
		code      codes.Code
		want      string
	}{
		{"no token", "", sidecar, codes.Unauthenticated, "authorization"},
		{"garbage", "garbage", sidecar, codes.Unauthenticated, "malformed"},
		{"forged", forged, sidecar, codes.Unauthenticated, "signature"},
		{"expired", with(func(c *token.Claims) { c.Expires = time.Now().Add(-time.Second) }), sidecar, codes.Unauthenticated, "expired"},
		{"revoked", with(func(c *token.Claims) { c.ID = "gone" }), sidecar, codes.Unauthenticated, "revoked"},
		{"a zone's", with(func(c *token.Claims) {
			*c = token.Claims{Use: token.Zone, Zone: "east", Issued: c.Issued, Expires: c.Expires}
		}), sidecar, codes.Unauthenticated, "another use"},
		{"of an unknown mesh", with(func(c *token.Claims) { c.Mesh = "other" }), sidecar, codes.Unauthenticated, `mesh "other" has no keys`},
		{"of another zone", with(func(c *token.Claims) { c.Zone = "west" }), sidecar, codes.PermissionDenied, `zone "west"`},
		{"of another workload", with(func(c *token.Claims) { c.Workload = "api" }), sidecar, codes.PermissionDenied, `workload "api", not "web"`},
		{"of another name", with(func(c *token.Claims) { c.Name = "web-2" }), sidecar, codes.PermissionDenied, `name "web-2", not "web-1"`},
		{"of a name, for any workload", with(func(c *token.Claims) { c.Workload, c.Name = "", "web-1" }), sidecar, codes.PermissionDenied, `no workload, not "web"`},
		{"manifest of another mesh", good, strings.Replace(sidecar, "mesh: default", "mesh: other", 1), codes.PermissionDenied, `mesh "default", not "other"`},
		{"manifest without its label", good, strings.Replace(sidecar, "labels: {kuma.io/workload: web}", "", 1), codes.PermissionDenied, "workload"},
		{"manifest of another zone", good, strings.Replace(sidecar, "workload: web", "workload: web, kuma.io/zone: west", 1), codes.InvalidArgument, "west"},
		{"no manifest", good, "", codes.InvalidArgument, "dataplane"},
		{"other kind", good, "type: Mesh\nname: default", codes.InvalidArgument, "Dataplane"},
		{"two documents", good, sidecar + "---" + sidecar, codes.InvalidArgument, "2 documents"},
		{"address is a name", good, strings.Replace(sidecar, "127.0.0.1", "localhost", 1), codes.InvalidArgument, "networking.address"},
		{"unknown field", good, sidecar + "  colour: red\n", codes.InvalidArgument, "networking.colour"},
		{"too large", good, sidecar + strings.Repeat("#", 256<<10), codes.InvalidArgument, "at most"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			agent := b.connect(c.raw)
			agent.register(register(c.manifest))
			f, err := agent.stream.Recv()
			if status.Code(err) != c.code || !strings.Contains(status.Convert(err).Message(), c.want) {
				t.Errorf("got %v, %v", f, err)
			}
		})
	}
	b.proxies.quiet(t)
	for _, c := range []struct {
		name   string
		change func(*agentv1.Register)
	}{
		{"no instance", func(r *agentv1.Register) { r.Instance = "" }},
		{"long instance", func(r *agentv1.Register) { r.Instance = strings.Repeat("x", 65) }},
		{"long version", func(r *agentv1.Register) { r.AgentVersion = strings.Repeat("x", 129) }},
		{"no capabilities", func(r *agentv1.Register) { r.Capabilities = 0 }},
	} {
		agent, r := b.connect(good), register(sidecar)
		c.change(r)
		agent.register(r)
		if _, err := agent.stream.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	agent := b.connect(good)
	agent.send(drain())
	if _, err := agent.stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Error("another frame before register:", err)
	}
	b.proxies.quiet(t)
}

func TestTokensThatAdmit(t *testing.T) {
	b := newBench(t, nil)
	named := func(c *token.Claims) { c.Workload, c.Name = "", "web-1" }
	for name, c := range map[string]struct {
		change   func(*token.Claims)
		manifest string
		named    bool
	}{
		"workload":                     {nil, sidecar, false},
		"all":                          {func(c *token.Claims) { c.Name, c.Zone = "web-1", "east" }, sidecar, true},
		"name, of a proxy without one": {named, strings.Replace(sidecar, "labels: {kuma.io/workload: web}", "", 1), true},
		"name, which the workload has": {named, strings.Replace(sidecar, "workload: web", "workload: web-1", 1), true},
	} {
		agent := b.connect(b.sign(claims(c.change)))
		agent.register(register(c.manifest))
		if f, err := agent.stream.Recv(); err != nil {
			t.Errorf("%s: %v, %v", name, f, err)
		}
		b.proxies.mu.Lock()
		if last := b.proxies.joined[len(b.proxies.joined)-1]; last.Named != c.named {
			t.Errorf("%s: named is %t", name, last.Named)
		}
		b.proxies.mu.Unlock()
	}
}

func TestHealthSignDrainLeave(t *testing.T) {
	b := newBench(t, nil)
	c := b.member()
	c.send(health("main", "main", "no-such-inbound", "aside"))
	b.proxies.expect(t, "health")
	c.send(sign(7, "csr"))
	want := &agentv1.Signed{Id: 7, SpiffeId: "spiffe://x/y", Chain: []byte("chain"),
		NotAfter: timestamppb.New(time.Unix(200, 0)), RenewAt: timestamppb.New(time.Unix(100, 0))}
	if diff := cmp.Diff(want, c.recv().GetSigned(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	c.send(sign(8, "other"))
	if got := c.recv().GetSigned(); got.GetId() != 8 || got.GetError() != "other csr" {
		t.Errorf("got %v", got)
	}
	b.proxies.proxy(t, 0).Control.Resign()
	if c.recv().GetResign() == nil {
		t.Error("no resign")
	}
	b.proxies.mu.Lock()
	b.proxies.hold = make(chan struct{})
	hold := b.proxies.hold
	got := b.proxies.healthy
	b.proxies.mu.Unlock()
	if diff := cmp.Diff([][]string{{"main"}}, got); diff != "" {
		t.Error(diff)
	}
	c.send(drain())
	b.proxies.expect(t, "drain")
	c.send(health()) // a drain in progress holds nothing up
	b.proxies.expect(t, "health")
	close(hold)
	if c.recv().GetDrained() == nil {
		t.Error("not drained")
	}
	if err := c.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.stream.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	b.proxies.expect(t, "leave clean")
	b.proxies.quiet(t)
}

func TestBrokenStreams(t *testing.T) {
	b := newBench(t, nil)
	for name, end := range map[string]func(*client){
		"cancelled":               func(c *client) { c.cancel() },
		"ended without a drain":   func(c *client) { _ = c.stream.CloseSend() },
		"cancelled after a drain": func(c *client) { c.send(drain()); c.recv(); c.cancel() },
		"registered twice":        func(c *client) { c.register(register(sidecar)) },
	} {
		c := b.member()
		end(c)
		if strings.Contains(name, "after a drain") {
			b.proxies.expect(t, "drain")
		}
		b.proxies.expect(t, "leave broken")
	}
}

func TestJoinFails(t *testing.T) {
	b := newBench(t, nil)
	b.proxies.joinErr = errors.New("world is not loaded yet")
	c := b.connect(b.sign(claims(nil)))
	c.register(register(sidecar))
	if _, err := c.stream.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "not loaded") {
		t.Error(err)
	}
	b.proxies.quiet(t) // who did not join does not leave
}

func TestBounds(t *testing.T) {
	b := newBench(t, func(c *agents.Config) { c.MaxStreams = 1 })
	c := b.member()
	second := b.connect(b.sign(claims(nil)))
	if _, err := second.stream.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Error("one stream too many:", err)
	}
	c.send(sign(1, strings.Repeat("x", agents.MaxCSR+1)))
	if got := c.recv().GetSigned(); !strings.Contains(got.GetError(), "at most") {
		t.Errorf("large csr: %v", got)
	}
	limited := 0
	for i := range uint64(3 * agents.SignBurst) {
		c.send(sign(100+i, "csr"))
		if got := c.recv().GetSigned(); strings.Contains(got.GetError(), "too many") {
			limited++
		}
	}
	if limited < agents.SignBurst {
		t.Errorf("of %d requests at once %d were limited", 3*agents.SignBurst, limited)
	}
	for range 10 * agents.FrameBurst {
		if err := c.stream.Send(health("main")); err != nil {
			break
		}
	}
	for {
		if _, err := c.stream.Recv(); err != nil {
			if status.Code(err) != codes.ResourceExhausted {
				t.Error("a flood of frames:", err)
			}
			break
		}
	}
}

func TestHeadersAreBounded(t *testing.T) {
	b := newBench(t, nil)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+strings.Repeat("x", agents.MaxHeaders))
	stream, err := agentv1.NewAgentServiceClient(b.conn).Connect(ctx)
	if err == nil {
		_, err = stream.Recv()
	}
	if err == nil || !strings.Contains(err.Error(), "maximum size (65536 bytes)") {
		t.Errorf("headers without end: %v", err)
	}
	b.proxies.quiet(t)
}

func TestRecheck(t *testing.T) {
	b := newBench(t, nil)
	public := []token.PublicKey{b.key.Public()}
	c := b.member()
	still := func(why string) {
		t.Helper()
		b.server.Recheck()
		b.proxies.proxy(t, 0).Control.Resign()
		if c.recv().GetResign() == nil {
			t.Fatal(why)
		}
	}
	still("nothing changed")
	b.trust(token.NewVerifier(nil, nil))
	still("keys are missing")
	b.trust(nil)
	still("the mesh is missing")
	b.trust(token.NewVerifier(public, []token.Revocation{{ID: "another"}}))
	still("another token was revoked")
	b.trust(token.NewVerifier(public, []token.Revocation{{ID: "t-1"}}))
	b.server.Recheck()
	if _, err := c.stream.Recv(); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "revoked") {
		t.Error(err)
	}
	b.proxies.expect(t, "leave clean") // forgotten, and its Envoy's session with it
}

func TestRecheckSeesThroughExpiryAndKeysTakenAway(t *testing.T) {
	b := newBench(t, nil)
	raw := b.sign(claims(nil))
	short := b.connect(raw)
	short.register(register(sidecar))
	short.recv()
	b.ahead.Store(int64(24 * time.Hour))
	if _, err := b.connect(raw).stream.Recv(); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "expired") {
		t.Fatal("the token did not expire:", err)
	}
	b.server.Recheck() // expiry matters when one comes, not when one is there
	b.proxies.proxy(t, 0).Control.Resign()
	if short.recv().GetResign() == nil {
		t.Fatal("an expired token ended a stream")
	}
	next, err := token.GenerateKey(token.KeyID(token.Dataplane, 2))
	if err != nil {
		t.Fatal(err)
	}
	b.trust(token.NewVerifier([]token.PublicKey{next.Public()}, nil))
	b.server.Recheck()
	if _, err := short.stream.Recv(); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "unknown key") {
		t.Error(err)
	}
}

func TestControlCloseAndServerClose(t *testing.T) {
	b := newBench(t, nil)
	c := b.member()
	b.proxies.proxy(t, 0).Control.Close(errors.New("another instance came"))
	if _, err := c.stream.Recv(); status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), "another instance came") {
		t.Error(err)
	}
	b.proxies.expect(t, "leave broken")

	c = b.member()
	b.server.Close()
	if _, err := c.stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	late := b.connect(b.sign(claims(nil)))
	if _, err := late.stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Error("came after the end:", err)
	}
	b.proxies.quiet(t) // a zone that stops says nothing against its proxies
}

func TestInspect(t *testing.T) {
	b := newBench(t, nil)
	c := b.member()
	control := b.proxies.proxy(t, 0).Control
	type result struct {
		body string
		err  error
	}
	ask := func(ctx context.Context) chan result {
		out := make(chan result, 1)
		go func() {
			var body bytes.Buffer
			err := control.Inspect(ctx, "/clusters", &body)
			out <- result{body.String(), err}
		}()
		return out
	}
	answer := func(r *agentv1.InspectResponse) {
		c.send(&agentv1.AgentFrame{Frame: &agentv1.AgentFrame_Inspect{Inspect: r}})
	}
	first, second := ask(t.Context()), ask(t.Context())
	a, z := c.recv().GetInspect(), c.recv().GetInspect()
	if a.GetPath() != "/clusters" || a.GetId() == z.GetId() {
		t.Fatalf("asked %v and %v", a, z)
	}
	answer(&agentv1.InspectResponse{Id: 999, Chunk: []byte("nobody asked")})
	answer(&agentv1.InspectResponse{Id: a.Id, Chunk: []byte("one ")})
	answer(&agentv1.InspectResponse{Id: z.Id, Error: "no envoy", Last: true})
	answer(&agentv1.InspectResponse{Id: a.Id, Chunk: []byte("two"), Last: true})
	results := []result{<-first, <-second}
	slices.SortFunc(results, func(x, y result) int { return strings.Compare(y.body, x.body) })
	if results[0].body != "one two" || results[0].err != nil || results[1].err == nil || !strings.Contains(results[1].err.Error(), "no envoy") {
		t.Errorf("got %+v", results)
	}

	ctx, cancel := context.WithCancel(t.Context())
	gone := ask(ctx)
	c.recv()
	cancel()
	if r := <-gone; !errors.Is(r.err, context.Canceled) {
		t.Error(r.err)
	}
	cut := ask(t.Context())
	c.recv()
	c.cancel()
	if r := <-cut; r.err == nil || !strings.Contains(r.err.Error(), "disconnected") {
		t.Error(r.err)
	}
	if r := <-ask(t.Context()); r.err == nil {
		t.Error("inspected an agent that is gone")
	}
}
