package zone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
	wire "github.com/tombolo-mesh/tombolo/proto/zonesync"
	"github.com/tombolo-mesh/tombolo/zone/agents"
)

// countingControl is an agent whose Envoy has counted.
type countingControl struct {
	agent
	text  string
	err   error
	asked *atomic.Int64
	path  *atomic.Value
}

func (c *countingControl) Inspect(_ context.Context, path string, w io.Writer) error {
	c.asked.Add(1)
	c.path.Store(path)
	if c.err != nil {
		return c.err
	}
	_, err := io.WriteString(w, c.text)
	return err
}

func (l *live) joinCounting(dp mesh.Resource, c *countingControl) {
	l.t.Helper()
	if _, err := (members{l.parts.engine}).Join(l.t.Context(), agents.Proxy{Resource: dp, Spec: decoded(l.t, dp).(*mesh.Dataplane), Instance: "i-" + dp.Name, Control: c}); err != nil {
		l.t.Fatal(err)
	}
}

func document(kind mesh.KindName, name string) wire.Success {
	return wire.Success{Documents: []mesh.Key{{Kind: kind, Mesh: "default", Name: name}}}
}

func TestSuccess(t *testing.T) {
	l := startLive(t, t.TempDir())
	var asked atomic.Int64
	var path atomic.Value
	l.push(identityOf(t, "default"),
		put(resource(t, mesh.KindMeshTrafficPermission, "default", "", "web", `{"targetRef":{"kind":"Dataplane","labels":{"tombolo.io/workload":"api"}},"rules":[{"default":{"allow":[{"spiffeID":{"type":"Exact","value":"spiffe://default.east.mesh.local/workload/web"}}]}}]}`)),
		put(resource(t, mesh.KindMeshTrafficPermission, "default", "", "nobody", `{"targetRef":{"kind":"Dataplane","labels":{"tombolo.io/workload":"api"}}}`)),
		put(resource(t, mesh.KindMeshTimeout, "default", "", "slow", `{"to":[{"targetRef":{"kind":"MeshService","labels":{"tombolo.io/display-name":"api"}},"default":{"http":{"requestTimeout":"7s"}}}]}`)),
		put(resource(t, mesh.KindMeshTimeout, "default", "", "elsewhere", `{"to":[{"targetRef":{"kind":"MeshService","labels":{"tombolo.io/display-name":"other"}},"default":{"http":{"requestTimeout":"7s"}}}]}`)),
	)
	web := strings.ReplaceAll(`http.API.downstream_rq_2xx: 90
http.API.downstream_rq_4xx: 6
http.API.downstream_rq_5xx: 4
http.API.downstream_rq_total: 200
http.other.downstream_rq_5xx: 77
http.API.more.downstream_rq_5xx: 77
cluster.API.upstream_cx_total: 77
nonsense
http.API.downstream_rq_3xx: x
`, "API", apiCluster)
	l.joinCounting(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound, callAPI), &countingControl{text: web, asked: &asked, path: &path})
	const api = "http.self_inbound_dp_http.downstream_rq_2xx: 50\nhttp.self_inbound_dp_http.downstream_rq_4xx: 10\nhttp.self_inbound_dp_http.rbac.mtp_.allowed: 51\nhttp.self_inbound_dp_http.rbac.mtp_.denied: 9\n"
	for i := 2; i < 30; i++ {
		l.joinCounting(sidecar(t, "default", fmt.Sprintf("api-%02d", i), "api", fmt.Sprintf("10.0.0.%d", i), httpInbound), &countingControl{text: api, asked: &asked, path: &path})
	}

	got := ask[wire.SuccessCounts](l, wire.WhatSuccess, document(mesh.KindMeshTimeout, "slow"))
	want := wire.SuccessCounts{Reached: 1, Proxies: []wire.ProxyCounts{{Proxy: "web-1", Services: []wire.ServiceCounts{{Service: "api.east:8080 by web", Requests: 100, Failed: 4}}}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("of a timeout of callers: %+v, want %+v", got, want)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("%d proxies were asked, one is concerned", n)
	}
	if p, err := url.QueryUnescape(path.Load().(string)); err != nil || !strings.Contains(p, apiCluster) {
		t.Errorf("asked for %q, %v", p, err)
	}

	for _, name := range []string{"web", "nobody"} { // who allows nobody leaves no line behind
		asked.Store(0)
		got = ask[wire.SuccessCounts](l, wire.WhatSuccess, document(mesh.KindMeshTrafficPermission, name))
		if got.Reached != 28 || len(got.Proxies) != maxCountingOfClass || asked.Load() != maxCountingOfClass || got.Proxies[0].Proxy != "api-02" ||
			!reflect.DeepEqual(got.Proxies[0].Services, []wire.ServiceCounts{{Service: "api:8080", Requests: 60, Failed: 9}}) {
			t.Errorf("of permission %s: %+v", name, got)
		}
	}
	if got = ask[wire.SuccessCounts](l, wire.WhatSuccess, document(mesh.KindMeshTimeout, "elsewhere")); got.Reached != 0 || len(got.Proxies) != 0 {
		t.Errorf("of a timeout of another service: %+v", got)
	}
}

