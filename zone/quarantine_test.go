package zone

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/xds/delta"
	"github.com/tombolo-mesh/tombolo/xds/xdstest"
)

// refuseText refuses resources of a type that contain a text.
func refuseText(typeURL, text string) func(*discoveryv3.Resource) string {
	return func(r *discoveryv3.Resource) string {
		if r.Resource.GetTypeUrl() == typeURL && bytes.Contains(r.Resource.Value, []byte(text)) {
			return "Envoy does not like " + text
		}
		return ""
	}
}

// routeTo sends a path of api to some service.
func routeTo(t testing.TB, path, service string) mesh.Change {
	return put(resource(t, mesh.KindMeshHTTPRoute, "default", "", "r", fmt.Sprintf(
		`{"targetRef":{"kind":"Mesh"},"to":[{"targetRef":{"kind":"MeshService","labels":{"kuma.io/display-name":"api"}},"rules":[{"matches":[{"path":{"type":"PathPrefix","value":%q}}],"default":{"backendRefs":[{"kind":"MeshService","labels":{"kuma.io/display-name":%q},"port":8080}]}}]}]}`, path, service)))
}

// callers are three proxies of one class whose Envoys are fakes, and a service.
type callers struct {
	*live
	envoys []*xdstest.Envoy
	nodes  []string
	refuse func(*discoveryv3.Resource) string
}

func newCallers(t *testing.T, dir string, n int, refuse func(*discoveryv3.Resource) string) *callers {
	t.Helper()
	c := &callers{live: startLive(t, dir), refuse: refuse}
	c.push(identityOf(t, "default"), allowAll(t, "default"))
	c.join(sidecar(t, "default", "api-1", "api", "10.0.0.2", httpInbound))
	c.join(sidecar(t, "default", "db-1", "db", "10.0.0.3", httpInbound))
	for range n {
		c.more()
	}
	return c
}

func (c *callers) dataplane(i int) mesh.Resource {
	return sidecar(c.t, "default", fmt.Sprintf("web-%d", i), "web", fmt.Sprintf("10.0.1.%d", i), httpInbound, callAPI)
}

// more starts one more proxy.
func (c *callers) more() {
	c.t.Helper()
	j, _ := c.live.join(c.dataplane(len(c.envoys) + 1))
	e := xdstest.New(xdstest.Config{Node: j.NodeID, Refuse: c.refuse})
	c.envoys, c.nodes = append(c.envoys, e), append(c.nodes, j.NodeID)
	c.live.envoy(j, e)
	eventually(c.t, "serving: "+j.NodeID, func() bool { return e.Resource(xds.ListenerType, "outbound_127.0.0.1_20001") != nil })
}

// run waits until every Envoy runs a resource that contains a text.
func (c *callers) run(what, typeURL, name, text string) {
	c.t.Helper()
	for i, e := range c.envoys {
		eventually(c.t, fmt.Sprint(what, " at ", c.nodes[i]), func() bool {
			r := e.Resource(typeURL, name)
			return r != nil && bytes.Contains(r.Resource.Value, []byte(text))
		})
	}
}

func (c *callers) problems() []problem {
	var out []problem
	if err := c.parts.engine.do(nil, func(*batch) { out = c.parts.engine.problems() }); err != nil {
		c.t.Fatal(err)
	}
	return slices.DeleteFunc(out, func(p problem) bool { return !strings.HasPrefix(p.reason, refusedByProxy) })
}

// change is what the zone reports of a revision once it is settled.
func (c *callers) change(rev mesh.Revision) (affected, done, behind, rejected uint32) {
	c.t.Helper()
	eventually(c.t, fmt.Sprint("settled: ", rev), func() bool {
		for _, x := range c.parts.engine.tracker.Report().Changes {
			if x.Revision == int64(rev) && x.SettleMicros > 0 {
				affected, done, behind, rejected = x.Affected, x.Done, x.Behind, x.Rejected
				return true
			}
		}
		return false
	})
	return
}

func (c *callers) quarantined() bool {
	n := 0
	if err := c.parts.engine.do(nil, func(*batch) { n = len(c.parts.engine.quarantines) }); err != nil {
		c.t.Fatal(err)
	}
	return n > 0
}

