package kube

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/kube/kubelab"
	"github.com/tombolo-mesh/tombolo/mesh/ir/explain"
)

// testMesh is what a newcomer does: everything is denied, a policy by kubectl lets
// web call, and then it calls backend in its cluster, in the other one and on the
// virtual machines, by mTLS.
func testMesh(t *testing.T, f *fleet) {
	eastWeb, westWeb := from(f.east, demo, "deployment/web"), from(f.west, demo, "deployment/web")
	eastWeb.gets(t, local, "403")
	westWeb.gets(t, local, "403")
	if x := f.explained(t, "web.demo.east", "backend.demo:80"); x.Verdict.Outcome != explain.Denied || x.Verdict.Status != 403 {
		t.Errorf("a call that nobody allows: %+v", x.Verdict)
	}
	f.both(t, func(c *kubelab.Cluster) error {
		return c.Apply(t.Context(), allow("allow-web", demo, "backend", webs()...))
	})
	f.cli(t, `type: MeshTrafficPermission
mesh: default
name: allow-web-to-vms
spec:
  targetRef: {kind: Dataplane, labels: {tombolo.io/workload: backend, tombolo.io/zone: vms}}
  rules:
    - default:
        allow:
          - spiffeID: {type: Exact, value: `+identity("east", demo, "web")+`}
          - spiffeID: {type: Exact, value: `+identity("west", demo, "web")+`}
`, "apply", "-f", "-", "--wait=60s", "--yes")
	f.cli(t, `type: MeshMultiZoneService
mesh: default
name: backend
spec:
  selector:
    meshService:
      matchLabels: {tombolo.io/display-name: backend, k8s.tombolo.io/namespace: demo}
  ports: [{port: 80, appProtocol: http}]
`, "apply", "-f", "-", "--wait=60s", "--yes")
	for _, call := range []struct {
		from                    caller
		url, zone, caller, self string
	}{
		{eastWeb, local, "east", identity("east", demo, "web"), identity("east", demo, "backend")},
		{westWeb, local, "west", identity("west", demo, "web"), identity("west", demo, "backend")},
		{eastWeb, westName, "west", identity("east", demo, "web"), identity("west", demo, "backend")},
		{westWeb, eastName, "east", identity("west", demo, "web"), identity("east", demo, "backend")},
		{eastWeb, vmsName, "vms", identity("east", demo, "web"), "spiffe://default.vms.mesh.local/workload/backend"},
		{f.fromVM(), "http://127.0.0.1:" + vmsToEast, "east", "spiffe://default.vms.mesh.local/workload/web", identity("east", demo, "backend")},
		{f.fromVM(), "http://127.0.0.1:" + vmsToWest, "west", "spiffe://default.vms.mesh.local/workload/web", identity("west", demo, "backend")},
		{eastWeb, everyName, "east", identity("east", demo, "web"), identity("east", demo, "backend")},
	} {
		s := call.from.gets(t, call.url, "200")
		if s.Reply.Zone != call.zone || s.Reply.Caller != call.caller || s.Reply.Self != call.self {
			t.Errorf("%s → %s: %+v, not zone %s, caller %s, self %s", call.from.name, call.url, s.Reply, call.zone, call.caller, call.self)
		}
	}
	testExplained(t, f)
}

