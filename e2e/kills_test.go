package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
)

const (
	// zoneAway is how long a zone's control plane is away in TestKills.
	zoneAway = 15 * time.Second
	// zoneBack is the budget in which its proxies are to be configured again; what
	// was measured is printed, the tests fail when it is missed by far (sharedMachine).
	zoneBack = 2 * time.Second
)

// timeout are policies that concern every sidecar; each limit is a change. By
// their names they go before the defaults of the mesh.
func timeout(limit time.Duration) string {
	return fmt.Sprintf(`type: MeshTimeout
mesh: default
name: a-probe
spec:
  targetRef: {kind: Mesh}
  to:
    - targetRef: {kind: Mesh}
      default: {http: {requestTimeout: %s}}
---
type: MeshTimeout
mesh: default
name: a-probe-inbound
spec:
  targetRef: {kind: Mesh}
  rules:
    - default: {http: {requestTimeout: %s}}
`, limit, limit)
}

// acknowledge writes without waiting for proxies: what must not get lost.
func (f *fleet) acknowledge(limit time.Duration) {
	f.t.Helper()
	f.cli(timeout(limit), "apply", "-f", "-")
}

// kept asserts that the last acknowledged write is there.
func (f *fleet) kept(limit time.Duration) {
	f.t.Helper()
	if out := f.cli("", "get", "meshtimeout", "a-probe", "-o", "yaml"); !strings.Contains(out, limit.String()) {
		f.t.Errorf("an acknowledged write (%s) is lost; global has\n%s", limit, out)
	}
}

// everywhereNow waits until every proxy of every zone has all that global has.
func (f *fleet) everywhereNow(patience time.Duration) time.Duration {
	f.t.Helper()
	return f.eventually(patience, "every proxy has what global has", func() bool {
		out, err := f.tryCLI("", "get", "changes", "--facts", "--limit", "1", "-o", "json")
		if err != nil {
			return false
		}
		rev, err := newest(out)
		if err != nil {
			return false
		}
		_, err = f.tryCLI("", "wait", rev, "--timeout=1s")
		return err == nil
	})
}

// TestKills is (c): SIGKILL for global, for west's control plane (away for 15 s),
// for the Envoy of west's ingress and for PostgreSQL, one after the other.
func TestKills(t *testing.T) {
	f := served(t)
	check := f.denied()
	east, west := f.zones["east"], f.zones["west"]
	traffic := east.web.Send(remote, 20)
	calm := time.Now() // since then nothing may fail
	passes := func(what string) {
		t.Helper()
		good, bad := traffic.Count(calm, time.Now(), fromZone("west"))
		f.report("east to west while "+what, good, bad, 0)
		calm = time.Now()
	}

	f.acknowledge(21 * time.Second)
	f.global.Kill()
	if _, err := f.tryCLI(timeout(time.Second), "apply", "-f", "-"); err == nil {
		t.Error("a write was acknowledged while global was dead")
	}
	f.passes(traffic, 3*time.Second)
	back := time.Now()
	f.startGlobal()
	f.kept(21 * time.Second)
	f.everywhereNow(60 * time.Second)
	t.Logf("global killed: back with both zones %s after its start", since(back))
	passes("global is killed")

	west.control.Kill()
	killed := time.Now()
	f.acknowledge(22 * time.Second)
	f.passes(traffic, zoneAway)
	f.startZone(west)
	back = time.Now()
	for _, name := range []string{"web-west", backendName(west, 0)} {
		f.eventually(60*time.Second, "the change reaches the Envoy of "+name, func() bool {
			out, err := f.tryCLI("", "inspect", "dataplane", name, "config", "--zone", "west")
			return err == nil && strings.Contains(out, `"22s"`)
		})
	}
	took := time.Since(back)
	f.connected(west, 3)
	f.everywhereNow(60 * time.Second)
	t.Logf("west's control plane away for %s: its Envoys are back, with the change made meanwhile, after %s", back.Sub(killed).Round(time.Millisecond), took.Round(time.Millisecond))
	if took > zoneBack*sharedMachine {
		t.Errorf("west's Envoys were back after %s, the budget is %s × %d", took, zoneBack, sharedMachine)
	}
	f.kept(22 * time.Second)
	passes("west's control plane is away")

	took, failed := f.killIngress(west, traffic)
	t.Logf("Envoy of west's ingress killed, agent started again: %d requests failed, recovered after %s", failed, took.Round(time.Millisecond))
	calm = time.Now()

	f.acknowledge(23 * time.Second)
	must(t, f.db.Kill())
	killed = time.Now()
	if out, err := f.tryCLI(timeout(time.Second), "apply", "-f", "-"); err == nil {
		t.Errorf("a write was acknowledged while PostgreSQL was dead: %s", out)
	}
	f.passes(traffic, 3*time.Second)
	must(t, f.db.Restart(t.Context()))
	back = time.Now()
	f.eventually(60*time.Second, "global writes again", func() bool {
		_, err := f.tryCLI(allowWeb("allow-more", "east"), "apply", "-f", "-", "--wait=30s", "--yes")
		return err == nil
	})
	t.Logf("PostgreSQL killed and away for %s: global writes again after %s", back.Sub(killed).Round(time.Millisecond), since(back))
	f.kept(23 * time.Second)
	passes("PostgreSQL is killed")

	traffic.Stop()
	check()
}

