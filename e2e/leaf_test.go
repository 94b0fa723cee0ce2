package e2e

import (
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
)

// shortLeaf gives every proxy certificates of 30 s.
const shortLeaf = `type: MeshIdentity
mesh: default
name: default
spec:
  selector: {dataplane: {}}
  provider:
    type: Bundled
    bundled:
      meshTrustCreation: Enabled
      certificateParameters: {expiry: 30s}
`

// leafTest is how long TestShortLeaf lets traffic run.
const leafTest = 3 * time.Minute

// TestShortLeaf is (h): certificates of 30 s are renewed for 3 minutes under a
// long-lived connection and short ones, without one failed request.
func TestShortLeaf(t *testing.T) {
	t.Parallel() // it waits most of the time
	f := newFleet(t)
	east, west := f.zones["east"], f.zones["west"]
	f.startBackend(west, "default", 0)
	f.startEcho(west, west.backends[1], "default")
	f.startWeb(east, "default")
	f.startEchoCaller(east, east.stranger, "default")
	f.apply(shortLeaf, allowWeb("allow-web", "east"), allowEcho)
	f.echoes(east.stranger, true)
	f.answers(east.web, remote, 200)
	check := f.plainText()

	names := []string{"web-east", backendName(west, 0), "echo-west", "echo-caller-east"}
	seen := map[string]map[string]bool{}
	for _, n := range names {
		seen[n] = map[string]bool{}
	}
	from := time.Now()
	long := east.stranger.Hold(echoAddress, 20)
	short := lab.Repeat(20, func() lab.Sample { return east.stranger.Echo(echoAddress) }) // a handshake each
	requests, connections := east.web.Send(remote, 20), east.web.SendShort(remoteTCP, 20)
	f.eventually(leafTest+10*time.Second, "3 minutes pass", func() bool {
		for _, n := range names {
			seen[n][string(f.stolen(n).Certificate[0])] = true
		}
		return time.Since(from) >= leafTest
	})
	for what, traffic := range map[string]*lab.Traffic{"lines on one connection": long, "a connection for each line": short,
		"requests on kept connections": requests, "a connection for each request": connections} {
		traffic.Stop()
		good, bad := traffic.Count(from, time.Now(), lab.Answered)
		f.report(what, good, bad, 0)
	}
	for _, n := range names {
		t.Logf("%s had %d certificates", n, len(seen[n]))
		if len(seen[n]) < 8 { // renewed at half life, about each 15 s
			t.Errorf("%s had %d certificates in %s, want 8 at least", n, len(seen[n]), leafTest)
		}
	}
	check()
}
