package xdstest_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tombolo-mesh/tombolo/xds/delta"
	"github.com/tombolo-mesh/tombolo/xds/xdstest"
)

// world is a delta server and its fakes, in one bubble of time.
type world struct {
	t    *testing.T
	ads  *delta.Server
	conn *grpc.ClientConn
	wg   sync.WaitGroup
}

func run(t *testing.T, test func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, ads: delta.New(delta.Config{
			Authorize: func(_ context.Context, n *corev3.Node) (string, error) { return n.GetId(), nil },
		})}
		conn, stop, err := xdstest.Serve(w.ads)
		if err != nil {
			t.Fatal(err)
		}
		w.conn = conn
		test(w)
		stop()
		w.wg.Wait()
		synctest.Wait()
		if n := w.ads.Connected(); n != 0 {
			t.Errorf("%d nodes still connected after the end", n)
		}
	})
}

func (w *world) connect(e *xdstest.Envoy) (cut func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	w.wg.Go(func() {
		defer close(done)
		e.Run(ctx, w.conn)
	})
	synctest.Wait()
	return func() { cancel(); <-done; synctest.Wait() }
}

func (w *world) publish(mark int64, resources ...*delta.Resource) {
	w.ads.Publish("web", mark, false, delta.NewSet(resources))
	synctest.Wait()
}

// progress of the mark, which must be reported.
func (w *world) progress(mark int64) delta.Progress {
	w.t.Helper()
	for _, p := range w.ads.Progress("web") {
		if p.Mark == mark {
			return p
		}
	}
	w.t.Fatalf("no progress for mark %d", mark)
	return delta.Progress{}
}

func pack(t, name string, version int, m proto.Message) *delta.Resource {
	body, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return &delta.Resource{TypeURL: t, Name: name, Version: fmt.Sprint("v", version), Body: body}
}

func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
}

func cluster(name string, version int) *delta.Resource {
	r := pack(xdstest.ClusterType, name, version, &clusterv3.Cluster{
		Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()}, AltStatName: fmt.Sprint(version),
	})
	r.Endpoints = name
	return r
}

func endpoints(name string, version int) *delta.Resource {
	return pack(xdstest.EndpointType, name, version, &endpointv3.ClusterLoadAssignment{ClusterName: name})
}

func route(name string, version int, clusters ...string) *delta.Resource {
	h := &routev3.VirtualHost{Name: fmt.Sprint("v", version), Domains: []string{"*"}}
	for _, c := range clusters {
		h.Routes = append(h.Routes, &routev3.Route{Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: c}}}})
	}
	return pack(xdstest.RouteType, name, version, &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{h}})
}

func listener(name string, version int, routeName string) *delta.Resource {
	h, err := anypb.New(&hcmv3.HttpConnectionManager{StatPrefix: fmt.Sprint(version), RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{
		Rds: &hcmv3.Rds{ConfigSource: ads(), RouteConfigName: routeName}}})
	if err != nil {
		panic(err)
	}
	return pack(xdstest.ListenerType, name, version, &listenerv3.Listener{Name: name, FilterChains: []*listenerv3.FilterChain{{
		Filters: []*listenerv3.Filter{{Name: "http", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: h}}}}}})
}

// service is all that a service needs.
func service(name string, version int) []*delta.Resource {
	return []*delta.Resource{cluster(name, version), endpoints(name, version), route(name, version, name), listener(name, version, name)}
}

func refuse(version string) func(*discoveryv3.Resource) string {
	return func(r *discoveryv3.Resource) string {
		if r.Version == version {
			return "malformed"
		}
		return ""
	}
}

func TestFirstConfigurationInOrder(t *testing.T) {
	run(t, func(w *world) {
		w.ads.Assign("n", "web", nil)
		w.publish(1, slices.Concat(service("a", 1), service("b", 1))...)
		e := xdstest.New(xdstest.Config{Node: "n"})
		w.connect(e)
		want := []string{"Cluster/a@v1", "Cluster/b@v1", "ClusterLoadAssignment/a@v1", "ClusterLoadAssignment/b@v1",
			"Listener/a@v1", "Listener/b@v1", "RouteConfiguration/a@v1", "RouteConfiguration/b@v1"}
		if diff := cmp.Diff(want, e.Received()); diff != "" {
			t.Error(diff)
		}
		if !w.ads.InSync("n") || len(e.Faults()) > 0 {
			t.Errorf("in sync %v, faults %v", w.ads.InSync("n"), e.Faults())
		}
	})
}

