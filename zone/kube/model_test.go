package kube

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/internal/golden"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/kube/cluster"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

// objects reads the manifests of a cluster.
func objects(t *testing.T, text []byte) []runtime.Object {
	t.Helper()
	var out []runtime.Object
	for _, doc := range bytes.Split(text, []byte("\n---\n")) {
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal(doc, &meta); err != nil {
			t.Fatal(err)
		}
		var o runtime.Object
		switch meta.Kind {
		case "Namespace":
			o = &corev1.Namespace{}
		case "Node":
			o = &corev1.Node{}
		case "Pod":
			o = &corev1.Pod{}
		case "Service":
			o = &corev1.Service{}
		case "EndpointSlice":
			o = &discoveryv1.EndpointSlice{}
		default:
			t.Fatalf("kind %q", meta.Kind)
		}
		if err := yaml.UnmarshalStrict(doc, o); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		out = append(out, o)
	}
	return out
}

// operators has, besides the real ones, one of the namespaces of random.
func operators(namespace string) bool { return mesh.IsSystemNamespace(namespace) || namespace == "n0" }

// put takes an object, or its end, into a model.
func (m *model) put(o runtime.Object, gone bool) {
	key := types.NamespacedName{Namespace: o.(metav1.Object).GetNamespace(), Name: o.(metav1.Object).GetName()}
	switch o.(type) {
	case *corev1.Namespace:
		m.setNamespace(change(key, slimNamespace(o), gone))
	case *corev1.Node:
		m.setNode(change(key, slimNode(o), gone))
	case *corev1.Pod:
		m.setPod(change(key, slimPod(o, operators), gone))
	case *corev1.Service:
		m.setService(change(key, slimService(o, operators), gone))
	case *discoveryv1.EndpointSlice:
		c := change(key, slimSlice(o), gone)
		if s := m.namespace(key.Namespace).services[slimSlice(o).Service]; s != nil {
			c.Old = s.slices[key.Name]
		}
		m.setSlice(c)
	}
}

func change[T cluster.Slim](key types.NamespacedName, v T, gone bool) cluster.Change[T] {
	c := cluster.Change[T]{Key: key, New: v}
	if gone {
		var none T
		c.Old, c.New = v, none
	}
	return c
}

// inForce is what batches amount to.
type inForce struct {
	Pods      map[mesh.Key]*platform.Pod
	Resources map[mesh.Key]*mesh.Resource
	Addresses map[mesh.Key][]string
	Remember  map[string]uint64
	wrong     []string
	now       time.Time
}

func newInForce() *inForce {
	return &inForce{Pods: map[mesh.Key]*platform.Pod{}, Resources: map[mesh.Key]*mesh.Resource{}, Addresses: map[mesh.Key][]string{}, Remember: map[string]uint64{}}
}

// take flushes what is there, and what ceases to linger by then: the clock of f goes
// so that some of the ports that linger have done so at every call.
func (f *inForce) take(m *model) {
	f.now = f.now.Add(linger / 3)
	b, wrong := m.flush(f.now)
	for k, p := range b.Pods {
		if delete(f.Pods, k); p != nil {
			f.Pods[k] = p
		}
	}
	for k, r := range b.Resources {
		if delete(f.Resources, k); r != nil {
			f.Resources[k] = r
		}
	}
	for k, a := range b.Addresses {
		if delete(f.Addresses, k); len(a) > 0 {
			f.Addresses[k] = a
		}
	}
	for k, n := range b.Remember {
		if delete(f.Remember, k); n != 0 {
			f.Remember[k] = n
		}
	}
	f.wrong = nil
	for _, c := range wrong {
		f.wrong = append(f.wrong, fmt.Sprintf("%s %s %s/%s: %v", c.reason, c.about.Kind, c.about.Namespace, c.about.Name, c.err))
	}
	slices.Sort(f.wrong)
}

