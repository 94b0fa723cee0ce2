package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
)

const (
	remote    = "http://127.0.0.1:8081/" // backend of the other zone
	all       = "http://127.0.0.1:8082/" // backend wherever it is, local first
	remoteTCP = "http://127.0.0.1:8083/" // backend of the other zone, by TCP: each connection anew
)

// everywhere names backend across zones.
const everywhere = `type: MeshMultiZoneService
mesh: default
name: backend
spec:
  selector: {meshService: {matchLabels: {kuma.io/display-name: backend}}}
  ports: [{port: 8080, appProtocol: http}]
`

// allowWeb lets web of every zone given call backend.
func allowWeb(name string, zones ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `type: MeshTrafficPermission
mesh: default
name: %s
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: backend}}
  rules:
    - default:
        allow:
`, name)
	for _, z := range zones {
		fmt.Fprintf(&b, "          - spiffeID: {type: Exact, value: spiffe://default.%s.mesh.local/workload/web}\n", z)
	}
	return b.String()
}

const denyEast = `type: MeshTrafficPermission
mesh: default
name: deny-east
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: backend}}
  rules:
    - default:
        deny:
          - spiffeID: {type: Exact, value: spiffe://default.east.mesh.local/workload/web}
`

// served is a fleet with web and a backend in both zones, allowed from east;
// web of west is the caller that must be denied throughout.
func served(t *testing.T) *fleet { return newFleet(t).serve() }

func (f *fleet) serve() *fleet {
	f.t.Helper()
	for _, z := range f.zones {
		f.startBackend(z, "default", 0)
		f.startWeb(z, "default")
	}
	f.apply(everywhere, allowWeb("allow-web", "east"))
	east, west := f.zones["east"], f.zones["west"]
	f.answers(east.web, remote, http.StatusOK)
	f.answers(east.web, all, http.StatusOK)
	f.answers(west.web, remote, http.StatusForbidden)
	return f
}

// denied is traffic that must be refused throughout.
func (f *fleet) denied() (check func()) {
	from := time.Now()
	t := f.zones["west"].web.Send(remote, 20)
	return func() {
		f.t.Helper()
		t.Stop()
		good, bad := t.Count(from, time.Now(), lab.Status(http.StatusForbidden))
		f.report("west's web is denied throughout", good, bad, 0)
	}
}

// TestDemoPath is (a): the call, a split, a denial, all under traffic.
func TestDemoPath(t *testing.T) {
	f := served(t)
	check := f.denied()
	east := f.zones["east"]
	traffic := east.web.Send(remote, 20)
	from := time.Now()
	s := f.answers(east.web, remote, http.StatusOK)
	if r := replyOf(s); r.Zone != "west" || r.Caller != "spiffe://default.east.mesh.local/workload/web" || r.Self != "spiffe://default.west.mesh.local/workload/backend" {
		t.Errorf("the server saw %+v", r)
	}
	f.apply(`type: MeshHTTPRoute
mesh: default
name: split
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: web}}
  to:
    - targetRef: {kind: MeshService, labels: {kuma.io/display-name: backend, kuma.io/zone: west}}
      rules:
        - matches: [{path: {type: PathPrefix, value: /}}]
          default:
            backendRefs:
              - {kind: MeshService, labels: {kuma.io/display-name: backend, kuma.io/zone: east}, port: 8080, weight: 1}
              - {kind: MeshService, labels: {kuma.io/display-name: backend, kuma.io/zone: west}, port: 8080, weight: 1}
`)
	by := map[string]int{}
	client := east.web.Client(5 * time.Second)
	for range 200 {
		by[replyOf(lab.Get(client, remote)).Zone]++
	}
	if by["east"] < 60 || by["west"] < 60 {
		t.Errorf("the split is %v, want about half each", by)
	}
	f.eventually(60*time.Second, "40 requests sent", func() bool { return len(traffic.Since(from)) >= 40 })
	allowed := traffic.Settled()
	f.apply(denyEast)
	deniedFrom := time.Now()
	f.eventually(60*time.Second, "20 requests sent after the denial", func() bool { return len(traffic.Since(deniedFrom)) >= 20 })
	deniedTo := traffic.Settled()
	f.cli("", "delete", "meshtrafficpermission", "deny-east", "--wait=60s")
	lifted := time.Now()
	f.eventually(60*time.Second, "20 requests sent after lifting", func() bool { return len(traffic.Since(lifted)) >= 20 })
	traffic.Stop()
	good, bad := traffic.Count(from, allowed, lab.Status(http.StatusOK))
	f.report("allowed", good, bad, 0)
	good, bad = traffic.Count(deniedFrom, deniedTo, lab.Status(http.StatusForbidden))
	f.report("denied after --wait returned", good, bad, 0)
	good, bad = traffic.Count(lifted, time.Now(), lab.Status(http.StatusOK))
	f.report("allowed after lifting", good, bad, 0)
	check()
}

