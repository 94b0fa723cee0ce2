package nodes

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tombolo-mesh/tombolo/zone/kube/cluster"
)

const (
	// Taint on nodes whose CNI plugin is not ready; its effect is NoSchedule.
	Taint = "tombolo.io/cni-not-ready"
	// DaemonSet of the plugin, in the zone's namespace.
	DaemonSet = "tombolo-cni"
	// SidecarName is the container that checks the redirect of a pod before anything.
	SidecarName = "tombolo-sidecar"
	// ValidationName is the one that does where the sidecar cannot.
	ValidationName = "tombolo-validation"
	// ExitNotRedirected is their exit code when there is none.
	ExitNotRedirected = 79
)

// Times of the controller.
const (
	// grace is how long a node's plugin may be away, as in an upgrade of its
	// daemon, through which it stays chained.
	grace = 30 * time.Second
	// A workload whose pods fail on one node again and again is given more time
	// each time.
	repairFirst, repairMost = 5 * time.Second, 5 * time.Minute
	// lookEvery is for what no event tells: that a time is over.
	lookEvery = 5 * time.Second
	// maxRepairs bounds what is remembered of them.
	maxRepairs = 10_000
)

// Config of a Controller.
type Config struct {
	// Client of the cluster. Required.
	Client *cluster.Client
	// Namespace of the zone control plane and the plugin. Required.
	Namespace string
	// Taint says whether nodes whose plugin is not ready get the taint, default no.
	// When it says no, taints are taken away.
	Taint func() bool
	// Leads says whether this instance acts, default always.
	Leads func() bool
	// Log, default discards.
	Log *slog.Logger
}

// Controller follows one cluster.
type Controller struct {
	cfg     Config
	nodes   *cluster.Table[*node]
	plugins *cluster.Table[*plugin]
	pods    *cluster.Table[*pod]
	wake    chan struct{} // capacity 1

	// Of the one goroutine that acts.
	seenReady map[string]time.Time // by node: when its plugin was last seen ready
	repaired  map[string]repair    // by workload and node
}

type repair struct {
	last  time.Time
	pause time.Duration
}

type node struct {
	metav1.ObjectMeta
	taints []corev1.Taint
}

type plugin struct {
	metav1.ObjectMeta
	node  string
	ready bool
}

type pod struct {
	metav1.ObjectMeta
	node, owner, message string
	failed               bool
}

// New makes a controller. It does no I/O; Run does.
func New(cfg Config) *Controller {
	if cfg.Leads == nil {
		cfg.Leads = func() bool { return true }
	}
	if cfg.Taint == nil {
		cfg.Taint = func() bool { return false }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Controller{cfg: cfg, wake: make(chan struct{}, 1), seenReady: map[string]time.Time{}, repaired: map[string]repair{}}
	core := cfg.Client.Core
	c.nodes = cluster.NewTable(cluster.Typed(core, "nodes", "", &corev1.Node{}), slimNode, notify[*node](c))
	c.plugins = cluster.NewTable(cluster.Typed(core, "pods", cfg.Namespace, &corev1.Pod{}), slimPlugin, notify[*plugin](c))
	// A pod without its redirect does not get past Pending.
	c.pods = cluster.NewTable(cluster.TypedWhere(core, "pods", "", &corev1.Pod{}, "status.phase=Pending"), slimPod, notify[*pod](c))
	return c
}

func notify[T cluster.Slim](c *Controller) func([]cluster.Change[T]) {
	return func([]cluster.Change[T]) {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// Run acts until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { c.nodes.Run(ctx, c.cfg.Client); return nil })
	g.Go(func() error { c.plugins.Run(ctx, c.cfg.Client); return nil })
	g.Go(func() error { c.pods.Run(ctx, c.cfg.Client); return nil })
	g.Go(func() error {
		for _, synced := range []<-chan struct{}{c.nodes.Synced(), c.plugins.Synced(), c.pods.Synced()} {
			select {
			case <-synced:
			case <-ctx.Done():
				return nil
			}
		}
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			if c.cfg.Leads() {
				c.act(ctx, time.Now())
			}
			select {
			case <-c.wake:
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
		}
	})
	return g.Wait()
}

// act brings taints and pods in line with which nodes' plugins are ready.
func (c *Controller) act(ctx context.Context, now time.Time) {
	ready := map[string]bool{}
	for _, p := range c.plugins.List() {
		if p.node != "" && p.ready {
			ready[p.node] = true
			c.seenReady[p.node] = now
		}
	}
	nodes := c.nodes.List()
	for _, n := range nodes {
		c.taint(ctx, n, ready[n.Name], now)
	}
	for name := range c.seenReady {
		if _, ok := c.nodes.Get("", name); !ok {
			delete(c.seenReady, name)
		}
	}
	for _, p := range c.pods.List() {
		if p.failed && ready[p.node] {
			c.repair(ctx, p, now)
		}
	}
}

func (c *Controller) taint(ctx context.Context, n *node, ready bool, now time.Time) {
	have := slices.ContainsFunc(n.taints, isOurs)
	wanted := c.cfg.Taint() && !ready && n.Labels[corev1.LabelOSStable] != "windows" && now.Sub(c.seenReady[n.Name]) > grace
	if have == wanted {
		return
	}
	taints := slices.DeleteFunc(slices.Clone(n.taints), isOurs)
	if wanted {
		if there, err := c.pluginWanted(ctx); err != nil || !there {
			// Uninstalling: a taint would stay for ever.
			if err != nil {
				c.cfg.Log.Warn("node is not tainted: whether its CNI plugin is wanted is unknown", "node", n.Name, "error", err)
			}
			return
		}
		taints = append(taints, corev1.Taint{Key: Taint, Effect: corev1.TaintEffectNoSchedule})
	}
	// The version keeps others' taints of this moment.
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": n.ResourceVersion},
		"spec":     map[string]any{"taints": taints},
	})
	if err == nil {
		err = c.cfg.Client.Core.Patch(types.MergePatchType).Resource("nodes").Name(n.Name).Body(patch).Do(ctx).Error()
	}
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err): // an event tells the rest
	case err != nil:
		c.cfg.Log.Warn("taint of a node", "node", n.Name, "wanted", wanted, "error", err)
	default:
		c.cfg.Log.Info("taint of a node", "node", n.Name, "tainted", wanted)
	}
}

