package zone

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// told is the status of a service as the zone tells it.
func (r *rig) told(t *testing.T, key mesh.Key) (out mesh.MeshServiceStatus) {
	t.Helper()
	fact, ok := r.e.facts.whole()[key]
	if !ok {
		t.Fatalf("the zone tells nothing of %s", key)
	}
	if err := json.Unmarshal(fact.Status, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// A service's status has where it is called, its names, and what became of each
// generator that selects it.
func TestStatusHasNames(t *testing.T) {
	r := newRig(t, "east")
	service := func(name string) mesh.Resource {
		return resource(t, mesh.KindMeshService, "default", "east", name, `{"ports":[{"port":80}]}`)
	}
	generator := func(name, template string) mesh.Resource {
		return resource(t, mesh.KindHostnameGenerator, "", "", name, `{"selector":{"meshService":{}},"template":"`+template+`"}`)
	}
	web, api := service("web"), service("api")
	if err := r.turn(func(b *batch) { r.e.takeFiles(b, []mesh.Resource{web, api}) }); err != nil {
		t.Fatal(err)
	}
	mzsvc := resource(t, mesh.KindMeshMultiZoneService, "default", "", "all", `{"selector":{"meshService":{}},"ports":[{"port":80}]}`)
	if err := r.turn(r.push(put(generator("own", "{{ .Name }}.mesh")), put(generator("same", "one.mesh")), put(generator("team", `{{ label \"team\" }}.mesh`)),
		put(mzsvc), put(remoteService(t, "default", "backend")))); err != nil {
		t.Fatal(err)
	}
	conditions := func(key mesh.Key) (out []string) {
		for _, g := range r.told(t, key).HostnameGenerators {
			out = append(out, g.HostnameGeneratorRef.CoreName+" "+g.Conditions[0].Status+" "+g.Conditions[0].Reason)
		}
		return out
	}
	got := r.told(t, api.Key)
	var hostnames, vips []string
	for _, a := range got.Addresses {
		hostnames = append(hostnames, a.Hostname+" "+a.HostnameGeneratorRef.CoreName)
	}
	for _, v := range got.VIPs {
		vips = append(vips, v.IP)
	}
	if diff := cmp.Diff([]string{"api.mesh own", "one.mesh same"}, hostnames); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(r.addresses(api.Key), vips); diff != "" || len(vips) != 2 {
		t.Error(vips, diff)
	}
	if diff := cmp.Diff([]string{"own True Generated", "same True Generated", "team False TemplateError"}, conditions(api.Key)); diff != "" {
		t.Error(diff)
	}
	// A name has one service: the other one is told why it has none.
	if diff := cmp.Diff([]string{"own True Generated", "same False Collision", "team False TemplateError"}, conditions(web.Key)); diff != "" {
		t.Error(diff)
	}
	for _, g := range r.told(t, web.Key).HostnameGenerators {
		if g.Conditions[0].Reason == mesh.ReasonCollision && !strings.Contains(g.Conditions[0].Message, "api") {
			t.Error("the collision does not say with whom:", g.Conditions[0].Message)
		}
	}
	shown := r.e.state().Names
	if len(shown[mzsvc.Key].VIPs) != 2 || len(shown[web.Key].Addresses) != 1 || len(shown) != 3 {
		t.Error("whoever looks at the zone sees", shown)
	}

	// What concerns no name tells nobody anything, and names are in no status that
	// the engine reads: nothing compiles again for them.
	version := r.e.facts.version()
	if err := r.turn(r.push(put(resource(t, mesh.KindMeshService, "default", "west", "backend", `{"ports":[{"port":81}]}`)))); err != nil {
		t.Fatal(err)
	}
	if now := r.e.facts.version(); now != version {
		t.Error("told again")
	}
	for _, o := range r.e.world.Resources(mesh.KindMeshService) {
		if strings.Contains(string(o.Status), "vips") {
			t.Error("the engine reads names in", o.Key)
		}
	}
	// A generator that goes takes its names along, and leaves them to who came late.
	if err := r.turn(r.push(del(mesh.Key{Kind: mesh.KindHostnameGenerator, Name: "own"}))); err != nil {
		t.Fatal(err)
	}
	if now := r.told(t, api.Key); len(now.Addresses) != 1 || len(now.HostnameGenerators) != 2 {
		t.Errorf("%+v", now)
	}
	// The rest of the status is the engine's, before as after.
	if now := r.told(t, api.Key); now.TLS.Status != tlsReady || now.DataplaneProxies.Total != 0 || len(now.Ports) != 1 {
		t.Errorf("%+v", now)
	}
}
