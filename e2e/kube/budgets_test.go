package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// The budgets of docs/bench.md. What was measured is printed; the suite fails when a
// time is missed by far, since the laboratory shares its cores with everything it
// runs, and memory by more than twice.
const (
	injectionBudget = time.Second
	memoryBudget    = 80 << 20
	changeBudget    = 50 * time.Millisecond
	sharedMachine   = 6
)

// measured is a line of docs/bench.md, in .e2e/kube/bench.md after a run.
func (f *fleet) measured(t *testing.T, what, value, budget string, within bool) {
	t.Helper()
	line := fmt.Sprintf("| %s | %s | %s |\n", what, value, budget)
	t.Log(strings.TrimSpace(line))
	file, err := os.OpenFile(f.path("bench.md"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	must(t, err)
	defer file.Close()
	_, err = file.WriteString(line)
	must(t, err)
	if !within {
		t.Errorf("%s: %s is far beyond the budget of %s", what, value, budget)
	}
}

// testBudgets measures what injection adds to a pod's start, the control plane's
// memory at 100 pods, and how fast a changed endpoint is at the Envoys.
func testBudgets(t *testing.T, f *fleet) {
	t.Run("pod-start", func(t *testing.T) {
		without, with := f.startTimes(t, plain, "timed"), f.startTimes(t, demo, "timed")
		added := median(with) - median(without)
		f.measured(t, "Kubernetes: added to a pod's start by injection (CNI), p50 of 7", fmt.Sprintf("%d ms (%d → %d ms)",
			added.Milliseconds(), median(without).Milliseconds(), median(with).Milliseconds()), "≤ 1 s", added <= sharedMachine*injectionBudget)
	})
	t.Run("endpoint-change", func(t *testing.T) {
		took := f.changeTimes(t)
		f.measured(t, "Kubernetes: endpoint gone, from the API server's event to the last call to it, p50 of 7", fmt.Sprintf("%d ms (worst %d ms)",
			median(took).Milliseconds(), took[len(took)-1].Milliseconds()), "≤ 50 ms", median(took) <= sharedMachine*changeBudget)
	})
	t.Run("memory", func(t *testing.T) { f.memory(t) })
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// startTimes starts pods one after the other and returns how long each took from
// its creation until it was ready, as the watch of kubectl sees it.
func (f *fleet) startTimes(t *testing.T, ns, name string) []time.Duration {
	t.Helper()
	var out []time.Duration
	for i := range 7 {
		pod := fmt.Sprintf("%s-%d", name, i)
		began := time.Now()
		// No readiness probe: its period would be measured.
		must(t, f.east.Apply(t.Context(), strings.Replace(podManifest(ns, pod, "", "", ""),
			"    readinessProbe: {httpGet: {path: /, port: 18080}, periodSeconds: 1}\n", "", 1)))
		_, err := f.east.Kubectl(t.Context(), "", "-n", ns, "wait", "--for=condition=Ready", "pod/"+pod, "--timeout=300s")
		must(t, err)
		out = append(out, time.Since(began))
		_, err = f.east.Kubectl(t.Context(), "", "-n", ns, "delete", "pod", pod, "--wait=false")
		must(t, err)
	}
	return out
}

// changeTimes takes one of two instances out of a Service and puts it in again. It
// returns how long after the API server's event the last call was sent to it.
func (f *fleet) changeTimes(t *testing.T) []time.Duration {
	t.Helper()
	label := func(pod, value string) {
		_, err := f.east.Kubectl(t.Context(), "", "-n", demo, "label", "pod", pod, "serves="+value, "--overwrite")
		must(t, err)
	}
	must(t, f.east.Apply(t.Context(), strings.Replace(app{name: "changing", namespace: demo, zone: "east", replicas: 2}.manifest(),
		"selector: {app: changing}", "selector: {app: changing, serves: in}", 1), allow("allow-changing", demo, "changing", webs()...)))
	ready(t, f.east, demo, "deployment/changing")
	out, err := f.east.Kubectl(t.Context(), "", "-n", demo, "get", "pods", "-l", "app=changing", "-o", "jsonpath={.items[*].metadata.name}")
	must(t, err)
	pods := strings.Fields(out)
	for _, pod := range pods {
		label(pod, "in")
	}
	web := from(f.east, demo, "deployment/web")
	web.gets(t, "http://changing.demo", "200")
	traffic := web.sendAt(t, "http://changing.demo", 200)
	watch, err := f.east.Watch(f.dir, "endpointslices", "-n", demo, "get", "endpointslices", "-l", "kubernetes.io/service-name=changing", "--watch-only", "-o", "name")
	must(t, err)
	defer watch.Kill()
	events := func() int64 {
		info, err := os.Stat(watch.Log)
		must(t, err)
		return info.Size()
	}
	passes(t, 3*time.Second) // the watch has begun
	var took []time.Duration
	for range 7 {
		seen := events()
		done := make(chan time.Time, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		go func() {
			defer close(done)
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for info, err := os.Stat(watch.Log); err == nil; info, err = os.Stat(watch.Log) {
				if info.Size() > seen {
					done <- time.Now()
					return
				}
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		}()
		label(pods[0], "out")
		event, ok := <-done
		cancel()
		if !ok {
			t.Fatal("no event of the API server within a minute")
		}
		passes(t, 2500*time.Millisecond)
		r := traffic.between(t, time.Time{}, time.Time{})
		last := r.Last[pods[0]]
		if last.IsZero() {
			t.Fatalf("%s answered nothing before it was taken out: %v from %v", pods[0], r.Outcomes, r.From)
		}
		took = append(took, max(0, last.Sub(event)))
		label(pods[0], "in")
		eventually(t, 120*time.Second, "the instance answers again", func() error {
			if traffic.between(t, time.Now().Add(-2*time.Second), time.Now()).Last[pods[0]].Before(last.Add(time.Second)) {
				return errors.New("it does not")
			}
			return nil
		})
	}
	// A pod that no Service selects any more goes on serving for a while.
	traffic.all(t, "200", 0)
	_, err = f.east.Kubectl(t.Context(), "", "-n", demo, "delete", "deployment/changing", "service/changing", "meshtrafficpermission/allow-changing", "--wait=false")
	must(t, err)
	return took
}

// memory makes 100 pods of a node that nobody runs, as the API server tells of them:
// the control plane knows them as it knows running ones.
func (f *fleet) memory(t *testing.T) {
	const ns = "hundred"
	// Endpoints are of nodes that exist. This one is ready until it is missed, 40 s later.
	must(t, f.east.Apply(t.Context(), "apiVersion: v1\nkind: Node\nmetadata: {name: nowhere}\nspec: {unschedulable: true}\n", namespace(ns, false),
		strings.SplitN(app{name: "many", namespace: ns, zone: "east"}.manifest(), "\n---\n", 3)[1]))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := f.east.Kubectl(ctx, "", "delete", "namespace/"+ns, "node/nowhere", "--wait=false"); err != nil {
			t.Log(err)
		}
		f.east.Kubectl(ctx, "", "-n", ns, "delete", "pods", "--all", "--grace-period=0", "--force")
	})
	var pods strings.Builder
	for i := range 100 {
		fmt.Fprintf(&pods, `apiVersion: v1
kind: Pod
metadata:
  name: many-%d
  namespace: %s
  labels: {app: many}
  annotations: {tombolo.io/sidecar-injected: "true"}
spec:
  nodeName: nowhere
  containers: [{name: app, image: none, ports: [{containerPort: 8080}]}]
---
`, i, ns)
	}
	must(t, f.east.Apply(t.Context(), pods.String()))
	// One kubectl for all: a process for each would take a minute.
	var status strings.Builder
	for i := range 100 {
		fmt.Fprintf(&status, `apiVersion: v1
kind: Pod
metadata: {name: many-%d, namespace: %s}
status: {phase: Running, podIP: 10.99.0.%[3]d, podIPs: [{ip: 10.99.0.%[3]d}], conditions: [{type: Ready, status: "True"}]}
---
`, i, ns, i+1)
	}
	_, err := f.east.Kubectl(t.Context(), status.String(), "apply", "--server-side", "--subresource=status", "--force-conflicts", "-f", "-")
	must(t, err)
	eventually(t, 120*time.Second, "100 endpoints", func() error {
		out, err := f.east.Kubectl(t.Context(), "", "-n", ns, "get", "endpointslices", "-o", "jsonpath={.items[*].endpoints[*].addresses}")
		if n := strings.Count(out, "10.99."); err == nil && n < 100 {
			err = fmt.Errorf("%d", n)
		}
		return err
	})
	passes(t, 5*time.Second)
	most := 0
	out, err := f.east.Node(t.Context(), "sh", "-c", "for p in $(pgrep -x tombolo); do grep VmRSS /proc/$p/status; done")
	must(t, err)
	for line := range strings.Lines(out) {
		var kb int
		if _, err := fmt.Sscanf(line, "VmRSS: %d", &kb); err == nil {
			most = max(most, kb<<10)
		}
	}
	if most == 0 {
		t.Fatalf("no process of the control plane on the node: %q", out)
	}
	f.measured(t, "Kubernetes: the zone's resident memory at 100 pods", fmt.Sprintf("%.1f MiB", float64(most)/(1<<20)), "≤ 80 MiB", most <= 2*memoryBudget)
}
