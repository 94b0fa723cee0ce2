package meshtest

import (
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Namespaced gives a resource of a Kubernetes zone the name that the zone would:
// with the namespace of its label.
func Namespaced(r *mesh.Resource) {
	if r.Zone != "" && r.Labels[mesh.LabelEnv] == mesh.EnvKubernetes {
		r.Name = mesh.NamespacedName(r.Name, r.Labels[mesh.LabelNamespace])
	}
}

// Resources decodes manifests and fails the test at any problem. A resource
// whose label zone is set belongs to that zone; the label env, universal if
// absent, decides the role of a policy, and whether the namespace is part of the
// name. The first document is the oldest, a
// second apart each, and the revision of a resource is the number of its document.
func Resources(t testing.TB, manifests string) []mesh.PolicyResource {
	t.Helper()
	all, err := mesh.DecodeManifests([]byte(manifests), 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []mesh.PolicyResource
	for i := range all {
		m := &all[i]
		r := &m.Resource
		r.Zone = r.Labels[mesh.LabelZone]
		Namespaced(r)
		for _, p := range m.Validate() {
			t.Errorf("document %d, %s: %s: %s", m.Document, r.Key, p.Field, p.Reason)
		}
		if t.Failed() || m.Decoded == nil {
			t.FailNow()
		}
		env := r.Labels[mesh.LabelEnv]
		if env == "" {
			env = mesh.EnvUniversal
		}
		labels, problems := mesh.ComputeLabels(*r, m.Decoded, env)
		for _, p := range problems {
			t.Errorf("document %d, %s: %s: %s", m.Document, r.Key, p.Field, p.Reason)
		}
		r.Labels = labels
		r.Revision = mesh.Revision(m.Document)
		r.Created = time.Date(2026, 1, 1, 0, 0, m.Document, 0, time.UTC)
		r.Modified = r.Created
		out = append(out, mesh.PolicyResource{Resource: *r, Decoded: m.Decoded})
	}
	return out
}
