package check

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/check"
	"github.com/tombolo-mesh/tombolo/zone/kube/cluster"
)

// oldest Kubernetes that has native sidecars by default.
const oldest = 29

const (
	labelInjection = "tombolo.io/sidecar-injection"
	labelEnforce   = "pod-security.kubernetes.io/enforce"
	page           = 500 // objects of one answer
	maxNamed       = 5   // objects that a message names
)

// Config of the checks.
type Config struct {
	// Client of the cluster. Required.
	Client *cluster.Client
	// Namespace of the control plane. Required.
	Namespace string
	// CNI is whether the CNI plugin is to be installed; for Before.
	CNI bool
	// CRDs are the CustomResourceDefinitions of this version by name, as objects; for After.
	CRDs map[string]map[string]any
	// Now is the time; required.
	Now time.Time
}

type run struct {
	Config
	results []check.Result
	nodes   []corev1.Node
	spaces  []corev1.Namespace
}

func (r *run) good(name, format string, args ...any) {
	r.results = append(r.results, check.Good(name, format, args...))
}

func (r *run) skip(name, format string, args ...any) {
	r.results = append(r.results, check.Skipped(name, format, args...))
}

func (r *run) warn(name, do, format string, args ...any) {
	r.results = append(r.results, check.Bad(check.Warn, name, do, format, args...))
}

func (r *run) fail(name, do, format string, args ...any) {
	r.results = append(r.results, check.Bad(check.Fail, name, do, format, args...))
}

// unreadable is a look that the API server did not allow, or that went wrong.
func (r *run) unreadable(name string, err error) {
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		r.skip(name, "you may not look: %v", err)
		return
	}
	r.fail(name, "try again", "%v", err)
}

// Before looks whether a cluster can become a zone.
func Before(ctx context.Context, cfg Config) []check.Result {
	r := &run{Config: cfg}
	if !r.server(ctx) {
		return r.results
	}
	r.permissions(ctx)
	r.machines(ctx)
	r.security(ctx)
	return r.results
}

// server: the API server answers, is new enough, and its clock is right.
func (r *run) server(ctx context.Context) bool {
	client, err := rest.HTTPClientFor(r.Client.Config)
	if err != nil {
		r.fail("api", "look at the kubeconfig", "%v", err)
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(r.Client.Config.Host, "/")+"/version", nil)
	if err != nil {
		r.fail("api", "look at the kubeconfig", "%v", err)
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		r.fail("api", "look at the kubeconfig (--kubeconfig, --kube-context) and the way to the API server", "%v", err)
		return false
	}
	defer response.Body.Close()
	var v version.Info
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, page<<10)).Decode(&v); err != nil || response.StatusCode != http.StatusOK {
		r.fail("api", "is this an API server, and are you allowed in?", "%s answers GET /version with %s", r.Client.Config.Host, response.Status)
		return false
	}
	r.good("api", "%s answers", r.Client.Config.Host)
	minor, err := strconv.Atoi(strings.TrimRight(v.Minor, "+"))
	if err != nil || v.Major != "1" || minor < oldest {
		r.fail("kubernetes-version", fmt.Sprintf("upgrade to Kubernetes 1.%d at least: sidecars are init containers that go on", oldest), "the API server is %s", v.GitVersion)
	} else {
		r.good("kubernetes-version", "%s", v.GitVersion)
	}
	if there, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		r.results = append(r.results, check.Clock("clock", "the API server", there, r.Now))
	}
	return true
}

// permissions of whoever installs.
func (r *run) permissions(ctx context.Context) {
	var missing []string
	reviews := r.Client.Dynamic.Resource(schema.GroupVersionResource{Group: "authorization.k8s.io", Version: "v1", Resource: "selfsubjectaccessreviews"})
	for _, p := range []struct{ group, resource, namespace string }{
		{"", "namespaces", ""}, {"apiextensions.k8s.io", "customresourcedefinitions", ""}, {"rbac.authorization.k8s.io", "clusterroles", ""},
		{"rbac.authorization.k8s.io", "clusterrolebindings", ""}, {"admissionregistration.k8s.io", "mutatingwebhookconfigurations", ""},
		{"admissionregistration.k8s.io", "validatingwebhookconfigurations", ""}, {"apps", "deployments", r.Namespace}, {"apps", "daemonsets", r.Namespace},
		{"", "secrets", r.Namespace}, {"", "services", r.Namespace},
	} {
		answer, err := reviews.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
			"spec": map[string]any{"resourceAttributes": map[string]any{"group": p.group, "resource": p.resource, "namespace": p.namespace, "verb": "create"}}}}, metav1.CreateOptions{})
		if err != nil {
			r.unreadable("permissions", err)
			return
		}
		if allowed, _, _ := unstructured.NestedBool(answer.Object, "status", "allowed"); !allowed {
			missing = append(missing, p.resource)
		}
	}
	if len(missing) > 0 {
		r.fail("permissions", "let an administrator of the cluster install, or leave out what others install (crds.install, rbac.create)", "you may not create %s", strings.Join(missing, ", "))
		return
	}
	r.good("permissions", "you may create what the chart holds")
}

