package zone

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
)

func (r *rig) names(meshName string) string {
	var b strings.Builder
	if t := r.e.names[meshName]; t != nil {
		for _, n := range t.Names {
			fmt.Fprintln(&b, n.Name, strings.Join(n.Addresses, " "))
		}
	}
	return b.String()
}

func TestNames(t *testing.T) {
	r := newRig(t, "east")
	generator := func(name, template string) mesh.Resource {
		return resource(t, mesh.KindHostnameGenerator, "", "", name, `{"selector":{"meshService":{}},"template":"`+template+`"}`)
	}
	backend := remoteService(t, "default", "backend")
	g := generator("g", "{{ .Name }}.{{ .Zone }}.mesh")
	if err := r.turn(r.push(put(g), put(backend), put(remoteService(t, "other", "elsewhere")))); err != nil {
		t.Fatal(err)
	}
	addresses := strings.Join(r.addresses(backend.Key), " ")
	if diff := cmp.Diff("backend.west.mesh "+addresses+"\n", r.names("default")); diff != "" {
		t.Error(diff)
	}
	first, changed := r.e.board.Read("default")
	if first == nil {
		t.Fatal("agents get nothing")
	}
	// What changes no name tells agents nothing.
	if err := r.turn(r.push(put(resource(t, mesh.KindMeshService, "default", "west", "backend", `{"ports":[{"port":81}]}`)))); err != nil {
		t.Fatal(err)
	}
	if again, _ := r.e.board.Read("default"); again != first {
		t.Error("another table that says the same")
	}
	// A generator's change does.
	if err := r.turn(r.push(put(generator("g", "{{ .Name }}.mesh")))); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("agents are not told")
	}
	if diff := cmp.Diff("backend.mesh "+addresses+"\n", r.names("default")); diff != "" {
		t.Error(diff)
	}
	r.restart()
	if diff := cmp.Diff("backend.mesh "+addresses+"\n", r.names("default")); diff != "" {
		t.Error(diff)
	}
	if err := r.turn(r.push(del(backend.Key))); err != nil {
		t.Fatal(err)
	}
	if got := r.names("default"); got != "" {
		t.Error(got)
	}
}

// A zone that never had a global has the default names; what is declared in it
// goes before them, and what a global says replaces them for good.
func TestDefaultGeneratorsOfAZone(t *testing.T) {
	r := newRig(t, "east")
	own := resource(t, mesh.KindMeshService, "default", "east", "web", `{"ports":[{"port":80}]}`)
	if err := r.turn(func(b *batch) { r.e.takeFiles(b, []mesh.Resource{own}) }); err != nil {
		t.Fatal(err)
	}
	names := func() (out []string) {
		for _, line := range strings.Split(strings.TrimSpace(r.names("default")), "\n") {
			out = append(out, strings.Fields(line + " -")[0])
		}
		return out
	}
	if diff := cmp.Diff([]string{"web.svc.east.mesh.local", "web.svc.mesh.local"}, names()); diff != "" {
		t.Error(diff)
	}
	instead := resource(t, mesh.KindHostnameGenerator, "", "east", "local-universal-mesh-service", `{"selector":{"meshService":{}},"template":"{{ .Name }}.here"}`)
	for range 2 { // again, as after a reload
		if err := r.turn(func(b *batch) { r.e.takeFiles(b, []mesh.Resource{own, instead}) }); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"web.here", "web.svc.east.mesh.local"}, names()); diff != "" {
			t.Error(diff)
		}
	}
	if err := r.turn(r.push(put(resource(t, mesh.KindMesh, "", "", "default", `{}`)))); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"web.here"}, names()); diff != "" {
		t.Error(diff)
	}
	if err := r.turn(func(b *batch) { r.e.takeFiles(b, []mesh.Resource{own}) }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"-"}, names()); diff != "" {
		t.Error(diff)
	}
}
