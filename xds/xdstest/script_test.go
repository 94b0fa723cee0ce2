package xdstest_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tombolo-mesh/tombolo/internal/ports"
	"github.com/tombolo-mesh/tombolo/xds/delta"
	"github.com/tombolo-mesh/tombolo/xds/xdstest"
)

// TestScript plays one script against the fake and against the real Envoy: both
// must accept and refuse the same, in time.
func TestScript(t *testing.T) {
	for name, start := range map[string]starter{"fake": startFake, "real": startReal} {
		t.Run(name, func(t *testing.T) { script(t, start) })
	}
}

// starter starts a proxy and returns how many hosts it has of a cluster: -1 when
// it has no such cluster.
type starter func(t *testing.T, address string) (hosts func(cluster string) int)

// step publishes and says what must come of it.
type step struct {
	name      string
	resources []*delta.Resource
	refused   []string // names, in order
	within    time.Duration
	hosts     map[string]int
}

const (
	// unanswered is after how long a response is given up on. It leaves a slow
	// machine time to answer what need not be given up on.
	unanswered = 5 * time.Second
	// later is when a test gives up.
	later = time.Minute
)

func script(t *testing.T, start starter) {
	ads := delta.New(delta.Config{
		Authorize:       func(_ context.Context, n *corev3.Node) (string, error) { return n.GetId(), nil },
		Log:             slog.New(slog.DiscardHandler),
		ClustersTimeout: unanswered,
	})
	l := ports.Listen(t)
	var server *grpc.Server
	serve := func(l net.Listener) {
		server = grpc.NewServer()
		discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, ads)
		go server.Serve(l)
	}
	serve(l)
	defer func() { server.Stop() }()
	port := freePort(t)
	web := []*delta.Resource{realCluster("a", 1, false), realEndpoints("a", "127.0.0.1", 1), realRoute("a", 1, ""), realListener("a", 1, "127.0.0.1", port)}
	with := func(more ...*delta.Resource) []*delta.Resource { return slices.Concat(web, more) }
	const soon = unanswered * 4 / 5 // not by giving up on a response
	service := func(name string, version int) []*delta.Resource {
		return []*delta.Resource{realCluster(name, version, false), realEndpoints(name, "127.0.0.1", 1)}
	}
	a2, d := realCluster("a", 2, false), service("d", 1)
	bad := []*delta.Resource{realCluster("a", 66, true), realCluster("b", 66, true)}
	ads.Assign("n", "web", nil)
	hosts := start(t, l.Addr().String())
	var before []string
	for i, s := range []step{
		{"good", with(), nil, later, map[string]int{"a": 1, "b": -1}},
		{"a route that is no regular expression", with(realRoute("a", 66, "(((")), []string{"a"}, later, nil},
		{"healed", with(), nil, later, nil},
		{"endpoints that are no address", with(realEndpoints("a", "bad-host", 66)), []string{"a"}, later, map[string]int{"a": 1}},
		{"a bad listener beside a good one", with(realListener("x", 66, "192.0.2.77", 1), realListener("y", 1, "127.0.0.1", freePort(t)),
			realRoute("y", 1, ""), realRoute("x", 1, "")), []string{"x"}, later, nil},
		{"a cluster changes, its endpoints are refused", with(realCluster("a", 9, false), realEndpoints("a", "bad-host", 67)), []string{"a"}, soon, map[string]int{"a": 1}},
		{"a cluster changes, its endpoints do not", with(a2), nil, later, map[string]int{"a": 1}},
		{"a bad cluster last", with(a2, realCluster("z", 66, true)), []string{"z"}, later, map[string]int{"z": -1}},
		{"a good one after it", with(slices.Concat(d, []*delta.Resource{a2, realCluster("z", 66, true)})...), []string{"z"}, soon, map[string]int{"d": 1}},
		{"bad ones before a new good one", with(slices.Concat(bad, service("c", 1))...), []string{"a", "b"}, later, map[string]int{"a": 1, "b": -1, "c": 1, "d": -1}},
		{"a good change after that", with(slices.Concat(bad, service("c", 2))...), []string{"a", "b"}, soon, map[string]int{"a": 1, "c": 1}},
		{"one heals", with(slices.Concat(bad[:1], service("b", 3), service("c", 2))...), []string{"a"}, soon, map[string]int{"a": 1, "b": 1, "c": 1}},
		{"removed, and a cluster without endpoints", with(realCluster("e", 1, false)), nil, soon, map[string]int{"a": 1, "b": -1, "c": -1, "e": 0}},
		{"its endpoints come", with(service("e", 1)...), nil, soon, map[string]int{"e": 1}},
		{"they go", with(realCluster("e", 2, false)), nil, soon, map[string]int{"e": 0}},
	} {
		mark := int64(i + 1)
		ads.Publish("web", mark, false, delta.NewSet(s.resources))
		began := time.Now()
		p := await(t, ads, s, mark)
		var refused []string
		for _, r := range ads.Rejections() {
			refused = append(refused, r.Resource)
		}
		if !slices.Equal(refused, s.refused) {
			t.Errorf("%s: refused %+v, want %v", s.name, ads.Rejections(), s.refused)
		}
		news := slices.ContainsFunc(s.refused, func(name string) bool { return !slices.Contains(before, name) })
		if news != (p.Rejected == 1) || p.Done+p.Rejected != p.Nodes {
			t.Errorf("%s: %+v", s.name, p)
		}
		before = s.refused
		for cluster, want := range s.hosts {
			eventually(t, fmt.Sprintf("%s: %d hosts of %s", s.name, want, cluster), later, func() bool { return hosts(cluster) == want })
		}
		t.Logf("%s: %v after %v", s.name, p.Rejections, time.Since(began).Round(time.Millisecond))
	}
	// Cut while no answer for clusters leaves the proxy: it does not ask for them again.
	frozen := append(service("f", 1), realCluster("b", 67, true))
	ads.Publish("web", 98, false, delta.NewSet(with(frozen...)))
	eventually(t, "applied", later, func() bool { return hosts("f") == 1 })
	server.Stop()
	again, err := net.Listen("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	serve(again)
	eventually(t, "refused after a reconnect", later, func() bool {
		r := ads.Rejections()
		return len(r) == 1 && r[0].Resource == "b" && r[0].Version == "v67"
	})
	ads.Publish("web", 99, false, delta.NewSet(with(service("f", 2)...)))
	eventually(t, "in sync after a reconnect", later, func() bool { return ads.InSync("n") && hosts("f") == 1 && hosts("b") == -1 })
}