// testExplained: what is said of the calls that pass, by the names that people have for
// pods and Services, is what becomes of them; and of a caller that nobody allows.
func testExplained(t *testing.T, f *fleet) {
	eastWeb, eastBackend := from(f.east, demo, "deployment/web"), from(f.east, demo, "deployment/backend")
	passed := []*flow{eastWeb.send(t, local), eastWeb.send(t, westName), eastWeb.send(t, vmsName), f.fromVM().send(t, "http://127.0.0.1:"+vmsToWest)}
	eastBackend.gets(t, local, "403")
	denied := eastBackend.send(t, local)
	pod, err := f.east.Kubectl(t.Context(), "", "-n", demo, "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}")
	must(t, err)
	for _, c := range []struct {
		from, to string
		zone, by string // of the server, and the policy that decides; none: it is denied
	}{
		{"web.demo.east", "backend.demo:80", "east", "allow-web.demo.east"},
		{"web.demo.east", "demo/backend:80", "east", "allow-web.demo.east"},
		{"web.demo.east", "backend.demo.svc:80", "east", "allow-web.demo.east"},
		{"web.demo.east", "backend.demo.svc.cluster.local:80", "east", "allow-web.demo.east"},
		{demo + "/" + pod, "backend.demo:80", "east", "allow-web.demo.east"},
		{pod, "backend.demo.west:80", "west", "allow-web.demo.west"},
		{"web.demo.west", "backend.demo.svc.cluster.local:80", "west", "allow-web.demo.west"},
		{pod, strings.TrimPrefix(westName, "http://") + ":80", "west", "allow-web.demo.west"},
		{"web.demo.east", strings.TrimPrefix(vmsName, "http://") + ":80", "vms", "allow-web-to-vms"},
		{"web.vms", "127.0.0.1:" + vmsToWest, "west", "allow-web.demo.west"},
		{"backend.demo.east", "backend.demo.svc:80", "east", ""},
	} {
		x := f.explained(t, c.from, c.to)
		want := explain.Allowed
		if c.by == "" {
			want = explain.Denied
		}
		by := ""
		if x.Verdict.By != nil {
			by = x.Verdict.By.Name
		}
		if x.Verdict.Outcome != want || by != c.by || len(x.Ways) != 1 || len(x.Ways[0].Peers) == 0 {
			t.Errorf("%s → %s: %+v by %q", c.from, c.to, x.Verdict, by)
			continue
		}
		peer := x.Ways[0].Peers[0]
		if peer.Zone != c.zone || peer.Arrival == nil || len(peer.Arrival.Servers) == 0 || peer.Arrival.Servers[0].Ready == 0 || len(peer.Hosts) == 0 && peer.Gateway == nil {
			t.Errorf("%s → %s arrives at %+v", c.from, c.to, peer)
		}
	}
	for source, says := range map[string]string{"demo/web": "web.demo.east or web.demo.west", "demo/wep": `called "wep.demo"`} {
		if out, err := f.tryCLI(t.Context(), "", "explain", source, "backend.demo:80"); err == nil || !strings.Contains(out+err.Error(), says) {
			t.Errorf("explain %s: %s %v", source, out, err)
		}
	}
	for what, has := range map[string]string{"config": "backend.demo", "clusters": "HEALTH", "stats": "cluster_manager", "listeners": "0.0.0.0", "certs": identity("east", demo, "web")} {
		if out := f.cli(t, "", "inspect", "dataplane", demo+"/"+pod, what, "--zone", "east"); !strings.Contains(out, has) {
			t.Errorf("inspect %s has no %q:\n%.2000s", what, has, out)
		}
	}
	if out := f.cli(t, "", "inspect", "policy", "meshtrafficpermission/allow-web.demo.east"); strings.Count(out, "backend-") < 2 || !strings.Contains(out, identity("east", demo, "web")) {
		t.Errorf("inspect policy:\n%s", out)
	}
	for _, fl := range passed {
		fl.all(t, "200", 0)
	}
	denied.all(t, "403", 0)
}

// explained is what the command line says of a call.
func (f *fleet) explained(t *testing.T, source, destination string) explain.Explanation {
	t.Helper()
	out, err := f.tryCLI(t.Context(), "", "explain", source, destination, "-o", "json") // ends with 3 where it is denied
	var x explain.Explanation
	if decode := json.NewDecoder(strings.NewReader(out)).Decode(&x); decode != nil {
		t.Fatalf("explain %s %s: %v: %s", source, destination, err, out)
	}
	return x
}

// testStrict: who is not in the mesh gets no answer, by whatever address, and the
// mesh reaches what is outside of it as it is.
func testStrict(t *testing.T, f *fleet) {
	outsider := from(f.east, plain, "deployment/web")
	podIP, err := f.east.Kubectl(t.Context(), "", "-n", demo, "get", "pods", "-l", "app=backend", "-o", "jsonpath={.items[0].status.podIP}")
	must(t, err)
	var refused []*flow
	for _, url := range []string{local, "http://" + podIP + ":8080", "grpc://backend.demo:9090", "tcp://backend.demo:7070"} {
		outsider.gets(t, url, "error")
		refused = append(refused, outsider.send(t, url))
	}
	passed := from(f.east, demo, "deployment/web").send(t, "http://backend.plain")
	s := from(f.east, demo, "deployment/web").gets(t, "http://backend.plain", "200")
	if s.Reply.Caller != "" {
		t.Errorf("a server outside of the mesh sees the caller %s: who says so?", s.Reply.Caller)
	}
	passes(t, 5*time.Second)
	for _, r := range refused {
		r.all(t, "error", 0)
	}
	passed.all(t, "200", 0)
}

