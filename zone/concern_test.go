package zone

import (
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// TestWhatDoesNotConcernAClassDoesNotCompileIt: a policy for others, a policy that
// comes to select it, and a service whose last instance fails.
func TestWhatDoesNotConcernAClassDoesNotCompileIt(t *testing.T) {
	r := newRig(t, "east")
	r.turn(r.push(identityOf(t, "default"), allowAll(t, "default")))
	r.turn(r.join(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound, callAPI)), r.join(sidecar(t, "default", "api-1", "api", "10.0.0.2", httpInbound)))
	compiled := func() map[string]*ir.Proxy {
		out := map[string]*ir.Proxy{}
		for _, c := range r.e.classes {
			out[c.ir.Labels[mesh.LabelWorkload]] = c.proxy
		}
		return out
	}
	timeout := func(workload string) mesh.Change {
		return put(resource(t, mesh.KindMeshTimeout, "default", "", "t",
			`{"targetRef":{"kind":"Dataplane","labels":{"kuma.io/workload":"`+workload+`"}},"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"requestTimeout":"7s"}}}]}`))
	}
	for _, step := range []struct {
		what     string
		do       func(b *batch)
		web, api bool // compiled anew
	}{
		{"a policy for nobody", r.push(timeout("nobody")), false, false},
		{"it selects web now", r.push(timeout("web")), true, false},
		{"it selects api instead", r.push(timeout("api")), true, true},
		{"it is gone", r.push(del(mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "t"})), false, true},
		{"the only api fails", func(b *batch) { r.e.health(b, dataplaneKey("api-1"), "i-api-1", []string{"http"}) }, false, false},
	} {
		before := compiled()
		if err := r.turn(step.do); err != nil {
			t.Fatal(err)
		}
		after := compiled()
		for workload, want := range map[string]bool{"web": step.web, "api": step.api} {
			if got := before[workload] != after[workload]; got != want {
				t.Errorf("%s: %s compiled anew: %v, want %v", step.what, workload, got, want)
			}
		}
		if len(before) != 2 {
			t.Fatal("classes:", len(before))
		}
	}
}