func isOurs(t corev1.Taint) bool { return t.Key == Taint }

// pluginWanted says whether the plugin's DaemonSet is there to stay.
func (c *Controller) pluginWanted(ctx context.Context) (bool, error) {
	ds, err := c.cfg.Client.Dynamic.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}).
		Namespace(c.cfg.Namespace).Get(ctx, DaemonSet, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil && ds.GetDeletionTimestamp() == nil, err
}

// repair deletes a pod that has no redirect, for its controller to make another.
func (c *Controller) repair(ctx context.Context, p *pod, now time.Time) {
	about := corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}
	if p.owner == "" {
		c.cfg.Client.Events.Warn(about, "NotRedirected", "the pod's network was made before Tombolo's CNI plugin was ready: delete it and make it again ("+p.message+")")
		return
	}
	key := p.owner + " " + p.node
	r := c.repaired[key]
	// A pod that was there at the last repair is one of several that came too early.
	again := p.CreationTimestamp.After(r.last)
	if again && now.Sub(r.last) < r.pause {
		return
	}
	if len(c.repaired) >= maxRepairs {
		for key, r := range c.repaired {
			if now.Sub(r.last) > 2*repairMost {
				delete(c.repaired, key)
			}
		}
	}
	if now.Sub(r.last) > 2*repairMost {
		r.pause = 0
	}
	err := c.cfg.Client.Core.Delete().Namespace(p.Namespace).Resource("pods").Name(p.Name).
		Body(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}}).Do(ctx).Error()
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		c.cfg.Log.Warn("pod without redirect", "namespace", p.Namespace, "name", p.Name, "error", err)
		return
	}
	if again {
		c.repaired[key] = repair{now, min(max(repairFirst, 2*r.pause), repairMost)}
	}
	c.cfg.Log.Info("pod without redirect is replaced", "namespace", p.Namespace, "name", p.Name, "node", p.node)
	c.cfg.Client.Events.Note(about, "Replaced", fmt.Sprintf("the pod's network was made before Tombolo's CNI plugin was ready on node %s", p.node))
}

func slimNode(o runtime.Object) *node {
	n, ok := o.(*corev1.Node)
	if !ok {
		return &node{}
	}
	return &node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, ResourceVersion: n.ResourceVersion, Labels: map[string]string{corev1.LabelOSStable: n.Labels[corev1.LabelOSStable]}},
		taints:     slices.Clone(n.Spec.Taints),
	}
}

func slimPlugin(o runtime.Object) *plugin {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return &plugin{}
	}
	out := &plugin{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace}}
	owner := metav1.GetControllerOf(p)
	if owner == nil || owner.Kind != "DaemonSet" || owner.Name != DaemonSet {
		return out
	}
	out.node = p.Spec.NodeName
	for _, condition := range p.Status.Conditions {
		out.ready = out.ready || condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue
	}
	return out
}

func slimPod(o runtime.Object) *pod {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return &pod{}
	}
	out := &pod{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, UID: p.UID, CreationTimestamp: p.CreationTimestamp}}
	if p.DeletionTimestamp != nil {
		return out
	}
	for _, s := range p.Status.InitContainerStatuses {
		if s.Name != SidecarName && s.Name != ValidationName {
			continue
		}
		failed := false
		for _, state := range []corev1.ContainerState{s.State, s.LastTerminationState} {
			if state.Terminated != nil && state.Terminated.ExitCode == ExitNotRedirected {
				failed, out.message = true, state.Terminated.Message
			}
		}
		// The last time counts, not one before it.
		if s.State.Running != nil || s.State.Terminated != nil && s.State.Terminated.ExitCode != ExitNotRedirected {
			failed = false
		}
		out.failed = out.failed || failed
	}
	if !out.failed {
		return out
	}
	out.node = p.Spec.NodeName
	if owner := metav1.GetControllerOf(p); owner != nil {
		out.owner = string(owner.UID)
	}
	return out
}
