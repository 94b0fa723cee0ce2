package host

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/kube/cluster"
	"github.com/tombolo-mesh/tombolo/zone/kube/webhook"
)

// Bounds of the file.
const (
	maxInjection = 64 << 10
	// reloadEvery is how often it is looked at: a mounted ConfigMap changes within
	// a minute anyway.
	reloadEvery = 5 * time.Second
)

// injectionFile is what injected pods get, YAML.
type injectionFile struct {
	// Image of the agent. Required.
	Image string `json:"image"`
	// ImagePullPolicy of it.
	ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy,omitempty"`
	// CNI is set when the CNI plugin redirects.
	CNI bool `json:"cni,omitempty"`
	// CNITaint keeps pods away from nodes whose CNI plugin is not ready.
	CNITaint bool `json:"cniTaint,omitempty"`
	// DNS is whether the agent answers questions for names, default true.
	DNS *bool `json:"dns,omitempty"`
	// WaitTimeoutSeconds bounds the wait of containers for their proxy, default 60.
	WaitTimeoutSeconds int `json:"waitTimeoutSeconds,omitempty"`
	// ContainerPatches for pods that name none.
	ContainerPatches []string `json:"containerPatches,omitempty"`
	// Resources of the sidecar.
	Resources corev1.ResourceRequirements `json:"resources,omitzero"`
}

// injection is the configuration for pods: the file, the zone's authorities and the
// ContainerPatches of the control plane's namespace.
type injection struct {
	host    *Host
	patches *cluster.Table[*patch]

	mu   sync.Mutex
	file injectionFile
	text string
}

// patch is what is kept of a ContainerPatch.
type patch struct {
	metav1.ObjectMeta
	spec *mesh.ContainerPatch
}

// load reads the file.
func (i *injection) load() error {
	text, err := os.ReadFile(i.host.cfg.Injection)
	if err != nil {
		return fmt.Errorf("injection: %w", err)
	}
	if len(text) > maxInjection {
		return fmt.Errorf("injection: %s has %d bytes, at most %d are allowed", i.host.cfg.Injection, len(text), maxInjection)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if string(text) == i.text {
		return nil
	}
	var f injectionFile
	if err := yaml.UnmarshalStrict(text, &f); err != nil {
		return fmt.Errorf("injection: %s: %w", i.host.cfg.Injection, err)
	}
	if f.Image == "" {
		return fmt.Errorf("injection: %s: image is required", i.host.cfg.Injection)
	}
	i.file, i.text = f, string(text)
	return nil
}

// run reads the file again when it changed, and follows the ContainerPatches.
func (i *injection) run(ctx context.Context) {
	gvr := schema.GroupVersionResource{Group: "tombolo.io", Version: "v1alpha1", Resource: "containerpatches"}
	i.mu.Lock()
	i.patches = cluster.NewTable(cluster.Custom(i.host.client, gvr, "ContainerPatch", i.host.cfg.Namespace), slimPatch, nil)
	patches := i.patches
	i.mu.Unlock()
	done := make(chan struct{})
	go func() { defer close(done); patches.Run(ctx, i.host.client) }()
	tick := time.NewTicker(reloadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			<-done
			return
		case <-tick.C:
		}
		if err := i.load(); err != nil {
			i.host.cfg.Log.Warn("the last good one stays", "error", err)
		}
	}
}

func slimPatch(o runtime.Object) *patch {
	u := o.(*unstructured.Unstructured)
	out := &patch{ObjectMeta: metav1.ObjectMeta{Namespace: u.GetNamespace(), Name: u.GetName()}}
	text, err := json.Marshal(u.Object["spec"])
	if err != nil {
		return out
	}
	spec := &mesh.ContainerPatch{}
	if json.Unmarshal(text, spec) == nil {
		out.spec = spec
	}
	return out
}

// taint says whether nodes wait for their CNI plugin.
func (i *injection) taint() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.file.CNI && i.file.CNITaint
}

// config is for the next pod.
func (i *injection) config() webhook.Config {
	i.mu.Lock()
	f, patches := i.file, i.patches
	i.mu.Unlock()
	h := i.host
	return webhook.Config{
		Image: f.Image, PullPolicy: f.ImagePullPolicy, ZoneCA: string(h.certs.CAPEM()), SystemNamespace: h.cfg.Namespace,
		CNI: f.CNI, WithoutDNS: f.DNS != nil && !*f.DNS, VIPs: h.cfg.VIPs, Resources: f.Resources,
		WaitTimeout: f.WaitTimeoutSeconds, Patches: f.ContainerPatches,
		Patch: func(name string) (*mesh.ContainerPatch, bool) {
			if patches == nil {
				return nil, false
			}
			p, ok := patches.Get(h.cfg.Namespace, name)
			if !ok || p.spec == nil {
				return nil, false
			}
			return p.spec, true
		},
	}
}