func (f *inForce) text(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	block := func(title string, r *mesh.Resource) {
		fmt.Fprintln(&out, title)
		for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
			switch k { // follow from the key
			case mesh.LabelMesh, mesh.LabelZone, mesh.LabelOrigin, mesh.LabelEnv:
			default:
				fmt.Fprintf(&out, "  %s: %s\n", k, r.Labels[k])
			}
		}
		spec, err := yaml.JSONToYAML(r.Spec)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(spec)) {
			out.WriteString("    " + line)
		}
	}
	byText := func(a, b mesh.Key) int { return strings.Compare(a.String(), b.String()) }
	for _, k := range slices.SortedFunc(maps.Keys(f.Pods), byText) {
		p := f.Pods[k]
		block(fmt.Sprintf("%s ready=%t draining=%t notReady=%v", k, p.Ready, p.Draining, p.NotReady), &p.Resource)
		if text, _ := json.Marshal(p.Spec); string(text) != string(p.Resource.Spec) {
			t.Errorf("%s: spec and its text differ", k)
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(f.Resources), byText) {
		block(fmt.Sprintf("%s at %v", k, f.Addresses[k]), f.Resources[k])
		if ps := mesh.CheckFact("east", *f.Resources[k], nil); len(ps) > 0 {
			t.Errorf("%s: global would refuse it: %v", k, ps)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(f.Remember)) {
		fmt.Fprintln(&out, "remember", k)
	}
	for _, w := range f.wrong {
		fmt.Fprintln(&out, "wrong:", w)
	}
	return out.String()
}

// TestGolden: cluster.yaml is a cluster; each file "then…" is what changes in it,
// "gone…" what ends. The result after each is in force, whatever the order in which
// objects are seen.
func TestGolden(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, a *txtar.Archive) map[string]string {
		out := map[string]string{}
		m, f := newModel("east"), newInForce()
		for _, file := range a.Files {
			gone := strings.HasPrefix(file.Name, "gone")
			if !gone && file.Name != "cluster.yaml" && !strings.HasPrefix(file.Name, "then") {
				continue
			}
			all := objects(t, file.Data)
			for _, o := range all {
				m.put(o, gone)
			}
			f.take(m)
			wrong := f.wrong
			f.now = f.now.Add(linger) // nothing lingers here; TestLinger has that
			f.take(m)
			f.wrong = wrong
			want := f.text(t)
			name := strings.TrimSuffix(file.Name, ".yaml")
			if name == "cluster" {
				name = "first"
				for seed := range uint64(4) {
					shuffled := slices.Clone(all)
					rand.New(rand.NewPCG(seed, 0)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
					again, other := newModel("east"), newInForce()
					for _, o := range shuffled {
						again.put(o, false)
						other.take(again) // one by one
					}
					got, _, _ := strings.Cut(other.text(t), "wrong:") // said once, when it was seen
					if want, _, _ := strings.Cut(want, "wrong:"); got != want {
						t.Fatalf("another order gives something else:\n%s", cmp.Diff(want, got))
					}
				}
			}
			out["want-"+name] = want
		}
		return out
	})
}

// TestIncremental: after any changes a model says what one says that sees the
// cluster for the first time, but for what it remembers.
func TestIncremental(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 7))
		m, f := newModel("east"), newInForce()
		have := map[string]runtime.Object{}
		for range 300 {
			o := random(r)
			id := fmt.Sprintf("%T/%s/%s", o, o.(metav1.Object).GetNamespace(), o.(metav1.Object).GetName())
			gone := r.IntN(3) == 0
			if gone {
				if have[id] == nil {
					continue
				}
				o = have[id]
				delete(have, id)
			} else {
				have[id] = o
			}
			m.put(o, gone)
			if r.IntN(3) == 0 {
				f.take(m)
			}
		}
		f.take(m)
		f.now = f.now.Add(linger)
		f.take(m)
		fresh, want := newModel("east"), newInForce()
		for id := range f.Remember {
			fresh.meshed[id] = f.Remember[id]
		}
		for _, o := range have {
			fresh.put(o, false)
		}
		want.take(fresh)
		if diff := cmp.Diff(want.Pods, f.Pods); diff != "" {
			t.Fatalf("seed %d: pods:\n%s", seed, diff)
		}
		if diff := cmp.Diff(want.Resources, f.Resources); diff != "" {
			t.Fatalf("seed %d: resources:\n%s", seed, diff)
		}
		if diff := cmp.Diff(want.Addresses, f.Addresses); diff != "" {
			t.Fatalf("seed %d: addresses:\n%s", seed, diff)
		}
		for _, o := range have {
			m.put(o, true)
		}
		for name := range 2 { // ended once more: some never had an object of their own
			m.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", name)}}, true)
		}
		if f.take(m); len(m.namespaces)+len(m.gone) > 0 {
			t.Fatalf("seed %d: of an empty cluster %d namespaces are left", seed, len(m.namespaces))
		}
	}
}

