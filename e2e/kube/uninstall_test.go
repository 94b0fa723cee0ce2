package kube

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/e2e/kube/kubelab"
)

// nodeFiles are the files of CNI on the nodes, with their digests.
func (f *fleet) nodeFiles(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, c := range f.lab.Clusters {
		list, err := c.Node(t.Context(), "sh", "-c", "find /etc/cni/net.d /opt/cni/bin -type f -exec sha256sum {} +")
		must(t, err)
		for line := range strings.Lines(list) {
			digest, file, _ := strings.Cut(strings.TrimSpace(line), "  ")
			out[c.Name+":"+file] = digest
		}
	}
	return out
}

// testUninstall: after helm uninstall the namespaces' pods, restarted, run without
// the mesh, and nothing of it is left but definitions and policies, which go on
// request.
func testUninstall(t *testing.T, f *fleet) {
	f.both(t, func(c *kubelab.Cluster) error {
		_, err := c.Helm(t.Context(), f.helm, "uninstall", release, "-n", system, "--wait", "--timeout", "3m")
		return err
	})
	for _, c := range f.lab.Clusters {
		_, err := c.Kubectl(t.Context(), "", "-n", demo, "rollout", "restart", "deployment/web", "deployment/backend")
		must(t, err)
		ready(t, c, demo, "deployment/web", "deployment/backend")
		if s := from(c, demo, "deployment/web").gets(t, local, "200"); s.Reply.Caller != "" {
			t.Errorf("after the uninstall the caller is %s", s.Reply.Caller)
		}
	}
	f.gone(t)
}

// gone asserts that the clusters are as they were before Tombolo was installed.
func (f *fleet) gone(t *testing.T) {
	t.Helper()
	t.Run("nothing-left", func(t *testing.T) {
		for _, c := range f.lab.Clusters {
			_, err := c.Kubectl(t.Context(), "", "delete", "namespace", system, demo, plain, "permission", "--ignore-not-found", "--timeout=300s")
			must(t, err)
			kinds, err := c.Kubectl(t.Context(), "", "api-resources", "--verbs=list", "-o", "name")
			must(t, err)
			definitions := 0
			for _, kind := range strings.Fields(kinds) {
				if strings.HasPrefix(kind, "events") || strings.HasPrefix(kind, "apiservices") {
					continue // these expire, those are the API server's of definitions
				}
				out, err := c.Kubectl(t.Context(), "", "get", kind, "-A", "--ignore-not-found", "--no-headers", "-o", "custom-columns=NS:.metadata.namespace,NAME:.metadata.name")
				must(t, err)
				for line := range strings.Lines(out) {
					if !strings.Contains(line, "tombolo") {
						continue
					}
					if strings.HasPrefix(kind, "customresourcedefinitions") {
						definitions++
						continue
					}
					t.Errorf("%s: %s is left: %s", c.Name, kind, strings.TrimSpace(line))
				}
			}
			if definitions == 0 {
				t.Errorf("%s: the definitions are gone, and with them every policy: the chart keeps them unless asked", c.Name)
			}
			_, err = c.Kubectl(t.Context(), "", "delete", "crd", "-l", "app.kubernetes.io/part-of=tombolo")
			must(t, err)
			must(t, empty(c.Kubectl(t.Context(), "", "get", "crd", "-o", "name"))("tombolo"))
			nodes, err := c.Kubectl(t.Context(), "", "get", "nodes", "-o", "jsonpath={.items[*].spec.taints} {.items[*].metadata.annotations}")
			must(t, err)
			if strings.Contains(nodes, "tombolo") {
				t.Errorf("%s: nodes still have %s", c.Name, nodes)
			}
		}
		after := f.nodeFiles(t)
		for _, file := range slices.Sorted(maps.Keys(after)) {
			if f.before[file] != after[file] {
				t.Errorf("%s is not as it was before the installation", file)
			}
		}
		if len(after) != len(f.before) {
			t.Errorf("%d files of CNI, %d before", len(after), len(f.before))
		}
	})
}

// empty asks of a command's output that it does not have a text.
func empty(out string, err error) func(text string) error {
	return func(text string) error {
		if err == nil && strings.Contains(out, text) {
			err = fmt.Errorf("there is %q in %.2000s", text, out)
		}
		return err
	}
}
