package zone

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/identity"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/xds/xdstest"
	"github.com/tombolo-mesh/tombolo/zone/agents"
)

// live is a running zone: its engine, its xDS server and its port, without global.
type live struct {
	t     *testing.T
	parts *parts
	conn  *grpc.ClientConn
	stop  func()
	rev   mesh.Revision
}

func startLive(t *testing.T, dir string) *live {
	t.Helper()
	z, err := New(Config{Name: "east", DataDir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	h, err := z.openMachine()
	if err != nil {
		t.Fatal(err)
	}
	p, err := z.assemble(h)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = p.engine.run(ctx) })
	if err := p.engine.do(nil, func(*batch) {}); err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { _ = p.server.Serve(listener) })
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(z.tls.CAPEM())
	conn, err := grpc.NewClient("passthrough:///"+listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: "localhost"})))
	if err != nil {
		t.Fatal(err)
	}
	l := &live{t: t, parts: p, conn: conn, rev: p.engine.position.Load().Revision}
	l.stop = sync.OnceFunc(func() {
		_ = conn.Close()
		p.server.Stop()
		cancel()
		wg.Wait()
		h.close()
	})
	t.Cleanup(l.stop)
	return l
}

func (l *live) push(changes ...mesh.Change) mesh.Revision {
	l.t.Helper()
	for i := range changes {
		l.rev++
		changes[i].Revision, changes[i].Resource.Revision = l.rev, l.rev
	}
	if err := (&replica{e: l.parts.engine}).Apply(position(l.rev), changes); err != nil {
		l.t.Fatal(err)
	}
	return l.rev
}

// agent is a member's other half.
type agent struct {
	agents.Control
	mu          sync.Mutex
	resigned    int
	terminating int
	closed      error
}

func (a *agent) Terminating() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.terminating++
}

func (a *agent) Resign() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.resigned++
}

func (a *agent) Close(reason error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = reason
}

// cold joins a proxy whose Envoy is not configured yet; join one that is.
func (l *live) cold(dp mesh.Resource) (agents.Joined, *agent) {
	l.t.Helper()
	a := &agent{}
	j, err := members{l.parts.engine}.Join(l.t.Context(), agents.Proxy{Resource: dp, Spec: decoded(l.t, dp).(*mesh.Dataplane), Instance: "i-" + dp.Name, Control: a})
	if err != nil {
		l.t.Fatal(err)
	}
	return j, a
}

func (l *live) join(dp mesh.Resource) (agents.Joined, *agent) {
	l.t.Helper()
	j, a := l.cold(dp)
	if err := l.parts.engine.do(nil, func(*batch) { l.parts.engine.warm(map[string]bool{j.NodeID: true}) }); err != nil {
		l.t.Fatal(err)
	}
	return j, a
}

// envoy connects a fake Envoy until the returned function is called.
func (l *live) envoy(j agents.Joined, e *xdstest.Envoy) (cut func()) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+j.SessionToken))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Run(ctx, l.conn)
	}()
	cut = sync.OnceFunc(func() { cancel(); <-done })
	l.t.Cleanup(cut)
	return cut
}

func (l *live) inSync(nodes ...string) {
	l.t.Helper()
	for _, n := range nodes {
		eventually(l.t, "in sync: "+n, func() bool { return l.parts.xds.InSync(n) })
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline:
			t.Fatalf("after a minute not %s", what)
		case <-tick.C:
		}
	}
}

// hosts are the addresses that an Envoy has for a cluster, sorted.
func hosts(t *testing.T, e *xdstest.Envoy, cluster string) []string {
	t.Helper()
	r := e.Resource(xds.EndpointType, cluster)
	if r == nil {
		return nil
	}
	var cla endpointv3.ClusterLoadAssignment
	if err := r.Resource.UnmarshalTo(&cla); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, g := range cla.Endpoints {
		for _, x := range g.LbEndpoints {
			a := x.GetEndpoint().GetAddress()
			if s := a.GetSocketAddress(); s != nil {
				out = append(out, net.JoinHostPort(s.Address, fmt.Sprint(s.GetPortValue())))
			} else {
				out = append(out, a.GetEnvoyInternalAddress().GetEndpointId())
			}
		}
	}
	slices.Sort(out)
	return out
}

func sidecar(t testing.TB, meshName, name, workload, address, inbound string, outbounds ...string) mesh.Resource {
	return resource(t, mesh.KindDataplane, meshName, "east", name, fmt.Sprintf(
		`{"networking":{"address":%q,"inbound":[%s],"outbound":[%s]}}`, address, inbound, strings.Join(outbounds, ",")), mesh.LabelWorkload, workload)
}

