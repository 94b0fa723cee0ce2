package check

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	admissionregv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/check"
)

// zoneName is the name of the control plane's objects.
const zoneName = "tombolo-zone"

// sidecar is the injected container.
const sidecar = "tombolo-sidecar"

// Installed reports whether the zone's Deployment is in the namespace.
func Installed(ctx context.Context, cfg Config) (bool, error) {
	_, err := cfg.Client.Dynamic.Resource(appsv1.SchemeGroupVersion.WithResource("deployments")).Namespace(cfg.Namespace).Get(ctx, zoneName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// After looks at a cluster that is a zone.
func After(ctx context.Context, cfg Config) []check.Result {
	r := &run{Config: cfg}
	if !r.server(ctx) {
		return r.results
	}
	_ = r.list(ctx, "namespaces", "", "", &r.spaces) // without it, labelled namespaces are not known
	settings := r.settings(ctx)
	for _, look := range []func(context.Context){r.definitions, r.controlPlane, r.lease, r.links, r.webhooks, r.injection} {
		look(ctx)
	}
	if settings.CNI {
		r.plugin(ctx)
	}
	r.ingresses(ctx)
	r.sidecars(ctx, settings)
	return r.results
}

func (r *run) of(gv schema.GroupVersion, resource string) dynamic.ResourceInterface {
	return r.Client.Dynamic.Resource(gv.WithResource(resource)).Namespace(r.Namespace)
}

// settings of the injection, as the chart wrote them.
type settings struct {
	Image string `json:"image"`
	CNI   bool   `json:"cni"`
}

func (r *run) settings(ctx context.Context) (s settings) {
	var m corev1.ConfigMap
	if err := get(ctx, r.of(corev1.SchemeGroupVersion, "configmaps"), zoneName, &m); err != nil {
		r.unreadable("settings", err)
		return s
	}
	if err := yaml.Unmarshal([]byte(m.Data["injection.yaml"]), &s); err != nil {
		r.fail("settings", "install the chart again", "ConfigMap %s, injection.yaml: %v", zoneName, err)
	}
	return s
}

// definitions: the cluster has the kinds of this version.
func (r *run) definitions(ctx context.Context) {
	client := r.Client.Dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	var missing, other []string
	for name, want := range r.CRDs {
		found, err := client.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			missing = append(missing, name)
			continue
		}
		if err != nil {
			r.unreadable("definitions", err)
			return
		}
		if !reflect.DeepEqual(schemas(found.Object), schemas(want)) {
			other = append(other, name)
		}
	}
	const do = "tombolo install crds | kubectl apply --server-side --force-conflicts -f -"
	switch {
	case len(missing) > 0:
		r.fail("definitions", do, "missing: %s", named(missing))
	case len(other) > 0:
		r.warn("definitions", do+", or use the tombolo command of the zone's version", "of another version than this command: %s", named(other))
	default:
		r.good("definitions", "%d, of this version", len(r.CRDs))
	}
}

// schemas are what of a CustomResourceDefinition the API server keeps as it was given.
func schemas(crd map[string]any) any {
	versions, _, _ := unstructured.NestedSlice(crd, "spec", "versions")
	out := map[string]any{}
	for _, v := range versions {
		if v, ok := v.(map[string]any); ok {
			out[fmt.Sprint(v["name"])] = v["schema"]
		}
	}
	text, err := yaml.Marshal(out) // numbers of both come out alike
	if err != nil {
		return nil
	}
	return string(text)
}

// controlPlane: the instances run.
func (r *run) controlPlane(ctx context.Context) {
	var d appsv1.Deployment
	if err := get(ctx, r.of(appsv1.SchemeGroupVersion, "deployments"), zoneName, &d); err != nil {
		r.unreadable("control-plane", err)
		return
	}
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	where := fmt.Sprintf("kubectl -n %s describe pods -l app.kubernetes.io/name=%s; kubectl -n %s logs deployment/%s", r.Namespace, zoneName, r.Namespace, zoneName)
	switch {
	case d.Status.ReadyReplicas == 0:
		r.fail("control-plane", where, "none of %d instances is ready", want)
	case d.Status.ReadyReplicas < want || d.Status.UpdatedReplicas < want:
		r.warn("control-plane", where, "%d of %d instances are ready, %d of this version", d.Status.ReadyReplicas, want, d.Status.UpdatedReplicas)
	case want == 1:
		r.warn("control-plane", "set zone.replicas=2", "one instance: while it restarts, new pods wait or are refused")
	default:
		r.good("control-plane", "%d instances ready", want)
	}
}

// lease: somebody leads.
func (r *run) lease(ctx context.Context) {
	var l coordinationv1.Lease
	if err := get(ctx, r.of(coordinationv1.SchemeGroupVersion, "leases"), zoneName, &l); err != nil {
		if apierrors.IsNotFound(err) {
			r.fail("leader", "see the control plane's log", "no instance leads: there is no Lease %s", zoneName)
			return
		}
		r.unreadable("leader", err)
		return
	}
	holder, renewed, lasts := "", time.Time{}, 15*time.Second
	if l.Spec.HolderIdentity != nil {
		holder = *l.Spec.HolderIdentity
	}
	if l.Spec.RenewTime != nil {
		renewed = l.Spec.RenewTime.Time
	}
	if l.Spec.LeaseDurationSeconds != nil {
		lasts = time.Duration(*l.Spec.LeaseDurationSeconds) * time.Second
	}
	if holder == "" || r.Now.Sub(renewed) > 2*lasts {
		r.fail("leader", "see the control plane's log: may it write its Lease?", "no instance leads (last %q, %s ago)", holder, r.Now.Sub(renewed).Round(time.Second))
		return
	}
	r.good("leader", "%s", holder)
}

// links: each instance serves and is connected to global.
func (r *run) links(ctx context.Context) {
	var pods []corev1.Pod
	if err := r.list(ctx, "pods", r.Namespace, "app.kubernetes.io/name="+zoneName, &pods); err != nil {
		r.unreadable("zone-ready", err)
		return
	}
	for _, p := range pods {
		if p.Status.Phase != corev1.PodRunning {
			continue // the control plane's check tells
		}
		text, err := r.Client.Core.Get().Namespace(p.Namespace).Resource("pods").Name(p.Name + ":5680").SubResource("proxy").Suffix("readyz").Timeout(5 * time.Second).DoRaw(ctx)
		if apierrors.IsForbidden(err) {
			r.skip("zone-ready", "you may not ask instances (pods/proxy): %v", err)
			return
		}
		said := string(text)
		if err != nil {
			said = err.Error() // the text may be the API server's, in its own form
		}
		r.results = append(r.results, check.ReadAnswer("zone-ready", p.Name, err == nil, said))
	}
}

// webhooks: the API server is told whom to trust, and somebody answers.
func (r *run) webhooks(ctx context.Context) {
	var mutating admissionregv1.MutatingWebhookConfiguration
	var validating admissionregv1.ValidatingWebhookConfiguration
	err := errors.Join(
		get(ctx, r.Client.Dynamic.Resource(admissionregv1.SchemeGroupVersion.WithResource("mutatingwebhookconfigurations")), zoneName, &mutating),
		get(ctx, r.Client.Dynamic.Resource(admissionregv1.SchemeGroupVersion.WithResource("validatingwebhookconfigurations")), zoneName, &validating))
	if err != nil {
		r.unreadable("webhooks", err)
		return
	}
	var without []string
	for _, w := range mutating.Webhooks {
		if len(w.ClientConfig.CABundle) == 0 {
			without = append(without, w.Name)
		}
	}
	for _, w := range validating.Webhooks {
		if len(w.ClientConfig.CABundle) == 0 {
			without = append(without, w.Name)
		}
	}
	if len(without) > 0 {
		r.fail("webhooks", "see the control plane's log: it fills them in when it starts, if it may", "without caBundle: %s", named(without))
		return
	}
	r.good("webhooks", "%d, with authorities", len(mutating.Webhooks)+len(validating.Webhooks))
}

// injection tries it: a pod that is never made must come back with a sidecar.
func (r *run) injection(ctx context.Context) {
	pod := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"generateName": "tombolo-check-", "labels": map[string]any{labelInjection: "enabled"}},
		"spec": map[string]any{
			"containers": []any{map[string]any{"name": "app", "image": "none", "securityContext": map[string]any{
				"allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": int64(65532),
				"capabilities": map[string]any{"drop": []any{"ALL"}}, "seccompProfile": map[string]any{"type": "RuntimeDefault"}}}},
		},
	}}
	namespace := metav1.NamespaceDefault
	for _, ns := range r.spaces {
		if labelled(ns) {
			namespace = ns.Name
			break
		}
	}
	made, err := r.Client.Dynamic.Resource(corev1.SchemeGroupVersion.WithResource("pods")).Namespace(namespace).
		Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	switch {
	case apierrors.IsForbidden(err) && !strings.Contains(err.Error(), "PodSecurity"):
		r.skip("injection", "you may not try: %v", err)
		return
	case err != nil:
		r.fail("injection", "see the message, and the control plane's log; the API server must reach the Service "+zoneName+", port 443", "a pod in namespace %s (dry run): %v", namespace, err)
		return
	}
	var got corev1.Pod
	if err := convert(made, &got); err != nil {
		r.fail("injection", "try again", "%v", err)
		return
	}
	if !slices.ContainsFunc(got.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == sidecar }) {
		r.fail("injection", "see the events of the control plane and its webhook configuration", "a pod with the label %s=enabled gets no sidecar (dry run in namespace %s)", labelInjection, namespace)
		return
	}
	r.good("injection", "a pod gets its sidecar (dry run in namespace %s)", namespace)
}

