package zone

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir/explain"
	wire "github.com/tombolo-mesh/tombolo/proto/zonesync"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/zone/agents"
)

// envoyControl is an agent whose Envoy answers with text.
type envoyControl struct {
	agent
	answer string
}

func (c *envoyControl) Inspect(_ context.Context, path string, w io.Writer) error {
	if path != adminPaths()["clusters"] {
		return fmt.Errorf("asked for %s", path)
	}
	_, err := io.WriteString(w, c.answer)
	return err
}

// joinWith joins a proxy whose Envoy is configured and answers with text.
func (l *live) joinWith(dp mesh.Resource, answer string) {
	l.t.Helper()
	j, err := members{l.parts.engine}.Join(l.t.Context(), agents.Proxy{Resource: dp, Spec: decoded(l.t, dp).(*mesh.Dataplane), Instance: "i-" + dp.Name, Control: &envoyControl{answer: answer}})
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.parts.engine.do(nil, func(*batch) { l.parts.engine.warm(map[string]bool{j.NodeID: true}) }); err != nil {
		l.t.Fatal(err)
	}
}

// ask puts a question to a zone.
func ask[T any](l *live, what string, body any) T {
	l.t.Helper()
	var out bytes.Buffer
	if err := (inspector{l.parts.engine}).Inspect(l.t.Context(), wire.Question{What: what, Mesh: "default", Body: mustJSON(body)}, &out); err != nil {
		l.t.Fatal(err)
	}
	var answer T
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		l.t.Fatal(err)
	}
	return answer
}

func (l *live) explain(call explain.Call) *explain.Explanation {
	l.t.Helper()
	r := ask[explain.Reply](l, "explain", explain.Question{Leave: &call})
	if r.Explanation == nil {
		l.t.Fatalf("%+v: %+v", call, r.Problem)
	}
	r.Explanation.Conclude()
	return r.Explanation
}

const noEjections = `{"cluster_statuses":[]}`

// startExplained is a zone with web and two instances of api, of which one is ejected
// by web's Envoy, and with backend in zone west.
func startExplained(t *testing.T) *live {
	t.Helper()
	l := startLive(t, t.TempDir())
	l.push(identityOf(t, "default"),
		put(resource(t, mesh.KindMeshTrafficPermission, "default", "", "web", `{"targetRef":{"kind":"Dataplane","labels":{"tombolo.io/workload":"api"}},"rules":[{"default":{"allow":[{"spiffeID":{"type":"Exact","value":"spiffe://default.east.mesh.local/workload/web"}}]}}]}`)),
		put(resource(t, mesh.KindMeshService, "default", "west", "backend", `{"ports":[{"port":80,"appProtocol":"http"}],"selector":{"dataplaneLabels":{"matchLabels":{"a":"b"}}},"identities":[{"type":"SpiffeID","value":"spiffe://default.west.mesh.local/workload/backend"}],"state":"Available"}`)),
		put(resource(t, mesh.KindMeshZoneAddress, "default", "west", "in", `{"address":"192.0.2.1","port":10001}`)),
		put(resource(t, mesh.KindMeshTimeout, "default", "", "slow", `{"to":[{"targetRef":{"kind":"MeshService","labels":{"tombolo.io/display-name":"api"}},"default":{"http":{"requestTimeout":"7s"}}}]}`)),
	)
	l.joinWith(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound, callAPI,
		`{"port":20002,"backendRef":{"kind":"MeshService","labels":{"tombolo.io/display-name":"backend","tombolo.io/zone":"west"},"port":80}}`),
		`{"cluster_statuses":[{"name":"`+apiCluster+`","host_statuses":[
			{"address":{"socket_address":{"address":"10.0.0.2","port_value":8080}},"health_status":{"failed_outlier_check":true}},
			{"address":{"socket_address":{"address":"10.0.0.3","port_value":8080}},"health_status":{"eds_health_status":"HEALTHY"}}]}]}`)
	for i := 2; i < 5; i++ {
		l.joinWith(sidecar(t, "default", fmt.Sprintf("api-%d", i), "api", fmt.Sprintf("10.0.0.%d", i), httpInbound), noEjections)
	}
	members{l.parts.engine}.Health(mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "east", Name: "api-4"}, "i-api-4", []string{"http"})
	return l
}

