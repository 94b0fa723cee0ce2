package kube

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/kube/kubelab"
)

// long is how long an outage lasts: what operators see with E2E_LONG=1, else as
// long as it takes to notice.
func long(operators, notice time.Duration) time.Duration {
	if os.Getenv("E2E_LONG") != "" {
		return operators
	}
	return notice
}

// busy is the traffic that must not notice a fault: within both clusters, between
// them, and from the virtual machines.
func (f *fleet) busy(t *testing.T) []*flow {
	t.Helper()
	eastWeb, westWeb := from(f.east, demo, "deployment/web"), from(f.west, demo, "deployment/web")
	flows := []*flow{}
	for _, c := range []struct {
		from caller
		url  string
	}{{eastWeb, local}, {eastWeb, westName}, {westWeb, local}, {westWeb, eastName}, {f.fromVM(), "http://127.0.0.1:" + vmsToEast}} {
		c.from.gets(t, c.url, "200")
		flows = append(flows, c.from.send(t, c.url))
	}
	return flows
}

// scale sets a Deployment's replicas.
func scale(t *testing.T, c *kubelab.Cluster, ns, deployment string, replicas int) {
	t.Helper()
	_, err := c.Kubectl(t.Context(), "", "-n", ns, "scale", "deployment", deployment, fmt.Sprintf("--replicas=%d", replicas))
	must(t, err)
}

// testRollingRestart: a server's Deployment is restarted twice, and no call fails,
// from its cluster, from the other one, and from the virtual machines.
func testRollingRestart(t *testing.T, f *fleet) {
	must(t, f.east.Apply(t.Context(), app{name: "rolling", namespace: demo, zone: "east", replicas: 2}.manifest(), allow("allow-rolling", demo, "rolling", webs()...)))
	ready(t, f.east, demo, "deployment/rolling")
	var flows []*flow
	for _, c := range []struct {
		from caller
		url  string
	}{
		{from(f.east, demo, "deployment/web"), "http://rolling.demo"},
		{from(f.east, demo, "deployment/web"), "grpc://rolling.demo:9090"},
		{from(f.west, demo, "deployment/web"), "http://rolling.demo.svc.east.mesh.local"},
	} {
		c.from.gets(t, c.url, "200")
		flows = append(flows, c.from.send(t, c.url))
	}
	for range 2 {
		_, err := f.east.Kubectl(t.Context(), "", "-n", demo, "rollout", "restart", "deployment/rolling")
		must(t, err)
		ready(t, f.east, demo, "deployment/rolling")
		passes(t, 8*time.Second) // the old pods linger and end
	}
	for _, fl := range flows {
		if r := fl.all(t, "200", 0); len(r.From) < 3 { // a connection through an ingress stays with an instance
			t.Errorf("%s → %s: answered by %v, not by three generations", fl.name, fl.url, r.From)
		}
	}
}

// testGlobalGone: without global, what runs goes on, pods start, and policies by
// kubectl act within the cluster; when it is back, zones hear of what changed.
func testGlobalGone(t *testing.T, f *fleet) {
	flows := f.busy(t)
	f.global.Kill()
	gone := time.Now()
	must(t, f.east.Apply(t.Context(), app{name: "alone", namespace: demo, zone: "east"}.manifest()))
	ready(t, f.east, demo, "deployment/alone")
	web := from(f.east, demo, "deployment/web")
	web.gets(t, "http://alone.demo", "403")
	must(t, f.east.Apply(t.Context(), allow("allow-alone", demo, "alone", webs()...)))
	web.gets(t, "http://alone.demo", "200")
	passes(t, time.Until(gone.Add(long(5*time.Minute, 30*time.Second))))
	f.startGlobal(t)
	back := time.Now()
	from(f.west, demo, "deployment/web").gets(t, "http://alone.demo.svc.east.mesh.local", "200")
	t.Logf("global was gone for %s; a service made meanwhile in east was called from west %s after it came back", back.Sub(gone).Round(time.Second), since(back))
	for _, fl := range flows {
		fl.all(t, "200", 0)
	}
	_, err := f.east.Kubectl(t.Context(), "", "-n", demo, "delete", "deployment/alone", "service/alone", "meshtrafficpermission/allow-alone", "--wait=false")
	must(t, err)
}

