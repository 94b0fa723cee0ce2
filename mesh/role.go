package mesh

import "fmt"

// SystemNamespace is where the control plane of a Kubernetes zone lives, and nowhere
// else: what is written there is the operator's, and every zone and global compute
// that again from what arrives.
const SystemNamespace = "tombolo-system"

// kumaNamespace is where manifests that were written for Kuma have what is the
// operator's. In a cluster it is a namespace like any other.
const kumaNamespace = "kuma-system"

// IsSystemNamespace reports whether a namespace is the operator's.
func IsSystemNamespace(ns string) bool { return ns == SystemNamespace }

// roleOf computes the role of a policy from where it was written and from what
// its `to` items select.
func roleOf(p Policy, namespace, env string) (role, reason string) {
	if env == EnvUniversal || namespace == "" || IsSystemNamespace(namespace) {
		return RoleSystem, ""
	}
	items := p.ToItems()
	if len(items) == 0 {
		return RoleWorkloadOwner, ""
	}
	producers := 0
	for i := range items {
		if producerItem(&items[i].Target, namespace) {
			producers++
		}
	}
	switch producers {
	case len(items):
		return RoleProducer, ""
	case 0:
		return RoleConsumer, ""
	}
	return "", "mixes items for services of this namespace, which every caller obeys, with items for the calls of this namespace; write two policies"
}

// producerItem: the item names a service or route of the policy's own namespace.
func producerItem(t *TargetRef, namespace string) bool {
	if t.Kind != KindMeshService && t.Kind != KindMeshHTTPRoute {
		return false
	}
	labels := CanonicalLabels(t.Labels)
	ns, hasNamespace := labels[LabelNamespace]
	delete(labels, LabelNamespace)
	return labels[LabelDisplayName] != "" && len(labels) == 1 && (!hasNamespace || ns == namespace)
}

// crossesZones reports whether a policy of a zone concerns the proxies of others.
func crossesZones(labels map[string]string) bool { return labels[LabelPolicyRole] == RoleProducer }

// Crosses reports whether a resource that a zone owns is passed on to the other
// zones: of policies those of producers alone.
func Crosses(r *Resource) bool {
	k, ok := KindByName(r.Kind)
	return ok && k.Flow.Has(AcrossZones) && (k.Policy == nil || crossesZones(r.Labels))
}

// checkRole checks what a policy of a zone says of itself: the role is computed
// from the spec and the namespace by whoever receives it, never believed.
func checkRole(r *Resource, p Policy) Problems {
	var out Problems
	ns := r.Labels[LabelNamespace]
	env := r.Labels[LabelEnv]
	switch env {
	case EnvUniversal:
	case EnvKubernetes:
		if ns == "" {
			out.Addf(labelPath("labels", LabelNamespace), "is required for a policy of a Kubernetes zone")
			return out
		}
	default:
		out.Addf(labelPath("labels", LabelEnv), "must be %s or %s, not %q", EnvUniversal, EnvKubernetes, clipFact(env))
		return out
	}
	role, reason := roleOf(p, ns, env)
	switch {
	case reason != "":
		out.Addf("spec.to", "%s", reason)
	case r.Labels[LabelPolicyRole] != role:
		out.Addf(labelPath("labels", LabelPolicyRole), "must be %q, as the spec and the namespace say, not %q", role, clipFact(r.Labels[LabelPolicyRole]))
	}
	return out
}

// ownService reports whether a producer's policy may speak of a service, or of a
// route, with these labels in that zone: those of the producer's own zone and
// namespace alone, so that nobody changes how others' services are called.
func ownService(p *Resource, zone string, labels map[string]string) bool {
	return p.Labels[LabelPolicyRole] != RoleProducer || zone == p.Zone && labels[LabelNamespace] == p.Labels[LabelNamespace]
}

// BackendOf completes a backendRef of a policy. In a policy of a namespace a
// display name alone means the own namespace. A producer's policy, which holds
// in every zone, sends nowhere but to the producer's own zone; an error says so.
func BackendOf(p *Resource, ref BackendRef) (BackendRef, error) {
	ns, role := p.Labels[LabelNamespace], p.Labels[LabelPolicyRole]
	if ns == "" || role == "" || role == RoleSystem || p.Zone == "" {
		return ref, nil
	}
	labels := CanonicalLabels(ref.Labels)
	if labels[LabelDisplayName] != "" && len(labels) == 1 && ref.Kind == KindMeshService {
		labels[LabelNamespace] = ns
	}
	if role == RoleProducer {
		if zone, ok := labels[LabelZone]; ok && zone != p.Zone || ref.Kind != KindMeshService {
			return ref, fmt.Errorf("a policy for the callers of services of zone %s may send them to MeshServices of that zone only", p.Zone)
		}
		labels[LabelZone] = p.Zone
		if labels[LabelNamespace] == "" { // not the oldest of whoever has such labels
			labels[LabelNamespace] = ns
		}
	}
	ref.Labels = labels
	return ref, nil
}