// await waits until the only node is done with a mark.
func await(t *testing.T, ads *delta.Server, s step, mark int64) delta.Progress {
	t.Helper()
	var last delta.Progress
	eventually(t, s.name, s.within, func() bool {
		for _, p := range ads.Progress("web") {
			if p.Mark == mark {
				last = p
			}
		}
		// Before the proxy connected a publication affects nobody.
		return !last.Settled.IsZero() && (last.Nodes == 1 || ads.InSync("n"))
	})
	return last
}

func eventually(t *testing.T, what string, within time.Duration, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(within); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, within)
		}
	}
}

func startFake(t *testing.T, address string) func(string) int {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 10 * time.Second, Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, MaxDelay: 200 * time.Millisecond}}))
	if err != nil {
		t.Fatal(err)
	}
	e := xdstest.New(xdstest.Config{Node: "n", Late: true, Refuse: func(r *discoveryv3.Resource) string {
		return cmp.Or(refuse("v66")(r), refuse("v67")(r))
	}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			e.Run(ctx, conn)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		conn.Close()
		if f := e.Faults(); len(f) > 0 {
			t.Error(f)
		}
	})
	return func(cluster string) int {
		if e.Resource(xdstest.ClusterType, cluster) == nil {
			return -1
		}
		r := e.Resource(xdstest.EndpointType, cluster)
		if r == nil {
			return 0
		}
		var cla endpointv3.ClusterLoadAssignment
		if err := r.Resource.UnmarshalTo(&cla); err != nil {
			t.Error(err)
		}
		return len(cla.Endpoints)
	}
}