// machines: the nodes' runtimes, and where they keep CNI plugins.
func (r *run) machines(ctx context.Context) {
	if err := r.list(ctx, "nodes", "", "", &r.nodes); err != nil {
		r.unreadable("nodes", err)
		return
	}
	var old, elsewhere []string
	dirs := ""
	for _, n := range r.nodes {
		info := n.Status.NodeInfo
		if minor := minorOf(info.KubeletVersion); minor > 0 && minor < oldest {
			old = append(old, n.Name)
		}
		if d := cniDirs(n); d != "" {
			elsewhere, dirs = append(elsewhere, n.Name), d
		}
	}
	if len(old) > 0 {
		r.fail("nodes", fmt.Sprintf("upgrade their kubelets to 1.%d at least", oldest), "too old: %s", named(old))
	} else {
		r.good("nodes", "%d, new enough", len(r.nodes))
	}
	if r.CNI && len(elsewhere) > 0 {
		r.warn("cni-folders", "set "+dirs, "%s keeps CNI files in other folders than most", named(elsewhere))
	}
}

// cniDirs are the values for distributions that are known to differ.
func cniDirs(n corev1.Node) string {
	info := n.Status.NodeInfo
	switch {
	case strings.Contains(info.KubeletVersion, "+k3s"):
		return "cni.confDir=/var/lib/rancher/k3s/agent/etc/cni/net.d and cni.binDir=/var/lib/rancher/k3s/data/cni (or what its version uses)"
	case strings.Contains(info.KubeletVersion, "-gke."):
		return "cni.binDir=/home/kubernetes/bin"
	case strings.Contains(info.OSImage, "Red Hat Enterprise Linux CoreOS"):
		return "cni.confDir=/etc/kubernetes/cni/net.d and cni.binDir=/var/lib/cni/bin"
	}
	return ""
}

func minorOf(v string) int {
	parts := strings.Split(strings.TrimPrefix(v, "v"), ".")
	if len(parts) < 2 {
		return 0
	}
	n, err := strconv.Atoi(parts[1])
	if err != nil {
		return 0
	}
	return n
}

// security: the Pod Security levels of the system namespace and of meshed ones.
func (r *run) security(ctx context.Context) {
	if err := r.list(ctx, "namespaces", "", "", &r.spaces); err != nil {
		r.unreadable("pod-security", err)
		return
	}
	var strict []string
	for _, ns := range r.spaces {
		level := ns.Labels[labelEnforce]
		hard := level == "baseline" || level == "restricted"
		if ns.Name == r.Namespace && r.CNI && hard {
			r.fail("pod-security", "kubectl label --overwrite namespace "+ns.Name+" "+labelEnforce+"=privileged: the CNI plugin mounts folders of the node",
				"namespace %s enforces the level %s", ns.Name, level)
			return
		}
		if labelled(ns) && !r.CNI && hard {
			strict = append(strict, ns.Name)
		}
	}
	if len(strict) > 0 {
		r.fail("pod-security", "install with the CNI plugin (cni.enabled=true)", "their Pod Security level refuses the init container of sidecars: %s", named(strict))
		return
	}
	r.good("pod-security", "no namespace's level is in the way")
}

func labelled(ns corev1.Namespace) bool {
	return mesh.CanonicalLabels(ns.Labels)[labelInjection] == "enabled"
}

// list reads all objects of a core resource into a slice.
func (r *run) list(ctx context.Context, resource, namespace, selector string, into any) error {
	return list(ctx, r.Client.Dynamic.Resource(corev1.SchemeGroupVersion.WithResource(resource)).Namespace(namespace), selector, into)
}

// list reads all objects into a slice of their type.
func list(ctx context.Context, client dynamic.ResourceInterface, selector string, into any) error {
	var items []any
	options := metav1.ListOptions{LabelSelector: selector, Limit: page}
	for {
		answer, err := client.List(ctx, options)
		if err != nil {
			return err
		}
		for _, item := range answer.Items {
			items = append(items, item.Object)
		}
		if options.Continue = answer.GetContinue(); options.Continue == "" {
			break
		}
	}
	text, err := json.Marshal(items)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// get reads an object into its type.
func get(ctx context.Context, client dynamic.ResourceInterface, name string, into any) error {
	found, err := client.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	return convert(found, into)
}

// named lists some names and says how many more there are.
func named(names []string) string {
	slices.Sort(names)
	if len(names) > maxNamed {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), len(names)-maxNamed)
	}
	return strings.Join(names, ", ")
}

func convert(found *unstructured.Unstructured, into any) error {
	return runtime.DefaultUnstructuredConverter.FromUnstructured(found.Object, into)
}