// testPermission: a policy by kubectl in one cluster acts on callers of the other,
// and is seen at global with its origin; once deleted, the call is denied again.
func testPermission(t *testing.T, f *fleet) {
	const ns = "permission"
	must(t, f.east.Apply(t.Context(), namespace(ns, true), app{name: "server", namespace: ns, zone: "east"}.manifest()))
	ready(t, f.east, ns, "deployment/server")
	westWeb := from(f.west, demo, "deployment/web")
	const url = "http://server.permission.svc.east.mesh.local"
	westWeb.gets(t, url, "403")
	denied := from(f.east, demo, "deployment/web").send(t, "http://server.permission")
	applied := time.Now()
	must(t, f.east.Apply(t.Context(), allow("allow-west", ns, "server", identity("west", demo, "web"))))
	westWeb.gets(t, url, "200")
	t.Logf("a caller in west was let in %s after kubectl apply in east", since(applied))
	eventually(t, 120*time.Second, "global shows the policy", func() error {
		return contains(f.tryCLI(t.Context(), "", "get", "meshtrafficpermissions", "-m", "default"))("allow-west.permission", "east")
	})
	// What is refused is refused by the API server, with the reason.
	_, err := f.east.Kubectl(t.Context(), strings.Replace(allow("bad", ns, "server", "spiffe://x/y"), "type: Exact", "type: Excat", 1), "apply", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), "spiffeID") {
		t.Errorf("a policy that is wrong: %v", err)
	}
	_, err = f.east.Kubectl(t.Context(), "", "-n", ns, "delete", "meshtrafficpermission", "allow-west")
	must(t, err)
	westWeb.gets(t, url, "403")
	denied.all(t, "403", 0)
}

// testProtocols: HTTP/1.1, h2c, gRPC and TCP within a cluster, between clusters, to
// and from the virtual machines.
func testProtocols(t *testing.T, f *fleet) {
	eastWeb := from(f.east, demo, "deployment/web")
	var flows []*flow
	for _, c := range []struct {
		from caller
		urls []string
	}{
		{eastWeb, []string{local, "h2c://backend.demo", "grpc://backend.demo:9090", "tcp://backend.demo:7070"}},
		{eastWeb, []string{westName, strings.Replace(westName, "http", "h2c", 1), westGRPC, westTCP}},
		{eastWeb, []string{vmsName, "grpc://backend.svc.vms.mesh.local:9090", "tcp://backend.svc.vms.mesh.local:7070"}},
		{f.fromVM(), []string{"http://127.0.0.1:" + vmsToEast, "grpc://127.0.0.1:" + vmsToEastGRPC, "tcp://127.0.0.1:" + vmsToEastTCP}},
	} {
		for _, url := range c.urls {
			s := c.from.gets(t, url, "200")
			if !strings.HasPrefix(url, "tcp") && s.Reply.Caller == "" {
				t.Errorf("%s → %s: without mTLS: %+v", c.from.name, url, s.Reply)
			}
			flows = append(flows, c.from.send(t, url))
		}
	}
	passes(t, 5*time.Second)
	for _, fl := range flows {
		fl.all(t, "200", 0)
	}
}

// testNames: the mesh's names, the cluster's names and addresses, and names that
// are neither.
func testNames(t *testing.T, f *fleet) {
	web := from(f.east, demo, "deployment/web")
	ip, err := f.east.Kubectl(t.Context(), "", "-n", demo, "get", "service", "backend", "-o", "jsonpath={.spec.clusterIP}")
	must(t, err)
	for url, zone := range map[string]string{
		"http://backend": "east", "http://backend.demo": "east", "http://backend.demo.svc": "east", "http://backend.demo.svc.cluster.local": "east",
		"http://" + ip: "east", eastName: "east", westName: "west", vmsName: "vms", everyName: "east",
	} {
		s := web.gets(t, url, "200")
		if s.Reply.Zone != zone || s.Reply.Caller != identity("east", demo, "web") {
			t.Errorf("%s answered %+v, not zone %s with mTLS", url, s.Reply, zone)
		}
	}
	for _, url := range []string{"http://nobody.example", "http://nobody.demo", "http://nobody.svc.east.mesh.local"} {
		if s := web.gets(t, url, "error"); !strings.Contains(s.Err, "no such host") {
			t.Errorf("%s: %s, not that there is no such host", url, s.Err)
		}
	}
	// The API server is not in the mesh: plain HTTP reaches it and is told so.
	web.gets(t, "http://kubernetes.default:443", "400")
}
