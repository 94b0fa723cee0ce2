package xdstest_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tombolo-mesh/tombolo/xds/delta"
	"github.com/tombolo-mesh/tombolo/xds/xdstest"
)

func anyOf(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return a
}

func secret(name string, version int) *delta.Resource {
	return pack(xdstest.SecretType, name, version, &tlsv3.Secret{Name: name})
}

func extension(name string, version int) *delta.Resource {
	return pack(xdstest.ExtensionType, name, version, &corev3.TypedExtensionConfig{Name: name})
}

// secured is a cluster that needs a secret and a listener that needs extensions.
func secured(secrets []string, extensions []string) []*delta.Resource {
	tls := &tlsv3.CommonTlsContext{}
	for _, name := range secrets {
		tls.TlsCertificateSdsSecretConfigs = append(tls.TlsCertificateSdsSecretConfigs, &tlsv3.SdsSecretConfig{Name: name, SdsConfig: ads()})
	}
	c := &clusterv3.Cluster{Name: "s", TransportSocket: &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{
		TypedConfig: anyOf(&tlsv3.UpstreamTlsContext{CommonTlsContext: tls})}}}
	h := &hcmv3.HttpConnectionManager{}
	for _, name := range extensions {
		h.HttpFilters = append(h.HttpFilters, &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{
			ConfigDiscovery: &corev3.ExtensionConfigSource{ConfigSource: ads()}}})
	}
	l := &listenerv3.Listener{Name: "s", FilterChains: []*listenerv3.FilterChain{{
		Filters: []*listenerv3.Filter{{Name: "http", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: anyOf(h)}}}}}}
	return []*delta.Resource{pack(xdstest.ClusterType, "s", 1, c), pack(xdstest.ListenerType, "s", 1, l)}
}

func TestRefusedSecretAndExtension(t *testing.T) {
	for _, make := range []func(string, int) *delta.Resource{secret, extension} {
		typeURL := make("x", 1).TypeURL
		t.Run(typeURL, func(t *testing.T) {
			run(t, func(w *world) {
				names := []string{"x", "y", "z"}
				base := secured(names, names)
				set := func(version func(name string) int) []*delta.Resource {
					all := slices.Clone(base)
					for _, name := range names {
						all = append(all, secret(name, 1), extension(name, 1), make(name, version(name)))
					}
					return all
				}
				w.ads.Assign("n", "web", nil)
				w.publish(1, set(func(string) int { return 1 })...)
				e := xdstest.New(xdstest.Config{Node: "n", Refuse: refuse("v66")})
				w.connect(e)
				e.Received()
				w.publish(2, set(func(name string) int {
					if name == "y" {
						return 66
					}
					return 2
				})...)
				want := map[string]string{"x": "v2", "y": "v1", "z": "v2"}
				if diff := cmp.Diff(want, e.Config()[typeURL]); diff != "" {
					t.Error(diff)
				}
				if r := w.ads.Rejections(); len(r) != 1 || r[0].TypeURL != typeURL || r[0].Resource != "y" || r[0].Reason != "malformed" {
					t.Errorf("%+v", r)
				}
				if p := w.progress(2); p.Rejected != 1 || p.Settled.IsZero() {
					t.Errorf("%+v", p)
				}
				// Together until it refuses the second, then each alone.
				if got := e.Received(); len(got) != 5 {
					t.Errorf("received: %v", got)
				}
				w.publish(3, set(func(string) int { return 3 })...)
				if !w.ads.InSync("n") {
					t.Error("not healed")
				}
			})
		})
	}
}

// TestNewNamesBelongToThePublication: Envoy asks for what a listener refers to
// before it answers for the listener, so that nothing settles too early.
func TestNewNamesBelongToThePublication(t *testing.T) {
	run(t, func(w *world) {
		w.ads.Assign("n", "web", nil)
		w.publish(1, service("a", 1)...)
		w.connect(xdstest.New(xdstest.Config{Node: "n", Refuse: refuse("v66")}))
		w.publish(2, append(service("a", 1), listener("b", 1, "b"), route("b", 66, "a"))...)
		if p := w.progress(2); p.Rejected != 1 || len(p.Rejections) != 1 || p.Rejections[0].Resource != "b" {
			t.Errorf("%+v", p)
		}
	})
}