// plugin: each node has the CNI plugin.
func (r *run) plugin(ctx context.Context) {
	var d appsv1.DaemonSet
	if err := get(ctx, r.of(appsv1.SchemeGroupVersion, "daemonsets"), "tombolo-cni", &d); err != nil {
		r.unreadable("cni", err)
		return
	}
	if d.Status.NumberReady < d.Status.DesiredNumberScheduled {
		r.fail("cni", fmt.Sprintf("kubectl -n %s describe pods -l app.kubernetes.io/name=tombolo-cni: are cni.confDir and cni.binDir those of the nodes?", r.Namespace),
			"ready on %d of %d nodes; meshed pods do not start on the others", d.Status.NumberReady, d.Status.DesiredNumberScheduled)
		return
	}
	r.good("cni", "on %d nodes", d.Status.NumberReady)
}

// ingresses: other zones can reach this one.
func (r *run) ingresses(ctx context.Context) {
	var services []corev1.Service
	if err := r.list(ctx, "services", "", "k8s.tombolo.io/zone-proxy-type=ingress", &services); err != nil {
		r.unreadable("ingress", err)
		return
	}
	if len(services) == 0 {
		r.skip("ingress", "there is none: other zones cannot call this one")
	}
	for _, s := range services {
		who := s.Namespace + "/" + s.Name
		var pods []corev1.Pod
		if err := r.list(ctx, "pods", s.Namespace, metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: s.Spec.Selector}), &pods); err != nil {
			r.unreadable("ingress", err)
			return
		}
		ready := 0
		for _, p := range pods {
			if isReady(p) {
				ready++
			}
		}
		annotations := mesh.CanonicalLabels(s.Annotations)
		address := annotations["tombolo.io/ingress-public-address"]
		for _, in := range s.Status.LoadBalancer.Ingress {
			address = strings.TrimSpace(address + " " + in.IP + in.Hostname)
		}
		if address == "" && s.Spec.Type == corev1.ServiceTypeNodePort {
			address = "the nodes' addresses"
		}
		switch {
		case ready == 0:
			r.fail("ingress", fmt.Sprintf("kubectl -n %s describe pods; is the zone's control plane ready?", s.Namespace), "%s: none of %d instances is ready", who, len(pods))
		case address == "":
			r.fail("ingress", "wait for the load balancer, or set ingress.service.type=NodePort, or ingress.address", "%s has no address that other zones could call", who)
		default:
			r.good("ingress", "%s: %d instances ready, at %s", who, ready, address)
		}
	}
}