// How calls go that documents will have a say in is told before the zone has them, and
// nothing of it reaches the proxies.
func TestSuccessBefore(t *testing.T) {
	l := startLive(t, t.TempDir())
	var asked atomic.Int64
	var path atomic.Value
	l.push(identityOf(t, "default"))
	l.joinCounting(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound, callAPI), &countingControl{text: "http." + apiCluster + ".downstream_rq_2xx: 90\nhttp." + apiCluster + ".downstream_rq_5xx: 10\n", asked: &asked, path: &path})
	l.joinCounting(sidecar(t, "default", "api-1", "api", "10.0.0.2", httpInbound), &countingControl{text: "http.self_inbound_dp_http.downstream_rq_2xx: 50\n", asked: &asked, path: &path})
	compiled := func() string {
		var out strings.Builder
		if err := l.parts.engine.do(nil, func(*batch) {
			for _, id := range slices.Sorted(maps.Keys(l.parts.engine.classes)) {
				fmt.Fprintln(&out, id, l.parts.engine.classes[id].hash)
			}
		}); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	was := compiled()
	for _, c := range []struct {
		kind    mesh.KindName
		spec    string
		service string
		calls   wire.ServiceCounts
	}{
		{mesh.KindMeshTimeout, `{"to":[{"targetRef":{"kind":"MeshService","labels":{"tombolo.io/display-name":"api"}},"default":{"http":{"requestTimeout":"7s"}}}]}`, "web-1",
			wire.ServiceCounts{Service: "api.east:8080 by web", Requests: 100, Failed: 10}},
		{mesh.KindMeshTrafficPermission, `{"targetRef":{"kind":"Dataplane","labels":{"tombolo.io/workload":"api"}}}`, "api-1",
			wire.ServiceCounts{Service: "api:8080", Requests: 50}},
	} {
		q := document(c.kind, "new")
		if got := ask[wire.SuccessCounts](l, wire.WhatSuccess, q); got.Reached != 0 {
			t.Errorf("%s is nowhere, and reaches %+v", c.kind, got)
		}
		q.Before = []wire.PlannedChange{wire.PlannedOf(mesh.Change{Resource: resource(t, c.kind, "default", "", "new", c.spec)})}
		want := wire.SuccessCounts{Reached: 1, Proxies: []wire.ProxyCounts{{Proxy: c.service, Services: []wire.ServiceCounts{c.calls}}}}
		if got := ask[wire.SuccessCounts](l, wire.WhatSuccess, q); !reflect.DeepEqual(got, want) {
			t.Errorf("before %s: %+v, want %+v", c.kind, got, want)
		}
	}
	if now := compiled(); now != was {
		t.Errorf("a question changed the configuration:\n%s\n%s", was, now)
	}
}

// Proxies that do not answer are counted, and hold up nobody.
func TestSuccessOfSilentProxies(t *testing.T) {
	l := startLive(t, t.TempDir())
	var asked atomic.Int64
	var path atomic.Value
	l.push(identityOf(t, "default"), put(resource(t, mesh.KindMeshTimeout, "default", "", "all", `{"rules":[{"default":{"http":{"requestTimeout":"7s"}}}]}`)))
	l.joinCounting(sidecar(t, "default", "api-1", "api", "10.0.0.1", httpInbound), &countingControl{err: errors.New("no"), asked: &asked, path: &path})
	l.joinCounting(sidecar(t, "default", "api-2", "api", "10.0.0.2", httpInbound), &countingControl{text: strings.Repeat("x", maxCounters+1), asked: &asked, path: &path})
	l.joinCounting(sidecar(t, "default", "api-3", "api", "10.0.0.3", httpInbound), &countingControl{text: "http.self_inbound_dp_http.downstream_rq_5xx: 3\n", asked: &asked, path: &path})
	got := ask[wire.SuccessCounts](l, wire.WhatSuccess, document(mesh.KindMeshTimeout, "all"))
	want := wire.SuccessCounts{Reached: 3, Silent: 2, Proxies: []wire.ProxyCounts{{Proxy: "api-3", Services: []wire.ServiceCounts{{Service: "api:8080", Requests: 3, Failed: 3}}}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// However many services are concerned, the path is one that agents take.
func TestStatsPathIsBounded(t *testing.T) {
	var list []scope
	for i := range 300 {
		list = append(list, scope{prefix: fmt.Sprintf("http.kri_msvc_default_east_ns_service-%d_http.", i)})
		if p := statsPath(list); len(p) > maxStatsPath {
			t.Fatalf("%d scopes: a path of %d bytes", i+1, len(p))
		}
	}
}

// After a restart of the zone nobody is gone before there was time to come back:
// guards of rollouts count what zones report.
func TestRestartedZoneReportsThoseItBelievesToLive(t *testing.T) {
	dir := t.TempDir()
	l := startLive(t, dir)
	l.push(identityOf(t, "default"))
	for i := 1; i < 4; i++ {
		l.join(sidecar(t, "default", fmt.Sprintf("api-%d", i), "api", fmt.Sprintf("10.0.0.%d", i), httpInbound))
	}
	l.stop()
	l = startLive(t, dir)
	l.join(sidecar(t, "default", "api-1", "api", "10.0.0.1", httpInbound))
	eventually(t, "a report after the restart", func() bool { return l.parts.engine.tracker.Report().ProxiesTotal == 3 })
	if n := l.parts.engine.tracker.Report().ProxiesConnected; n != 3 {
		t.Errorf("%d proxies are connected, want those that may still come, too", n)
	}
}
