package mesh

import "strings"

// Label keys that Tombolo reads or computes, in canonical form.
const (
	LabelPrefix      = "tombolo.io/"
	LabelDisplayName = LabelPrefix + "display-name"
	LabelZone        = LabelPrefix + "zone"
	LabelOrigin      = LabelPrefix + "origin" // "global" or "zone"
	LabelMesh        = LabelPrefix + "mesh"
	LabelEnv         = LabelPrefix + "env" // "universal" or "kubernetes"
	LabelPolicyRole  = LabelPrefix + "policy-role"
	LabelEffect      = LabelPrefix + "effect"
	LabelManagedBy   = LabelPrefix + "managed-by"
	LabelWorkload    = LabelPrefix + "workload"
	LabelSync        = LabelPrefix + "kds-sync" // "disabled" keeps a resource at global
	LabelIngress     = LabelPrefix + "listener-zoneingress"
	LabelEgress      = LabelPrefix + "listener-zoneegress"
	LabelNamespace   = "k8s." + LabelPrefix + "namespace"
	// Labels of a MeshService of Kubernetes: the Service it stands for, whether that
	// is headless ("true", then it is of one pod, or "false"), and the pod of a
	// StatefulSet.
	LabelServiceName = "k8s." + LabelPrefix + "service-name"
	LabelHeadless    = "k8s." + LabelPrefix + "is-headless-service"
	LabelStatefulPod = "statefulset.kubernetes.io/pod-name"
)

// Labels of what a Kubernetes zone owns.
const (
	// LabelServiceAccount of a pod.
	LabelServiceAccount = "k8s." + LabelPrefix + "service-account"
	// LabelPod is on pods behind headless Services: the name, which may be cut.
	LabelPod = "k8s." + LabelPrefix + "pod-name"
)

// InstanceLabel reports whether a label of pods says which replica one is, or of
// which roll-out, and not what it does: replicas do not share it.
func InstanceLabel(key string) bool {
	switch key {
	case LabelPod, LabelStatefulPod, "apps.kubernetes.io/pod-index", "controller-revision-hash", "pod-template-hash", "pod-template-generation",
		"batch.kubernetes.io/job-completion-index", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name",
		"controller-uid", "job-name", "kubernetes.io/hostname":
		return true
	}
	return false
}

// CanonicalLabel maps the key of a label or annotation of a user's manifest to
// its canonical form: keys under "kuma.io/", "k8s.kuma.io/" and
// "traffic.kuma.io/" mean the same as ours.
func CanonicalLabel(key string) string {
	for _, part := range []string{"", "k8s.", "traffic."} {
		if rest, ok := strings.CutPrefix(key, part+"kuma.io/"); ok {
			return part + LabelPrefix + rest
		}
	}
	return key
}

// CanonicalLabels returns a copy of labels with canonical keys. Of a label that
// is given in both forms the canonical one counts.
func CanonicalLabels(labels map[string]string) map[string]string {
	out := make(map[string]string, len(labels))
	for k, v := range labels {
		key := CanonicalLabel(k)
		if _, both := labels[key]; key == k || !both {
			out[key] = v
		}
	}
	return out
}

// MatchLabels reports whether have contains every pair of want. Keys of both
// may be in either form. A nil or empty want matches everything.
func MatchLabels(want, have map[string]string) bool {
	for k, v := range want {
		if got, ok := have[CanonicalLabel(k)]; !ok || got != v {
			return false
		}
	}
	return true
}
