package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/kube/cluster"
	"github.com/tombolo-mesh/tombolo/zone/kube/gateway"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

const routesOf = "gateway.networking.k8s.io"

var httpRoutes = schema.GroupVersionResource{Group: routesOf, Version: "v1", Resource: "httproutes"}

// cart routes to the Service of its name; another controller has it in its status.
const cart = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop, uid: u1, generation: 1}
spec:
  parentRefs:
  - {group: gateway.networking.k8s.io, kind: Gateway, name: edge}
  - {group: "", kind: Service, name: cart, port: 80}
  rules:
  - backendRefs: [{name: cart-v2, port: 80}]
status:
  parents:
  - parentRef: {group: gateway.networking.k8s.io, kind: Gateway, name: edge}
    controllerName: example.com/edge
    conditions:
    - {type: Accepted, status: "True", reason: Accepted, message: "", lastTransitionTime: "2020-01-01T00:00:00Z"}
`

// api is a fake API server with versions of objects, in which resources can be
// missing and writes fail.
type api struct {
	*fake.FakeDynamicClient
	mu       sync.Mutex
	version  int
	writes   int // of statuses
	absent   bool
	refusing int    // so many writes of a status
	writing  func() // is called by each, if it is set
}

func newAPI(t *testing.T, objects ...string) *api {
	t.Helper()
	var all []runtime.Object
	for _, text := range objects {
		u := decode(t, text)
		u.SetResourceVersion("1")
		all = append(all, u)
	}
	a := &api{version: 1}
	a.FakeDynamicClient = fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		httpRoutes: "HTTPRouteList",
		{Group: routesOf, Version: "v1", Resource: "grpcroutes"}:           "GRPCRouteList",
		{Group: routesOf, Version: "v1beta1", Resource: "referencegrants"}: "ReferenceGrantList",
	}, all...)
	a.PrependReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.absent {
			return true, nil, apierrors.NewNotFound(action.GetResource().GroupResource(), "")
		}
		if w, ok := action.(clienttesting.UpdateAction); ok {
			if w.GetSubresource() == "status" {
				if a.writing != nil {
					a.writing()
				}
				if a.writes++; a.refusing > 0 {
					a.refusing--
					return true, nil, errors.New("connection refused")
				}
			}
			a.version++
			w.GetObject().(*unstructured.Unstructured).SetResourceVersion(fmt.Sprint(a.version))
		}
		return false, nil, nil
	})
	a.PrependWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		if w, ok := action.(clienttesting.WatchActionImpl); ok && w.ListOptions.SendInitialEvents != nil {
			return true, nil, apierrors.NewBadRequest("lists come from lists here")
		}
		return false, nil, nil
	})
	return a
}

func (a *api) set(do func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	do()
}

func (a *api) wrote() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.writes
}

// parents is a line per condition of a route's status.
func (a *api) parents(t *testing.T) string {
	t.Helper()
	u, err := a.Resource(httpRoutes).Namespace("shop").Get(t.Context(), "cart", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(u.Object["status"])
	if err != nil {
		t.Fatal(err)
	}
	var status gatewayv1.RouteStatus
	if err := json.Unmarshal(text, &status); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range status.Parents {
		for _, c := range p.Conditions {
			out = append(out, fmt.Sprintf("%s %s %s %s %s gen %d since %s", p.ControllerName, p.ParentRef.Name, c.Type, c.Status, c.Reason,
				c.ObservedGeneration, c.LastTransitionTime.UTC().Format(time.TimeOnly)))
		}
	}
	return strings.Join(out, "\n")
}

// sink notes what it is told, a line per resource.
type sink struct {
	mu   sync.Mutex
	told []string
}

func (s *sink) Apply(_ context.Context, b platform.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, r := range b.Resources {
		if r == nil {
			s.told = append(s.told, "-"+k.String())
		} else {
			s.told = append(s.told, "+"+k.String()+" "+r.Labels[mesh.LabelPolicyRole])
		}
	}
	return nil
}

func (*sink) Recall(context.Context) (map[string]uint64, error) { return nil, nil }

// take is what was told since it was called before.
func (s *sink) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := strings.Join(s.told, "\n")
	s.told = nil
	return out
}

// services are those of TestTranslate's cluster that exist, by "namespace/name".
type services struct {
	mu  sync.Mutex
	all map[string]gateway.Service
}

func (s *services) find(namespace, name string) (gateway.Service, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	svc, ok := s.all[namespace+"/"+name]
	return svc, ok
}

func (s *services) set(name string, svc gateway.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[name] = svc
}

type setup struct {
	*gateway.Controller
	api      *api
	sink     *sink
	services *services
}

// follow runs a controller for the rest of the test, in a bubble of synctest.
func follow(t *testing.T, a *api, leads bool) *setup {
	t.Helper()
	web := gateway.Service{Mesh: "default", Ports: map[int32]string{80: "http"}}
	s := &setup{api: a, sink: &sink{}, services: &services{all: map[string]gateway.Service{"shop/cart": web, "shop/cart-v2": web}}}
	s.Controller = gateway.New(gateway.Config{Client: &cluster.Client{Dynamic: a}, Zone: "east", Service: s.services.find, Sink: s.sink,
		Leads: func() bool { return leads }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	settle()
	return s
}

// settle lets the controller do all that it does within a second.
func settle() { pass(time.Second) }

// pass lets the bubble's time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (s *setup) isReady() bool {
	select {
	case <-s.Ready():
		return true
	default:
		return false
	}
}

const (
	told  = "MeshHTTPRoute/default/east/httproute-cart.shop"
	edges = "example.com/edge edge Accepted True Accepted gen 0 since 00:00:00"
)

// ours are the conditions of the Service's parent at a generation; accepted and
// resolved since.
func ours(generation int, resolved, accepted, since string) string {
	return fmt.Sprintf("%s\n%[2]s cart Accepted True Accepted gen %[3]d since %[5]s\n%[2]s cart ResolvedRefs %[4]s gen %[3]d since %[6]s",
		edges, gateway.ControllerName, generation, resolved, accepted, since)
}

// TestControllerFollowsARoute: from its creation to its end the zone is told what
// differs, and its status is written when it changes, beside the other controller's.
func TestControllerFollowsARoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t, cart)
		s := follow(t, a, true)
		if got, want := s.sink.take(), "+"+told+" producer"; got != want || !s.isReady() {
			t.Fatalf("told %q, want %q; ready %t", got, want, s.isReady())
		}
		const resolves = "True ResolvedRefs"
		if got, want := a.parents(t), ours(1, resolves, "00:00:00", "00:00:00"); got != want || a.wrote() != 1 {
			t.Errorf("after %d writes:\n%s\nwant\n%s", a.wrote(), got, want)
		}

		s.Changed()
		pass(time.Minute)
		if got := s.sink.take(); got != "" || a.wrote() != 1 {
			t.Errorf("nothing changed, and told %q, %d writes", got, a.wrote())
		}

		// A generation later it sends to what does not exist.
		s.update(t, func(u *unstructured.Unstructured) {
			u.SetGeneration(2)
			sendTo(t, u, "gone")
		})
		if got, want := s.sink.take(), "+"+told+" producer"; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		since := time.Now().UTC().Add(-time.Second).Format(time.TimeOnly)
		if got, want := a.parents(t), ours(2, "False BackendNotFound", "00:00:00", since); got != want || a.wrote() != 2 {
			t.Errorf("after %d writes:\n%s\nwant\n%s", a.wrote(), got, want)
		}

		// Then it does.
		s.services.set("shop/gone", gateway.Service{Mesh: "default", Ports: map[int32]string{80: "http"}})
		s.Changed()
		settle()
		if got := a.parents(t); !strings.Contains(got, "ResolvedRefs True") || a.wrote() != 3 || s.sink.take() == "" {
			t.Errorf("after %d writes:\n%s", a.wrote(), got)
		}

		if err := a.Resource(httpRoutes).Namespace("shop").Delete(t.Context(), "cart", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		settle()
		if got, want := s.sink.take(), "-"+told; got != want || a.wrote() != 3 {
			t.Errorf("told %q, want %q; %d writes", got, want, a.wrote())
		}
	})
}

// TestControllerAndOthersInAStatus: what another controller removed is put back, and
// what it writes at the same time stays.
func TestControllerAndOthersInAStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t, cart)
		s := follow(t, a, true)
		first := a.parents(t)
		s.update(t, func(u *unstructured.Unstructured) { u.Object["status"] = decode(t, cart).Object["status"] })
		if got := a.parents(t); strings.Count(got, string(gateway.ControllerName)) != 2 || a.wrote() != 2 {
			t.Errorf("after %d writes:\n%s\nwant as\n%s", a.wrote(), got, first)
		}
		// An order that the other likes better is no reason to write.
		s.update(t, func(u *unstructured.Unstructured) {
			list, _, err := unstructured.NestedSlice(u.Object, "status", "parents")
			if err != nil || len(list) != 2 {
				t.Fatal(list, err)
			}
			list[0], list[1] = list[1], list[0]
			if err := unstructured.SetNestedSlice(u.Object, list, "status", "parents"); err != nil {
				t.Fatal(err)
			}
		})
		if a.wrote() != 2 {
			t.Errorf("%d writes, want 2:\n%s", a.wrote(), a.parents(t))
		}
	})
}

// TestControllerWritesAgain: a status that could not be written is tried again;
// an instance that does not lead writes none.
func TestControllerWritesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t, cart)
		a.refusing = 2
		s := follow(t, a, true)
		if a.parents(t) != edges || s.sink.take() == "" {
			t.Errorf("status %s", a.parents(t))
		}
		pass(time.Minute)
		if got := a.parents(t); !strings.Contains(got, string(gateway.ControllerName)) || a.wrote() != 3 {
			t.Errorf("after %d writes:\n%s", a.wrote(), got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t, cart)
		s := follow(t, a, false)
		if got := s.sink.take(); got == "" || a.wrote() != 0 {
			t.Errorf("told %q, %d writes", got, a.wrote())
		}
	})
}

// TestControllerTellsFirst: what a route means waits for no status.
func TestControllerTellsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t, cart)
		s := follow(t, a, true)
		s.sink.take()
		var before []string
		a.set(func() { a.writing = func() { before = append(before, s.sink.take()) } })
		s.update(t, func(u *unstructured.Unstructured) { sendTo(t, u, "gone") })
		if len(before) == 0 || before[0] == "" {
			t.Errorf("told before the statuses: %q", before)
		}
	})
}

// TestControllerWithoutTheAPI is ready at once, and follows the routes of an API
// that is installed later.
func TestControllerWithoutTheAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t, cart)
		a.absent = true
		s := follow(t, a, true)
		if got := s.sink.take(); got != "" || !s.isReady() {
			t.Fatalf("told %q; ready %t", got, s.isReady())
		}
		a.set(func() { a.absent = false })
		pass(15 * time.Second)
		if got, want := s.sink.take(), "+"+told+" producer"; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	})
}

// update changes the route as somebody else would, and settles.
func (s *setup) update(t *testing.T, change func(*unstructured.Unstructured)) {
	t.Helper()
	client := s.api.Resource(httpRoutes).Namespace("shop")
	u, err := client.Get(t.Context(), "cart", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	change(u)
	if _, err := client.Update(t.Context(), u, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	settle()
}

// sendTo makes a route of one rule, to a backend.
func sendTo(t *testing.T, u *unstructured.Unstructured, backend string) {
	t.Helper()
	rules := []any{map[string]any{"backendRefs": []any{map[string]any{"name": backend, "port": int64(80)}}}}
	if err := unstructured.SetNestedSlice(u.Object, rules, "spec", "rules"); err != nil {
		t.Fatal(err)
	}
}

func decode(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	return u
}
