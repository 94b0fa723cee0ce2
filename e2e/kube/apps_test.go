package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/kube/calls"
	"github.com/tombolo-mesh/tombolo/e2e/kube/kubelab"
)

// app is a workload: an echo with a Service of its name, and an identity of its own.
type app struct {
	name, namespace, zone string
	kind                  string // Deployment by default, or StatefulSet (headless)
	replicas              int    // 1 by default
	annotations           string // of the pods, as JSON
	pod                   string // more of the pod's spec, as lines of YAML
}

// manifest of the app.
func (a app) manifest() string {
	if a.kind == "" {
		a.kind = "Deployment"
	}
	headless, serviceName := "", ""
	if a.kind == "StatefulSet" {
		headless, serviceName = "  clusterIP: None\n", "  serviceName: "+a.name+"\n"
	}
	if a.annotations == "" {
		a.annotations = "{}"
	}
	return fmt.Sprintf(`apiVersion: v1
kind: ServiceAccount
metadata: {name: %[1]s, namespace: %[2]s}
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: %[2]s}
spec:
%[7]s  selector: {app: %[1]s}
  ports:
  - {name: http, port: 80, targetPort: 8080, appProtocol: http}
  - {name: grpc, port: 9090, appProtocol: grpc}
  - {name: tcp, port: 7070, appProtocol: tcp}
---
apiVersion: apps/v1
kind: %[4]s
metadata: {name: %[1]s, namespace: %[2]s}
spec:
%[8]s  replicas: %[5]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}, annotations: %[6]s}
    spec:
      serviceAccountName: %[1]s
      terminationGracePeriodSeconds: 20
      containers:
      - name: app
        image: local/echo:dev
        imagePullPolicy: Never
        args: [serve, --service, %[1]s, --zone, %[3]s]
        ports: [{containerPort: 8080}, {containerPort: 9090}, {containerPort: 7070}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, timeoutSeconds: 5}
%[9]s`, a.name, a.namespace, a.zone, a.kind, max(a.replicas, 1), a.annotations, headless, serviceName, a.pod)
}

// namespace with or without injection.
func namespace(name string, injected bool) string {
	state := "disabled"
	if injected {
		state = "enabled"
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {tombolo.io/sidecar-injection: %s}}\n", name, state)
}

// ready waits until workloads ("deployment/web") are rolled out.
func ready(t *testing.T, c *kubelab.Cluster, ns string, workloads ...string) {
	t.Helper()
	for _, w := range workloads {
		_, err := c.Kubectl(t.Context(), "", "-n", ns, "rollout", "status", w, "--timeout=300s")
		must(t, err)
	}
}

// caller is where calls start: a pod's application, or a virtual machine's.
type caller struct {
	name string
	echo func(ctx context.Context, args ...string) (string, error)
}

// from is a pod's application: workload as in "deployment/web".
func from(c *kubelab.Cluster, ns, workload string) caller {
	return caller{c.Name + "/" + ns + "/" + workload, func(ctx context.Context, args ...string) (string, error) {
		return c.Exec(ctx, ns, workload, "app", append([]string{"/usr/local/bin/echo"}, args...)...)
	}}
}

// fromVM is web of the VM zone.
func (f *fleet) fromVM() caller {
	return caller{"vms/web", func(ctx context.Context, args ...string) (string, error) {
		return f.vms.web.RunContext(ctx, nil, "", filepath.Join(f.images, "echo"), args...)
	}}
}

// get makes one call.
func (c caller) get(ctx context.Context, url string) (calls.Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var s calls.Sample
	out, err := c.echo(ctx, "get", url)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(out), &s)
}

// gets waits until a call has the outcome ("200", "403", "error"), three times in
// a row.
func (c caller) gets(t *testing.T, url, outcome string) calls.Sample {
	t.Helper()
	var s calls.Sample
	row := 0
	eventually(t, 120*time.Second, fmt.Sprintf("%s calls %s: %s", c.name, url, outcome), func() error {
		for row < 3 {
			var err error
			if s, err = c.get(t.Context(), url); err != nil {
				row = 0
				return err
			}
			if s.Outcome != outcome {
				row = 0
				return fmt.Errorf("got %s %.200s", s.Outcome, s.Err)
			}
			row++
		}
		return nil
	})
	return s
}

// flow is traffic that runs from a caller.
type flow struct {
	caller
	id, url string
	began   time.Time
}

// send starts calls at 20 a second, until the test ends.
func (c caller) send(t *testing.T, url string) *flow {
	t.Helper()
	return c.sendAt(t, url, 20)
}

// sendAt is send at another rate a second.
func (c caller) sendAt(t *testing.T, url string, rate int) *flow {
	t.Helper()
	f := &flow{c, strings.ReplaceAll(t.Name(), "/", "_") + "_" + url, url, time.Now()}
	_, err := c.echo(t.Context(), "send", f.id, url, fmt.Sprint(rate))
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if _, err := c.echo(ctx, "stop", f.id); err != nil {
			t.Logf("stop the traffic of %s: %v", c.name, err)
		}
	})
	return f
}

// between counts the calls sent in a time; zero times are its begin and now.
func (f *flow) between(t *testing.T, since, until time.Time) calls.Report {
	t.Helper()
	if since.IsZero() {
		since = f.began
	}
	if until.IsZero() {
		until = time.Now().Add(-time.Second) // the last ones are under way
	}
	out, err := f.echo(t.Context(), "report", f.id, fmt.Sprint(since.UnixNano()), fmt.Sprint(until.UnixNano()))
	must(t, err)
	var r calls.Report
	must(t, json.Unmarshal([]byte(out), &r))
	return r
}

// all asserts that every call since the beginning had the outcome, but for some
// that are allowed to fail, and that there were calls at all.
func (f *flow) all(t *testing.T, outcome string, allowed int) calls.Report {
	t.Helper()
	passes(t, 2*time.Second)
	return f.during(t, time.Time{}, time.Time{}, outcome, allowed)
}

// during is all for the calls sent in a time.
func (f *flow) during(t *testing.T, since, until time.Time, outcome string, allowed int) calls.Report {
	t.Helper()
	r := f.between(t, since, until)
	failed := r.Total - r.Outcomes[outcome]
	t.Logf("%s → %s: %d calls, %v, slowest %s", f.name, f.url, r.Total, r.Outcomes, r.Slowest.Round(time.Millisecond))
	if r.Total == 0 || failed > allowed {
		for _, s := range r.Bad {
			if s.Outcome != outcome {
				t.Logf("  at %s: %s after %s, %.200s", s.Sent.Format("15:04:05.000"), s.Outcome, s.Took.Round(time.Millisecond), s.Err)
			}
		}
		t.Errorf("%s → %s: %d of %d are not %s, %d are allowed; first at %s, last at %s", f.name, f.url, failed, r.Total, outcome, allowed,
			r.FirstBad.Format("15:04:05.000"), r.LastBad.Format("15:04:05.000"))
	}
	return r
}
