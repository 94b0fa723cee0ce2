package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

func authored(meshName, name, idle string) mesh.Resource {
	r := mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: meshName, Name: name}, Revision: 7,
		Spec: fmt.Appendf(nil, `{"rules":[{"default":{"idleTimeout":%q}}]}`, idle)}
	r.Labels, _ = mesh.ComputeLabels(r, nil, mesh.EnvUniversal)
	return r
}

// shown is the object that the cluster has after a copy was written.
func shown(t *testing.T, k mesh.Kind, name string, r mesh.Resource) *object {
	t.Helper()
	u, err := copyOf(k, name, &r)
	if err != nil {
		t.Fatal(err)
	}
	return slim(u)
}

func said(ops []mirrorOp) string {
	var out []string
	for _, op := range ops {
		switch {
		case op.have == nil:
			out = append(out, "+"+op.name+"="+op.want.Mesh+"/"+op.want.Name)
		case op.want == nil:
			out = append(out, "-"+op.have.Namespace+"/"+op.name)
		default:
			out = append(out, "~"+op.name)
		}
	}
	return strings.Join(out, " ")
}

func TestPlanOfCopies(t *testing.T) {
	k, _ := mesh.KindByName(mesh.KindMeshTimeout)
	a, other := authored("default", "a", "1s"), authored("bank", "a", "1s")
	local := &object{kind: k.Name}
	local.Name, local.Namespace = "a", mesh.SystemNamespace
	elsewhere := &object{kind: k.Name}
	elsewhere.Name, elsewhere.Namespace = "a", "shop"
	forged := shown(t, k, "a", a)
	forged.Namespace = "shop"
	changed := func(spec string, labels ...string) []*object {
		o := shown(t, k, "a", a)
		if spec != "" {
			o.spec = []byte(spec)
		}
		for i := 0; i < len(labels); i += 2 {
			if labels[i+1] == "" {
				delete(o.Labels, labels[i])
			} else {
				o.Labels[labels[i]] = labels[i+1]
			}
		}
		return []*object{o}
	}
	suffixed := copyName(k, &a, map[string]bool{"a": true})
	otherName := copyName(k, &other, map[string]bool{"a": true})
	for _, c := range []struct {
		what     string
		objects  []*object
		authored []mesh.Resource
		want     string
	}{
		{"new", nil, []mesh.Resource{a}, "+a=default/a"},
		{"unchanged, after a restart too", []*object{shown(t, k, "a", a)}, []mesh.Resource{a}, ""},
		{"changed", []*object{shown(t, k, "a", a)}, []mesh.Resource{authored("default", "a", "2s")}, "~a"},
		{"its spec is changed by somebody", changed(`{"rules":[{"default":{"idleTimeout":"9s"}}]}`), []mesh.Resource{a}, "~a"},
		{"to what cannot be read", changed(`{"rules":7}`), []mesh.Resource{a}, "~a"},
		{"the same, spelled otherwise", changed(`{ "rules": [ {"default": {"idleTimeout": "1s"}} ] }`), []mesh.Resource{a}, ""},
		{"a label is changed by somebody", changed("", mesh.LabelDisplayName, "b"), []mesh.Resource{a}, "~a"},
		{"a label is taken away", changed("", mesh.LabelDisplayName, ""), []mesh.Resource{a}, "~a"},
		{"somebody else's label is added", changed("", "team", "x"), []mesh.Resource{a}, ""},
		{"gone at global", []*object{shown(t, k, "a", a)}, nil, "-tombolo-system/a"},
		{"of another kind", nil, []mesh.Resource{{Key: mesh.Key{Kind: mesh.KindMeshHTTPRoute, Mesh: "default", Name: "a"}}}, ""},
		{"a local one has the name", []*object{local}, []mesh.Resource{a}, "+" + suffixed + "=default/a"},
		{"and it keeps the other", []*object{local, shown(t, k, suffixed, a)}, []mesh.Resource{a}, ""},
		{"also when the name is free again", []*object{shown(t, k, suffixed, a)}, []mesh.Resource{a}, ""},
		{"a local one of another namespace is not in the way", []*object{elsewhere}, []mesh.Resource{a}, "+a=default/a"},
		{"a copy in another namespace", []*object{forged}, nil, "-shop/a"},
		{"two meshes", nil, []mesh.Resource{a, other}, "+a=bank/a +" + suffixed + "=default/a"},
		{"two meshes, one there", []*object{shown(t, k, "a", a)}, []mesh.Resource{a, other}, "+" + otherName + "=bank/a"},
	} {
		if got := said(plan(k, c.objects, c.authored)); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// A copy that stays other than what is written, since the cluster knows less of the
// kind, is written once, not for ever; one whose labels are changed again is again.
func TestRepairEnds(t *testing.T) {
	k, _ := mesh.KindByName(mesh.KindMeshTimeout)
	o := &object{kind: k.Name}
	o.Name, o.Namespace, o.UID, o.Generation = "a", mesh.SystemNamespace, "u", 3
	r := &Resources{made: map[objectKey]writtenCopy{}}
	op := mirrorOp{name: "a", have: o, repair: true, spec: true}
	if r.asWritten(k, op) {
		t.Error("what somebody else wrote is left")
	}
	r.made[objectKey{k.Name, o.Namespace, o.Name}] = writtenCopy{"u", 3}
	if !r.asWritten(k, op) {
		t.Error("its own is written again")
	}
	if r.asWritten(k, mirrorOp{name: "a", have: o, repair: true}) {
		t.Error("labels are left")
	}
	again := *o
	again.Generation = 4
	if op.have = &again; r.asWritten(k, op) {
		t.Error("a change after it is left")
	}
}

// A label's value has 63 octets at most, a name 253.
func TestCopyOfALongName(t *testing.T) {
	k, _ := mesh.KindByName(mesh.KindMeshTimeout)
	long := strings.Repeat("a.", 60) + "a"
	r := authored("default", long, "1s")
	o := shown(t, k, long, r)
	if _, ok := o.Labels[mesh.LabelDisplayName]; ok || o.Labels[mesh.LabelOrigin] != "global" || copyKey(k, o) != r.Key {
		t.Errorf("%v %v", o.Labels, copyKey(k, o))
	}
	if _, err := copyOf(k, "x", &r); err == nil {
		t.Error("a name that cannot be shown was lost")
	}
}

func TestStatus(t *testing.T) {
	k, _ := mesh.KindByName(mesh.KindMeshTimeout)
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	o := &object{kind: k.Name, spec: []byte(`{"to":[{"targetRef":{"kind":"Mesh"},"default":{"idleTimeout":"1s"}}]}`)}
	o.Name, o.Namespace, o.Generation = "slow", "shop", 3
	key := mesh.Key{Kind: k.Name, Mesh: "default", Zone: "east", Name: "slow.shop"}
	state := func(out platform.Outcome) platform.State {
		return platform.State{Outcomes: map[mesh.Key]platform.Outcome{key: out}}
	}
	for _, c := range []struct {
		what    string
		out     platform.Outcome
		refused mesh.Problems
		proxies string
		want    string
	}{
		{"nobody", platform.Outcome{}, nil, "0/0", "Accepted=True/Accepted Programmed=True/NoProxies"},
		{"on its way", platform.Outcome{Affected: 3, Done: 1}, nil, "1/3", "Accepted=True/Accepted Programmed=False/Pending"},
		{"done", platform.Outcome{Affected: 3, Done: 3}, nil, "3/3", "Accepted=True/Accepted Programmed=True/Programmed"},
		{"refused by Envoy", platform.Outcome{Affected: 3, Done: 2, Rejected: 1, Problems: []string{"why"}}, nil, "2/3", "Accepted=True/Accepted Programmed=False/Rejected"},
		{"half understood", platform.Outcome{Affected: 3, Done: 3, Problems: []string{"why"}}, nil, "3/3", "Accepted=True/Accepted Programmed=False/Problem"},
		{"not used at all", platform.Outcome{}, mesh.Problems{{Field: "spec", Reason: "why"}}, "", "Accepted=False/Invalid"},
	} {
		s := statusOf("east", k, o, usability{refused: c.refused}, state(c.out), nil, now)
		var got []string
		for _, x := range s.Conditions {
			got = append(got, x.Type+"="+x.Status+"/"+x.Reason)
			if x.Status == "False" && x.Reason != "Pending" && !strings.Contains(x.Message, "why") {
				t.Errorf("%s: %s does not say why", c.what, x.Message)
			}
		}
		if strings.Join(got, " ") != c.want || s.Proxies != c.proxies || s.ObservedGeneration != 3 || s.Mesh != "default" || s.Origin != "zone" {
			t.Errorf("%s: %v %+v", c.what, got, s)
		}
		if c.refused == nil && s.Role != mesh.RoleConsumer {
			t.Errorf("%s: role %q", c.what, s.Role)
		}
	}
	first := statusOf("east", k, o, usability{}, state(platform.Outcome{Affected: 2, Done: 1}), nil, now)
	later := statusOf("east", k, o, usability{}, state(platform.Outcome{Affected: 2, Done: 2}), &first, now.Add(time.Minute))
	if !later.Conditions[0].LastTransitionTime.Equal(now) || !later.Conditions[1].LastTransitionTime.Equal(now.Add(time.Minute)) {
		t.Errorf("%+v", later.Conditions)
	}
}

// A service's status has its names; a patch takes away what it has no longer.
func TestStatusOfAService(t *testing.T) {
	k, _ := mesh.KindByName(mesh.KindMeshMultiZoneService)
	o := &object{kind: k.Name}
	o.Name, o.Namespace = "all", mesh.SystemNamespace
	o.Labels = map[string]string{mesh.LabelOrigin: mesh.OriginGlobal, mesh.LabelMesh: "default"}
	key := mesh.Key{Kind: k.Name, Mesh: "default", Name: "all"}
	named := platform.State{Names: map[mesh.Key]mesh.ServiceNames{key: {VIPs: []mesh.ServiceVIP{{IP: "243.0.0.1"}},
		Addresses: []mesh.ServiceAddress{{Hostname: "all.mesh", Origin: mesh.OriginHostnameGenerator}}}}}
	now := time.Now()
	first := statusOf("east", k, o, usability{}, named, nil, now)
	if len(first.VIPs) != 1 || len(first.Addresses) != 1 {
		t.Fatalf("%+v", first)
	}
	next := statusOf("east", k, o, usability{}, platform.State{}, &first, now)
	patch, err := statusPatch(&next, &first, nil)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(patch); !strings.Contains(text, `"addresses":null`) || !strings.Contains(text, `"vips":null`) || strings.Contains(text, `"conditions":null`) {
		t.Error("what is gone stays:", text)
	}
}
