package webhook

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Names of the injected containers.
const (
	SidecarName    = "tombolo-sidecar"
	InitName       = "tombolo-init"
	ValidationName = "tombolo-validation"
)

// Config is what every injected pod has in common.
type Config struct {
	// Image of the agent, required. It has tombolo-agent and envoy on its PATH.
	Image string
	// PullPolicy of the image; default is Kubernetes' own.
	PullPolicy corev1.PullPolicy
	// ZoneAddress, default "tombolo-zone.<system namespace>.svc:5678".
	ZoneAddress string
	// ZoneCA is PEM of the authorities of the zone's certificate, required. Pods
	// carry it for as long as they live.
	ZoneCA string
	// SystemNamespace is left alone, default "tombolo-system".
	SystemNamespace string
	// CNI is set when the CNI plugin redirects: pods then need no privileged init
	// container.
	CNI bool
	// WithoutDNS leaves questions for names alone, where a pod does not ask otherwise.
	WithoutDNS bool
	// VIPs are the networks that only the proxy can reach.
	VIPs []netip.Prefix
	// Resources of the sidecar; default requests of 50m and 64Mi, and a memory limit of 512Mi.
	Resources corev1.ResourceRequirements
	// WaitTimeout in seconds bounds the wait of a pod's containers for its proxy; default 60.
	WaitTimeout int
	// Patches are the names of ContainerPatches for pods that name none.
	Patches []string
	// Patch finds a ContainerPatch.
	Patch func(name string) (*mesh.ContainerPatch, bool)
	// Secret makes what nobody can guess, default crypto/rand.Text.
	Secret func() string
}

// WithDefaults checks and completes a configuration.
func (c Config) WithDefaults() (Config, error) {
	if c.Image == "" || c.ZoneCA == "" {
		return c, errors.New("webhook: image and zone CA are required")
	}
	c.SystemNamespace = cmp.Or(c.SystemNamespace, "tombolo-system")
	c.ZoneAddress = cmp.Or(c.ZoneAddress, "tombolo-zone."+c.SystemNamespace+".svc:5678")
	c.WaitTimeout = cmp.Or(c.WaitTimeout, 60)
	if c.Resources.Requests == nil && c.Resources.Limits == nil {
		c.Resources = corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("512Mi")},
		}
	}
	if c.Patch == nil {
		c.Patch = func(string) (*mesh.ContainerPatch, bool) { return nil, false }
	}
	if c.Secret == nil {
		c.Secret = rand.Text
	}
	return c, nil
}

// Namespace of a pod.
type Namespace struct {
	Name                string
	Labels, Annotations map[string]string
}

// Result of an injection.
type Result struct {
	// Patch of the pod; empty for one that is left alone.
	Patch []Op
	// Left says why a pod is left alone: a word in CamelCase and a sentence. Both are
	// empty when nobody asked for a sidecar.
	Left, Why string
	// Warnings for whoever creates the pod.
	Warnings []string
}

// Inject gives a pod its sidecar. An error says what is wrong with the pod's
// annotations or labels, each by its key. The configuration has its defaults.
// Calling it again on what it made changes nothing, except that probes which
// others added meanwhile are taken over too.
func Inject(cfg Config, pod *corev1.Pod, ns Namespace) (Result, error) {
	wanted, err := wants(pod, ns)
	if err != nil || !wanted {
		return Result{}, err
	}
	if left, why := leftAlone(cfg, pod, ns); left != "" {
		return Result{Left: left, Why: why}, nil
	}
	if i := slices.IndexFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == SidecarName }); i >= 0 {
		return again(cfg, pod, i)
	}
	v := newValues("annotation", pod.Annotations)
	rules := redirectOf(v, cfg)
	redirect, err := json.Marshal(rules)
	if err != nil {
		return Result{}, err
	}
	ops, probes := takeProbes(pod, nil, cfg.Secret)
	containers := injected(v, cfg, !rules.Inbound.Disabled, probes)
	first := v.onOff(annotationFirst, true)
	if err := v.err(); err != nil {
		return Result{}, err
	}
	ops = append(ops, addContainers(pod, containers, first)...)
	ops = append(ops, addVolumes(pod)...)
	ops = append(ops, addAnnotations(pod, map[string]string{AnnotationInjected: "true", AnnotationRedirect: string(redirect)})...)
	return Result{Patch: ops, Warnings: warnings(cfg, pod, ns)}, nil
}

