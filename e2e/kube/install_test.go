package kube

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/kube/kubelab"
)

// release is the name of the chart's installation.
const release = "tombolo"

// install installs Tombolo in both clusters by its chart: east with the CNI plugin,
// west with init containers.
func (f *fleet) install(t *testing.T) {
	t.Helper()
	began := time.Now()
	tokens := map[string]string{}
	for _, c := range f.lab.Clusters {
		tokens[c.Name] = f.token(t, c.Name, "zone", "--zone", c.Name)
	}
	f.both(t, func(c *kubelab.Cluster) error {
		values := f.path("values-" + c.Name + ".yaml")
		if err := os.WriteFile(values, []byte(f.values(c.Name, tokens[c.Name])), 0o600); err != nil {
			return err
		}
		_, err := c.Helm(t.Context(), f.helm, "install", release, "../../deploy/helm/tombolo", "-n", system, "--create-namespace",
			"--values", values, "--wait", "--timeout", "3m")
		return err
	})
	t.Logf("Tombolo is installed in both clusters after %s", since(began))
}

// values of the chart for a zone.
func (f *fleet) values(zone, tokenFile string) string {
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return err.Error()
	}
	ca, err := os.ReadFile(f.path("global", "ca.pem"))
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf(`zone:
  name: %s
  global:
    address: %s:%s
    token: %s
    ca: |
      %s
image: {registry: local, tag: dev, pullPolicy: Never}
cni: {enabled: %t}
`, zone, f.hub.IP, syncPort, strings.TrimSpace(string(token)), strings.ReplaceAll(strings.TrimSpace(string(ca)), "\n", "\n      "), zone == "east")
}

// demo deploys the applications that are there for every scenario.
func (f *fleet) demo(t *testing.T) {
	t.Helper()
	f.both(t, func(c *kubelab.Cluster) error {
		return c.Apply(t.Context(), namespace(demo, true), namespace(plain, false),
			app{name: "backend", namespace: demo, zone: c.Name, replicas: 2}.manifest(),
			app{name: "web", namespace: demo, zone: c.Name}.manifest(),
			app{name: "backend", namespace: plain, zone: c.Name}.manifest(),
			app{name: "web", namespace: plain, zone: c.Name}.manifest())
	})
	for _, c := range f.lab.Clusters {
		ready(t, c, demo, "deployment/backend", "deployment/web")
		ready(t, c, plain, "deployment/backend", "deployment/web")
	}
}

// identity of a service account.
func identity(zone, ns, account string) string {
	return fmt.Sprintf("spiffe://default.%s.mesh.local/ns/%s/sa/%s", zone, ns, account)
}

// allow lets callers call a workload; by kubectl, in its namespace.
func allow(name, ns, workload string, callers ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: tombolo.io/v1alpha1
kind: MeshTrafficPermission
metadata: {name: %s, namespace: %s, labels: {tombolo.io/mesh: default}}
spec:
  targetRef: {kind: Dataplane, labels: {tombolo.io/workload: %s}}
  rules:
  - default:
      allow:
`, name, ns, workload)
	for _, id := range callers {
		fmt.Fprintf(&b, "      - spiffeID: {type: Exact, value: %s}\n", id)
	}
	return b.String()
}

// webs are the identities of web in namespace demo everywhere, and of the VM zone's.
func webs() []string {
	return []string{identity("east", demo, "web"), identity("west", demo, "web"), "spiffe://default.vms.mesh.local/workload/web"}
}