func startReal(t *testing.T, address string) func(string) int {
	binary := findEnvoy(t)
	dir := t.TempDir()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "envoy.yaml")
	if err := os.WriteFile(config, []byte(fmt.Sprintf(`
node: {id: "n", cluster: test}
admin: {address: {pipe: {path: %q}}}
dynamic_resources:
  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: ads, retry_policy: {retry_back_off: {base_interval: 0.1s, max_interval: 1s}}}}]}
  lds_config: {ads: {}, resource_api_version: V3}
  cds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
  - name: ads
    type: STATIC
    typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}
    load_assignment: {cluster_name: ads, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}
`, filepath.Join(dir, "admin"), port)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-c", config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warn")
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		out.Close()
		if t.Failed() {
			text, _ := os.ReadFile(out.Name())
			t.Logf("%s", text)
		}
	})
	admin := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(dir, "admin"))
		}}}
	return func(cluster string) int {
		resp, err := admin.Get("http://admin/clusters")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "\n"+cluster+"::") && !strings.HasPrefix(string(text), cluster+"::") {
			return -1
		}
		return strings.Count("\n"+string(text), "\n"+cluster+"::127.0.0.1:9::cx_active::")
	}
}

func findEnvoy(t *testing.T) string {
	if path := os.Getenv("TOMBOLO_ENVOY"); path != "" {
		return path
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path
	}
	if path, err := filepath.Abs("../../.cache/envoy/envoy"); err == nil {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Skip("no envoy: run make test, or set TOMBOLO_ENVOY")
	return ""
}

func freePort(t *testing.T) uint32 { return uint32(ports.Free(t)) }

func realCluster(name string, version int, bad bool) *delta.Resource {
	c := &clusterv3.Cluster{
		Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}, AltStatName: fmt.Sprint(version),
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: realADS()},
	}
	if bad {
		c.LbPolicy = clusterv3.Cluster_RING_HASH
		c.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: &clusterv3.Cluster_RingHashLbConfig{
			MinimumRingSize: wrapperspb.UInt64(100), MaximumRingSize: wrapperspb.UInt64(10)}}
	}
	r := pack(xdstest.ClusterType, name, version, c)
	r.Endpoints = name
	return r
}

func realADS() *corev3.ConfigSource {
	s := ads()
	s.ResourceApiVersion = corev3.ApiVersion_V3
	return s
}

func socket(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}}}
}

func realEndpoints(name, host string, version int) *delta.Resource {
	return pack(xdstest.EndpointType, name, version, &endpointv3.ClusterLoadAssignment{ClusterName: name,
		Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: socket(host, 9)}}}}}}})
}

func realRoute(name string, version int, regex string) *delta.Resource {
	match := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
	if regex != "" {
		match = &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: regex}}}
	}
	return pack(xdstest.RouteType, name, version, &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{{
		Name: "all", Domains: []string{"*"}, Routes: []*routev3.Route{{Match: match, Action: &routev3.Route_Route{
			Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "a"}}}}}}}})
}

func realListener(name string, version int, host string, port uint32) *delta.Resource {
	router, err := anypb.New(&routerv3.Router{})
	if err != nil {
		panic(err)
	}
	h, err := anypb.New(&hcmv3.HttpConnectionManager{StatPrefix: "in", RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{
		Rds: &hcmv3.Rds{ConfigSource: realADS(), RouteConfigName: name}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: router}}}})
	if err != nil {
		panic(err)
	}
	return pack(xdstest.ListenerType, name, version, &listenerv3.Listener{Name: name, Address: socket(host, port),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{Name: "http", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: h}}}}}})
}