// What all refuse is held at the last good version: for those who run, for those
// who start, over a restart of the zone, until it changes. The rest goes on.
func TestARefusedRouteIsQuarantined(t *testing.T) {
	dir := t.TempDir()
	c := newCallers(t, dir, 2, refuseText(xds.RouteType, "/bad"))
	c.push(routeTo(t, "/good", "db"))
	c.run("the first route", xds.RouteType, apiCluster, "/good")
	bad := c.push(routeTo(t, "/bad", "db"))
	eventually(t, "quarantined", c.quarantined)
	if affected, done, behind, rejected := c.change(bad); affected != 2 || done != 0 || behind != 0 || rejected != 2 {
		t.Errorf("of the refused change: %d affected, %d done, %d behind, %d rejected", affected, done, behind, rejected)
	}
	check := func(proxies int) {
		t.Helper()
		eventually(t, "the problem is shown", func() bool { return len(c.problems()) == 1 })
		p := c.problems()[0]
		want := problem{key: mesh.Key{Kind: mesh.KindMeshHTTPRoute, Mesh: "default", Name: "r"}, path: "to[0].rules[0]", typeURL: xds.RouteType,
			resource: apiCluster, quarantined: true, proxies: proxies, reason: refusedByProxy + apiCluster + ": Envoy does not like /bad"}
		if p.path = strings.TrimSuffix(p.path, ".default"); p != want {
			t.Errorf("problem\n%+v, want\n%+v", p, want)
		}
		c.run("the good route", xds.RouteType, apiCluster, "/good")
	}
	check(2)
	c.more() // a proxy that starts now
	check(3)

	other := c.push(put(resource(t, mesh.KindMeshTimeout, "default", "", "t", `{"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":"4s"}}]}`)))
	if affected, done, _, rejected := c.change(other); affected < 3 || done != affected || rejected != 0 {
		t.Errorf("another change: %d affected, %d done, %d rejected", affected, done, rejected)
	}
	check(3)

	c.stop()
	rev := c.rev
	c.live = startLive(t, dir)
	for i := range c.envoys { // fresh Envoys, and a zone that was not there when it was refused
		j, _ := c.live.join(c.dataplane(i + 1))
		c.envoys[i] = xdstest.New(xdstest.Config{Node: j.NodeID, Refuse: c.refuse})
		c.live.envoy(j, c.envoys[i])
		c.inSync(j.NodeID)
	}
	check(3)
	if c.rev != rev {
		t.Error("the zone is at", c.rev)
	}

	c.push(routeTo(t, "/fixed", "db"))
	c.run("the fix", xds.RouteType, apiCluster, "/fixed")
	eventually(t, "out of quarantine", func() bool { return !c.quarantined() && len(c.problems()) == 0 })
	if state, err := c.parts.engine.cfg.disk.Load(); err != nil || len(state.Quarantine) > 0 {
		t.Error("the disk still has", len(state.Quarantine), err)
	}
}

// What stands in has nothing behind it: that a proxy refuses it, too, changes nothing.
func TestWhatStandsInIsNotQuarantined(t *testing.T) {
	c := newCallers(t, t.TempDir(), 1, refuseText(xds.RouteType, "/bad"))
	c.push(routeTo(t, "/good", "db"))
	c.run("the first route", xds.RouteType, apiCluster, "/good")
	c.push(routeTo(t, "/bad", "db"))
	eventually(t, "quarantined", c.quarantined)
	e := c.parts.engine
	if err := e.do(nil, func(b *batch) {
		x := e.proxies[mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "east", Name: "web-1"}].class
		before := e.quarantines[x.ir.ID]
		e.judge(b, []delta.Verdict{{Group: x.ir.ID, Rejection: delta.Rejection{Node: c.nodes[0], TypeURL: xds.RouteType, Resource: apiCluster,
			Version: x.set.Get(xds.RouteType, apiCluster).Version, Reason: "not this either"}}})
		if e.quarantines[x.ir.ID] != before {
			t.Errorf("quarantine %+v, want %+v", e.quarantines[x.ir.ID].Refused, before.Refused)
		}
	}); err != nil {
		t.Fatal(err)
	}
	c.run("the first route", xds.RouteType, apiCluster, "/good")
}