func TestReconnectSendsWhatDiffers(t *testing.T) {
	run(t, func(w *world) {
		w.ads.Assign("n", "web", nil)
		w.publish(1, slices.Concat(service("a", 1), service("b", 1))...)
		e := xdstest.New(xdstest.Config{Node: "n"})
		w.connect(e)()
		e.Received()
		cut := w.connect(e)
		if got := e.Received(); len(got) > 0 {
			t.Errorf("sent again: %v", got)
		}
		if !w.ads.InSync("n") {
			t.Error("not in sync")
		}
		cut()
		w.publish(2, slices.Concat(service("a", 1), []*delta.Resource{endpoints("a", 2)})...)
		w.connect(e)
		got := e.Received()
		for _, want := range []string{"ClusterLoadAssignment/a@v2", "Cluster/-b", "Listener/-b"} {
			if !slices.Contains(got, want) {
				t.Errorf("%s not in %v", want, got)
			}
		}
		if len(e.Faults()) > 0 || !w.ads.InSync("n") {
			t.Errorf("faults %v, in sync %v", e.Faults(), w.ads.InSync("n"))
		}
	})
}

func TestChangedClusterIsFollowedByItsEndpoints(t *testing.T) {
	run(t, func(w *world) {
		w.ads.Assign("n", "web", nil)
		w.publish(1, service("a", 1)...)
		e := xdstest.New(xdstest.Config{Node: "n"})
		w.connect(e)
		e.Received()
		w.publish(2, append(service("a", 1), cluster("a", 2))...)
		if diff := cmp.Diff([]string{"Cluster/a@v2", "ClusterLoadAssignment/a@v1"}, e.Received()); diff != "" {
			t.Error(diff)
		}
		if p := w.progress(2); p.Done != 1 || p.Settled.IsZero() {
			t.Errorf("%+v", p)
		}
	})
}

func TestRefusedResourceStopsNothingElse(t *testing.T) {
	for _, make := range []func(version int) *delta.Resource{
		func(v int) *delta.Resource { return cluster("a", v) }, func(v int) *delta.Resource { return endpoints("a", v) },
		func(v int) *delta.Resource { return route("a", v, "a") }, func(v int) *delta.Resource { return listener("a", v, "a") },
	} {
		bad := make(66)
		t.Run(bad.TypeURL, func(t *testing.T) {
			run(t, func(w *world) {
				w.ads.Assign("n", "web", nil)
				w.publish(1, slices.Concat(service("a", 1), service("b", 1))...)
				e := xdstest.New(xdstest.Config{Node: "n", Refuse: refuse("v66")})
				w.connect(e)
				w.publish(2, append(slices.Concat(service("a", 1), service("b", 2)), bad)...)
				got := e.Config()
				if got[bad.TypeURL]["a"] != "v1" || got[bad.TypeURL]["b"] != "v2" {
					t.Errorf("runs %v", got[bad.TypeURL])
				}
				want := []delta.Rejection{{Node: "n", TypeURL: bad.TypeURL, Resource: "a", Version: "v66"}}
				rejections := w.ads.Rejections()
				if len(rejections) != 1 || !strings.Contains(rejections[0].Reason, "malformed") {
					t.Fatalf("%+v", rejections)
				}
				rejections[0].Reason = ""
				if diff := cmp.Diff(want, rejections); diff != "" {
					t.Error(diff)
				}
				if p := w.progress(2); p.Rejected != 1 || p.Settled.IsZero() || len(p.Rejections) != 1 {
					t.Errorf("%+v", p)
				}
				e.Received()
				w.publish(3, append(slices.Concat(service("a", 1), service("b", 3)), bad)...)
				if slices.ContainsFunc(e.Received(), func(s string) bool { return strings.HasSuffix(s, "@v66") }) {
					t.Error("the refused version was sent again")
				}
				w.publish(4, append(slices.Concat(service("a", 1), service("b", 3)), make(4))...)
				if r := w.ads.Rejections(); len(r) > 0 || !w.ads.InSync("n") || e.Config()[bad.TypeURL]["a"] != "v4" {
					t.Errorf("not healed: %v, in sync %v", r, w.ads.InSync("n"))
				}
			})
		})
	}
}

