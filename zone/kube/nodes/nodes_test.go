package nodes

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tombolo-mesh/tombolo/zone/kube/cluster"
)

// api is an API server that holds still and writes down what it is told.
type api struct {
	nodes         []corev1.Node
	plugins, pods []corev1.Pod
	daemonSet     int // status

	mu   sync.Mutex
	told []string
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	answer := func(status int, body any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	refuse := func(status int, reason metav1.StatusReason) {
		answer(status, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(status), Reason: reason})
	}
	if r.Method != http.MethodGet {
		body, _ := io.ReadAll(r.Body)
		a.mu.Lock()
		if !strings.Contains(r.URL.Path, "/events") {
			a.told = append(a.told, fmt.Sprintf("%s %s %s", r.Method, strings.TrimPrefix(r.URL.Path, "/api/v1/"), body))
		}
		a.mu.Unlock()
		answer(http.StatusOK, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess})
		return
	}
	q := r.URL.Query()
	switch {
	case q.Get("sendInitialEvents") != "":
		refuse(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
		return
	case q.Get("watch") != "":
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return
	}
	list := metav1.ListMeta{ResourceVersion: "7"}
	switch r.URL.Path {
	case "/api/v1/nodes":
		answer(200, corev1.NodeList{TypeMeta: metav1.TypeMeta{Kind: "NodeList", APIVersion: "v1"}, ListMeta: list, Items: a.nodes})
	case "/api/v1/namespaces/tombolo-system/pods":
		answer(200, corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: list, Items: a.plugins})
	case "/api/v1/pods":
		if q.Get("fieldSelector") != "status.phase=Pending" {
			refuse(http.StatusBadRequest, metav1.StatusReasonBadRequest)
			return
		}
		answer(200, corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: list, Items: a.pods})
	case "/apis/apps/v1/namespaces/tombolo-system/daemonsets/tombolo-cni":
		if a.daemonSet != 200 {
			refuse(a.daemonSet, metav1.StatusReasonNotFound)
			return
		}
		answer(200, map[string]any{"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": map[string]any{"name": "tombolo-cni"}})
	default:
		http.NotFound(w, r)
	}
}

// taken is what was told since the last call.
func (a *api) taken() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := strings.Join(a.told, "\n")
	a.told = nil
	return out
}