func TestExplainInOneZone(t *testing.T) {
	l := startExplained(t)
	var x *explain.Explanation
	eventually(t, "api-4 is not ready", func() bool {
		x = l.explain(explain.Call{Source: "web", Destination: "api", Path: "/a"})
		return len(x.Ways) == 1 && len(x.Ways[0].Peers) == 1 && len(x.Ways[0].Peers[0].Hosts) == 3 &&
			slices.ContainsFunc(x.Ways[0].Peers[0].Hosts, func(h explain.Host) bool { return h.Proxy == "api-4.east" && h.State != "ready" })
	})
	if x.Verdict.Outcome != explain.Allowed || x.Verdict.By == nil || x.Verdict.By.Name != "web" || x.Verdict.By.Path != "rules[0].default.allow[0]" || x.Verdict.By.Revision != 2 {
		t.Errorf("%+v %+v", x.Verdict, x.Verdict.By)
	}
	p := x.Ways[0].Peers[0]
	states := map[string]string{}
	for _, h := range p.Hosts {
		states[h.Proxy] = fmt.Sprint(h.State, " ", h.Percent)
	}
	want := map[string]string{"api-2.east": "ejected 0", "api-3.east": "ready 100", "api-4.east": "out 0"}
	if fmt.Sprint(states) != fmt.Sprint(want) {
		t.Error(states)
	}
	if s := p.Arrival.Servers; len(s) != 1 || s[0].Count != 3 || s[0].Ready != 1 || s[0].Identity != "spiffe://default.east.mesh.local/workload/api" {
		t.Errorf("%+v", s)
	}
	if got := fmt.Sprint(x.Route.Settings.Limits, x.Route.Settings.LimitsFrom); !strings.Contains(got, "{request timeout 7s}") || !strings.Contains(got, "slow") {
		t.Error(got)
	}
	// Who calls back is no caller that the permission knows, nor has it a way there.
	if x := l.explain(explain.Call{Source: "api-2.east", Destination: "web"}); x.Verdict.Outcome != explain.UnknownName {
		t.Errorf("%+v", x.Verdict)
	}
	l.push(put(resource(t, mesh.KindMeshTrafficPermission, "default", "", "stop", `{"rules":[{"default":{"deny":[{"spiffeID":{"type":"Prefix","value":"spiffe://default.east"}}]}}]}`)))
	if x := l.explain(explain.Call{Source: "web-1", Destination: "127.0.0.1", Port: 20001}); x.Verdict.Outcome != explain.Denied || x.Verdict.Status != 403 || x.Verdict.By.Name != "stop" {
		t.Errorf("%+v", x.Verdict)
	}
}

func TestExplainAcrossZones(t *testing.T) {
	l := startExplained(t)
	x := l.explain(explain.Call{Source: "web", Destination: "backend"})
	if x.Verdict.Outcome != explain.Undecided || len(x.Missing()["west"]) != 1 {
		t.Errorf("%+v", x.Verdict)
	}
	p := x.Missing()["west"][0]
	if p.SNI != "80.backend.west.default.mesh" || p.Gateway == nil || len(p.Gateway.Hosts) != 1 || p.Gateway.Hosts[0].Address != "192.0.2.1:10001" || p.Percent != 100 {
		t.Errorf("%+v", p)
	}
	// The same zone, as other zones ask it, with and without an ingress.
	call := explain.Arriving{Service: mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "east", Name: "api"}, Port: 8080,
		SNI: "8080.api.east.default.mesh", Caller: "spiffe://default.west.mesh.local/workload/web"}
	arrive := func() *explain.Arrival {
		return ask[explain.Reply](l, "explain", explain.Question{Arrive: []explain.Arriving{call}}).Arrivals[0]
	}
	if a := arrive(); a.Ingress == nil || a.Ingress.Exported {
		t.Errorf("%+v", a.Ingress)
	}
	l.joinWith(resource(t, mesh.KindDataplane, "default", "east", "in-1", `{"networking":{"address":"10.0.0.9","listeners":[{"type":"ZoneIngress","name":"main","port":10001}]}}`, mesh.LabelWorkload, "in"),
		`{"cluster_statuses":[{"name":"`+call.SNI+`","host_statuses":[{"address":{"socket_address":{"address":"10.0.0.3","port_value":8080}},"health_status":{"failed_outlier_check":true}}]}]}`)
	a := arrive()
	if a.Ingress == nil || !a.Ingress.Exported || len(a.Ingress.Hosts) != 3 || a.Ingress.Proxies[0] != "in-1.east" {
		t.Fatalf("%+v", a.Ingress)
	}
	if s := a.Servers; len(s) != 1 || s[0].Ready > 1 || s[0].Permission.Decision != explain.DefaultDeny {
		t.Errorf("%+v", s)
	}
}