const (
	httpInbound = `{"name":"http","port":8080,"protocol":"http"}`
	tcpInbound  = `{"name":"tcp","port":9090,"protocol":"tcp"}`
	callAPI     = `{"port":20001,"backendRef":{"kind":"MeshService","name":"api","port":8080}}`
	apiCluster  = "kri_msvc_default_east__api_8080"
)

func identityOf(t testing.TB, meshName string) mesh.Change {
	return put(resource(t, mesh.KindMeshIdentity, meshName, "", "identity", `{"provider":{"type":"Bundled"}}`))
}

func allowAll(t testing.TB, meshName string) mesh.Change {
	return put(resource(t, mesh.KindMeshTrafficPermission, meshName, "", "all", `{"rules":[{"default":{"allow":[{"spiffeID":{"type":"Prefix","value":"spiffe://"}}]}}]}`))
}

func TestProxiesAreServed(t *testing.T) {
	l := startLive(t, t.TempDir())
	l.push(identityOf(t, "default"), allowAll(t, "default"))
	web, _ := l.join(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound, callAPI))
	l.join(sidecar(t, "default", "api-1", "api", "10.0.0.2", httpInbound))
	l.join(sidecar(t, "default", "api-2", "api", "10.0.0.3", httpInbound))
	e := xdstest.New(xdstest.Config{Node: web.NodeID})
	l.envoy(web, e)
	l.inSync(web.NodeID)
	if d := cmp.Diff([]string{"10.0.0.2:8080", "10.0.0.3:8080"}, hosts(t, e, apiCluster)); d != "" {
		t.Error(d)
	}
	m := members{l.parts.engine}
	gone := func(step string, want ...string) {
		t.Helper()
		eventually(t, step, func() bool { return slices.Equal(hosts(t, e, apiCluster), want) })
	}
	api := mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "east", Name: "api-1"}
	compiles := classCompiles(t, l)
	m.Health(api, "i-api-1", []string{"http"})
	gone("a failing application is out", "10.0.0.3:8080")
	m.Health(api, "i-api-1", nil)
	gone("it is back", "10.0.0.2:8080", "10.0.0.3:8080")
	m.Leave(api, "another instance", false)
	m.Leave(api, "i-api-1", false)
	gone("a broken stream takes it out", "10.0.0.3:8080")
	if n := classCompiles(t, l); n != compiles {
		t.Errorf("%v classes compiled for endpoint changes alone", n-compiles)
	}
	l.join(sidecar(t, "default", "api-1", "api", "10.0.0.2", httpInbound))
	gone("it joins again", "10.0.0.2:8080", "10.0.0.3:8080")
	m.Leave(api, "i-api-1", true)
	gone("a goodbye takes it out", "10.0.0.3:8080")
	if f := e.Faults(); len(f) > 0 {
		t.Error(f)
	}
}

func classCompiles(t *testing.T, l *live) float64 {
	t.Helper()
	families, err := l.parts.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "tombolo_zone_compiles_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == "class" {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatal("no count of compiles")
	return 0
}

func TestRestartWithoutGlobal(t *testing.T) {
	dir := t.TempDir()
	l := startLive(t, dir)
	l.push(identityOf(t, "default"), allowAll(t, "default"))
	web, _ := l.join(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound, callAPI))
	api, _ := l.join(sidecar(t, "default", "api-1", "api", "10.0.0.2", httpInbound))
	we, ae := xdstest.New(xdstest.Config{Node: web.NodeID}), xdstest.New(xdstest.Config{Node: api.NodeID})
	l.envoy(web, we)
	l.envoy(api, ae)
	l.inSync(web.NodeID, api.NodeID)
	before := sign(t, l, "web-1")
	bundles := trustOf(t, l)
	wantWeb, wantAPI := we.Config(), ae.Config()
	we.Received()
	l.stop()

	l = startLive(t, dir)
	if l.parts.engine.position.Load().Revision != 2 {
		t.Error("position is", *l.parts.engine.position.Load())
	}
	l.envoy(web, we) // the running Envoy comes back before its agent
	fresh := xdstest.New(xdstest.Config{Node: api.NodeID})
	l.envoy(api, fresh)
	l.inSync(web.NodeID, api.NodeID)
	if d := cmp.Diff(wantWeb, we.Config()); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(wantAPI, fresh.Config()); d != "" {
		t.Error(d)
	}
	if got := we.Received(); len(got) > 0 {
		t.Error("an Envoy that lacks nothing was sent", got)
	}
	if d := cmp.Diff(bundles, trustOf(t, l)); d != "" {
		t.Error("authorities differ:", d)
	}
	l.join(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound, callAPI))
	if after := sign(t, l, "web-1"); after != before {
		t.Error("identity was", before, "is", after)
	}
	late, _ := l.join(sidecar(t, "default", "api-2", "api", "10.0.0.3", httpInbound))
	le := xdstest.New(xdstest.Config{Node: late.NodeID})
	l.envoy(late, le)
	l.inSync(late.NodeID)
	eventually(t, "the new proxy is called", func() bool {
		return slices.Equal(hosts(t, we, apiCluster), []string{"10.0.0.2:8080", "10.0.0.3:8080"})
	})
	sign(t, l, "api-2")
	if f := append(we.Faults(), le.Faults()...); len(f) > 0 {
		t.Error(f)
	}
}

