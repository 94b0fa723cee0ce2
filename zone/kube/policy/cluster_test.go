package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/schema"
	"github.com/tombolo-mesh/tombolo/zone/kube/cluster"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

// realCluster connects to the API server of TOMBOLO_KUBECONFIG, and gives it our
// CustomResourceDefinitions and an empty namespace.
func realCluster(t *testing.T) (*cluster.Client, string) {
	t.Helper()
	path := os.Getenv("TOMBOLO_KUBECONFIG")
	if path == "" {
		t.Skip("TOMBOLO_KUBECONFIG names no cluster: make e2e-kube makes one")
	}
	c, err := cluster.Connect(cluster.Config{Kubeconfig: path})
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../../../deploy/helm/tombolo/files/crds/*.yaml")
	if err != nil || len(files) != len(mesh.ClusterKinds()) {
		t.Fatal(files, err)
	}
	crds := c.Dynamic.Resource(gvrOf("apiextensions.k8s.io", "v1", "customresourcedefinitions"))
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		u := decode(t, string(text))
		if _, err := crds.Apply(t.Context(), u.GetName(), u, metav1.ApplyOptions{FieldManager: "test", Force: true}); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		until(t, u.GetName()+" is established", func() bool {
			u, err := crds.Get(t.Context(), u.GetName(), metav1.GetOptions{})
			if err != nil {
				return false
			}
			conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
			ok := false
			for _, x := range conditions {
				m := x.(map[string]any)
				if m["type"] == "NonStructuralSchema" {
					t.Fatalf("%s: %v", u.GetName(), m)
				}
				ok = ok || m["type"] == "Established" && m["status"] == "True"
			}
			return ok
		})
	}
	namespaces := c.Dynamic.Resource(gvrOf("", "v1", "namespaces"))
	name := fmt.Sprintf("policy-%d", time.Now().UnixNano())
	for _, n := range []string{name, mesh.SystemNamespace} {
		u := decode(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+n+"}")
		if _, err := namespaces.Create(t.Context(), u, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = namespaces.Delete(context.Background(), name, metav1.DeleteOptions{}) })
	return c, name
}

func gvrOf(group, version, resource string) kschema.GroupVersionResource {
	return kschema.GroupVersionResource{Group: group, Version: version, Resource: resource}
}

func decode(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal(raw, &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

// until polls; it fails the test after 20 s.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		if time.Now().After(deadline) {
			t.Fatal("not within 20 s: " + what)
		}
		<-tick.C
	}
}

// The examples of the reference are accepted, what the webhook would refuse is
// refused by the schema too as far as it goes.
func TestSchemasOnARealCluster(t *testing.T) {
	c, namespace := realCluster(t)
	strict := metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict, DryRun: []string{metav1.DryRunAll}}
	create := func(k mesh.Kind, u *unstructured.Unstructured) error {
		if k.ClusterScoped() {
			_, err := c.Dynamic.Resource(gvr(k)).Create(t.Context(), u, strict)
			return err
		}
		_, err := c.Dynamic.Resource(gvr(k)).Namespace(namespace).Create(t.Context(), u, strict)
		return err
	}
	for _, k := range mesh.ClusterKinds() {
		text, err := schema.Example(k)
		if err != nil {
			t.Fatal(err)
		}
		all, err := mesh.DecodeManifests(text, 0)
		if err != nil {
			t.Fatal(err)
		}
		spec := map[string]any{}
		if err := json.Unmarshal(all[0].Resource.Spec, &spec); err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
		u.SetAPIVersion(apiVersion)
		u.SetKind(string(k.Name))
		u.SetName(all[0].Resource.Name + "-example")
		if err := create(k, u); err != nil {
			t.Errorf("%s: the example is refused: %v", k.Name, err)
		}
		unstructured.RemoveNestedField(u.Object, "spec")
		if err := unstructured.SetNestedField(u.Object, int64(1), "spec", "surprise"); err != nil {
			t.Fatal(err)
		}
		if err := create(k, u); err == nil {
			t.Errorf("%s: an unknown field is accepted", k.Name)
		}
	}
	for _, bad := range []struct{ what, text, says string }{
		{"inbound and outbound", timeout(namespace, "", `{rules: [{default: {}}], to: [{targetRef: {kind: Mesh}, default: {}}]}`), "one policy is inbound (rules) or outbound (to)"},
		{"nothing", timeout(namespace, "", `{targetRef: {kind: Mesh}}`), "must have rules (inbound) or to (outbound)"},
		{"another kind", timeout(namespace, "", `{to: [{targetRef: {kind: Mush}, default: {}}]}`), "Unsupported value"},
		{"the top kind below", timeout(namespace, "", `{to: [{targetRef: {kind: Dataplane}, default: {}}]}`), "Unsupported value"},
		{"labels of a mesh", timeout(namespace, "", `{targetRef: {kind: Mesh, labels: {a: b}}, rules: [{default: {}}]}`), "use kind Dataplane"},
		{"a port", "apiVersion: tombolo.io/v1alpha1\nkind: MeshService\nmetadata: {name: a}\nspec: {ports: [{port: 70000}]}", "65535"},
		{"no label", "apiVersion: tombolo.io/v1alpha1\nkind: MeshService\nmetadata: {name: a.b}\nspec: {ports: [{port: 7}]}", "RFC 1035"},
		{"no spec", "apiVersion: tombolo.io/v1alpha1\nkind: MeshTimeout\nmetadata: {name: a}", "spec"},
	} {
		u := decode(t, bad.text)
		k, err := lookupKind(mesh.KindName(u.GetKind()))
		if err != nil {
			t.Fatal(err)
		}
		u.SetNamespace(namespace)
		if err := create(k, u); err == nil || !strings.Contains(err.Error(), bad.says) {
			t.Errorf("%s: %v", bad.what, err)
		}
	}
}

// aZone is an engine as far as this package sees one.
type aZone struct {
	mu    sync.Mutex
	held  map[mesh.Key]mesh.Resource
	state platform.State
	moved chan struct{}
}

func newZone() *aZone {
	return &aZone{held: map[mesh.Key]mesh.Resource{}, moved: make(chan struct{}), state: platform.State{Known: true, Outcomes: map[mesh.Key]platform.Outcome{}}}
}

func (z *aZone) Apply(_ context.Context, b platform.Batch) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	for k, r := range b.Resources {
		if r == nil {
			delete(z.held, k)
		} else {
			z.held[k] = *r
		}
	}
	return nil
}

func (z *aZone) State(context.Context) (platform.State, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	out := z.state
	out.Outcomes = maps.Clone(out.Outcomes)
	return out, nil
}

func (z *aZone) Changed() <-chan struct{} {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.moved
}

func (z *aZone) set(change func(s *platform.State)) {
	z.mu.Lock()
	defer z.mu.Unlock()
	change(&z.state)
	close(z.moved)
	z.moved = make(chan struct{})
}

func (z *aZone) get(k mesh.Key) (mesh.Resource, bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	r, ok := z.held[k]
	return r, ok
}

func TestResourcesOnARealCluster(t *testing.T) {
	c, namespace := realCluster(t)
	k, _ := mesh.KindByName(mesh.KindMeshTimeout)
	local := c.Dynamic.Resource(gvr(k)).Namespace(namespace)
	copies := c.Dynamic.Resource(gvr(k)).Namespace(mesh.SystemNamespace)
	before := decode(t, timeout(namespace, "", toOwn))
	if _, err := local.Create(t.Context(), before, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	z := newZone()
	stop := start(t, c, z)
	key := mesh.Key{Kind: k.Name, Mesh: "default", Zone: "east", Name: "slow." + namespace}
	if r, ok := z.get(key); !ok || r.Labels[mesh.LabelPolicyRole] != mesh.RoleProducer || r.Labels[mesh.LabelNamespace] != namespace {
		t.Fatalf("%+v after the first lists", r)
	}
	// Changed, useless, usable again.
	status := func(client interface {
		Get(context.Context, string, metav1.GetOptions, ...string) (*unstructured.Unstructured, error)
	}, name string) mesh.ClusterStatus {
		u, err := client.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return mesh.ClusterStatus{}
		}
		if s := slim(u).status; s != nil {
			return *s
		}
		return mesh.ClusterStatus{}
	}
	until(t, "a status", func() bool { s := status(local, "slow"); return s.Role == mesh.RoleProducer && s.Proxies == "0/0" })
	mixed := `{"spec":{"to":[{"targetRef":{"kind":"Mesh"},"default":{"idleTimeout":"1s"}},{"targetRef":{"kind":"MeshService","labels":{"kuma.io/display-name":"web"}},"default":{"idleTimeout":"1s"}}]}}`
	if _, err := local.Patch(t.Context(), "slow", types.MergePatchType, []byte(mixed), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "its status says why it cannot be used, and what is", func() bool {
		s := status(local, "slow")
		return len(s.Conditions) == 2 && s.Conditions[0].Status == "False" && strings.Contains(s.Conditions[0].Message, "mixes items") && s.ObservedGeneration == 2 && len(s.LastGood) > 0
	})
	if r, ok := z.get(key); !ok || r.Labels[mesh.LabelPolicyRole] != mesh.RoleProducer {
		t.Errorf("the last good one does not stay in force: %+v", r)
	}
	if _, err := local.Patch(t.Context(), "slow", types.MergePatchType, []byte(`{"spec":{"to":[{"targetRef":{"kind":"Mesh"},"default":{"idleTimeout":"1s"}}]}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "a consumer", func() bool { r, ok := z.get(key); return ok && r.Labels[mesh.LabelPolicyRole] == mesh.RoleConsumer })
	z.set(func(s *platform.State) { s.Outcomes[key] = platform.Outcome{Affected: 2, Done: 1} })
	until(t, "the outcome is shown", func() bool { return status(local, "slow").Proxies == "1/2" })

	// What global authored is shown, with a name of its own where that is taken.
	a := authored("default", "a-"+namespace, "1s")
	taken := decode(t, timeout(mesh.SystemNamespace, "", toAll))
	taken.SetName("b-" + namespace)
	if _, err := copies.Create(t.Context(), taken, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = copies.Delete(context.Background(), "b-"+namespace, metav1.DeleteOptions{}) })
	b := authored("default", "b-"+namespace, "1s")
	m := mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "m-" + namespace}, Spec: []byte(`{}`)}
	until(t, "the local one is read", func() bool {
		_, ok := z.get(mesh.Key{Kind: k.Name, Mesh: "default", Zone: "east", Name: b.Name + "." + mesh.SystemNamespace})
		return ok
	})
	z.set(func(s *platform.State) { s.Authored = []mesh.Resource{a, b, m} })
	bName := copyName(k, &b, map[string]bool{b.Name: true})
	for _, name := range []string{a.Name, bName} {
		until(t, name+" is shown", func() bool {
			s := status(copies, name)
			return s.Origin == mesh.OriginGlobal && s.Revision == 7 && len(s.Conditions) == 2
		})
	}
	until(t, "the mesh is shown", func() bool {
		kind, _ := mesh.KindByName(mesh.KindMesh)
		return status(c.Dynamic.Resource(gvr(kind)), m.Name).Origin == mesh.OriginGlobal
	})
	if s := status(copies, b.Name); s.Origin != mesh.OriginZone {
		t.Errorf("the local one was taken for a copy: %+v", s)
	}
	if _, ok := z.get(mesh.Key{Kind: k.Name, Mesh: "default", Zone: "east", Name: a.Name + "." + mesh.SystemNamespace}); ok {
		t.Error("a copy was taken for what the zone authored")
	}

	// A restart writes nothing that is there already.
	stop()
	version := func(name string) string {
		u, err := copies.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return u.GetResourceVersion()
	}
	va, vb := version(a.Name), version(bName)
	late := authored("default", "z-"+namespace, "1s") // the last one of the pass
	z.set(func(s *platform.State) { s.Authored = append(s.Authored, late) })
	stop = start(t, c, z)
	until(t, "a pass after the restart", func() bool { return status(copies, late.Name).Origin != "" })
	if version(a.Name) != va || version(bName) != vb {
		t.Error("copies that had not changed were written again")
	}

	// Changed and deleted at global; deleted here by somebody.
	z.set(func(s *platform.State) {
		changed := authored("default", a.Name, "9s")
		changed.Revision = 8
		s.Authored = []mesh.Resource{changed, late}
	})
	until(t, "the change is shown", func() bool { return status(copies, a.Name).Revision == 8 })
	until(t, "what is gone at global goes", func() bool {
		_, err := copies.Get(t.Context(), bName, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	// Changed here by somebody: it is as global wrote it again, once.
	for _, patch := range []string{`{"spec":{"rules":[{"default":{"idleTimeout":"3s"}}]}}`, `{"metadata":{"labels":{"tombolo.io/display-name":"other"}}}`} {
		if _, err := copies.Patch(t.Context(), a.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		until(t, "it is repaired after "+patch, func() bool {
			u, err := copies.Get(t.Context(), a.Name, metav1.GetOptions{})
			if err != nil {
				return false
			}
			text, _ := json.Marshal(u.Object["spec"])
			return strings.Contains(string(text), `"9s"`) && u.GetLabels()[mesh.LabelDisplayName] == a.Name
		})
	}
	if err := copies.Delete(t.Context(), a.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "it comes back", func() bool { return status(copies, a.Name).Revision == 8 })

	// Deleted by its author.
	if err := local.Delete(t.Context(), "slow", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "it is gone", func() bool { _, ok := z.get(key); return !ok })
	z.set(func(s *platform.State) { s.Authored = nil })
	until(t, "no copy is left", func() bool {
		_, err := copies.Get(t.Context(), late.Name, metav1.GetOptions{})
		_, other := copies.Get(t.Context(), a.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err) && apierrors.IsNotFound(other)
	})
	stop()
}

func start(t *testing.T, c *cluster.Client, z *aZone) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := New(Config{Client: c, Zone: "east", Sink: z, World: z, Leads: func() bool { return true }})
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	until(t, "the first lists", func() bool {
		select {
		case <-r.Synced():
			return true
		default:
			return false
		}
	})
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}