func TestExplainWhoIsMeant(t *testing.T) {
	l := startExplained(t)
	l.joinWith(sidecar(t, "default", "web-2", "web", "10.0.0.7", tcpInbound), noEjections)
	for _, c := range []struct {
		call    explain.Call
		unknown bool
		says    string
	}{
		{explain.Call{Source: "nobody", Destination: "api"}, true, `called "nobody"`},
		{explain.Call{Source: "web", Destination: "api"}, false, "say one of web-1.east, web-2.east"},
		{explain.Call{Source: "web-1", Destination: "api", Port: 81}, true, "it can call 8080"},
		{explain.Call{Source: "web-1", Destination: "127.0.0.1"}, false, "say one of 20001, 20002"},
	} {
		r := ask[explain.Reply](l, "explain", explain.Question{Leave: &c.call})
		if r.Problem == nil || r.Problem.Unknown != c.unknown || !strings.Contains(r.Problem.Reason, c.says) {
			t.Errorf("%+v: %+v", c.call, r.Problem)
		}
	}
	for _, body := range []string{"", "[]", `{"leave":{}}`, `{"arrive":[{"service":{"Mesh":"other"}}]}`} {
		if err := (inspector{l.parts.engine}).Inspect(t.Context(), wire.Question{What: "explain", Mesh: "default", Body: []byte(body)}, io.Discard); err == nil {
			t.Errorf("%q is answered", body)
		}
	}
}

// Inspect is that of an agent without Envoy.
func (a *agent) Inspect(context.Context, string, io.Writer) error { return errors.New("no Envoy") }

// What Envoys refuse is compiled and not in force: both say so.
func TestExplainWhatIsQuarantined(t *testing.T) {
	c := newCallers(t, t.TempDir(), 1, refuseText(xds.RouteType, "/bad"))
	c.push(routeTo(t, "/good", "db"))
	c.run("the first route", xds.RouteType, apiCluster, "/good")
	c.push(routeTo(t, "/bad", "db"))
	eventually(t, "quarantined", c.quarantined)
	x := c.explain(explain.Call{Source: "web", Destination: "api", Path: "/bad"})
	if notes := strings.Join(x.Notes, "\n"); !strings.Contains(notes, "Envoy refuses "+apiCluster) || !strings.Contains(notes, "the last good one is in force instead: Envoy does not like /bad") {
		t.Error(notes)
	}
	eventually(t, "the rule is blamed", func() bool {
		r := ask[explain.ZoneReach](c.live, "policy", explain.Asked{Policy: mesh.Key{Kind: mesh.KindMeshHTTPRoute, Mesh: "default", Name: "r"}})
		return len(r.Problems) == 1 && strings.Contains(r.Problems[0], "Envoy does not like /bad")
	})
}

func TestPolicyReach(t *testing.T) {
	l := startExplained(t)
	reach := func(kind mesh.KindName, name string) explain.ZoneReach {
		return ask[explain.ZoneReach](l, "policy", explain.Asked{Policy: mesh.Key{Kind: kind, Mesh: "default", Name: name}})
	}
	r := reach(mesh.KindMeshTrafficPermission, "web")
	if r.Proxies != 3 || len(r.Classes) != 1 || fmt.Sprint(r.Classes[0].Names) != "[api-2 api-3 api-4]" ||
		fmt.Sprint(r.Classes[0].Gave) != "[{inbound http allow spiffe://default.east.mesh.local/workload/web rules[0].default.allow[0]}]" {
		t.Errorf("%+v", r)
	}
	r = reach(mesh.KindMeshTimeout, "slow")
	if r.Proxies != 1 || r.Classes[0].Names[0] != "web-1" || !strings.Contains(fmt.Sprint(r.Classes[0].Gave), "MeshTimeout http.requestTimeout: 7s") {
		t.Errorf("%+v", r)
	}
	if r := reach(mesh.KindMeshTimeout, "nothing"); r.Nobody != "the zone does not have it" {
		t.Errorf("%+v", r)
	}
	l.push(put(resource(t, mesh.KindMeshTimeout, "default", "", "unseen", `{"targetRef":{"kind":"Dataplane","labels":{"a":"b"}},"to":[{"targetRef":{"kind":"Mesh"},"default":{"idleTimeout":"1s"}}]}`)),
		put(resource(t, mesh.KindMeshTimeout, "default", "", "idle", `{"to":[{"targetRef":{"kind":"MeshService","labels":{"tombolo.io/display-name":"none"}},"default":{"idleTimeout":"1s"}}]}`)))
	if r := reach(mesh.KindMeshTimeout, "unseen"); r.Nobody != "its targetRef selects no proxy of the zone" {
		t.Errorf("%+v", r)
	}
	if r := reach(mesh.KindMeshTimeout, "idle"); r.Selected != 4 || r.Proxies != 0 || !strings.Contains(r.Nobody, "selects 4 proxies") {
		t.Errorf("%+v", r)
	}
}
