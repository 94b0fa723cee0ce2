package e2e

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
)

// TestStaged: a change in stages reaches east alone; global is killed in the
// middle, and the zone, and when proxies of east are gone everything is returned. West never
// sees it, and no call fails throughout.
func TestStaged(t *testing.T) {
	f := served(t)
	east, west := f.zones["east"], f.zones["west"]
	_, spare := f.startBackend(east, "default", 1)
	f.connected(east, 4)
	f.apply(timeout(21 * time.Second))
	traffic := east.web.Send(remote, 20)
	from := time.Now()
	limit := func(z *zone, want string) bool {
		out, err := f.tryCLI("", "inspect", "dataplane", "web-"+z.name, "config", "--zone", z.name)
		return err == nil && strings.Contains(out, want)
	}
	f.cli(timeout(29*time.Second), "apply", "-f", "-", "--stages", "east,west", "--pause", "10m", "--abort-on", "gone>0", "--rollout", "slow", "--yes")
	took := f.eventually(60*time.Second, "the first stage has it", func() bool { return limit(east, `"29s"`) })
	t.Logf("in force in the first stage after %s", took.Round(time.Millisecond))

	f.global.Kill()
	f.passes(traffic, time.Second)
	f.startGlobal()
	f.eventually(60*time.Second, "the stage stays where it is", func() bool {
		out, err := f.tryCLI("", "rollout", "status", "slow")
		return err == nil && strings.Contains(out, "running, stage 1 of 2: pause")
	})
	if !limit(east, `"29s"`) || limit(west, `"29s"`) {
		t.Error("after the restart of global east must have it, and west not")
	}

	east.control.Kill() // a zone that restarts has lost nobody
	f.startZone(east)
	back := time.Now()
	f.connected(east, 4)
	f.passes(traffic, 3*time.Second) // the driver looks every second
	if out := f.cli("", "rollout", "status", "slow"); !strings.Contains(out, "running, stage 1 of 2") {
		t.Errorf("after a restart of the zone, %s ago:\n%s", time.Since(back).Round(time.Millisecond), out)
	}

	spare.Kill()
	took = f.eventually(60*time.Second, "it is returned", func() bool {
		out, err := f.tryCLI("", "rollout", "status", "slow")
		return err == nil && strings.Contains(out, "aborted, stage 1 of 2: gone>0")
	})
	took += f.eventually(60*time.Second, "east has back what it had", func() bool { return limit(east, `"21s"`) && !limit(east, `"29s"`) })
	t.Logf("returned %s after a proxy was gone", took.Round(time.Millisecond))
	if limit(west, `"29s"`) {
		t.Error("west has what never came to its stage")
	}
	traffic.Stop()
	good, bad := traffic.Count(from, time.Now(), fromZone("west"))
	f.report("east to west throughout", good, bad, 0)
}

// broken sends the calls of web to a backend that does not exist.
const broken = `type: MeshHTTPRoute
mesh: default
name: broken
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: web}}
  to:
    - targetRef: {kind: MeshService, labels: {kuma.io/display-name: backend, kuma.io/zone: west}}
      rules: [{matches: [{path: {type: PathPrefix, value: /}}], default: {backendRefs: [{kind: MeshService, labels: {kuma.io/display-name: nobody}, port: 8080}]}}]
    - targetRef: {kind: MeshService, labels: {kuma.io/display-name: backend, kuma.io/zone: east}}
      rules: [{matches: [{path: {type: PathPrefix, value: /}}], default: {backendRefs: [{kind: MeshService, labels: {kuma.io/display-name: nobody}, port: 8080}]}}]
`