func since(t time.Time) time.Duration { return time.Since(t).Round(time.Millisecond) }

// passes lets traffic run for a while.
func (f *fleet) passes(traffic *lab.Traffic, d time.Duration) {
	f.t.Helper()
	from := time.Now()
	f.eventually(d+60*time.Second, "traffic runs", func() bool { return time.Since(from) >= d && len(traffic.Since(from)) > 0 })
}

// connected waits until a zone's control plane counts so many proxies.
func (f *fleet) connected(z *zone, proxies int) {
	f.t.Helper()
	f.metric(z, fmt.Sprintf(`tombolo_zone_proxies{state="present"} %d`, proxies))
}

// metric waits until a zone's control plane shows a line among its metrics.
func (f *fleet) metric(z *zone, want string) {
	f.t.Helper()
	client := z.cp.Client(10 * time.Second)
	f.eventually(60*time.Second, want+" in "+z.name, func() bool {
		resp, err := client.Get("http://" + z.cp.IP + ":5680/metrics")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return contains(resp.Body, want+"\n")
	})
}

// killIngress kills the Envoy of a zone's ingress; its agent must say so and end.
// It is started again at once, as systemd does.
func (f *fleet) killIngress(z *zone, traffic *lab.Traffic) (took time.Duration, failed int) {
	f.t.Helper()
	agent := f.procs["ingress-"+z.name]
	envoy, err := agent.ChildPID(envoyProgram(f.t, f.envoy))
	must(f.t, err)
	process, err := os.FindProcess(envoy)
	must(f.t, err)
	must(f.t, process.Kill())
	killed := time.Now()
	f.eventually(60*time.Second, "the agent ends with its Envoy", func() bool { return !agent.Alive() })
	if log := tail(agent.Log); !strings.Contains(log, "envoy was killed by signal 9") {
		f.t.Errorf("the agent does not name Envoy's fate; its log:\n%s", log)
	}
	f.startGateway(z, "default")
	// Recovered: for a second every request passes.
	ok := fromZone(z.name)
	f.eventually(60*time.Second, "the ingress carries traffic again", func() bool {
		took, failed = traffic.Recovery(killed, ok)
		return time.Since(killed) > took+time.Second && time.Since(killed) > 2*time.Second
	})
	return took, failed
}

// TestZoneAlone is (d): while global is away, west's control plane is restarted, a
// new sidecar starts, and one that was there is restarted.
func TestZoneAlone(t *testing.T) {
	f := served(t)
	check := f.plainText()
	east, west := f.zones["east"], f.zones["west"]
	f.apply(allowWeb("allow-web", "east", "west"))
	f.answers(west.web, all, http.StatusOK)
	from := time.Now()
	crossing, local := east.web.Send(remote, 20), west.web.Send(all, 20)

	f.global.Kill()
	west.control.Kill()
	restarted := time.Now()
	f.startZone(west)
	f.connected(west, 3)
	t.Logf("west's control plane has its proxies back %s after it was killed, without global", since(restarted))

	f.startBackend(west, "default", 1)
	f.instance(east.web, remoteTCP, backendName(west, 1))
	f.instance(west.web, all, backendName(west, 1))
	// The first server's sidecar goes in order and comes again: what it serves it
	// has from west's control plane, which has it from its disk alone.
	must(t, f.procs[backendName(west, 0)].Stop(40*time.Second))
	f.startBackendAgent(west, "default", 0)
	f.instance(east.web, remoteTCP, backendName(west, 0))
	s := f.answers(west.web, all, http.StatusOK)
	if r := replyOf(s); r.Self != "spiffe://default.west.mesh.local/workload/backend" || r.Caller != "spiffe://default.west.mesh.local/workload/web" {
		t.Errorf("the identities in the restarted zone are %+v", r)
	}
	f.passes(crossing, 2*time.Second)
	f.startGlobal()
	f.everywhereNow(60 * time.Second)
	f.passes(crossing, time.Second)
	crossing.Stop()
	local.Stop()
	good, bad := crossing.Count(from, time.Now(), fromZone("west"))
	f.report("east to west throughout", good, bad, 0)
	good, bad = local.Count(from, time.Now(), fromZone("west"))
	f.report("west to west throughout", good, bad, 0)
	check()
}