// sidecars of the cluster's pods.
func (r *run) sidecars(ctx context.Context, s settings) {
	var pods []corev1.Pod
	if err := r.list(ctx, "pods", "", "", &pods); err != nil {
		r.unreadable("sidecars", err)
		return
	}
	meshed := map[string]bool{}
	for _, ns := range r.spaces {
		meshed[ns.Name] = labelled(ns)
	}
	total := 0
	var outdated, missing, waiting []string
	for _, p := range pods {
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.DeletionTimestamp != nil {
			continue
		}
		who := p.Namespace + "/" + p.Name
		i := slices.IndexFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == sidecar })
		if i < 0 {
			asked := mesh.CanonicalLabels(p.Labels)[labelInjection]
			if (asked == "enabled" || asked == "" && meshed[p.Namespace]) && !p.Spec.HostNetwork && p.Namespace != r.Namespace {
				missing = append(missing, who)
			}
			continue
		}
		total++
		if s.Image != "" && p.Spec.InitContainers[i].Image != s.Image {
			outdated = append(outdated, who)
		}
		if !isReady(p) && r.Now.Sub(p.CreationTimestamp.Time) > time.Minute {
			waiting = append(waiting, who)
		}
	}
	if len(missing) > 0 {
		r.warn("sidecars-missing", "restart them: kubectl rollout restart; they started before their namespace was labelled", "%d pods should have a sidecar and have none: %s", len(missing), named(missing))
	}
	if len(outdated) > 0 {
		r.warn("sidecars-outdated", "restart them when it suits: kubectl rollout restart", "%d pods have a sidecar of another version than new ones: %s", len(outdated), named(outdated))
	}
	if len(waiting) > 0 {
		r.warn("pods-not-ready", "kubectl describe pod; kubectl logs POD -c "+sidecar, "%d meshed pods are not ready after a minute: %s", len(waiting), named(waiting))
	}
	if len(missing)+len(outdated)+len(waiting) == 0 {
		r.good("sidecars", "%d pods", total)
	}
}

func isReady(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