// TestStagedGuards: a staged change that real Envoys refuse, and one by which calls
// fail, return by themselves. The refused one costs no request; the failing one
// costs those of its stage, until the guard sees it, and the other zone nothing.
func TestStagedGuards(t *testing.T) {
	f := served(t)
	east, west := f.zones["east"], f.zones["west"]
	f.apply(allowWeb("allow-web-west", "west"), routed("[a-z]"))
	f.answers(west.web, remote, http.StatusOK)
	from := time.Now()
	eastern, western, letters := east.web.Send(remote, 20), west.web.Send(remote, 20), east.web.Send(remote+"letters/abc", 20)
	inWest := func(want string) bool {
		out, err := f.tryCLI("", "inspect", "dataplane", "web-west", "config", "--zone", "west")
		return err != nil || strings.Contains(out, want)
	}
	status := func(name, want string) func() bool {
		return func() bool {
			out, err := f.tryCLI("", "rollout", "status", name)
			return err == nil && strings.Contains(out, want)
		}
	}

	out, err := f.tryCLI(routed(`\p{Letter}`), "apply", "-f", "-", "--stages", "east,west", "--pause", "10m", "--abort-on", "rejected>0", "--rollout", "letters", "--yes", "--wait=60s")
	if err == nil || !strings.Contains(out+err.Error(), "aborted: rejected>0: 1 in stage 1 (east)") || !strings.Contains(out+err.Error(), `\p{Letter}`) {
		t.Errorf("a change that Envoy refuses: %v\n%s", err, out)
	}
	t.Logf("apply says:\n%s%v", out, err)
	f.eventually(60*time.Second, "the route is as it was", func() bool {
		got := f.cli("", "get", "meshhttproute", "letters", "-o", "yaml")
		return strings.Contains(got, "[a-z]") && !strings.Contains(got, "problems:") && !strings.Contains(got, `\p{Letter}`)
	})
	if inWest("Letter") {
		t.Error("west has what never came to its stage")
	}
	returned := time.Now()
	f.eventually(60*time.Second, "20 more requests", func() bool { return len(letters.Since(returned)) >= 20 })
	letters.Stop()
	good, bad := letters.Count(from, time.Now(), fromZone("east"))
	f.report("by the route that Envoy refused", good, bad, 0)
	good, bad = eastern.Count(from, returned, fromZone("west"))
	f.report("east to west meanwhile", good, bad, 0)

	f.passes(eastern, time.Second)
	f.cli(broken, "apply", "-f", "-", "--stages", "east,west", "--pause", "30s", "--abort-on", "success<90", "--rollout", "broken", "--yes")
	if !status("broken", "running, before stage 1 of 2: counting calls")() {
		t.Errorf("calls are not counted before the first stage:\n%s", f.cli("", "rollout", "status", "broken"))
	}
	f.cli("", "rollout", "promote", "broken")
	began := time.Now()
	f.eventually(60*time.Second, "calls fail in the first stage", func() bool {
		_, bad := eastern.Count(began, time.Now(), fromZone("west"))
		return len(bad) > 0
	})
	took := f.eventually(60*time.Second, "it is returned", status("broken", "aborted, stage 1 of 2: success<90: "))
	out, _ = f.tryCLI("", "rollout", "status", "broken")
	t.Logf("returned after %s:\n%s", took.Round(time.Millisecond), out)
	if !strings.Contains(out, "calls of backend.west:8080 by web in zone east") {
		t.Errorf("the service must be named:\n%s", out)
	}
	if inWest("broken") {
		t.Error("west has what never came to its stage")
	}
	f.answers(east.web, remote, http.StatusOK)
	healed := time.Now()
	f.eventually(60*time.Second, "20 more requests", func() bool { return len(eastern.Since(healed)) >= 20 })
	western.Stop()
	good, bad = eastern.Count(healed, time.Now(), fromZone("west"))
	f.report("east to west since it is returned", good, bad, 0)
	good, bad = western.Count(from, time.Now(), fromZone("east"))
	f.report("west to east throughout", good, bad, 0)

	// A change that does no harm passes the same guard.
	f.cli(timeout(25*time.Second), "apply", "-f", "-", "--stages", "east,west", "--pause", "10s", "--abort-on", "success<90", "--rollout", "good", "--yes", "--wait=2m")
	eastern.Stop()
}

// failing has every gRPC call to echo fail, inside an answer of 200.
const failing = `type: MeshHTTPRoute
mesh: default
name: failing
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: echo-caller}}
  to:
    - targetRef: {kind: MeshService, labels: {kuma.io/display-name: echo, kuma.io/zone: west}}
      rules:
        - matches: [{path: {type: PathPrefix, value: /}}]
          default:
            filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: ` + failHeader + `, value: "true"}]}}]
`

// TestStagedGRPC: every fifth gRPC call fails before a change comes, with HTTP's 200. A
// change that does nothing to them passes the guard all the same; one by which they
// all fail is returned.
func TestStagedGRPC(t *testing.T) {
	f := newFleet(t)
	east, west := f.zones["east"], f.zones["west"]
	f.startEcho(west, west.backends[1], "default")
	f.startEchoCaller(east, east.stranger, "default")
	var n atomic.Int64
	call, end := dialGRPC(t, east.stranger, grpc.WithUnaryInterceptor(func(ctx context.Context, method string, in, out any, c *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if n.Add(1)%5 == 0 {
			ctx = metadata.AppendToOutgoingContext(ctx, failHeader, "true")
		}
		return invoke(ctx, method, in, out, c, opts...)
	}))
	defer end()
	f.apply(allowEcho)
	f.eventually(60*time.Second, "gRPC answers", func() bool { return call().Status == http.StatusOK })
	calls := lab.Repeat(30, call)
	defer calls.Stop()
	f.passes(calls, time.Second)

	f.cli(timeout(25*time.Second), "apply", "-f", "-", "--stages", "east,west", "--pause", "10s", "--abort-on", "success<90", "--rollout", "good", "--yes", "--wait=3m")

	f.cli(failing, "apply", "-f", "-", "--stages", "east,west", "--pause", "15s", "--abort-on", "success<90", "--rollout", "bad", "--yes")
	f.eventually(90*time.Second, "it is returned", func() bool {
		out, err := f.tryCLI("", "rollout", "status", "bad")
		return err == nil && !strings.Contains(out, ": running")
	})
	out := f.cli("", "rollout", "status", "bad")
	t.Logf("status says:\n%s", out)
	for _, want := range []string{"aborted, stage 1 of 2: success<90: ", "calls of echo.west:9091 by echo-caller, gRPC in zone east; before the first stage "} {
		if !strings.Contains(out, want) {
			t.Errorf("the status does not say %q", want)
		}
	}
	returned := time.Now()
	f.eventually(60*time.Second, "calls are as before", func() bool {
		good, bad := calls.Count(returned, time.Now(), func(s lab.Sample) bool { return s.Status == http.StatusOK })
		return good > len(bad) && good > 20
	})
	if _, bad := calls.Count(returned.Add(-time.Minute), time.Now(), func(s lab.Sample) bool { return s.Err == nil || s.Status == int(codes.Unavailable) }); len(bad) > 0 {
		t.Errorf("%d calls failed otherwise, the first with %v", len(bad), bad[0].Err)
	}
}
