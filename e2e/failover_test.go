package e2e

import (
	"net/http"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
	"github.com/tombolo-mesh/tombolo/internal/budget"
)

// Budgets of a failover under 100 requests a second. sharedMachine is for the few
// cores that all hosts of the laboratory have together, and whoever else is there:
// what was measured is printed, the test fails when it is missed by far.
const (
	diedWithin    = 500 * time.Millisecond
	cutOffWithin  = 2 * time.Second
	failedAtMost  = 5
	anyNumber     = 1 << 20 // of a host that is cut off: its time is what is bounded
	sharedMachine = 4
	backWithin    = 20 * time.Second
)

// TestFailover is (e): the local server's application dies, then application and
// sidecar, then its host is unplugged; each time all traffic goes to the other
// zone, and back when the server returns. Nothing but the MeshMultiZoneService
// was configured.
func TestFailover(t *testing.T) {
	f := served(t)
	east := f.zones["east"]
	from := time.Now()
	stranger := f.zones["west"].web.Send(remote, 20) // of east's server, which may refuse it only
	host, name := east.backends[0], backendName(east, 0)
	traffic := east.web.Send(all, 100)
	f.home(traffic)

	f.failover("the application dies, its sidecar lives", traffic, diedWithin, failedAtMost,
		func() { f.procs["app-"+name].Kill() },
		func() { f.startApp(host, name, "east") })
	f.failover("application and sidecar die", traffic, diedWithin, failedAtMost,
		func() {
			f.procs["app-"+name].Signal()
			f.procs[name].Signal()
			f.procs["app-"+name].Kill()
			f.procs[name].Kill()
		},
		func() { f.startApp(host, name, "east"); f.startBackendAgent(east, "default", 0) })
	f.failover("the host is unplugged", traffic, cutOffWithin, anyNumber,
		func() { must(t, host.Unplug()) },
		func() { must(t, host.Plug()) })

	traffic.Stop()
	stranger.Stop()
	good, bad := stranger.Count(from, time.Now(), func(s lab.Sample) bool { return s.Status != http.StatusOK })
	f.report("west's web is never served by east", good, bad, 0)
}

// tell says what a time was that has a budget.
func (f *fleet) tell(what string, took, most time.Duration) {
	f.t.Helper()
	must(f.t, budget.Tell(budget.Row{What: what, Got: took.Seconds(), Most: new(most.Seconds()), Unit: "s"}))
}

// home waits until all traffic of a second was served in east.
func (f *fleet) home(traffic *lab.Traffic) time.Duration {
	f.t.Helper()
	return f.eventually(60*time.Second, "traffic is served in its own zone", func() bool {
		from := time.Now().Add(-time.Second)
		good, bad := traffic.Count(from, time.Now(), fromZone("east"))
		return good > 10 && len(bad) == 0
	}) - time.Second
}

// failover breaks something, waits until the other zone serves, mends it and
// waits until the own zone serves again.
func (f *fleet) failover(what string, traffic *lab.Traffic, within time.Duration, allowed int, breaks, mends func()) {
	f.t.Helper()
	from := time.Now()
	breaks()
	broken := time.Now()
	f.passes(traffic, within*sharedMachine+4*time.Second)
	// What was sent just before counts, too: it was under way.
	under := broken.Add(-200 * time.Millisecond)
	to := time.Now().Add(-2 * time.Second) // later ones may be open still
	served, failed := traffic.Count(under, to, lab.Status(http.StatusOK))
	_, elsewhere := traffic.Count(broken, to, func(s lab.Sample) bool { return fromZone("west")(s) && s.Took < 2*time.Second })
	moved, slowest := time.Duration(0), time.Duration(0)
	for _, s := range elsewhere {
		moved = max(moved, s.Sent.Sub(broken))
	}
	for _, s := range traffic.Since(under) {
		slowest = max(slowest, s.Took)
	}
	f.t.Logf("%s (%s to do so): all traffic in the other zone after %s, %d of %d requests failed, the slowest took %s", what,
		broken.Sub(from).Round(time.Millisecond), moved.Round(time.Millisecond), len(failed), served+len(failed), slowest.Round(time.Millisecond))
	f.tell("failover, "+what+": all traffic in the other zone", moved, within)
	requests := budget.Row{What: "failover, " + what + ": requests failed", Got: float64(len(failed))}
	if allowed < anyNumber {
		requests.Most = new(float64(allowed))
	}
	must(f.t, budget.Tell(requests))
	if moved > within*sharedMachine {
		f.t.Errorf("%s: %s until all traffic was in the other zone, the budget is %s × %d", what, moved, within, sharedMachine)
	}
	if len(failed) > allowed*sharedMachine {
		f.report(what, served, failed, allowed*sharedMachine)
	}
	mends()
	mended := time.Now()
	back := f.home(traffic)
	_, lost := traffic.Count(mended, time.Now().Add(-time.Second), lab.Status(http.StatusOK))
	f.t.Logf("%s: back in its own zone %s after it returned, %d requests failed", what, back.Round(time.Millisecond), len(lost))
	if back > backWithin {
		f.t.Errorf("%s: the way back took %s, must be within %s", what, back, backWithin)
	}
	if len(lost) > 0 {
		f.report(what+": the way back", 0, lost, 0)
	}
}
