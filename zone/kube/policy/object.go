package policy

import (
	"encoding/json"
	"fmt"
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// apiVersion of our objects.
const apiVersion = mesh.ClusterGroup + "/" + mesh.ClusterVersion

// object is what is kept of a custom resource.
type object struct {
	metav1.ObjectMeta
	kind   mesh.KindName
	spec   json.RawMessage
	status *mesh.ClusterStatus
}

// slim keeps of a custom resource what is read here: labels, and two annotations
// of copies. What is not JSON of our form is kept without.
func slim(in runtime.Object) *object {
	u, ok := in.(*unstructured.Unstructured)
	if !ok {
		return &object{}
	}
	o := &object{kind: mesh.KindName(u.GetKind())}
	o.Name, o.Namespace, o.UID, o.Generation = u.GetName(), u.GetNamespace(), u.GetUID(), u.GetGeneration()
	o.ResourceVersion, o.CreationTimestamp = u.GetResourceVersion(), u.GetCreationTimestamp()
	o.Labels = maps.Clone(u.GetLabels())
	for _, key := range []string{annotationRevision, annotationDigest} {
		if v, ok := u.GetAnnotations()[key]; ok {
			if o.Annotations == nil {
				o.Annotations = map[string]string{}
			}
			o.Annotations[key] = v
		}
	}
	if spec, ok := u.Object["spec"]; ok {
		if text, err := json.Marshal(spec); err == nil {
			o.spec = text
		}
	}
	if status, ok := u.Object["status"].(map[string]any); ok {
		o.status = &mesh.ClusterStatus{}
		if text, err := json.Marshal(status); err != nil || json.Unmarshal(text, o.status) != nil {
			o.status = nil
		}
	}
	return o
}

// mirrored reports whether an object is a copy of what global authored.
func mirrored(labels map[string]string) bool {
	return mesh.CanonicalLabels(labels)[mesh.LabelOrigin] == mesh.OriginGlobal
}

// gvr names the resources of a kind.
func gvr(k mesh.Kind) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: mesh.ClusterGroup, Version: mesh.ClusterVersion, Resource: k.Plural()}
}

// meshOf is the mesh of an object, by its label.
func meshOf(k mesh.Kind, labels map[string]string) string {
	if k.Scope != mesh.ScopeMesh {
		return ""
	}
	if m := labels[mesh.LabelMesh]; m != "" {
		return m
	}
	return mesh.DefaultMesh
}

// resourceOf makes of an object the resource that the zone owns. It is tolerant:
// fields that this version does not know are kept and ignored, as labels are that
// are computed. A problem says why the zone cannot use the object.
func resourceOf(zone string, k mesh.Kind, o *object) (mesh.Resource, mesh.Problems) {
	r := owned(zone, k, o.Name, o.Namespace, o.Labels)
	r.Spec, r.Created = o.spec, o.CreationTimestamp.UTC()
	problems := placed(k, o.Namespace)
	spec, err := mesh.DecodeSpec(k.Name, r.Spec)
	if err != nil {
		problems.Addf("spec", "%v", err)
		return r, problems
	}
	// What follows from the object is computed; whoever got other labels past the
	// webhook changes nothing by them.
	for _, key := range []string{mesh.LabelDisplayName, mesh.LabelOrigin, mesh.LabelZone, mesh.LabelMesh, mesh.LabelEnv, mesh.LabelPolicyRole} {
		delete(r.Labels, key)
	}
	labels, more := mesh.ComputeLabels(r, spec, mesh.EnvKubernetes)
	r.Labels = labels
	problems = append(problems, more...)
	problems = append(problems, confined(r, spec)...)
	// The rest is what other zones and global would refuse too.
	if len(problems) == 0 {
		problems = mesh.CheckFact(zone, mesh.NormalizeFact(zone, r), nil)
	}
	return r, problems
}

// owned is a resource of the zone's cluster without its spec.
func owned(zone string, k mesh.Kind, name, namespace string, labels map[string]string) mesh.Resource {
	r := mesh.Resource{Key: mesh.Key{Kind: k.Name, Zone: zone, Name: mesh.NamespacedName(name, namespace)}, Labels: mesh.CanonicalLabels(labels)}
	r.Mesh = meshOf(k, r.Labels)
	if namespace != "" {
		r.Labels[mesh.LabelNamespace] = namespace
	}
	return r
}

// placed says whether objects of a kind may be written there at all.
func placed(k mesh.Kind, namespace string) mesh.Problems {
	var out mesh.Problems
	switch {
	case k.Cluster != mesh.AuthoredInCluster:
		out.Addf("kind", "a %s is written at global (tombolo apply); in a cluster it can be read", k.Name)
	case k.SystemOnly && !mesh.IsSystemNamespace(namespace):
		out.Addf("metadata.namespace", "must be %s: a %s is the operator's", mesh.SystemNamespace, k.Name)
	}
	return out
}

func lookupKind(name mesh.KindName) (mesh.Kind, error) {
	for _, k := range mesh.ClusterKinds() {
		if k.Name == name {
			return k, nil
		}
	}
	return mesh.Kind{}, fmt.Errorf("unknown kind %q of group %s", name, mesh.ClusterGroup)
}
