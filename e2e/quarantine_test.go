package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
)

// routed sends what matches a regular expression elsewhere. Global's engine knows
// longer names of classes than Envoy's: \p{Letter} passes the one and not the other.
func routed(regex string) string {
	return fmt.Sprintf(`type: MeshHTTPRoute
mesh: default
name: letters
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: web}}
  to:
    - targetRef: {kind: MeshService, labels: {kuma.io/display-name: backend, kuma.io/zone: west}}
      rules:
        - matches: [{path: {type: RegularExpression, value: '/letters/%s+'}}]
          default:
            backendRefs:
              - {kind: MeshService, labels: {kuma.io/display-name: backend, kuma.io/zone: east}, port: 8080}
`, regex)
}

const slowConnect = `type: MeshTimeout
mesh: default
name: connect
spec:
  targetRef: {kind: Mesh}
  to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: 4s}}]
`

// TestQuarantine: a change that passes global and that Envoy refuses costs no
// request: not those on their way, not a proxy that starts, not another change,
// not over a restart of the zone.
func TestQuarantine(t *testing.T) {
	f := served(t)
	check := f.denied()
	east := f.zones["east"]
	const letters = remote + "letters/abc"
	f.apply(routed("[a-z]"))
	from := time.Now()
	plain, matched, tcp := east.web.Send(remote, 20), east.web.Send(letters, 20), east.web.Send(remoteTCP, 20)
	was := replyOf(f.answers(east.web, letters, http.StatusOK)).Zone
	if was != "east" {
		t.Fatalf("the route that matches leads to %q", was)
	}

	out, err := f.tryCLI(routed(`\p{Letter}`), "apply", "-f", "-", "--wait=60s", "--yes")
	if err == nil || !strings.Contains(out+err.Error(), "rejected") {
		t.Errorf("a change that Envoy refuses: %v\n%s", err, out)
	}
	t.Logf("apply says: %v\n%s", err, out)
	shown := func() string { return f.cli("", "get", "meshhttproute", "letters", "-o", "yaml") }
	says := func() bool {
		s := shown()
		return strings.Contains(s, "quarantined: true") && strings.Contains(s, `\p{Letter}`) && strings.Contains(s, "path: to[0].rules[0]")
	}
	f.eventually(60*time.Second, "the policy says what Envoy refuses", says)
	t.Logf("the policy says:\n%s\n%s", shown(), f.cli("", "get", "meshhttproutes"))

	f.metric(east, "tombolo_zone_quarantined_classes 1")
	f.startAgent("sidecar", east, east.stranger, "default", "web-late", "web", webDataplane(east, "default", "web-late", east.stranger.IP))
	if zone := replyOf(f.answers(east.stranger, letters, http.StatusOK)).Zone; zone != "east" {
		t.Errorf("a proxy that starts now has another route: to %q", zone)
	}
	late := time.Now()
	lateTraffic := east.stranger.Send(letters, 20)
	f.apply(slowConnect) // done everywhere, beside it

	east.control.Kill()
	f.startZone(east)
	f.eventually(60*time.Second, "the zone that restarted still knows", says)
	f.eventually(60*time.Second, "40 more requests", func() bool { return len(lateTraffic.Since(late)) >= 40 })

	f.apply(routed("[[:alpha:]]"))
	f.eventually(60*time.Second, "nothing is said of the fixed policy", func() bool { return !strings.Contains(shown(), "problems:") })
	f.metric(east, "tombolo_zone_quarantined_classes 0")
	fixed := time.Now()
	f.eventually(60*time.Second, "20 more requests", func() bool { return len(matched.Since(fixed)) >= 20 })
	for what, traffic := range map[string]*lab.Traffic{"plain": plain, "matched": matched, "TCP": tcp, "of the late proxy": lateTraffic} {
		traffic.Stop()
		good, bad := traffic.Count(from, time.Now(), lab.Status(http.StatusOK))
		f.report(what+" throughout", good, bad, 0)
	}
	check()
}
