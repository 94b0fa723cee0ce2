package webhook

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tombolo-mesh/tombolo/agent/appprobe"
	"github.com/tombolo-mesh/tombolo/mesh"
)

const (
	// proxyID is the user and group of agent and Envoy; the redirect knows them by it.
	proxyID = 1337
	// validationID is some other user without rights.
	validationID = 65532

	readinessPort = 9902
	workVolume    = "tombolo-work"
	workPath      = "/run/tombolo"
	tokenVolume   = "tombolo-token"
	tokenDir      = "/var/run/secrets/tombolo.io"
	// tokenAudience is whom the token is for, and nobody else takes it.
	tokenAudience = "tombolo-zone"
	tokenLife     = 3600 // seconds; kubelets renew it at four fifths
	maxPatches    = 16
)

// Keys of annotations about the sidecar.
const (
	annotationEnv         = "tombolo.io/sidecar-env-vars" // NAME=value;NAME=value
	annotationConcurrency = "tombolo.io/sidecar-proxy-concurrency"
	annotationDrainTime   = "tombolo.io/sidecar-drain-time"
	annotationEnvoyLog    = "tombolo.io/envoy-log-level"
	annotationWait        = "tombolo.io/wait-for-dataplane-ready"
)

// Names of environment variables of the agent; each is a flag of its command.
const (
	envProbes        = "TOMBOLO_APP_PROBES"
	envRedirect      = "TOMBOLO_REDIRECT"
	envCheckRedirect = "TOMBOLO_CHECK_REDIRECT"
)

// injected are the containers of a pod's mesh, in the order in which they
// start, as JSON would hold them. Problems are collected in v.
//
// Every init container that ends costs a pod a second, the pause of the kubelet
// between two looks at what runs. So where the CNI plugin redirects, the sidecar
// itself checks that it did, unless it cannot see it.
func injected(v *values, cfg Config, inbound bool, probes appprobe.Table) []any {
	sidecar := sidecarContainer(v, cfg, probes)
	var prepare any
	switch {
	case !cfg.CNI:
		prepare = initContainer(cfg)
	case !inbound:
		prepare = validationContainer(cfg)
	default:
		sidecar.Env = append(sidecar.Env, corev1.EnvVar{Name: envCheckRedirect, Value: "true"}, redirectEnv())
	}
	out := []any{prepare, sidecar}
	for _, name := range patchNames(v, cfg) {
		patch, ok := cfg.Patch(name)
		if !ok {
			v.errs = append(v.errs, fmt.Errorf("annotation %s: there is no ContainerPatch %q in namespace %s", v.written(annotationPatches), name, cfg.SystemNamespace))
			continue
		}
		for i, ops := range [][]mesh.JSONPatchOp{patch.InitPatch, patch.SidecarPatch} {
			if out[i] == nil {
				continue
			}
			patched, err := patchContainer(out[i], ops)
			if err != nil {
				v.errs = append(v.errs, fmt.Errorf("ContainerPatch %q: %w", name, err))
				continue
			}
			out[i] = patched
		}
	}
	return slices.DeleteFunc(out, func(c any) bool { return c == nil })
}

func patchNames(v *values, cfg Config) []string {
	if _, ok := v.text(annotationPatches); !ok {
		return cfg.Patches
	}
	names := v.list(annotationPatches, ",")
	if len(names) > maxPatches {
		v.bad(annotationPatches, "must name at most %d patches, not %d", maxPatches, len(names))
		return nil
	}
	return names
}

// sidecarContainer is a native sidecar: an init container that goes on. Its
// postStart hook holds back what comes after it until the proxy is ready.
func sidecarContainer(v *values, cfg Config, probes appprobe.Table) *corev1.Container {
	always := corev1.ContainerRestartPolicyAlways
	c := base(cfg, SidecarName, "sidecar")
	c.RestartPolicy = &always
	c.Env = []corev1.EnvVar{
		{Name: "TOMBOLO_KUBERNETES", Value: "true"},
		{Name: "TOMBOLO_ZONE_ADDRESS", Value: cfg.ZoneAddress},
		{Name: "TOMBOLO_ZONE_CA_PEM", Value: cfg.ZoneCA},
		{Name: "TOMBOLO_TOKEN_FILE", Value: tokenDir + "/token"},
		{Name: "TOMBOLO_WORK_DIR", Value: workPath},
		{Name: "TOMBOLO_READINESS_ADDRESS", Value: ":" + strconv.Itoa(readinessPort)},
		field("TOMBOLO_POD_NAME", "metadata.name"),
		field("TOMBOLO_POD_NAMESPACE", "metadata.namespace"),
		field("TOMBOLO_POD_IPS", "status.podIPs"),
	}
	set := func(name, value string) { c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: value}) }
	if v.onOff(annotationDNS, !cfg.WithoutDNS) { // the redirect brings the pod's questions
		set("TOMBOLO_DNS", "true")
	}
	if n, ok := v.number(annotationConcurrency, 1, 256); ok {
		set("TOMBOLO_CONCURRENCY", strconv.Itoa(n))
	}
	if d, ok := v.duration(annotationDrainTime, time.Second, 10*time.Minute); ok {
		set("TOMBOLO_DRAIN_TIME", d.String())
	}
	if level, ok := v.oneOf(annotationEnvoyLog, "trace", "debug", "info", "warning", "error", "critical", "off"); ok {
		set("TOMBOLO_ENVOY_LOG_LEVEL", level)
	}
	if len(probes) > 0 {
		text, _ := json.Marshal(probes) // strings and numbers
		set(envProbes, string(text))
	}
	c.Env = append(c.Env, ownEnv(v)...)
	c.Resources = resources(v, cfg)
	c.VolumeMounts = []corev1.VolumeMount{
		{Name: workVolume, MountPath: workPath},
		{Name: tokenVolume, MountPath: tokenDir, ReadOnly: true},
	}
	c.ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(readinessPort)}},
		PeriodSeconds: 1, TimeoutSeconds: 1, FailureThreshold: 3,
	}
	if v.onOff(annotationWait, true) {
		c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{
			Command: []string{"tombolo-agent", "wait", fmt.Sprintf("--timeout=%ds", cfg.WaitTimeout)}}}}
	}
	return c
}

