package webhook

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Recorder writes Events; cluster.Recorder is one.
type Recorder interface {
	Warn(about corev1.ObjectReference, reason, message string)
}

// PodsConfig is what Pods needs.
type PodsConfig struct {
	// Inject is the configuration for the next pod. It is asked for each, for the
	// zone's authorities and ContainerPatches change.
	Inject func() Config
	// Namespace finds a namespace; an error refuses the pod, which is tried again.
	Namespace func(ctx context.Context, name string) (Namespace, error)
	// Fresh is Namespace from the API server, where that one may lag behind; nil if
	// it does not.
	Fresh func(ctx context.Context, name string) (Namespace, error)
	// Recorder for pods that are left alone; nil for none.
	Recorder Recorder
	// Log for injections; default discards.
	Log *slog.Logger
}

// Pods is the Handler that injects.
func Pods(cfg PodsConfig) Handler {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return func(ctx context.Context, request *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return cfg.answer(ctx, request)
	}
}

func (cfg PodsConfig) answer(ctx context.Context, request *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	if request.Operation != admissionv1.Create || request.Resource.Resource != "pods" || request.SubResource != "" {
		return nil
	}
	var pod corev1.Pod
	if err := json.Unmarshal(request.Object.Raw, &pod); err != nil {
		return refuse(http.StatusBadRequest, metav1.StatusReasonBadRequest, "tombolo: the pod cannot be read: "+err.Error())
	}
	ns, err := cfg.namespace(ctx, &pod, request.Namespace)
	if err != nil {
		// Without its labels nobody knows whether the pod should be in the mesh.
		return refuse(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "tombolo: namespace "+request.Namespace+" cannot be read: "+err.Error())
	}
	settings, err := cfg.Inject().WithDefaults()
	if err != nil {
		return refuse(http.StatusInternalServerError, metav1.StatusReasonInternalError, "tombolo: "+err.Error())
	}
	result, err := Inject(settings, &pod, ns)
	if err != nil {
		return refuse(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "tombolo: "+err.Error())
	}
	dry := request.DryRun != nil && *request.DryRun
	if cfg.Recorder != nil && !dry {
		if result.Left != "" {
			cfg.Recorder.Warn(about(&pod, request), "SidecarNotInjected"+result.Left, result.Why)
		}
		for _, w := range result.Warnings {
			cfg.Recorder.Warn(about(&pod, request), "SidecarDoubtful", w)
		}
	}
	response := &admissionv1.AdmissionResponse{Allowed: true, Warnings: result.Warnings}
	if result.Why != "" {
		response.Warnings = append(response.Warnings, "tombolo: "+result.Why)
	}
	if len(result.Patch) == 0 {
		return response
	}
	patch, err := json.Marshal(result.Patch)
	if err != nil {
		return refuse(http.StatusInternalServerError, metav1.StatusReasonInternalError, "tombolo: "+err.Error())
	}
	kind := admissionv1.PatchTypeJSONPatch
	response.Patch, response.PatchType = patch, &kind
	if !dry {
		cfg.Log.Debug("sidecar injected", "namespace", request.Namespace, "pod", pod.Name+pod.GenerateName)
	}
	return response
}

// namespace of a pod. The webhook is called for namespaces that want sidecars, so
// one that seems not to was most likely labelled a moment ago: it is looked at again.
func (cfg PodsConfig) namespace(ctx context.Context, pod *corev1.Pod, name string) (Namespace, error) {
	ns, err := cfg.Namespace(ctx, name)
	if err != nil || cfg.Fresh == nil {
		return ns, err
	}
	if wanted, bad := wants(pod, ns); wanted || bad != nil {
		return ns, nil
	}
	return cfg.Fresh(ctx, name)
}

// about is whom an event is about: the pod, which has no UID yet, or for one
// whose name is not known either, whoever makes it.
func about(pod *corev1.Pod, request *admissionv1.AdmissionRequest) corev1.ObjectReference {
	if pod.Name != "" {
		return corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: request.Namespace, Name: pod.Name}
	}
	if owner := metav1.GetControllerOf(pod); owner != nil {
		return corev1.ObjectReference{APIVersion: owner.APIVersion, Kind: owner.Kind, Namespace: request.Namespace, Name: owner.Name, UID: owner.UID}
	}
	return corev1.ObjectReference{APIVersion: "v1", Kind: "Namespace", Name: request.Namespace, Namespace: request.Namespace}
}
