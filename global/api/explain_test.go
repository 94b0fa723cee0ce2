package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/effect"
	"github.com/tombolo-mesh/tombolo/mesh/ir/explain"
)

// halfway is a call that zone east sends half of to zone west.
func halfway() explain.Explanation {
	domains := []string{"default.east.mesh.local", "default.west.mesh.local"}
	peer := func(zone string) explain.Peer {
		return explain.Peer{Name: "api." + zone, Zone: zone, Service: mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: zone, Name: "api"}, Port: 80,
			SNI: "80.api." + zone + ".default.mesh", Identities: []string{"spiffe://default." + zone + ".mesh.local/workload/api"}, Percent: 100}
	}
	east, west := peer("east"), peer("west")
	east.Arrival = arrival("east", explain.Decision{Decision: effect.Allow, Origin: &explain.Origin{Kind: mesh.KindMeshTrafficPermission, Mesh: "default", Name: "all", Revision: 3}, Lines: 1, Allows: 1})
	west.Gateway = &explain.Gateway{Hosts: []explain.Host{{Address: "192.0.2.1:1", State: explain.Ready}}}
	return explain.Explanation{
		Caller:      explain.Proxy{Name: "web.east", Zone: "east", Identity: "spiffe://default.east.mesh.local/workload/web", TrustDomains: domains, State: "present", InSync: true},
		Destination: &explain.Destination{Name: "api:80", Protocol: ir.HTTP},
		Ways: []explain.Way{{Backend: "api.east:80", Cluster: "e", Percent: 50, Peers: []explain.Peer{east}},
			{Backend: "api.west:80", Cluster: "w", Percent: 50, Peers: []explain.Peer{west}}},
	}
}

func arrival(zone string, d explain.Decision) *explain.Arrival {
	return &explain.Arrival{Zone: zone, Servers: []explain.Server{{Count: 1, Ready: 1, Inbound: "http", Protocol: ir.HTTP,
		Identity: "spiffe://default." + zone + ".mesh.local/workload/api", TrustDomains: []string{"default.east.mesh.local"}, Permission: d}}}
}

func TestExplainPutsZonesTogether(t *testing.T) {
	r := newRig(t)
	for zone, names := range map[string][]string{"east": {"web", "both"}, "west": {"both"}} {
		r.want(201, "PUT", "/zones/"+zone, r.author, `{"type":"Zone","name":"`+zone+`"}`)
		for _, n := range names {
			r.zoned(mesh.KindDataplane, zone, n, dataplane)
		}
	}
	var west error
	r.fleet.inspect = func(_ context.Context, zone string, q sync.Question, w io.Writer) error {
		var asked explain.Question
		if q.What == "plan" { // of the write below
			return sync.ErrZoneOffline
		}
		if q.What == "policy" {
			if zone == "west" && west != nil {
				return west
			}
			return json.NewEncoder(w).Encode(explain.ZoneReach{Proxies: 2})
		}
		if err := json.Unmarshal(q.Body, &asked); err != nil || q.What != "explain" || q.Mesh != "default" {
			t.Errorf("%+v: %v", q, err)
		}
		switch {
		case zone == "east" && asked.Leave != nil && asked.Leave.Source == "both.east":
			return json.NewEncoder(w).Encode(explain.Reply{Problem: &explain.Problem{Field: "port", Reason: "say one of 1, 2"}})
		case zone == "east" && asked.Leave != nil:
			x := halfway()
			return json.NewEncoder(w).Encode(explain.Reply{Explanation: &x})
		case zone == "west" && west != nil:
			return west
		case zone == "west" && len(asked.Arrive) == 1 && asked.Arrive[0].SNI == "80.api.west.default.mesh" && asked.Arrive[0].Caller != "":
			a := arrival("west", explain.Decision{Decision: explain.DefaultDeny})
			a.Ingress = &explain.Ingress{Exported: true}
			return json.NewEncoder(w).Encode(explain.Reply{Arrivals: []*explain.Arrival{a}})
		}
		t.Errorf("zone %s was asked %s", zone, q.Body)
		return sync.ErrInspect
	}
	get := func(path string, status int, says ...string) []byte {
		t.Helper()
		got := r.do(http.MethodGet, path, r.reader, "")
		code, body := got.status, got.body
		for _, s := range append(says, "") {
			if code != status || !strings.Contains(string(body), s) {
				t.Errorf("%s: %d %s, want %d %q", path, code, body, status, s)
			}
		}
		return body
	}
	const way = "/meshes/default/explain?source=web&destination=api&port=80"
	var x explain.Explanation
	if err := json.Unmarshal(get(way, 200, `"outcome":"mixed"`), &x); err != nil {
		t.Fatal(err)
	}
	if s := x.Verdict.Shares; len(s) != 2 || s[0].Outcome != explain.Allowed || s[0].By.Name != "all" || s[1].Outcome != explain.Denied || s[1].Status != 403 || s[1].Percent != 50 {
		t.Errorf("%+v", x.Verdict)
	}
	west = sync.ErrZoneOffline
	get(way, 200, `"outcome":"undecided"`, "zone west is offline", `"outcome":"allowed"`)
	get("/meshes/default/meshtrafficpermissions/allow/reach", 404)
	r.want(201, "PUT", "/meshes/default/meshtrafficpermissions/allow", r.author, `{"type":"MeshTrafficPermission","mesh":"default","name":"allow","spec":{"rules":[{"default":{"allow":[{"spiffeID":{"type":"Exact","value":"spiffe://a/b"}}]}}]}}`)
	get("/meshes/default/meshtrafficpermissions/allow/reach", 200, `"proxies":2`, `"unanswered":"zone west is offline"`)
	west = sync.ErrOutdated
	get(way, 200, "zone west has an older version")

	get("/meshes/default/explain?source=both&destination=api", 409, "say both.east or both.west")
	get("/meshes/default/explain?source=both.east&destination=api", 409, "say one of 1, 2")
	get("/meshes/default/explain?source=nobody&destination=api", 404, `called \"nobody\"`)
	get("/meshes/nothing/explain?source=web&destination=api", 404)
	get("/meshes/default/explain?source=web", 400, "destination")
	get(way+"&header=x", 400, "name=value")
	get(way+"&path=x", 400, "path")
	get("/meshes/default/explain?source=web&destination=api&port=0", 400, "port")
}
