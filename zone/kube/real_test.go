package kube_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tombolo-mesh/tombolo/internal/budget"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/kube"
	"github.com/tombolo-mesh/tombolo/zone/kube/cluster"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

// realCluster connects to the cluster of TOMBOLO_KUBECONFIG, or skips.
func realCluster(t *testing.T) *cluster.Client {
	t.Helper()
	path := os.Getenv("TOMBOLO_KUBECONFIG")
	if path == "" {
		t.Skip("TOMBOLO_KUBECONFIG names no cluster: make e2e-kube makes one")
	}
	c, err := cluster.Connect(cluster.Config{Kubeconfig: path, Component: "tombolo-test"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// lab makes objects in a namespace of its own. Its pods never run: their node has
// no kubelet, and their status is written by hand.
type lab struct {
	t         *testing.T
	c         *cluster.Client
	namespace string
}

func newLab(t *testing.T, c *cluster.Client, labels map[string]string) *lab {
	t.Helper()
	l := &lab{t: t, c: c, namespace: fmt.Sprintf("t%d", time.Now().UnixNano())}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: l.namespace, Labels: labels}}
	l.must(c.Core.Post().Resource("namespaces").Body(ns).Do(t.Context()).Error())
	if os.Getenv("TOMBOLO_KUBE_KEEP") == "" {
		t.Cleanup(func() { _ = c.Core.Delete().Resource("namespaces").Name(l.namespace).Do(context.Background()).Error() })
	}
	l.eventually("a service account", func() bool {
		return c.Core.Get().Namespace(l.namespace).Resource("serviceaccounts").Name("default").Do(t.Context()).Error() == nil
	})
	l.node()
	return l
}

// nodeName is the node of the lab's pods. It has no kubelet.
func (l *lab) nodeName() string { return "node-" + l.namespace }

// node makes the lab's node, and says that it lives until the test is over.
func (l *lab) node() {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: l.nodeName(), Labels: map[string]string{corev1.LabelTopologyZone: "a"}}}
	l.must(l.c.Core.Post().Resource("nodes").Body(n).Do(l.t.Context()).Error())
	beat := func(ctx context.Context) error {
		patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":%q}]}}`, time.Now().UTC().Format(time.RFC3339))
		return l.c.Core.Patch(types.StrategicMergePatchType).Resource("nodes").Name(n.Name).SubResource("status").Body([]byte(patch)).Do(ctx).Error()
	}
	l.must(beat(l.t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				_ = beat(ctx) // the next one follows
			}
		}
	}()
	l.t.Cleanup(func() {
		cancel()
		<-done
		_ = l.c.Core.Delete().Resource("nodes").Name(n.Name).Do(context.Background()).Error()
	})
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) eventually(what string, ok func() bool) {
	l.t.Helper()
	eventually(l.t, what, ok)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within a minute", what)
		}
	}
}

func (l *lab) service(name string, change func(*corev1.Service)) error {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": name},
		Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("web")}}}}
	if change != nil {
		change(s)
	}
	return l.c.Core.Post().Namespace(l.namespace).Resource("services").Body(s).Do(l.t.Context()).Error()
}

func (l *lab) pod(app, name string, change func(*corev1.Pod)) error {
	no := false
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app},
		Annotations: map[string]string{"tombolo.io/sidecar-injected": "true", "traffic.tombolo.io/redirect": `{"inbound":{"port":15006},"outbound":{"port":15001}}`}},
		Spec: corev1.PodSpec{NodeName: l.nodeName(), AutomountServiceAccountToken: &no,
			Containers: []corev1.Container{{Name: "app", Image: "none", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}}}}}
	if change != nil {
		change(p)
	}
	return l.c.Core.Post().Namespace(l.namespace).Resource("pods").Body(p).Do(l.t.Context()).Error()
}

// status says where a pod is and whether it is ready.
func (l *lab) status(name, ip string, ready bool) error {
	condition := "False"
	if ready {
		condition = "True"
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"phase": "Running", "podIP": ip, "podIPs": []any{map[string]any{"ip": ip}},
		"conditions": []any{map[string]any{"type": "Ready", "status": condition}}}})
	if err != nil {
		return err
	}
	return l.c.Core.Patch(types.StrategicMergePatchType).Namespace(l.namespace).Resource("pods").Name(name).SubResource("status").Body(patch).Do(l.t.Context()).Error()
}

func (l *lab) delete(resource, name string) error {
	zero := int64(0)
	return l.c.Core.Delete().Namespace(l.namespace).Resource(resource).Name(name).Body(&metav1.DeleteOptions{GracePeriodSeconds: &zero}).Do(l.t.Context()).Error()
}

// heard is a sink that remembers what is in force.
type heard struct {
	mu        sync.Mutex
	pods      map[string]*platform.Pod
	resources map[string]*mesh.Resource
	addresses map[string][]string
	numbers   map[string]uint64
	batches   int
	at        map[string]time.Time // when a pod was first not ready
}