// sign gets a certificate, checks it against the published bundle and returns its ID.
func sign(t *testing.T, l *live, name string) string {
	t.Helper()
	key := mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "east", Name: name}
	got, err := members{l.parts.engine}.Sign(t.Context(), key, "i-"+name, csr(t))
	if err != nil {
		t.Fatal(err)
	}
	svid, err := identity.ParseSVID(got.Chain)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(strings.Join(slices.Collect(maps.Values(trustOf(t, l))), ""))) {
		t.Fatal("no bundle is published")
	}
	if _, err := svid.Leaf().Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
	if svid.ID().String() != got.SpiffeID || !got.RenewAt.Before(got.NotAfter) {
		t.Errorf("%+v", got)
	}
	return got.SpiffeID
}

// trustOf are the bundles that the zone publishes, by trust domain.
func trustOf(t *testing.T, l *live) map[string]string {
	t.Helper()
	out := map[string]string{}
	for k, r := range l.parts.engine.facts.whole() {
		if k.Kind == mesh.KindMeshTrust {
			m := decoded(t, r).(*mesh.MeshTrust)
			out[m.TrustDomain] = m.CABundles[0].PEM.Value
		}
	}
	return out
}

// Nobody is sent to a proxy before its Envoy listens.
func TestColdProxyGetsNoTraffic(t *testing.T) {
	l := startLive(t, t.TempDir())
	l.push(identityOf(t, "default"), allowAll(t, "default"))
	web, _ := l.join(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound, callAPI))
	e := xdstest.New(xdstest.Config{Node: web.NodeID})
	l.envoy(web, e)
	api, _ := l.cold(sidecar(t, "default", "api-1", "api", "10.0.0.2", httpInbound))
	l.inSync(web.NodeID)
	if h := hosts(t, e, apiCluster); len(h) > 0 {
		t.Error("a proxy without Envoy is called:", h)
	}
	l.envoy(api, xdstest.New(xdstest.Config{Node: api.NodeID}))
	eventually(t, "called", func() bool { return slices.Equal(hosts(t, e, apiCluster), []string{"10.0.0.2:8080"}) })
}

// An agent that comes back is not taken for gone when its old stream breaks later.
func TestOldStreamEndsLate(t *testing.T) {
	l := startLive(t, t.TempDir())
	dp := sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound)
	_, first := l.join(dp)
	l.join(dp)
	m, key := members{l.parts.engine}, dp.Key
	state := func() (s presence) {
		t.Helper()
		if err := l.parts.engine.do(nil, func(*batch) { s = l.parts.engine.proxies[key].presence }); err != nil {
			t.Fatal(err)
		}
		return s
	}
	m.Leave(key, "i-web-1", false)
	if state() != present {
		t.Error("the old stream's end took the proxy out")
	}
	first.mu.Lock()
	if first.closed == nil {
		t.Error("the old stream stays open")
	}
	first.mu.Unlock()
	m.Leave(key, "i-web-1", false)
	if state() != lost {
		t.Error("the last stream's end is not noticed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Join(ctx, agents.Proxy{Resource: dp, Spec: decoded(t, dp).(*mesh.Dataplane), Instance: "i-web-1", Control: &agent{}}); err == nil {
		t.Error("joined although nobody waits")
	}
	if state() != lost {
		t.Error("a proxy whose agent went while it joined counts as present")
	}
}

