package e2e

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
)

// explained is what a test needs of an explanation.
type explained struct {
	Verdict struct {
		Outcome string
		Status  int
		Text    string
		By      struct{ Name, Path string }
	}
	Ways []struct {
		Peers []struct {
			Zone    string
			Percent float64
			Why     string
			Arrival struct {
				Ingress *struct{ Exported bool }
				Servers []struct {
					Proxies []string
					Ready   int
				}
			}
		}
	}
}

// server is the zone that gets all calls, "" when there are several.
func (x *explained) server() string {
	zone := ""
	for _, w := range x.Ways {
		for _, p := range w.Peers {
			if p.Percent > 0 && p.Percent < 100 || p.Percent > 0 && zone != "" {
				return ""
			}
			if p.Percent == 100 {
				zone = p.Zone
			}
		}
	}
	return zone
}

// explain asks for the way of a call; code is the exit code that it must have.
func (f *fleet) explain(code int, args ...string) explained {
	f.t.Helper()
	var x explained
	out, err := f.tryCLI("", append([]string{"explain", "-o", "json"}, args...)...)
	if code == 0 {
		must(f.t, err)
	} else if err == nil || !strings.Contains(err.Error(), "exit status "+strconv.Itoa(code)) {
		f.t.Fatalf("explain %v: %v, want exit code %d\n%s", args, err, code, out)
	}
	must(f.t, json.Unmarshal([]byte(out), &x))
	return x
}

// TestExplain: what explain says of an allowed, a denied, a cross-zone and a failed-over
// call is what the traffic of the same moment does.
func TestExplain(t *testing.T) {
	f := served(t)
	check := f.denied()
	east := f.zones["east"]
	traffic := east.web.Send(all, 100)
	f.home(traffic)
	from := time.Now()

	x := f.explain(0, "web-east.east", "meshmultizoneservice/backend:8080")
	if x.Verdict.Outcome != "allowed" || x.Verdict.By.Name != "allow-web" || x.server() != "east" {
		t.Errorf("at home: %+v", x)
	}
	x = f.explain(0, "web-east", "backend.west:8080", "--path", "/anything")
	if p := x.Ways[0].Peers[0]; x.Verdict.Outcome != "allowed" || x.server() != "west" || p.Arrival.Ingress == nil || !p.Arrival.Ingress.Exported {
		t.Errorf("across zones: %+v", x)
	}
	if r := replyOf(f.answers(east.web, remote, http.StatusOK)); r.Zone != "west" {
		t.Errorf("zone %s served", r.Zone)
	}
	x = f.explain(3, "web-west", "backend.east:8080") // which check's traffic shows to be refused
	if x.Verdict.Outcome != "denied" || x.Verdict.Status != http.StatusForbidden || !strings.Contains(x.Verdict.Text, "default deny") {
		t.Errorf("denied by default: %+v", x)
	}

	allowed := traffic.Settled()
	f.apply(denyEast)
	denied := time.Now()
	f.answers(east.web, remote, http.StatusForbidden)
	x = f.explain(3, "web-east", "backend.west:8080")
	if x.Verdict.Outcome != "denied" || x.Verdict.By.Name != "deny-east" || x.Verdict.By.Path != "rules[0].default.deny[0]" {
		t.Errorf("denied: %+v", x)
	}
	f.passes(traffic, time.Second)
	lifting := traffic.Settled()
	f.cli("", "delete", "meshtrafficpermission", "deny-east", "--wait=60s")
	lifted := time.Now()
	f.answers(east.web, remote, http.StatusOK)
	f.passes(traffic, time.Second)
	good, bad := traffic.Count(from, allowed, fromZone("east"))
	f.report("explained as allowed, at home", good, bad, 0)
	good, bad = traffic.Count(denied, lifting, lab.Status(http.StatusForbidden))
	f.report("explained as denied", good, bad, 0)
	good, bad = traffic.Count(lifted, time.Now(), fromZone("east"))
	f.report("at home again", good, bad, 0)

	check() // whose server is the one that dies now

	// The only server at home dies: calls go to the other zone, and explain knows why.
	name := backendName(east, 0)
	f.procs["app-"+name].Kill()
	f.eventually(60*time.Second, "traffic is served by west", func() bool {
		last := traffic.Since(time.Now().Add(-time.Second))
		return len(last) > 5 && fromZone("west")(last[len(last)-1])
	})
	f.eventually(60*time.Second, "explain says so", func() bool {
		x = f.explain(0, "web-east", "meshmultizoneservice/backend:8080")
		return x.server() == "west"
	})
	over := time.Now()
	f.passes(traffic, time.Second)
	for _, p := range x.Ways[0].Peers {
		if p.Zone == "west" && !strings.HasPrefix(p.Why, "failover: ") {
			t.Errorf("failed over: %+v", x)
		}
	}
	reach := f.cli("", "inspect", "policy", "mtp/allow-web")
	if !strings.Contains(reach, "reaches 2 proxies") || !strings.Contains(reach, "rules[0].default.allow[0]") {
		t.Error(reach)
	}
	if clusters := f.cli("", "inspect", "dataplane", "web-east.east", "clusters"); !strings.Contains(clusters, "gateway_default_west") {
		t.Error(clusters)
	}
	traffic.Stop()
	good, bad = traffic.Count(over, time.Now(), fromZone("west"))
	f.report("explained as failed over", good, bad, 0)
}