func TestLostNackIsFound(t *testing.T) {
	run(t, func(w *world) {
		w.ads.Assign("n", "web", nil)
		w.publish(1, service("a", 1)...)
		e := xdstest.New(xdstest.Config{Node: "n", Refuse: refuse("v66"), Late: true})
		w.connect(e)
		bad := append(slices.Concat(service("a", 1), service("c", 1)), cluster("b", 66))
		w.publish(2, bad...)
		if p := w.progress(2); p.Behind != 1 {
			t.Errorf("the NACK was not lost: %+v", p)
		}
		time.Sleep(1400 * time.Millisecond) // the bubble's time
		synctest.Wait()
		if r := w.ads.Rejections(); len(r) != 1 || r[0].Resource != "b" {
			t.Errorf("%+v", r)
		}
		if p := w.progress(2); p.Rejected != 1 {
			t.Errorf("%+v", p)
		}
		w.publish(3, append(bad, service("d", 1)...)...)
		if p := w.progress(3); p.Done != 1 {
			t.Errorf("it blocks what comes after: %+v", p)
		}
		want := map[string]string{"a": "v1", "c": "v1", "d": "v1"}
		if diff := cmp.Diff(want, e.Config()[xdstest.ClusterType]); diff != "" || len(e.Faults()) > 0 {
			t.Error(e.Faults(), diff)
		}
	})
}

// TestLostNackOverReconnect: with a failed cluster among those that warm, Envoy
// does not even ask for clusters on its next stream.
func TestLostNackOverReconnect(t *testing.T) {
	run(t, func(w *world) {
		w.ads.Assign("n", "web", nil)
		w.publish(1, service("a", 1)...)
		e := xdstest.New(xdstest.Config{Node: "n", Refuse: refuse("v66"), Late: true})
		cut := w.connect(e)
		w.publish(2, append(slices.Concat(service("a", 1), service("c", 1)), cluster("a", 66), cluster("b", 66))...)
		cut()
		w.connect(e)
		time.Sleep(4 * time.Second) // the bubble's time
		synctest.Wait()
		if r := w.ads.Rejections(); len(r) != 2 || r[0].Resource != "a" || r[1].Resource != "b" {
			t.Errorf("%+v", r)
		}
		w.publish(3, slices.Concat(service("a", 3), service("c", 1), service("d", 1))...)
		if p := w.progress(3); p.Done != 1 || !w.ads.InSync("n") {
			t.Errorf("%+v", p)
		}
		want := map[string]string{"a": "v3", "c": "v1", "d": "v1"}
		if diff := cmp.Diff(want, e.Config()[xdstest.ClusterType]); diff != "" || len(e.Faults()) > 0 {
			t.Error(e.Faults(), diff)
		}
	})
}

// TestRandom: whatever happens, in the end a proxy runs what is published, less
// what it refuses, and no reference ever dangled.
func TestRandom(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			run(t, func(w *world) { random(t, w, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func random(t *testing.T, w *world, r *rand.Rand) {
	nodes := []string{"n0", "n1", "n2"}
	fakes, cuts := map[string]*xdstest.Envoy{}, map[string]func(){}
	for _, n := range nodes {
		w.ads.Assign(n, "web", nil)
		fakes[n] = xdstest.New(xdstest.Config{Node: n, Refuse: refuse("v66")})
	}
	versions := map[string]int{}
	var set []*delta.Resource
	for step := range 40 {
		switch n := nodes[r.IntN(len(nodes))]; r.IntN(5) {
		case 0:
			if cuts[n] != nil {
				cuts[n]()
				delete(cuts, n)
			} else {
				cuts[n] = w.connect(fakes[n])
			}
		default:
			name := string(rune('a' + r.IntN(6)))
			if r.IntN(4) == 0 {
				delete(versions, name)
			} else {
				versions[name] = step + 100
			}
			set = nil
			for _, name := range slices.Sorted(maps.Keys(versions)) {
				set = append(set, service(name, versions[name])...)
			}
			w.ads.Publish("web", int64(step+1), r.IntN(3) == 0, delta.NewSet(set))
			if r.IntN(2) == 0 {
				synctest.Wait()
			}
		}
	}
	for _, n := range nodes {
		if cuts[n] == nil {
			w.connect(fakes[n])
		}
	}
	time.Sleep(10 * time.Second) // the bubble's time
	synctest.Wait()
	want := map[string]map[string]string{}
	for _, typeURL := range []string{xdstest.ClusterType, xdstest.EndpointType, xdstest.ListenerType, xdstest.RouteType, xdstest.SecretType, xdstest.ExtensionType} {
		want[typeURL] = map[string]string{}
	}
	for _, res := range set {
		want[res.TypeURL][res.Name] = res.Version
	}
	for _, n := range nodes {
		if diff := cmp.Diff(want, fakes[n].Config()); diff != "" {
			t.Errorf("%s: %s", n, diff)
		}
		if f := fakes[n].Faults(); len(f) > 0 {
			t.Errorf("%s: %v", n, f)
		}
		if !w.ads.InSync(n) {
			t.Errorf("%s is not in sync", n)
		}
	}
}