// instance waits until an instance answers a new connection.
func (f *fleet) instance(from *lab.Host, url, instance string) {
	f.t.Helper()
	took := f.eventually(60*time.Second, instance+" serves "+from.Name, func() bool {
		client := from.Client(5 * time.Second)
		defer client.CloseIdleConnections()
		return replyOf(lab.Get(client, url)).Instance == instance
	})
	f.t.Logf("%s serves %s after %s", instance, from.Name, took.Round(time.Millisecond))
}

// plainText is traffic without TLS to west's backend: refused throughout.
func (f *fleet) plainText() (check func()) {
	west := f.zones["west"]
	from := time.Now()
	t := west.web.Send("http://"+west.backends[0].IP+":8080/", 20)
	return func() {
		f.t.Helper()
		t.Stop()
		good, bad := t.Count(from, time.Now(), func(s lab.Sample) bool { return s.Err != nil })
		f.report("plain text to an inbound is refused throughout", good, bad, 0)
	}
}

// TestLinkCut is (b): the link between global and west is cut for a minute, with
// changes on both sides, and heals.
func TestLinkCut(t *testing.T) {
	t.Parallel() // it waits most of the time
	f := served(t)
	check := f.plainText()
	east, west := f.zones["east"], f.zones["west"]
	from := time.Now()
	traffic := east.web.Send(remote, 20)
	must(t, f.net.Cut("hub", "west"))
	cut := time.Now()
	// A change at global reaches east at once, and --wait says that west is away.
	out, err := f.tryCLI(allowWeb("allow-west", "west"), "apply", "-f", "-", "--wait=20s", "--yes")
	if err == nil || !strings.Contains(out, "west") {
		t.Errorf("apply --wait with a zone cut off returned %v and said %q; want an error that names west", err, out)
	}
	f.answers(west.web, remote, http.StatusOK) // served by east, which has the change
	// A change in west: a second backend serves callers of its own zone.
	f.startBackend(west, "default", 1)
	f.instance(east.web, remoteTCP, "backend-west-2")
	f.eventually(70*time.Second, "the cut lasts a minute", func() bool { return time.Since(cut) > time.Minute })
	must(t, f.net.Heal("hub", "west"))
	healed := time.Now()
	f.everywhereNow(60 * time.Second)
	f.answers(west.web, all, http.StatusOK) // served in west, which has the change now
	t.Logf("recovered %s after the link healed", time.Since(healed).Round(time.Millisecond))
	f.eventually(60*time.Second, "global knows west's new backend", func() bool {
		out, err := f.tryCLI("", "get", "dataplanes", "-m", "default")
		return err == nil && strings.Contains(out, "backend-west-2")
	})
	traffic.Stop()
	good, bad := traffic.Count(from, time.Now(), fromZone("west"))
	f.report("east to west throughout", good, bad, 0)
	check()
}
