package kube

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// TestClaim: a sidecar that is up before its kubelet has told the pod's address is a
// member at the address that it tells, and gives it to nobody else.
func TestClaim(t *testing.T) {
	pod := func(uid, status string) string {
		return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {namespace: data, name: db-0, uid: %s, labels: {app: db}, annotations: {tombolo.io/sidecar-injected: "true", traffic.tombolo.io/redirect: "{}"}}
status: %s
`, uid, status)
	}
	const service = `apiVersion: v1
kind: Service
metadata: {namespace: data, name: db, uid: s-1}
spec: {selector: {app: db}, clusterIP: None, ports: [{name: sql, port: 5432}]}
`
	p := &Platform{wake: make(chan struct{}, 1), model: newModel("east")}
	f := newInForce()
	see := func(text string) {
		for _, o := range objects(t, []byte(text)) {
			p.model.put(o, false)
		}
		f.take(p.model)
	}
	state := func() string {
		var out []string
		for k, x := range f.Pods {
			out = append(out, k.Name+"="+x.Spec.Networking.Address)
		}
		for k := range f.Resources {
			if k.Kind == mesh.KindMeshService && k.Name != "db.data" {
				out = append(out, k.Name)
			}
		}
		for _, a := range f.Addresses {
			out = append(out, "at "+strings.Join(a, ","))
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	want := func(what, want string) {
		t.Helper()
		f.take(p.model)
		if got := state(); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	who := podCredential{namespace: "data", name: "db-0", uid: "u-0"}
	see(service + "---\n" + pod("u-0", "{}"))
	want("without an address", "")
	for _, bad := range [][]string{{"nonsense"}, {"127.0.0.1"}, {"fe80::1"}, {"0.0.0.0"}, {"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"}} {
		if err := p.claim(who, bad); err == nil || !strings.Contains(err.Error(), "pod_ips") {
			t.Errorf("claim of %v: %v", bad, err)
		}
	}
	if err := p.claim(podCredential{namespace: "data", name: "db-0", uid: "u-9"}, []string{"10.9.9.9"}); err != nil {
		t.Error(err)
	}
	want("claimed for a former pod of the name", "")
	if err := p.claim(who, []string{"10.1.0.7", "fd00::7"}); err != nil {
		t.Error(err)
	}
	want("claimed", "db-0.data=10.1.0.7")
	see(pod("u-0", "{phase: Pending}"))
	want("seen again without an address", "db-0.data=10.1.0.7")
	see(pod("u-0", `{podIPs: [{ip: 10.1.0.8}]}`))
	want("the API server knows better", "at 10.1.0.8 db-0.data=10.1.0.8 db-db-0.data")
	if err := p.claim(who, []string{"10.1.0.7"}); err != nil {
		t.Error(err)
	}
	want("claimed late", "at 10.1.0.8 db-0.data=10.1.0.8 db-db-0.data")
	see(pod("u-1", "{}"))
	want("another pod of the name", "")
}