func TestNodeThatIsNotAssigned(t *testing.T) {
	run(t, func(w *world) {
		w.publish(1, service("a", 1)...)
		never, soon := make(chan error, 1), xdstest.New(xdstest.Config{Node: "soon"})
		began := time.Now()
		w.wg.Go(func() { never <- xdstest.New(xdstest.Config{Node: "never"}).Run(w.t.Context(), w.conn) })
		w.connect(soon)
		time.Sleep(3 * time.Second) // the bubble's time
		if w.ads.Connected() != 0 || len(soon.Received()) > 0 {
			t.Error("served before it is assigned")
		}
		w.ads.Assign("soon", "web", nil)
		synctest.Wait()
		if !w.ads.InSync("soon") {
			t.Error("an assigned node waits on")
		}
		if err := <-never; status.Code(err) != codes.Unavailable || time.Since(began) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		w.ads.Unassign("soon")
		synctest.Wait()
		if w.ads.Connected() != 0 || w.ads.InSync("soon") {
			t.Error("an unassigned node is served on")
		}
	})
}

// TestNewStreamTakesThePlaceOfTheOld: a proxy whose old connection hangs is served on its new one.
func TestNewStreamTakesThePlaceOfTheOld(t *testing.T) {
	run(t, func(w *world) {
		w.ads.Assign("n", "web", nil)
		w.publish(1, service("a", 1)...)
		old := make(chan error, 1)
		w.wg.Go(func() { old <- xdstest.New(xdstest.Config{Node: "n"}).Run(w.t.Context(), w.conn) })
		synctest.Wait()
		e := xdstest.New(xdstest.Config{Node: "n"})
		w.connect(e)
		if err := <-old; status.Code(err) != codes.Aborted {
			t.Error(err)
		}
		w.publish(2, service("a", 2)...)
		if p := w.progress(2); p.Nodes != 1 || p.Done != 1 || w.ads.Connected() != 1 || !w.ads.InSync("n") {
			t.Errorf("%+v, %d connected", p, w.ads.Connected())
		}
	})
}

// TestStalledStreamDelaysNobody: what a proxy that stops reading misses is kept as
// names. It hears of the newest versions alone.
func TestStalledStreamDelaysNobody(t *testing.T) {
	run(t, func(w *world) {
		w.ads.Assign("slow", "web", nil)
		w.ads.Assign("quick", "web", nil)
		w.publish(0, service("a", 1)...)
		slow, quick := xdstest.New(xdstest.Config{Node: "slow"}), xdstest.New(xdstest.Config{Node: "quick"})
		w.connect(slow)
		w.connect(quick)
		slow.Received()
		resume := slow.Stall()
		const changes = 100
		for i := range changes {
			large := route("a", 2+i, "a")
			large.Body = route("a", 2+i, strings.Split(strings.Repeat("a,", 1000)+"a", ",")...).Body
			w.publish(int64(1+i), append(service("a", 1), large)...)
			if got := quick.Config()[xdstest.RouteType]["a"]; got != large.Version {
				t.Fatalf("quick has %s, published is %s", got, large.Version)
			}
		}
		p := w.progress(changes)
		if p.Done != 1 || p.Behind != 1 || !slices.Equal(p.BehindNodes, []string{"slow"}) {
			t.Errorf("%+v", p)
		}
		resume()
		synctest.Wait()
		if got := slow.Config()[xdstest.RouteType]["a"]; got != fmt.Sprint("v", changes+1) {
			t.Errorf("slow has %s in the end", got)
		}
		if got := slow.Received(); len(got) > 40 {
			t.Errorf("%d responses were queued for a proxy that did not read", len(got))
		}
		if p := w.progress(changes); p.Done != 2 || p.Settled.IsZero() {
			t.Errorf("%+v", p)
		}
	})
}
