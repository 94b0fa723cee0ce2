package kube

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// testEarlyPod: a pod that starts on a node while the CNI plugin is not chained
// there runs nothing of its application, says why, and is replaced once the plugin
// is back. Pods that run notice nothing.
func testEarlyPod(t *testing.T, f *fleet) {
	flow := from(f.east, demo, "deployment/web").send(t, local)
	elsewhere := func(ctx context.Context, node string) error {
		_, err := f.east.Kubectl(ctx, "", "-n", system, "patch", "daemonset", "tombolo-cni", "--type=merge", "-p",
			`{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":`+node+`}}}}}`)
		return err
	}
	back := func(ctx context.Context) error {
		if err := elsewhere(ctx, "null"); err != nil {
			return err
		}
		_, err := f.east.Kubectl(ctx, "", "-n", system, "rollout", "status", "daemonset/tombolo-cni", "--timeout=300s")
		return err
	}
	t.Cleanup(func() { // whatever happens: the others need it
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := back(ctx); err != nil {
			t.Error(err)
		}
	})
	must(t, elsewhere(t.Context(), `"nowhere"`))
	eventually(t, 120*time.Second, "the daemon is gone", func() error {
		out, err := f.east.Kubectl(t.Context(), "", "-n", system, "get", "pods", "-o", "name")
		if err == nil && strings.Contains(out, "tombolo-cni") {
			err = errors.New(out)
		}
		return err
	})
	// The daemon left the plugin, since its DaemonSet is there: it goes by hand.
	_, err := f.east.Node(t.Context(), "/opt/cni/bin/tombolo-cni", "cni", "uninstall", "--net-dir", "/etc/cni/net.d", "--bin-dir", "/opt/cni/bin")
	must(t, err)
	must(t, f.east.Apply(t.Context(), app{name: "early", namespace: demo, zone: "east"}.manifest(), allow("allow-early", demo, "early", webs()...)))
	pod := func(path string) (string, error) {
		return f.east.Kubectl(t.Context(), "", "-n", demo, "get", "pods", "-l", "app=early", "-o", "jsonpath="+path)
	}
	eventually(t, 120*time.Second, "the sidecar says that nothing is redirected", func() error {
		return contains(pod("{.items[0].status.initContainerStatuses}"))(`"exitCode":79`, "traffic is not redirected")
	})
	early, err := pod("{.items[0].metadata.name}")
	must(t, err)
	if out, err := pod("{.items[0].status.containerStatuses[0].state} {.items[0].status.phase}"); err != nil || !strings.Contains(out, "PodInitializing") || !strings.Contains(out, "Pending") {
		t.Errorf("the application of a pod without redirect is %s: %v", out, err)
	}
	must(t, back(t.Context()))
	began := time.Now()
	ready(t, f.east, demo, "deployment/early")
	t.Logf("the pod that came too early was replaced and ran %s after the plugin was back", since(began))
	from(f.east, demo, "deployment/web").gets(t, "http://early.demo", "200")
	must(t, contains(f.east.Kubectl(t.Context(), "", "-n", demo, "get", "events", "--field-selector", "involvedObject.name="+early))("Replaced"))
	flow.all(t, "200", 0)
	_, err = f.east.Kubectl(t.Context(), "", "-n", demo, "delete", "deployment/early", "service/early", "meshtrafficpermission/allow-early", "--wait=false")
	must(t, err)
}
