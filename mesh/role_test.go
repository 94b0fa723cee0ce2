package mesh_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// What a zone says of its policies is computed again by those who receive them.
func TestPoliciesOfZones(t *testing.T) {
	shop := map[string]string{mesh.LabelEnv: mesh.EnvKubernetes, mesh.LabelNamespace: "shop"}
	system := map[string]string{mesh.LabelEnv: mesh.EnvKubernetes, mesh.LabelNamespace: mesh.SystemNamespace}
	with := func(labels map[string]string, role string) map[string]string {
		out := maps.Clone(labels)
		out[mesh.LabelPolicyRole] = role
		return out
	}
	to := func(target string) string {
		return fmt.Sprintf(`{"to":[{"targetRef":%s,"default":{"idleTimeout":"1s"}}]}`, target)
	}
	const own, all = `{"kind":"MeshService","labels":{"kuma.io/display-name":"web"}}`, `{"kind":"Mesh"}`
	const rules = `{"rules":[{"default":{"idleTimeout":"1s"}}]}`
	for _, c := range []struct {
		what, name, spec string
		labels           map[string]string
		problem          string
		crosses          bool
	}{
		{"a producer", "a.shop", to(own), with(shop, mesh.RoleProducer), "", true},
		{"a consumer", "a.shop", to(all), with(shop, mesh.RoleConsumer), "", false},
		{"a workload owner", "a.shop", rules, with(shop, mesh.RoleWorkloadOwner), "", false},
		{"the operator", "a.tombolo-system", rules, with(system, mesh.RoleSystem), "", false},
		{"a zone of VMs", "a", rules, map[string]string{mesh.LabelEnv: mesh.EnvUniversal, mesh.LabelPolicyRole: mesh.RoleSystem}, "", false},
		{"a consumer that says producer", "a.shop", to(all), with(shop, mesh.RoleProducer), `must be "consumer"`, false},
		{"a namespace that says operator", "a.shop", to(all), with(shop, mesh.RoleSystem), `must be "consumer"`, false},
		{"no role", "a.shop", to(own), shop, `must be "producer"`, false},
		{"both at once", "a.shop", `{"to":[{"targetRef":` + own + `,"default":{"idleTimeout":"1s"}},{"targetRef":` + all + `,"default":{"idleTimeout":"1s"}}]}`, with(shop, mesh.RoleProducer), "mixes items", false},
		{"a VM that says producer", "a", to(own), map[string]string{mesh.LabelEnv: mesh.EnvUniversal, mesh.LabelPolicyRole: mesh.RoleProducer}, `must be "system"`, false},
		{"no platform", "a", to(own), map[string]string{mesh.LabelPolicyRole: mesh.RoleProducer}, "tombolo.io/env", false},
		{"no namespace", "a", to(own), map[string]string{mesh.LabelEnv: mesh.EnvKubernetes, mesh.LabelPolicyRole: mesh.RoleSystem}, "is required for a policy of a Kubernetes zone", false},
		{"a name outside of its namespace", "a.bank", to(own), with(shop, mesh.RoleProducer), "must be <name>.shop", false},
	} {
		r := mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Zone: "west", Name: c.name}, Labels: c.labels, Spec: []byte(c.spec)}
		if got := mesh.CheckFact("west", r, nil).Error(); c.problem == "" && got != "" || !strings.Contains(got, c.problem) {
			t.Errorf("%s: %q, want %q", c.what, got, c.problem)
		}
		if got := mesh.CheckCrossing(r); (len(got) == 0) != c.crosses {
			t.Errorf("%s: crosses: %v", c.what, got)
		}
		if c.problem == "" && mesh.Crosses(&r) != c.crosses {
			t.Errorf("%s: is passed on: %v", c.what, !c.crosses)
		}
	}
}

func TestKindsOfTheOperator(t *testing.T) {
	r := mesh.Resource{Key: mesh.Key{Kind: mesh.KindHostnameGenerator, Zone: "west", Name: "a.shop"},
		Labels: map[string]string{mesh.LabelEnv: mesh.EnvKubernetes, mesh.LabelNamespace: "shop"},
		Spec:   []byte(`{"selector":{"meshService":{}},"template":"{{ .DisplayName }}.mesh"}`)}
	if got := mesh.CheckFact("west", r, nil).Error(); !strings.Contains(got, "must be tombolo-system") {
		t.Errorf("%q", got)
	}
	r.Name, r.Labels[mesh.LabelNamespace] = "a.tombolo-system", mesh.SystemNamespace
	if got := mesh.CheckFact("west", r, nil).Error(); got != "" {
		t.Error(got)
	}
}

// A producer's route holds in other zones: it sends nobody anywhere but to the producer.
func TestBackendOf(t *testing.T) {
	policy := func(role string) *mesh.Resource {
		return &mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshHTTPRoute, Mesh: "default", Zone: "west", Name: "r.shop"},
			Labels: map[string]string{mesh.LabelNamespace: "shop", mesh.LabelPolicyRole: role}}
	}
	service := func(labels map[string]string) mesh.BackendRef {
		return mesh.BackendRef{Kind: mesh.KindMeshService, Labels: labels, Port: 80}
	}
	name := func(more ...string) map[string]string {
		out := map[string]string{mesh.LabelDisplayName: "v2"}
		for i := 0; i < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	const ns, zone = mesh.LabelNamespace, mesh.LabelZone
	for _, c := range []struct {
		what, role string
		ref        mesh.BackendRef
		want       map[string]string
	}{
		{"the operator means what is written", mesh.RoleSystem, service(name()), name()},
		{"a consumer's own namespace", mesh.RoleConsumer, service(map[string]string{"kuma.io/display-name": "v2"}), name(ns, "shop")},
		{"a consumer may call anyone", mesh.RoleConsumer, service(name(ns, "bank", zone, "east")), name(ns, "bank", zone, "east")},
		{"a consumer's labels", mesh.RoleConsumer, service(map[string]string{"app": "x"}), map[string]string{"app": "x"}},
		{"a producer's own", mesh.RoleProducer, service(name()), name(ns, "shop", zone, "west")},
		{"a producer's zone", mesh.RoleProducer, service(name(ns, "bank")), name(ns, "bank", zone, "west")},
		{"a producer's labels", mesh.RoleProducer, service(map[string]string{"app": "x"}), map[string]string{"app": "x", ns: "shop", zone: "west"}},
		{"a producer to another zone", mesh.RoleProducer, service(name(zone, "east")), nil},
		{"a producer to many zones", mesh.RoleProducer, mesh.BackendRef{Kind: mesh.KindMeshMultiZoneService, Labels: name(), Port: 80}, nil},
	} {
		got, err := mesh.BackendOf(policy(c.role), c.ref)
		if (err != nil) != (c.want == nil) || err == nil && !maps.Equal(got.Labels, c.want) {
			t.Errorf("%s: %v %v, want %v", c.what, got.Labels, err, c.want)
		}
	}
}