// testIngressKilled: of two instances of west's ingress one is deleted in order,
// which nobody notices, and one is killed, which costs the calls that were in it.
func testIngressKilled(t *testing.T, f *fleet) {
	web := from(f.east, demo, "deployment/web")
	web.gets(t, westName, "200")
	const ingress = "deployment/tombolo-ingress-default"
	names := func() []string {
		out, err := f.west.Kubectl(t.Context(), "", "-n", system, "get", "pods", "-l", "app.kubernetes.io/name=tombolo-ingress-default", "-o", "name")
		must(t, err)
		return strings.Fields(out)
	}
	if got := names(); len(got) != 2 {
		t.Fatalf("instances of the ingress: %v", got)
	}
	t.Run("deleted", func(t *testing.T) {
		traffic := web.send(t, westName)
		_, err := f.west.Kubectl(t.Context(), "", "-n", system, "delete", names()[0])
		must(t, err)
		ready(t, f.west, system, ingress)
		traffic.all(t, "200", 0)
	})
	t.Run("killed", func(t *testing.T) {
		traffic := web.send(t, westName)
		passes(t, 2*time.Second)
		killed := time.Now()
		_, err := f.west.Kubectl(t.Context(), "", "-n", system, "delete", names()[0], "--grace-period=0", "--force")
		must(t, err)
		ready(t, f.west, system, ingress)
		passes(t, 10*time.Second)
		r := traffic.during(t, killed, time.Time{}, "200", 100)
		if !r.LastBad.IsZero() {
			t.Logf("the last call failed %s after the kill", r.LastBad.Sub(killed).Round(time.Millisecond))
			if r.LastBad.Sub(killed) > 8*time.Second {
				t.Errorf("calls failed for %s", r.LastBad.Sub(killed))
			}
		}
	})
}

// testZoneUpgrade: the control planes of both zones are rolled over. Nobody notices.
func testZoneUpgrade(t *testing.T, f *fleet) {
	flows := f.busy(t)
	f.both(t, func(c *kubelab.Cluster) error {
		_, err := c.Kubectl(t.Context(), "", "-n", system, "rollout", "restart", "deployment/tombolo-zone")
		return err
	})
	for _, c := range f.lab.Clusters {
		ready(t, c, system, "deployment/tombolo-zone")
	}
	f.changes(t)
	for _, fl := range flows {
		fl.all(t, "200", 0)
	}
}

// changes asserts that zones are not only there but work: an endpoint appears, is
// called, and goes again.
func (f *fleet) changes(t *testing.T) {
	t.Helper()
	name := "changes-" + strings.ToLower(t.Name()[strings.LastIndex(t.Name(), "/")+1:])
	must(t, f.east.Apply(t.Context(), app{name: name, namespace: demo, zone: "east"}.manifest(), allow("allow-"+name, demo, name, webs()...)))
	ready(t, f.east, demo, "deployment/"+name)
	from(f.east, demo, "deployment/web").gets(t, "http://"+name+".demo", "200")
	from(f.west, demo, "deployment/web").gets(t, "http://"+name+".demo.svc.east.mesh.local", "200")
	_, err := f.east.Kubectl(t.Context(), "", "-n", demo, "delete", "deployment/"+name, "service/"+name, "meshtrafficpermission/allow-"+name, "--wait=false")
	must(t, err)
}