// A token for one workload does not push out the proxies of another.
func TestNameOfAnotherWorkload(t *testing.T) {
	l := startLive(t, t.TempDir())
	api := sidecar(t, "default", "api-1", "api", "10.0.0.2", httpInbound)
	_, owner := l.join(api)
	m := members{l.parts.engine}
	join := func(workload, instance string, named bool) error {
		dp := sidecar(t, "default", "api-1", workload, "10.0.0.9", httpInbound)
		_, err := m.Join(t.Context(), agents.Proxy{Resource: dp, Spec: decoded(t, dp).(*mesh.Dataplane), Instance: instance, Named: named, Control: &agent{}})
		return err
	}
	if err := join("web", "thief", false); status.Code(err) != codes.AlreadyExists {
		t.Error("another workload took the name:", err)
	}
	owner.mu.Lock()
	if owner.closed != nil {
		t.Error("the owner was thrown out:", owner.closed)
	}
	owner.mu.Unlock()
	if err := join("api", "next", false); err != nil {
		t.Error("another instance of the workload:", err)
	}
	if err := join("web", "renamed", true); err != nil {
		t.Error("a token for the name:", err)
	}
	m.Leave(api.Key, "renamed", false)
	if err := join("api", "after", false); err != nil {
		t.Error("a name that nobody has:", err)
	}
}

func TestStolenSessionIsRefused(t *testing.T) {
	l := startLive(t, t.TempDir())
	l.push(identityOf(t, "default"))
	web, _ := l.join(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound))
	api, _ := l.join(sidecar(t, "default", "api-1", "api", "10.0.0.2", httpInbound))
	for name, j := range map[string]agents.Joined{
		"another node's": {NodeID: api.NodeID, SessionToken: web.SessionToken},
		"forged":         {NodeID: api.NodeID, SessionToken: web.SessionToken[:len(web.SessionToken)-2] + "xx"},
		"none":           {NodeID: api.NodeID},
	} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+j.SessionToken)
		if err := xdstest.New(xdstest.Config{Node: j.NodeID}).Run(ctx, l.conn); err == nil {
			t.Error(name, "token is accepted")
		}
	}
	if l.parts.xds.Connected() != 0 {
		t.Error("somebody is connected")
	}
}

// Nobody holds a stream by opening it and saying nothing.
func TestSilentStrangersAreTurnedAway(t *testing.T) {
	l := startLive(t, t.TempDir())
	for _, raw := range []string{"", "Bearer x", "Bearer s1.ZGVmYXVsdA.d2ViLTE.AAAA"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if raw != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", raw)
		}
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(l.conn).DeltaAggregatedResources(ctx)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%q: %v", raw, err)
		}
		cancel()
	}
}

func TestDrainWaitsForEveryProxy(t *testing.T) {
	l := startLive(t, t.TempDir())
	l.push(identityOf(t, "default"), allowAll(t, "default"))
	web, _ := l.join(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound, callAPI))
	l.join(sidecar(t, "default", "api-1", "api", "10.0.0.2", httpInbound))
	l.join(sidecar(t, "default", "api-2", "api", "10.0.0.3", httpInbound))
	e := xdstest.New(xdstest.Config{Node: web.NodeID})
	l.envoy(web, e)
	l.inSync(web.NodeID)
	resume := e.Stall()
	drained := make(chan error, 1)
	go func() {
		drained <- members{l.parts.engine}.Drain(context.Background(), mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "east", Name: "api-1"}, "i-api-1")
	}()
	eventually(t, "behind", func() bool { return !l.parts.xds.InSync(web.NodeID) })
	select {
	case err := <-drained:
		t.Fatal("drained while a proxy still calls it:", err)
	case <-time.After(50 * time.Millisecond):
	}
	resume()
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"10.0.0.3:8080"}, hosts(t, e, apiCluster)); d != "" {
		t.Error(d)
	}
}