// TestLinger: a pod still serves a port after its last Service let go of it, but is
// in no endpoint set for it; after a while that ends.
func TestLinger(t *testing.T) {
	pod := func(labels string) string {
		return `
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, uid: u, labels: {` + labels + `}, annotations: {tombolo.io/sidecar-injected: "true", traffic.tombolo.io/redirect: "{}"}}
status: {podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: "True"}]}
`
	}
	service := func(name, port string) string {
		return `
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: ` + name + `, uid: s}
spec: {selector: {app: ` + name + `}, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ports: [{name: http, port: 80, targetPort: ` + port + `}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: ` + name + `-1, labels: {kubernetes.io/service-name: ` + name + `}}
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web}, conditions: {ready: true}}]
`
	}
	m, now := newModel("east"), time.Now()
	var last *platform.Pod
	step := func(after time.Duration, manifests ...string) string {
		for _, text := range manifests {
			for _, o := range objects(t, []byte(text)) {
				m.put(o, false)
			}
		}
		now = now.Add(after)
		b, wrong := m.flush(now)
		for _, c := range wrong {
			t.Error(c.err)
		}
		for _, p := range b.Pods {
			last = p
		}
		var out []string
		for _, in := range last.Spec.Networking.Inbound {
			out = append(out, fmt.Sprintf("%s:%d", in.SectionName(), in.Port))
		}
		return fmt.Sprint(strings.Join(out, " "), " notReady=", last.NotReady)
	}
	want := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	want(step(0, service("a", "8080"), pod("app: a")), "http:8080 notReady=[]")
	if !m.due().IsZero() {
		t.Error("something is due")
	}
	want(step(0, pod("app: none")), "http:8080 notReady=[http]")
	if due := m.due(); !due.Equal(now.Add(linger)) {
		t.Error("due at", due)
	}
	// It comes back, and goes again: the time begins anew.
	want(step(linger/2, pod("app: a")), "http:8080 notReady=[]")
	want(step(linger/2, pod("app: none")), "http:8080 notReady=[http]")
	// What comes in the meantime makes it no longer; another port takes the name.
	want(step(linger/2, service("b", "9090"), pod("app: b")), "http:9090 8080:8080 notReady=[8080]")
	want(step(linger/2-1), "http:9090 8080:8080 notReady=[8080]")
	want(step(1), "http:9090 notReady=[]")
	if !m.due().IsZero() {
		t.Error("something is due")
	}
	// Another pod of the name inherits nothing.
	want(step(0, strings.Replace(pod("app: none"), "uid: u", "uid: v", 1)), " notReady=[]")
	// However many Services come and go, it is bounded.
	for i := range 3 * maxLingering {
		name := fmt.Sprint("c", i)
		step(0, service(name, fmt.Sprint(1000+i)), strings.Replace(pod("app: "+name), "uid: u", "uid: v", 1))
	}
	if n := len(last.Spec.Networking.Inbound); n != maxLingering+1 {
		t.Error(n, "inbounds")
	}
	step(linger)
	if n := len(last.Spec.Networking.Inbound); n != 1 || !m.due().IsZero() {
		t.Error(n, "inbounds are left, due", m.due())
	}
}

// random is an object of a small cluster.
func random(r *rand.Rand) runtime.Object {
	ns, n := fmt.Sprint("n", r.IntN(2)), r.IntN(4)
	app := map[string]string{"app": fmt.Sprint("a", r.IntN(3))}
	switch r.IntN(9) {
	case 0:
		o := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}
		if r.IntN(2) == 0 {
			o.Labels = map[string]string{mesh.LabelMesh: "other"}
		}
		return o
	case 1:
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node", Labels: map[string]string{corev1.LabelTopologyZone: fmt.Sprint("z", r.IntN(2))}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.9"}},
				Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: []corev1.ConditionStatus{"True", "False"}[r.IntN(2)]}}}}
	case 2, 3:
		o := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprint("s", n), UID: "u"},
			Spec: corev1.ServiceSpec{Selector: app, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"}, Type: corev1.ServiceTypeNodePort,
				Ports: []corev1.ServicePort{{Name: "http", Port: 80, NodePort: 30000}}}}
		switch r.IntN(4) {
		case 0:
			o.Spec.ClusterIP = corev1.ClusterIPNone
		case 1:
			o.Labels = map[string]string{labelZoneProxy: "ingress"}
		}
		return o
	case 4, 5:
		s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprint("e", n), Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprint("s", n)}}}
		for i := range 4 {
			ready := r.IntN(2) == 0
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: fmt.Sprint("p", i)}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
		}
		return s
	default:
		o := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprint("p", n), UID: types.UID(fmt.Sprint(r.IntN(2))), Labels: app},
			Spec: corev1.PodSpec{NodeName: "node"}}
		if r.IntN(4) > 0 {
			o.Annotations = map[string]string{annotationInjected: "true", annotationRedirect: "{}"}
			o.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.0.0.%d", n+1)}}
		}
		o.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: []corev1.ConditionStatus{"True", "False"}[r.IntN(2)]}}
		return o
	}
}