// testZoneDown: without the control plane of east, running pods go on. New pods of
// namespaces with injection are refused until it is back, and start then by
// themselves; pods of others start.
func testZoneDown(t *testing.T, f *fleet) {
	flows := f.busy(t)
	before, err := f.east.Kubectl(t.Context(), "", "-n", system, "get", "deployment", "tombolo-zone", "-o", "jsonpath={.spec.replicas}")
	must(t, err)
	scale(t, f.east, system, "tombolo-zone", 0)
	up := func(ctx context.Context) error {
		if _, err := f.east.Kubectl(ctx, "", "-n", system, "scale", "deployment", "tombolo-zone", "--replicas="+before); err != nil {
			return err
		}
		_, err := f.east.Kubectl(ctx, "", "-n", system, "rollout", "status", "deployment/tombolo-zone", "--timeout=300s")
		return err
	}
	t.Cleanup(func() { // whatever happens: the others need it
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := up(ctx); err != nil {
			t.Error(err)
		}
	})
	_, err = f.east.Kubectl(t.Context(), "", "-n", system, "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/name=tombolo-zone", "--timeout=300s")
	must(t, err)
	down := time.Now()
	must(t, f.east.Apply(t.Context(), app{name: "late", namespace: demo, zone: "east"}.manifest()))
	must(t, f.east.Apply(t.Context(), app{name: "late", namespace: plain, zone: "east"}.manifest()))
	ready(t, f.east, plain, "deployment/late")
	eventually(t, 120*time.Second, "the pod with injection is refused", func() error {
		return contains(f.east.Kubectl(t.Context(), "", "-n", demo, "get", "events", "--field-selector", "reason=FailedCreate"))("late", "webhook")
	})
	passes(t, time.Until(down.Add(long(5*time.Minute, 20*time.Second))))
	must(t, up(t.Context()))
	back := time.Now()
	ready(t, f.east, demo, "deployment/late")
	t.Logf("the pod that was refused runs %s after the control plane was back", since(back))
	for _, fl := range flows {
		fl.all(t, "200", 0)
	}
	for _, ns := range []string{demo, plain} {
		_, err := f.east.Kubectl(t.Context(), "", "-n", ns, "delete", "deployment/late", "service/late", "--wait=false")
		must(t, err)
	}
}

// testAPIServerRestart: the API server of east is killed and comes back.
func testAPIServerRestart(t *testing.T, f *fleet) {
	flows := f.busy(t)
	killed := time.Now()
	_, err := f.east.Node(t.Context(), "pkill", "-KILL", "-x", "kube-apiserver")
	must(t, err)
	eventually(t, 120*time.Second, "the API server is back", func() error {
		_, err := f.east.Kubectl(t.Context(), "", "get", "--raw", "/readyz")
		return err
	})
	t.Logf("the API server was away for %s", since(killed))
	f.changes(t)
	for _, fl := range flows {
		fl.all(t, "200", 0)
	}
}

// testZoneCut: west is cut off. East goes on by itself, what is called everywhere is
// answered in east; healed, all is as before. Then backend of east goes, and west
// answers for it.
func testZoneCut(t *testing.T, f *fleet) {
	web := from(f.east, demo, "deployment/web")
	web.gets(t, everyName, "200")
	within, everywhere, across := web.send(t, local), web.send(t, everyName), web.send(t, westName)
	westLocal := from(f.west, demo, "deployment/web").send(t, local)
	must(t, f.lab.SetLink(t.Context(), f.west, false))
	cut := time.Now()
	t.Cleanup(func() { f.lab.SetLink(context.Background(), f.west, true) })
	passes(t, long(2*time.Minute, 15*time.Second))
	must(t, f.lab.SetLink(t.Context(), f.west, true))
	healed := time.Now()
	web.gets(t, westName, "200")
	t.Logf("west was cut off for %s and answers %s after the link is back", healed.Sub(cut).Round(time.Second), since(healed))
	within.all(t, "200", 0)
	everywhere.all(t, "200", 0)
	westLocal.all(t, "200", 0)
	passes(t, 3*time.Second)
	across.during(t, time.Now().Add(-3*time.Second), time.Time{}, "200", 0)

	// Failover: zone east has no backend.
	failover := web.send(t, everyName)
	scale(t, f.east, demo, "backend", 0)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := f.east.Kubectl(ctx, "", "-n", demo, "scale", "deployment", "backend", "--replicas=2"); err != nil {
			t.Error(err)
		}
	})
	zone := func(name string) {
		eventually(t, 120*time.Second, "backend answers from "+name, func() error {
			s, err := web.get(t.Context(), everyName)
			if err == nil && s.Reply.Zone != name {
				err = fmt.Errorf("%s: %s from %s", s.Outcome, s.Err, s.Reply.Zone)
			}
			return err
		})
	}
	zone("west")
	scale(t, f.east, demo, "backend", 2)
	ready(t, f.east, demo, "deployment/backend")
	zone("east")
	r := failover.all(t, "200", 0)
	t.Logf("failover and back: answered by %v", r.From)
}