// initContainer makes the redirect, with the one right that it needs.
func initContainer(cfg Config) *corev1.Container {
	c := base(cfg, InitName, "init")
	c.Env = []corev1.EnvVar{redirectEnv()}
	c.Resources = small()
	root, no := int64(0), false
	c.SecurityContext.RunAsUser, c.SecurityContext.RunAsGroup, c.SecurityContext.RunAsNonRoot = &root, &root, &no
	c.SecurityContext.Capabilities.Add = []corev1.Capability{"NET_ADMIN"}
	return c
}

// validationContainer checks that the CNI plugin made the redirect of a pod whose
// inbound is its own. It is not the proxy's user, of whom nothing is redirected then.
func validationContainer(cfg Config) *corev1.Container {
	c := base(cfg, ValidationName, "redirect", "check")
	c.Env = []corev1.EnvVar{redirectEnv()}
	c.Resources = small()
	other := int64(validationID)
	c.SecurityContext.RunAsUser, c.SecurityContext.RunAsGroup = &other, &other
	return c
}

// base is a container that the restricted Pod Security level accepts.
func base(cfg Config, name string, arguments ...string) *corev1.Container {
	id, yes, no := int64(proxyID), true, false
	return &corev1.Container{
		Name: name, Image: cfg.Image, ImagePullPolicy: cfg.PullPolicy,
		Command: append([]string{"tombolo-agent"}, arguments...),
		SecurityContext: &corev1.SecurityContext{
			RunAsUser: &id, RunAsGroup: &id, RunAsNonRoot: &yes,
			AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
			Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
}

// volumes: where the agent writes, and the token that it proves the pod with.
func volumes() []corev1.Volume {
	life, mode := int64(tokenLife), int32(0o644)
	return []corev1.Volume{
		{Name: workVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: tokenVolume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: &mode,
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Audience: tokenAudience, ExpirationSeconds: &life, Path: "token"}}}}}},
	}
}

func field(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
}

func redirectEnv() corev1.EnvVar {
	return field(envRedirect, "metadata.annotations['"+AnnotationRedirect+"']")
}

// resources are the configured ones with what annotations say instead.
func resources(v *values, cfg Config) corev1.ResourceRequirements {
	out := *cfg.Resources.DeepCopy()
	for _, x := range []struct {
		key  string
		into *corev1.ResourceList
		name corev1.ResourceName
	}{
		{"tombolo.io/sidecar-cpu", &out.Requests, corev1.ResourceCPU},
		{"tombolo.io/sidecar-memory", &out.Requests, corev1.ResourceMemory},
		{"tombolo.io/sidecar-cpu-limit", &out.Limits, corev1.ResourceCPU},
		{"tombolo.io/sidecar-memory-limit", &out.Limits, corev1.ResourceMemory},
	} {
		q, ok := v.quantity(x.key)
		if !ok {
			continue
		}
		if *x.into == nil {
			*x.into = corev1.ResourceList{}
		}
		(*x.into)[x.name] = q
		// A request above the limit is refused by the API server, by names the user did not write.
		if request, both := out.Requests[x.name]; both {
			if limit, limited := out.Limits[x.name]; limited && request.Cmp(limit) > 0 {
				v.bad(x.key, "the request (%s) must not be above the limit (%s)", request.String(), limit.String())
			}
		}
	}
	return out
}

// small is for containers that run for milliseconds.
func small() corev1.ResourceRequirements {
	return corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi")},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")},
	}
}

// ownEnv are the variables of the annotation, "NAME=value;NAME=value".
func ownEnv(v *values) (out []corev1.EnvVar) {
	for _, entry := range v.list(annotationEnv, ";") {
		name, value, ok := strings.Cut(entry, "=")
		name = strings.TrimSpace(name)
		if problems := validation.IsEnvVarName(name); !ok || len(problems) > 0 {
			v.bad(annotationEnv, "%q must be NAME=value; several are separated by semicolons", entry)
			continue
		}
		out = append(out, corev1.EnvVar{Name: name, Value: strings.TrimSpace(value)})
	}
	return out
}

// patchContainer applies an authored patch; the result must still be a container.
func patchContainer(container any, ops []mesh.JSONPatchOp) (any, error) {
	if len(ops) == 0 {
		return container, nil
	}
	before, err := json.Marshal(container)
	if err != nil {
		return nil, err
	}
	ops = slices.Clone(ops)
	for i := range ops {
		ops[i] = ops[i].Literal()
	}
	text, err := json.Marshal(ops)
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.DecodePatch(text)
	if err != nil {
		return nil, err
	}
	options := jsonpatch.NewApplyOptions()
	options.EnsurePathExistsOnAdd = true // /resources/limits/cpu where there are no limits yet
	after, err := patch.ApplyWithOptions(before, options)
	if err != nil {
		return nil, err
	}
	var c corev1.Container
	if err := json.Unmarshal(after, &c); err != nil {
		return nil, fmt.Errorf("what it makes is no container: %w", err)
	}
	return json.RawMessage(after), nil
}