// A refusal and the acceptance that follows may be heard of at once.
func TestAcceptedBeforeItIsJudged(t *testing.T) {
	r := newRig(t, "east")
	r.turn(r.push(identityOf(t, "default"), allowAll(t, "default")))
	r.turn(r.join(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound)))
	for id, c := range r.e.classes {
		x := c.compiled[0]
		no := delta.Verdict{Group: id, Rejection: delta.Rejection{Node: "n", TypeURL: x.TypeURL, Resource: x.Name, Version: x.Version, Reason: "no"}}
		yes := no
		yes.Accepted = true
		for _, test := range []struct {
			verdicts    []delta.Verdict
			quarantined int
		}{{[]delta.Verdict{no, yes}, 0}, {[]delta.Verdict{yes, no}, 1}, {[]delta.Verdict{no, yes}, 0}} {
			r.turn(func(b *batch) { r.e.judge(b, test.verdicts) })
			if n := len(r.e.quarantines); n != test.quarantined {
				t.Errorf("%d in quarantine, want %d, after %+v", n, test.quarantined, test.verdicts)
			}
		}
	}
}

// What one refuses and another accepts is that proxy's own trouble.
func TestWhatOthersAcceptIsNotQuarantined(t *testing.T) {
	c := newCallers(t, t.TempDir(), 3, nil)
	c.push(routeTo(t, "/good", "db"))
	c.run("the first route", xds.RouteType, apiCluster, "/good")
	c.envoys[0].SetRefuse(refuseText(xds.RouteType, "/next"))
	odd, rest := c.envoys[0], c.envoys[1:]
	c.push(routeTo(t, "/next", "db"))
	c.envoys, c.nodes = rest, c.nodes[1:]
	c.run("the next route", xds.RouteType, apiCluster, "/next")
	eventually(t, "no quarantine", func() bool {
		p := c.problems()
		return !c.quarantined() && len(p) == 1 && !p[0].quarantined && p[0].proxies == 1
	})
	if r := odd.Resource(xds.RouteType, apiCluster); !bytes.Contains(r.Resource.Value, []byte("/good")) {
		t.Error("who refuses lost what it had")
	}
	c.run("the next route", xds.RouteType, apiCluster, "/next")
}

// A route to a cluster that nobody takes would cost requests: it stays as it was.
func TestARouteToARefusedClusterIsHeld(t *testing.T) {
	const db = "kri_msvc_default_east__db_8080"
	c := newCallers(t, t.TempDir(), 2, func(r *discoveryv3.Resource) string {
		if r.Resource.GetTypeUrl() == xds.ClusterType && r.Name == db {
			return "no such cluster here"
		}
		return ""
	})
	c.push(routeTo(t, "/good", "api"))
	c.run("the first route", xds.RouteType, apiCluster, "/good")
	c.push(routeTo(t, "/next", "db"))
	eventually(t, "quarantined", c.quarantined)
	c.run("the route before", xds.RouteType, apiCluster, "/good")
	c.more()
	c.run("the route before", xds.RouteType, apiCluster, "/good")
	c.push(routeTo(t, "/elsewhere", "api"))
	c.run("a route that needs it not", xds.RouteType, apiCluster, "/elsewhere")
	eventually(t, "out of quarantine", func() bool { return !c.quarantined() })
}

// A route that stays as it was keeps the clusters that it needs, with their
// endpoints, though nothing else does.
func TestWhatIsHeldKeepsWhatItNeeds(t *testing.T) {
	const db = "kri_msvc_default_east__db_8080"
	c := newCallers(t, t.TempDir(), 2, refuseText(xds.RouteType, "/bad"))
	c.push(routeTo(t, "/good", "db"))
	c.run("the first route", xds.RouteType, apiCluster, "/good")
	c.push(routeTo(t, "/bad", "api")) // the cluster of db is needed no more
	eventually(t, "quarantined", c.quarantined)
	c.more()
	c.run("the good route", xds.RouteType, apiCluster, "/good")
	for i, e := range c.envoys {
		eventually(t, "the cluster that it goes to", func() bool { return e.Resource(xds.ClusterType, db) != nil })
		eventually(t, "its endpoints", func() bool { return slices.Equal(hosts(t, e, db), []string{"10.0.0.3:8080"}) })
		if f := e.Faults(); len(f) > 0 {
			t.Error(c.nodes[i], f)
		}
	}
}