func (h *heard) Apply(_ context.Context, b platform.Batch) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.batches++
	if h.pods == nil {
		h.pods, h.resources, h.addresses, h.numbers = map[string]*platform.Pod{}, map[string]*mesh.Resource{}, map[string][]string{}, map[string]uint64{}
		h.at = map[string]time.Time{}
	}
	for k, p := range b.Pods {
		if old := h.pods[k.Name]; p != nil && !p.Ready && (old == nil || old.Ready) {
			h.at[k.Name] = time.Now()
		}
		if delete(h.pods, k.Name); p != nil {
			h.pods[k.Name] = p
		}
	}
	for k, r := range b.Resources {
		if delete(h.resources, k.Name); r != nil {
			h.resources[k.Name] = r
		}
	}
	for k, a := range b.Addresses {
		h.addresses[k.Name] = a
	}
	for k, n := range b.Remember {
		h.numbers[k] = n
	}
	return nil
}

func (h *heard) Recall(context.Context) (map[string]uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string]uint64{}
	for k, n := range h.numbers {
		out[k] = n
	}
	return out, nil
}

func (h *heard) pod(name string) *platform.Pod {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pods[name]
}

func (h *heard) resource(name string) *mesh.Resource {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.resources[name]
}

// run starts a platform until stop is called.
func run(t *testing.T, c *cluster.Client, h *heard) (p *kube.Platform, stop func()) {
	t.Helper()
	p = kube.New(kube.Config{Zone: "east", Client: c, Sink: h})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-p.Ready():
	case err := <-done:
		t.Fatal("ended:", err)
	case <-time.After(time.Minute):
		t.Fatal("not ready within 20 s")
	}
	return p, stop
}

func TestRealCluster(t *testing.T) {
	c := realCluster(t)
	l := newLab(t, c, map[string]string{"tombolo.io/sidecar-injection": "enabled"})
	h := &heard{}
	_, stop := run(t, c, h)
	pod, service := "web-0."+l.namespace, "web."+l.namespace

	l.must(l.service("web", nil))
	l.must(l.service("plain", nil))
	l.must(l.pod("web", "web-0", nil))
	l.must(l.status("web-0", "10.99.0.1", false))
	eventually(t, "Dataplane", func() bool { return h.pod(pod) != nil })
	eventually(t, "MeshService", func() bool { return h.resource(service) != nil })
	if p := h.pod(pod); p.Ready || strings.Join(p.NotReady, " ") != "web" || p.Spec.Networking.TransparentProxying == nil {
		t.Errorf("got %+v", p)
	}
	if h.resource("plain."+l.namespace) != nil {
		t.Error("a Service without pods in the mesh is a MeshService")
	}
	l.must(l.status("web-0", "10.99.0.1", true))
	eventually(t, "readiness", func() bool { p := h.pod(pod); return p.Ready && len(p.NotReady) == 0 })

	// Scaled to zero, over a restart of the zone too, it stays a service of the mesh.
	l.must(l.delete("pods", "web-0"))
	eventually(t, "end of the pod", func() bool { return h.pod(pod) == nil })
	stop()
	again := &heard{}
	again.numbers = h.numbers
	_, stop = run(t, c, again)
	if again.resource(service) == nil {
		t.Error("a service that had mTLS is called without it after a restart")
	}
	l.must(c.Core.Patch(types.MergePatchType).Resource("namespaces").Name(l.namespace).
		Body([]byte(`{"metadata":{"labels":{"tombolo.io/sidecar-injection":"disabled"}}}`)).Do(t.Context()).Error())
	eventually(t, "end of the service", func() bool { return again.resource(service) == nil })
	stop()
}