func TestReport(t *testing.T) {
	l := startLive(t, t.TempDir())
	l.push(identityOf(t, "default"), allowAll(t, "default"))
	web, _ := l.join(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound, callAPI))
	l.join(sidecar(t, "default", "api-1", "api", "10.0.0.2", httpInbound))
	e := xdstest.New(xdstest.Config{Node: web.NodeID})
	l.envoy(web, e)
	l.inSync(web.NodeID)
	tracker := l.parts.engine.tracker
	settled := func(rev mesh.Revision) {
		t.Helper()
		eventually(t, "settled", func() bool { return tracker.Report().Settled >= int64(rev) })
	}

	resume := e.Stall()
	timeout := func(seconds int) mesh.Change {
		return put(resource(t, mesh.KindMeshTimeout, "default", "", "slow", fmt.Sprintf(`{"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"requestTimeout":"%ds"}}}]}`, seconds)))
	}
	rev := l.push(timeout(7))
	eventually(t, "behind", func() bool {
		r := tracker.Report()
		c := r.Changes[len(r.Changes)-1]
		return r.Applied == int64(rev) && r.Settled == int64(rev)-1 && c.Revision == int64(rev) && c.Affected == 1 && c.Behind == 1 && c.BehindNames[0] == web.NodeID
	})
	resume()
	settled(rev)
	r := tracker.Report()
	if c := r.Changes[len(r.Changes)-1]; c.Done != 1 || c.Affected != 1 || c.SettleMicros == 0 || r.ProxiesConnected != 2 || r.ProxiesTotal != 2 {
		t.Errorf("%+v", r)
	}

	// What changes nothing for anybody settles at once.
	rev = l.push(put(resource(t, mesh.KindMeshTimeout, "other", "", "x", `{"to":[{"targetRef":{"kind":"Mesh"},"default":{"idleTimeout":"1s"}}]}`)))
	r = tracker.Report()
	if c := r.Changes[len(r.Changes)-1]; r.Settled != int64(rev) || c.Revision != int64(rev) || c.Affected != 0 {
		t.Errorf("%+v", r)
	}

	e.SetRefuse(func(r *discoveryv3.Resource) string {
		if strings.HasPrefix(r.Name, apiCluster) && r.Resource.GetTypeUrl() == xds.RouteType {
			return "no such timeout"
		}
		return ""
	})
	rev = l.push(timeout(8))
	eventually(t, "rejected", func() bool {
		r := tracker.Report()
		c := r.Changes[len(r.Changes)-1]
		return c.Rejected == 1 && len(r.Problems) == 1 && r.Problems[0].Kind == string(mesh.KindMeshTimeout) && r.Problems[0].Name == "slow" &&
			strings.Contains(r.Problems[0].Reason, "no such timeout") && r.Settled == int64(rev)
	})
	e.SetRefuse(nil)
	rev = l.push(timeout(9))
	eventually(t, "accepted", func() bool {
		r := tracker.Report()
		return r.Settled == int64(rev) && len(r.Problems) == 0
	})
}

func TestTwoMeshesShareNothing(t *testing.T) {
	l := startLive(t, t.TempDir())
	l.push(identityOf(t, "default"), allowAll(t, "default"), identityOf(t, "other"), allowAll(t, "other"))
	web, _ := l.join(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound, callAPI))
	foreign, _ := l.join(sidecar(t, "other", "web-1", "web", "10.0.0.9", httpInbound, callAPI))
	l.join(sidecar(t, "default", "api-1", "api", "10.0.0.2", httpInbound))
	we, fe := xdstest.New(xdstest.Config{Node: web.NodeID}), xdstest.New(xdstest.Config{Node: foreign.NodeID})
	l.envoy(web, we)
	l.envoy(foreign, fe)
	l.inSync(web.NodeID, foreign.NodeID)
	if len(hosts(t, we, apiCluster)) != 1 {
		t.Error("no call inside of the mesh")
	}
	for _, byName := range fe.Config() {
		for name := range byName {
			if strings.Contains(name, "_default_") {
				t.Error("the other mesh has", name)
			}
		}
	}
	a, b := we.Resource(xds.SecretType, xds.BundlesSecret), fe.Resource(xds.SecretType, xds.BundlesSecret)
	if a == nil || b == nil || a.Version == b.Version {
		t.Error("the meshes share their trust")
	}
}

func TestStateBelongsToItsZone(t *testing.T) {
	dir := t.TempDir()
	startLive(t, dir).stop()
	z, err := New(Config{Name: "west", DataDir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := z.Run(t.Context()); err == nil || !strings.Contains(err.Error(), `belongs to zone "east"`) {
		t.Error(err)
	}
}

func TestRunServesAlone(t *testing.T) {
	dir := t.TempDir()
	z, err := New(Config{Name: "east", DataDir: dir, Listen: "127.0.0.1:0", MetricsAddress: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- z.Run(ctx) }()
	select {
	case <-z.Ready():
	case err := <-ended:
		t.Fatal(err)
	case <-time.After(60 * time.Second):
		t.Fatal("not ready")
	}
	pool := x509.NewCertPool()
	if text := readFile(t, filepath.Join(dir, CAFile)); !pool.AppendCertsFromPEM(text) {
		t.Fatal("no certificate")
	}
	conn, err := tls.Dial("tcp", z.Address().String(), &tls.Config{RootCAs: pool, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