// One proxy that refuses, be it old or hostile, keeps nothing open that its whole
// class is to close; what lets more in waits like any other change.
func TestATighteningIsNotQuarantined(t *testing.T) {
	permit := func(rules string) mesh.Change {
		return put(resource(t, mesh.KindMeshTrafficPermission, "default", "", "p", `{"targetRef":{"kind":"Mesh"},"rules":[{"default":{`+rules+`}}]}`))
	}
	const stranger = `[{"spiffeID":{"type":"Prefix","value":"spiffe://stranger"}}]`
	c := newCallers(t, t.TempDir(), 2, refuseText(xds.ExtensionType, "spiffe://stranger"))
	name := xds.PermissionName("http")
	published := func() string {
		text := ""
		if err := c.parts.engine.do(nil, func(*batch) {
			if r := c.parts.engine.proxies[mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "east", Name: "web-1"}].class.set.Get(xds.ExtensionType, name); r != nil {
				text = string(r.Body)
			}
		}); err != nil {
			t.Fatal(err)
		}
		return text
	}
	c.push(permit(`"deny":[{"spiffeID":{"type":"Prefix","value":"spiffe://known"}}]`))
	c.run("a permission", xds.ExtensionType, name, "spiffe://known")

	if _, _, _, rejected := c.change(c.push(permit(`"deny":[{"spiffeID":{"type":"Prefix","value":"spiffe://known"}},` + stranger[1:]))); rejected == 0 {
		t.Error("nobody refused the tightening")
	}
	eventually(t, "the refusal is shown", func() bool { return len(c.problems()) > 0 })
	if c.quarantined() || !strings.Contains(published(), "spiffe://stranger") {
		t.Error("the tightening was taken back for the whole class")
	}

	c.push(permit(`"deny":[{"spiffeID":{"type":"Prefix","value":"spiffe://known"}}]`))
	c.run("the permission before", xds.ExtensionType, name, "spiffe://known")
	c.push(permit(`"allow":` + stranger + `,"deny":[{"spiffeID":{"type":"Prefix","value":"spiffe://known"}}]`))
	eventually(t, "what lets more in is quarantined", c.quarantined)
	if strings.Contains(published(), "spiffe://stranger") {
		t.Error("the refused permission is still published")
	}
}

// Where nothing good is known of a listener that redirected connections would else pass
// by, one stands in that closes them.
func TestARefusedRedirectIsClosed(t *testing.T) {
	p := &ir.Proxy{Class: &ir.Class{Transparent: &ir.Transparent{InboundPort: 15006, OutboundPort: 15001}}, Passthrough: true,
		Outbounds: []ir.Outbound{{Name: "a", Address: "10.0.0.1", Port: 80, Redirected: true}, {Name: "b", Address: "127.0.0.1", Port: 81}}}
	compiled, err := xds.Build(p)
	if err != nil {
		t.Fatal(err)
	}
	at := func(list []*delta.Resource, address string, port uint32) *delta.Resource {
		i := slices.IndexFunc(list, func(r *delta.Resource) bool {
			return r.TypeURL == xds.ListenerType && r.Name == xds.OutboundListenerName(address, port)
		})
		return list[i]
	}
	redirected, bound := at(compiled, "10.0.0.1", 80), at(compiled, "127.0.0.1", 81)
	q := &quarantine{}
	for _, r := range []*delta.Resource{redirected, bound} {
		q.Refused = append(q.Refused, refusal{TypeURL: r.TypeURL, Name: r.Name, Version: r.Version})
	}
	got := arrange(compiled, q).resources
	if len(got) != len(compiled) {
		t.Errorf("%d resources of %d", len(got), len(compiled))
	}
	if r := at(got, "10.0.0.1", 80); r.Version == redirected.Version || r.Version != xds.Closed(redirected).Version {
		t.Error("the redirected one is not closed")
	}
	if at(got, "127.0.0.1", 81) != bound {
		t.Error("what nobody else listens for has a stand-in")
	}
	before := &delta.Resource{TypeURL: redirected.TypeURL, Name: redirected.Name, Version: "before"}
	q.Good = []good{{Resource: before}}
	if at(arrange(compiled, q).resources, "10.0.0.1", 80) != before {
		t.Error("the last good one does not stand in")
	}
}