// TestTokenReview admits by tokens of a real API server.
func TestTokenReview(t *testing.T) {
	c := realCluster(t)
	l := newLab(t, c, nil)
	h := &heard{}
	p, _ := run(t, c, h)
	l.must(l.pod("web", "web-0", nil))
	l.must(l.status("web-0", "10.99.0.1", true))
	var made corev1.Pod
	l.must(c.Core.Get().Namespace(l.namespace).Resource("pods").Name("web-0").Do(t.Context()).Into(&made))
	request := func(audience string, bound bool) string {
		t.Helper()
		spec := map[string]any{"audiences": []string{audience}, "expirationSeconds": 600}
		if bound {
			spec["boundObjectRef"] = map[string]any{"kind": "Pod", "apiVersion": "v1", "name": made.Name, "uid": string(made.UID)}
		}
		body, err := json.Marshal(map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
		l.must(err)
		raw, err := c.Core.Post().Namespace(l.namespace).Resource("serviceaccounts").Name("default").SubResource("token").
			SetHeader("Content-Type", "application/json").SetHeader("Accept", "application/json").Body(body).Do(t.Context()).Raw()
		l.must(err)
		var out struct{ Status struct{ Token string } }
		l.must(json.Unmarshal(raw, &out))
		return out.Status.Token
	}
	a := p.Admitter()
	good := request(kube.Audience, true)
	credential, err := a.Authenticate(t.Context(), good)
	l.must(err)
	proxy, err := a.Admit(t.Context(), credential, register(nil))
	l.must(err)
	if proxy.Resource.Name != "web-0."+l.namespace || !proxy.Named || len(proxy.Probes) > 0 {
		t.Errorf("admitted %+v", proxy)
	}
	for name, token := range map[string]string{"garbage": "garbage", "another audience": request("other", true), "no pod": request(kube.Audience, false), "changed": good + "x"} {
		if _, err := a.Authenticate(t.Context(), token); err == nil {
			t.Errorf("%s: admitted", name)
		}
	}
}

// The budgets of TestScale: what a zone needs to start, and how far behind the API server
// it is while pods change. Twice that fails.
const (
	startBudget  = 5 * time.Second
	followBudget = 250 * time.Millisecond
)

// judge says what was measured of a budget.
func (l *lab) judge(what string, got, most float64, unit string) {
	l.t.Helper()
	l.must(budget.Tell(budget.Row{What: what, Got: got, Most: &most, Unit: unit}))
	if got > 2*most {
		l.t.Errorf("%s: %.3g %s, more than twice the budget of %g", what, got, unit, most)
	}
}

// TestScale fills the cluster with TOMBOLO_KUBE_SCALE services of ten pods, and says
// how long a zone needs for them, and how long behind it is while 100 pods a second
// change. With TOMBOLO_KUBE_KEEP they stay.
func TestScale(t *testing.T) {
	c := realCluster(t)
	services, _ := strconv.Atoi(os.Getenv("TOMBOLO_KUBE_SCALE"))
	if services == 0 {
		t.Skip("TOMBOLO_KUBE_SCALE is not set to a number of services")
	}
	l := newLab(t, c, nil)
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(16)
	start := time.Now()
	for s := range services {
		g.Go(func() error {
			name := fmt.Sprintf("s%04d", s)
			if err := l.service(name, nil); err != nil {
				return err
			}
			for i := range 10 {
				pod := fmt.Sprintf("%s-%d", name, i)
				for ctx.Err() == nil {
					err := l.pod(name, pod, nil)
					if apierrors.IsTooManyRequests(err) {
						continue
					}
					if err == nil || apierrors.IsAlreadyExists(err) {
						err = l.status(pod, fmt.Sprintf("10.%d.%d.%d", 100+s/250, s%250, i+1), true)
					}
					if err != nil {
						return err
					}
					break
				}
			}
			return nil
		})
	}
	l.must(g.Wait())
	t.Logf("%d pods made in %s", services*10, time.Since(start))
	h := &heard{}
	start = time.Now()
	run(t, c, h)
	took := time.Since(start)
	t.Logf("known after %s, in %d batches", took, h.batches)
	l.judge(fmt.Sprintf("Kubernetes zone of %d services of ten pods: start", services), took.Seconds(), startBudget.Seconds(), "s")
	if n := len(h.pods); n < services*10 {
		t.Errorf("%d pods", n)
	}
	l.follow(h, services)
}

// follow makes 100 pods a second not ready, one of each service.
func (l *lab) follow(h *heard, services int) {
	changed := make([]time.Time, services)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	g := errgroup.Group{}
	start := time.Now()
	for s := range services {
		<-tick.C
		g.Go(func() error {
			err := l.status(fmt.Sprintf("s%04d-0", s), fmt.Sprintf("10.%d.%d.1", 100+s/250, s%250), false)
			changed[s] = time.Now()
			return err
		})
	}
	l.must(g.Wait())
	rate := float64(services) / time.Since(start).Seconds()
	name := func(s int) string { return fmt.Sprintf("s%04d-0.%s", s, l.namespace) }
	l.eventually("change of every pod", func() bool {
		for s := range services {
			if h.pod(name(s)).Ready {
				return false
			}
		}
		return true
	})
	var late []time.Duration
	for s := range services {
		late = append(late, max(0, h.at[name(s)].Sub(changed[s])))
	}
	slices.Sort(late)
	l.must(budget.Tell(budget.Row{What: "the same: pods changed, in a second (100 asked)", Got: rate}))
	l.judge("the same: from the API server's yes until the zone knows it, p99", late[len(late)*99/100].Seconds()*1e3, followBudget.Seconds()*1e3, "ms")
	l.t.Logf("%.0f changes a second were known p50 %s, p99 %s, at most %s after the API server said yes", rate, late[len(late)/2], late[len(late)*99/100], late[len(late)-1])
}