func controller(t *testing.T, a *api, taint bool) *Controller {
	t.Helper()
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"x","clusters":[{"name":"x","cluster":{"server":%q}}],"contexts":[{"name":"x","context":{"cluster":"x"}}]}`, server.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := cluster.Connect(cluster.Config{Kubeconfig: path})
	if err != nil {
		t.Fatal(err)
	}
	c := New(Config{Client: client, Namespace: "tombolo-system", Taint: func() bool { return taint }})
	ctx, cancel := context.WithCancel(t.Context())
	var tables sync.WaitGroup
	tables.Go(func() { c.nodes.Run(ctx, client) })
	tables.Go(func() { c.plugins.Run(ctx, client) })
	tables.Go(func() { c.pods.Run(ctx, client) })
	t.Cleanup(func() { cancel(); tables.Wait() })
	for _, synced := range []<-chan struct{}{c.nodes.Synced(), c.plugins.Synced(), c.pods.Synced()} {
		select {
		case <-synced:
		case <-time.After(time.Minute):
			t.Fatal("not synced")
		}
	}
	return c
}

func aNode(name string, taints ...string) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "5", Labels: map[string]string{corev1.LabelOSStable: "linux"}}}
	for _, key := range taints {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	}
	return n
}

func owned(kind, name, uid string) []metav1.OwnerReference {
	yes := true
	return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, UID: types.UID(uid), Controller: &yes}}
}

func aPlugin(node string, ready corev1.ConditionStatus) corev1.Pod {
	return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "tombolo-cni-" + node, Namespace: "tombolo-system", OwnerReferences: owned("DaemonSet", DaemonSet, "d")},
		Spec:   corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}}
}

func aPod(name, node, owner string, exit int32) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", UID: types.UID("uid-" + name)}, Spec: corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{Phase: corev1.PodPending, InitContainerStatuses: []corev1.ContainerStatus{{Name: SidecarName,
			State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: exit, Message: "not redirected"}}}}}}
	if owner != "" {
		p.OwnerReferences = owned("ReplicaSet", owner, owner)
	}
	return p
}

func TestTaint(t *testing.T) {
	const add = `PATCH nodes/n {"metadata":{"resourceVersion":"5"},"spec":{"taints":[{"key":"gpu","effect":"NoSchedule"},{"key":"tombolo.io/cni-not-ready","effect":"NoSchedule"}]}}`
	const remove = `PATCH nodes/n {"metadata":{"resourceVersion":"5"},"spec":{"taints":[{"key":"gpu","effect":"NoSchedule"}]}}`
	windows := aNode("n")
	windows.Labels[corev1.LabelOSStable] = "windows"
	other := aPlugin("n", corev1.ConditionTrue)
	other.OwnerReferences = owned("ReplicaSet", "tombolo-zone", "z")
	for _, tc := range []struct {
		name      string
		node      corev1.Node
		plugins   []corev1.Pod
		off       bool
		daemonSet int
		want      string
	}{
		{name: "new node", node: aNode("n", "gpu"), want: add},
		{name: "plugin not ready", node: aNode("n", "gpu"), plugins: []corev1.Pod{aPlugin("n", corev1.ConditionFalse)}, want: add},
		{name: "another node's plugin", node: aNode("n", "gpu"), plugins: []corev1.Pod{aPlugin("m", corev1.ConditionTrue)}, want: add},
		{name: "another pod of ours", node: aNode("n", "gpu"), plugins: []corev1.Pod{other}, want: add},
		{name: "tainted already", node: aNode("n", "gpu", Taint)},
		{name: "ready", node: aNode("n", "gpu", Taint), plugins: []corev1.Pod{aPlugin("n", corev1.ConditionTrue)}, want: remove},
		{name: "ready, not tainted", node: aNode("n", "gpu"), plugins: []corev1.Pod{aPlugin("n", corev1.ConditionTrue)}},
		{name: "uninstalling", node: aNode("n", "gpu"), daemonSet: 404},
		{name: "switched off", node: aNode("n", "gpu", Taint), off: true, want: remove},
		{name: "off", node: aNode("n", "gpu"), off: true},
		{name: "windows", node: windows},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := &api{nodes: []corev1.Node{tc.node}, plugins: tc.plugins, daemonSet: 200}
			if tc.daemonSet != 0 {
				a.daemonSet = tc.daemonSet
			}
			c := controller(t, a, !tc.off)
			c.act(t.Context(), time.Now())
			if got := a.taken(); got != tc.want {
				t.Errorf("told %s\nwant %s", got, tc.want)
			}
		})
	}
}

// TestUpgradeOfTheDaemon: its pod is away for some seconds, and the plugin is not.
func TestUpgradeOfTheDaemon(t *testing.T) {
	a := &api{nodes: []corev1.Node{aNode("n")}, plugins: []corev1.Pod{aPlugin("n", corev1.ConditionFalse)}, daemonSet: 200}
	c := controller(t, a, true)
	now := time.Now()
	c.seenReady["n"] = now
	c.act(t.Context(), now.Add(grace))
	if got := a.taken(); got != "" {
		t.Errorf("within the grace: %s", got)
	}
	c.act(t.Context(), now.Add(grace+time.Second))
	if got := a.taken(); !strings.Contains(got, Taint) {
		t.Errorf("after it: %q", got)
	}
}

func TestRepair(t *testing.T) {
	now := time.Now()
	a := &api{
		nodes:   []corev1.Node{aNode("ready"), aNode("waiting")},
		plugins: []corev1.Pod{aPlugin("ready", corev1.ConditionTrue), aPlugin("waiting", corev1.ConditionFalse)},
		pods: []corev1.Pod{
			aPod("early-1", "ready", "web", ExitNotRedirected),
			aPod("early-2", "ready", "web", ExitNotRedirected),
			aPod("elsewhere", "waiting", "web", ExitNotRedirected),
			aPod("broken", "ready", "db", 1),
			aPod("bare", "ready", "", ExitNotRedirected),
			{ObjectMeta: metav1.ObjectMeta{Name: "starting", Namespace: "shop"}, Spec: corev1.PodSpec{NodeName: "ready"}},
			aPod("again", "ready", "web", ExitNotRedirected), // and runs now
			aPod("other", "ready", "web", ExitNotRedirected),
		},
		daemonSet: 200,
	}
	a.pods[1].Status.InitContainerStatuses[0].Name = ValidationName
	a.pods[6].Status.InitContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	a.pods[7].Status.InitContainerStatuses[0].Name = "own"
	for i := range a.pods {
		a.pods[i].CreationTimestamp = metav1.NewTime(now.Add(-time.Minute))
	}
	c := controller(t, a, false)
	c.act(t.Context(), now)
	got := a.taken()
	for _, name := range []string{"early-1", "early-2"} {
		if !strings.Contains(got, "DELETE namespaces/shop/pods/"+name+" ") || !strings.Contains(got, "uid-"+name) {
			t.Errorf("%s is not deleted: %q", name, got)
		}
	}
	if strings.Count(got, "DELETE") != 2 {
		t.Errorf("told %q", got)
	}
}

// TestRepairInVain: whatever its workload makes anew fails, too.
func TestRepairInVain(t *testing.T) {
	now := time.Now()
	vain := aPod("vain", "ready", "web", ExitNotRedirected)
	vain.CreationTimestamp = metav1.NewTime(now.Add(24 * time.Hour)) // after every repair
	a := &api{nodes: []corev1.Node{aNode("ready")}, plugins: []corev1.Pod{aPlugin("ready", corev1.ConditionTrue)}, pods: []corev1.Pod{vain}, daemonSet: 200}
	c := controller(t, a, false)
	var at []time.Duration
	for after := time.Duration(0); after < 20*time.Minute; after += time.Second {
		c.act(t.Context(), now.Add(after))
		if a.taken() != "" {
			at = append(at, after)
		}
	}
	if len(at) < 5 || at[0] != 0 || at[1] != 5*time.Second || at[2] != 15*time.Second || at[len(at)-1]-at[len(at)-2] != repairMost {
		t.Errorf("deleted at %v", at)
	}
}