// wants says whether the pod's label, or else its namespace's, asks for a sidecar.
func wants(pod *corev1.Pod, ns Namespace) (bool, error) {
	for _, given := range []map[string]string{pod.Labels, ns.Labels} {
		v := newValues("label", given)
		if _, ok := v.text(LabelInjection); ok {
			return v.onOff(LabelInjection, false), v.err()
		}
	}
	return false, nil
}

// leftAlone says why a pod that should have a sidecar cannot.
func leftAlone(cfg Config, pod *corev1.Pod, ns Namespace) (left, why string) {
	switch {
	case ns.Name == cfg.SystemNamespace || ns.Name == "kube-system":
		return "SystemNamespace", "no sidecar: pods of namespace " + ns.Name + " must start without the mesh"
	case pod.Spec.HostNetwork:
		return "HostNetwork", "no sidecar: the pod has hostNetwork, and the node's traffic is not the pod's to redirect"
	case pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows:
		return "Windows", "no sidecar: the proxy runs on Linux alone"
	}
	return "", ""
}

// again is Inject on a pod that has a sidecar: it was called a second time, for
// others changed the pod after it, or the pod is a copy of another.
func again(cfg Config, pod *corev1.Pod, sidecar int) (Result, error) {
	have, at, err := probesOf(&pod.Spec.InitContainers[sidecar])
	if err != nil {
		return Result{}, fmt.Errorf("container %s: %w", SidecarName, err)
	}
	ops, probes := takeProbes(pod, have, cfg.Secret)
	if len(ops) == 0 {
		return Result{}, nil
	}
	value, err := json.Marshal(probes)
	if err != nil {
		return Result{}, err
	}
	return Result{Patch: append(ops, probesOp(sidecar, at, pod.Spec.InitContainers[sidecar].Env, string(value)))}, nil
}

// warnings are about pods that are injected and may not be what was meant.
func warnings(cfg Config, pod *corev1.Pod, ns Namespace) (out []string) {
	level := ns.Labels["pod-security.kubernetes.io/enforce"]
	if !cfg.CNI && (level == "restricted" || level == "baseline") {
		out = append(out, fmt.Sprintf("namespace %s enforces the Pod Security level %q, which refuses the init container %s (root, NET_ADMIN): "+
			"install Tombolo with the CNI plugin (cni.enabled) to use the mesh there", ns.Name, level, InitName))
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if user := runsAs(pod, c); user != nil && *user == proxyID {
			out = append(out, fmt.Sprintf("container %s runs as user %d, the proxy's: its connections bypass the mesh", c.Name, proxyID))
		}
	}
	return out
}

func runsAs(pod *corev1.Pod, c corev1.Container) *int64 {
	if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
		return c.SecurityContext.RunAsUser
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.RunAsUser
	}
	return nil
}

// addContainers puts ours before the pod's init containers, or after them.
func addContainers(pod *corev1.Pod, containers []any, first bool) (ops []Op) {
	if len(pod.Spec.InitContainers) == 0 {
		return []Op{{Op: "add", Path: "/spec/initContainers", Value: containers}}
	}
	for i, c := range containers {
		if !first {
			i += len(pod.Spec.InitContainers)
		}
		ops = append(ops, Op{Op: "add", Path: fmt.Sprintf("/spec/initContainers/%d", i), Value: c})
	}
	return ops
}

func addVolumes(pod *corev1.Pod) (ops []Op) {
	volumes := volumes()
	if len(pod.Spec.Volumes) == 0 {
		return []Op{{Op: "add", Path: "/spec/volumes", Value: volumes}}
	}
	for _, v := range volumes {
		ops = append(ops, Op{Op: "add", Path: "/spec/volumes/-", Value: v})
	}
	return ops
}

func addAnnotations(pod *corev1.Pod, set map[string]string) (ops []Op) {
	if len(pod.Annotations) == 0 {
		return []Op{{Op: "add", Path: "/metadata/annotations", Value: set}}
	}
	for _, key := range []string{AnnotationInjected, AnnotationRedirect} {
		ops = append(ops, Op{Op: "add", Path: pointer("metadata", "annotations", key), Value: set[key]})
	}
	return ops
}
