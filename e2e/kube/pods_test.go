package kube

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/kube/kubelab"
)

// contains asks of a command's output that it has texts.
func contains(out string, err error) func(texts ...string) error {
	return func(texts ...string) error {
		if err != nil {
			return err
		}
		for _, text := range texts {
			if !strings.Contains(out, text) {
				return fmt.Errorf("no %q in %.2000s", text, out)
			}
		}
		return nil
	}
}

// containers of a workload's first pod, init containers first.
func containers(t *testing.T, c *kubelab.Cluster, ns, selector string) string {
	t.Helper()
	out, err := c.Kubectl(t.Context(), "", "-n", ns, "get", "pods", "-l", selector, "-o",
		"jsonpath={.items[0].spec.initContainers[*].name} {.items[0].spec.containers[*].name}")
	must(t, err)
	return out
}

// testInjection: who gets a sidecar, who does not, and why.
func testInjection(t *testing.T, f *fleet) {
	const ns = "injection"
	restricted := func(name, label string) string {
		return podManifest(ns, name, "  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}\n",
			"    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}\n", label)
	}
	must(t, f.east.Apply(t.Context(), strings.Replace(namespace(ns, true), "labels: {", "labels: {pod-security.kubernetes.io/enforce: restricted, ", 1),
		restricted("restricted", ""),
		restricted("optedout", "tombolo.io/sidecar-injection: disabled"),
		strings.Replace(restricted("gateway", ""), "labels: {", "annotations: {tombolo.io/gateway: enabled}, labels: {", 1),
	))
	_, err := f.east.Kubectl(t.Context(), "", "-n", ns, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=300s")
	must(t, err)
	if got := containers(t, f.east, ns, "app=restricted"); !strings.Contains(got, "tombolo-sidecar") || strings.Contains(got, "tombolo-init") {
		t.Errorf("a pod of a namespace with the restricted Pod Security level and the CNI plugin has %s", got)
	}
	if got := containers(t, f.east, ns, "app=gateway"); !strings.Contains(got, "tombolo-validation") {
		t.Errorf("a pod that takes traffic from outside by itself has %s", got)
	}
	if got := containers(t, f.east, ns, "app=optedout"); strings.TrimSpace(got) != "app" {
		t.Errorf("a pod that opted out has %s", got)
	}
	// hostNetwork is left alone, with an event that says why.
	must(t, f.east.Apply(t.Context(), podManifest(demo, "hostnet", "  hostNetwork: true\n", "", "")))
	_, err = f.east.Kubectl(t.Context(), "", "-n", demo, "wait", "--for=condition=Ready", "pod/hostnet", "--timeout=300s")
	must(t, err)
	if got := containers(t, f.east, demo, "app=hostnet"); strings.TrimSpace(got) != "app" {
		t.Errorf("a pod of the host's network has %s", got)
	}
	eventually(t, 120*time.Second, "an event says why", func() error {
		return contains(f.east.Kubectl(t.Context(), "", "-n", demo, "get", "events", "--field-selector", "involvedObject.name=hostnet"))("hostNetwork")
	})
	_, err = f.east.Kubectl(t.Context(), "", "-n", demo, "delete", "pod", "hostnet", "--wait=false")
	must(t, err)
	_, err = f.east.Kubectl(t.Context(), "", "delete", "namespace", ns, "--wait=false")
	must(t, err)
}

// podManifest is a pod of echo that serves HTTP on 18080, so that it can live on the
// host's network; spec and container are lines of YAML more.
func podManifest(ns, name, spec, container, label string) string {
	if label != "" {
		label = ", " + label
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {app: %s%s}}
spec:
%s  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: local/echo:dev
    imagePullPolicy: Never
    args: [serve, --http, ":18080", --grpc, ":18081", --tcp, ":18082", --linger, 0s, --control, "127.0.0.1:18083"]
    readinessProbe: {httpGet: {path: /, port: 18080}, periodSeconds: 1}
%s`, name, ns, name, label, spec, container)
}

// testJob: a Job's pod calls through its sidecar and ends when the application does.
func testJob(t *testing.T, f *fleet) {
	must(t, f.east.Apply(t.Context(), `apiVersion: batch/v1
kind: Job
metadata: {name: caller, namespace: demo}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      serviceAccountName: web
      containers:
      - {name: app, image: "local/echo:dev", imagePullPolicy: Never, args: [job, "`+local+`", "`+westName+`", "`+vmsName+`"]}
`))
	began := time.Now()
	_, err := f.east.Kubectl(t.Context(), "", "-n", demo, "wait", "--for=condition=complete", "job/caller", "--timeout=300s")
	if err != nil {
		logs, logErr := f.east.Kubectl(t.Context(), "", "-n", demo, "logs", "job/caller", "--all-containers", "--tail=50")
		t.Fatalf("%v: %s", errors.Join(err, logErr), logs)
	}
	t.Logf("the Job completed after %s", since(began))
	_, err = f.east.Kubectl(t.Context(), "", "-n", demo, "delete", "job", "caller", "--wait=false")
	must(t, err)
}

// testInitContainer: the sidecar starts before the pod's own init containers, so
// that these call through it.
func testInitContainer(t *testing.T, f *fleet) {
	f.both(t, func(c *kubelab.Cluster) error {
		return c.Apply(t.Context(), `apiVersion: v1
kind: Pod
metadata: {name: initial, namespace: demo, labels: {app: initial}}
spec:
  serviceAccountName: web
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: first, image: "local/echo:dev", imagePullPolicy: Never, args: [job, "`+local+`", "http://backend.plain"]}
  containers:
  - {name: app, image: "local/echo:dev", imagePullPolicy: Never, args: [serve, --linger, 0s]}
`)
	})
	for _, c := range f.lab.Clusters {
		_, err := c.Kubectl(t.Context(), "", "-n", demo, "wait", "--for=condition=Ready", "pod/initial", "--timeout=300s")
		must(t, err)
		must(t, contains(c.Kubectl(t.Context(), "", "-n", demo, "logs", "initial", "-c", "first"))(identity(c.Name, demo, "web")))
		_, err = c.Kubectl(t.Context(), "", "-n", demo, "delete", "pod", "initial", "--wait=false")
		must(t, err)
	}
}

// testInitMode: east's pods are redirected by the CNI plugin, west's by an init
// container; everything else in this suite does not know the difference.
func testInitMode(t *testing.T, f *fleet) {
	if got := containers(t, f.east, demo, "app=web"); strings.Contains(got, "tombolo-init") || !strings.Contains(got, "tombolo-sidecar") {
		t.Errorf("in the cluster with the CNI plugin, a pod has %s", got)
	}
	if got := containers(t, f.west, demo, "app=web"); !strings.Contains(got, "tombolo-init") {
		t.Errorf("in the cluster without the CNI plugin, a pod has %s", got)
	}
}

// testStatefulSet: instances are called by their own names from the other cluster.
func testStatefulSet(t *testing.T, f *fleet) {
	must(t, f.west.Apply(t.Context(), app{name: "db", namespace: demo, zone: "west", kind: "StatefulSet", replicas: 2}.manifest(),
		allow("allow-db", demo, "db", webs()...)))
	ready(t, f.west, demo, "statefulset/db")
	for _, c := range f.lab.Clusters {
		for _, instance := range []string{"db-0", "db-1"} {
			s := from(c, demo, "deployment/web").gets(t, "http://"+instance+".db.demo.svc.west.mesh.local", "200")
			if s.Reply.Instance != instance || s.Reply.Caller != identity(c.Name, demo, "web") {
				t.Errorf("%s was answered by %+v", instance, s.Reply)
			}
		}
	}
	must(t, contains(f.west.Kubectl(t.Context(), "", "-n", demo, "exec", "deployment/web", "-c", "app", "--", "/usr/local/bin/echo", "get", "http://db-1.db.demo.svc.cluster.local"))(`"Instance":"db-1"`))
}
