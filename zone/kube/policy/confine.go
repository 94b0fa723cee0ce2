package policy

import (
	"fmt"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// confined says where a resource of a namespace reaches into another one, which its
// author may not have a say in. Two ways are closed here: a MeshService of others'
// pods, and a producer's route that sends callers on to others' services: they would
// get requests that the producer has written with the identity of the caller. A
// consumer's route sends its own calls only. Who may be sent to by routes of other
// namespaces says so in a ReferenceGrant, for an HTTPRoute.
func confined(r mesh.Resource, spec mesh.Spec) mesh.Problems {
	var out mesh.Problems
	namespace := r.Labels[mesh.LabelNamespace]
	if namespace == "" || mesh.IsSystemNamespace(namespace) {
		return out
	}
	if s, ok := spec.(*mesh.MeshService); ok {
		if ref := s.Selector.DataplaneRef; ref != nil && !strings.HasSuffix(ref.Name, "."+namespace) {
			out.Addf("spec.selector.dataplaneRef.name", "must be <pod>.%s: a service selects pods of its own namespace", namespace)
		}
		if l := s.Selector.DataplaneLabels; l != nil && mesh.CanonicalLabels(l.MatchLabels)[mesh.LabelNamespace] != namespace {
			out.Addf("spec.selector.dataplaneLabels.matchLabels", "must have %s: %s: a service selects pods of its own namespace", mesh.LabelNamespace, namespace)
		}
		return out
	}
	// The role is computed: what the labels say is not known to be true.
	if labels, _ := mesh.ComputeLabels(r, spec, mesh.EnvKubernetes); labels[mesh.LabelPolicyRole] != mesh.RoleProducer {
		return out
	}
	own := func(at string, ref *mesh.BackendRef) {
		if to, ok := mesh.CanonicalLabels(ref.Labels)[mesh.LabelNamespace]; ok && to != namespace {
			out.Addf(at+`.labels["`+mesh.LabelNamespace+`"]`, "must be %q or absent, not %q: a route for all callers sends them to services of its own namespace; "+
				"to others an HTTPRoute may, with a ReferenceGrant", namespace, to)
		}
	}
	refs := func(at string, list *[]mesh.BackendRef) {
		if list == nil {
			return
		}
		for i := range *list {
			own(fmt.Sprintf("%s.backendRefs[%d]", at, i), &(*list)[i])
		}
	}
	switch s := spec.(type) {
	case *mesh.MeshHTTPRoute:
		for i := range s.To {
			for j := range s.To[i].Rules {
				conf, at := &s.To[i].Rules[j].Default, fmt.Sprintf("spec.to[%d].rules[%d].default", i, j)
				refs(at, conf.BackendRefs)
				if conf.Filters == nil {
					continue
				}
				for n, f := range *conf.Filters {
					if f.RequestMirror != nil {
						own(fmt.Sprintf("%s.filters[%d].requestMirror.backendRef", at, n), &f.RequestMirror.BackendRef)
					}
				}
			}
		}
	case *mesh.MeshTCPRoute:
		for i := range s.To {
			for j := range s.To[i].Rules {
				refs(fmt.Sprintf("spec.to[%d].rules[%d].default", i, j), s.To[i].Rules[j].Default.BackendRefs)
			}
		}
	}
	return out
}
