package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/kube/cluster"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

const (
	group = "gateway.networking.k8s.io"
	// pause is the least time between two translations of everything.
	pause = 100 * time.Millisecond
	// look is how often a cluster without the API is asked whether it has it now.
	look = 10 * time.Second
	// again is when a status that could not be written is tried again.
	again = 5 * time.Second
	// statusTimeout bounds one write of a status.
	statusTimeout = 5 * time.Second
)

// Config of a Controller.
type Config struct {
	// Client of the cluster. Required.
	Client *cluster.Client
	// Zone is this zone's name. Required.
	Zone string
	// Service finds a Service of the cluster. Required.
	Service func(namespace, name string) (Service, bool)
	// Sink takes what the routes mean. Required.
	Sink platform.Sink
	// Leads reports whether this instance writes statuses. Required.
	Leads func() bool
	// Log, default discards.
	Log *slog.Logger
}

// Controller follows the routes of a cluster.
type Controller struct {
	cfg    Config
	wake   chan struct{}
	https  *cluster.Table[*object]
	grpcs  *cluster.Table[*object]
	grants *cluster.Table[*object]
	ready  chan struct{}
	once   sync.Once

	// written are the statuses that this instance wrote, by route; Run's alone.
	written map[types.UID]written
}

// written is a status, and the version of the route that it was written over.
type written struct {
	over   string
	status gatewayv1.RouteStatus
}

// object is what is kept of a custom resource.
type object struct {
	metav1.ObjectMeta
	kind   string
	spec   map[string]any
	status map[string]any
}

// New makes a controller.
func New(cfg Config) *Controller {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Controller{cfg: cfg, wake: make(chan struct{}, 1), ready: make(chan struct{}), written: map[types.UID]written{}}
	table := func(version, resource, kind string) *cluster.Table[*object] {
		gvr := schema.GroupVersionResource{Group: group, Version: version, Resource: resource}
		return cluster.NewTable(cluster.Custom(cfg.Client, gvr, kind, ""), slim, func([]cluster.Change[*object]) { c.Changed() })
	}
	c.https = table("v1", "httproutes", "HTTPRoute")
	c.grpcs = table("v1", "grpcroutes", "GRPCRoute")
	c.grants = table("v1beta1", "referencegrants", "ReferenceGrant")
	return c
}

func slim(o runtime.Object) *object {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	out := &object{kind: u.GetKind()}
	out.Name, out.Namespace, out.UID, out.Generation = u.GetName(), u.GetNamespace(), u.GetUID(), u.GetGeneration()
	out.ResourceVersion, out.CreationTimestamp = u.GetResourceVersion(), u.GetCreationTimestamp()
	out.spec, _, _ = unstructured.NestedMap(u.Object, "spec")
	out.status, _, _ = unstructured.NestedMap(u.Object, "status")
	return out
}

// Changed tells that a Service, or which mesh its pods are in, is another.
func (c *Controller) Changed() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Ready is closed when the zone has every route that the cluster held at first, or
// when the cluster has no Gateway API.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

func (c *Controller) open() { c.once.Do(func() { close(c.ready) }) }

// Run follows the routes until ctx ends. A cluster without Gateway API is asked
// from time to time whether it has got it.
func (c *Controller) Run(ctx context.Context) error {
	if !c.installed(ctx) {
		return nil
	}
	var all sync.WaitGroup
	for _, t := range []*cluster.Table[*object]{c.https, c.grpcs, c.grants} {
		all.Go(func() { t.Run(ctx, c.cfg.Client) })
	}
	defer all.Wait()
	for _, t := range []*cluster.Table[*object]{c.https, c.grpcs, c.grants} {
		select {
		case <-t.Synced():
		case <-ctx.Done():
			return nil
		}
	}
	told := map[mesh.Key]mesh.Resource{}
	for {
		resources, statuses := c.translate()
		if err := c.tell(ctx, told, resources); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		c.open()
		// What routes mean waits for no status: each is a call of the API server, and
		// somebody may have very many routes.
		complete := !c.cfg.Leads() || c.writeStatuses(ctx, statuses)
		quiet := time.NewTimer(pause)
		select {
		case <-quiet.C:
		case <-ctx.Done():
		}
		var retry <-chan time.Time
		if !complete {
			retry = time.After(again)
		}
		select {
		case <-c.wake:
		case <-retry:
		case <-ctx.Done():
			return nil
		}
	}
}

// tell hands what differs from what was told before to the zone.
func (c *Controller) tell(ctx context.Context, told map[mesh.Key]mesh.Resource, now []mesh.Resource) error {
	b := platform.Batch{Resources: map[mesh.Key]*mesh.Resource{}}
	next := map[mesh.Key]mesh.Resource{}
	for _, r := range now {
		r.Zone = c.cfg.Zone
		if problem := complete(&r); problem != "" {
			c.cfg.Log.Warn("route is not taken", "route", r.Key.String(), "reason", problem)
			continue
		}
		next[r.Key] = r
		if old, ok := told[r.Key]; !ok || !sameResource(old, r) {
			b.Resources[r.Key] = &r
		}
	}
	for k := range told {
		if _, still := next[k]; !still {
			b.Resources[k] = nil
		}
	}
	clear(told)
	maps.Copy(told, next)
	if b.Empty() {
		return nil
	}
	return c.cfg.Sink.Apply(ctx, b)
}

// complete gives a resource its labels, or says why it cannot be one.
func complete(r *mesh.Resource) string {
	spec, err := mesh.DecodeSpec(r.Kind, r.Spec)
	if err != nil {
		return err.Error()
	}
	if problems := mesh.ValidateResource(*r, spec); len(problems) > 0 {
		return problems.Error()
	}
	labels, problems := mesh.ComputeLabels(*r, spec, mesh.EnvKubernetes)
	if len(problems) > 0 {
		return problems.Error()
	}
	labels[mesh.LabelManagedBy] = "tombolo"
	r.Labels = labels
	return ""
}

func sameResource(a, b mesh.Resource) bool {
	return string(a.Spec) == string(b.Spec) && maps.Equal(a.Labels, b.Labels)
}

// installed waits until the cluster serves the API; false when ctx ended before.
func (c *Controller) installed(ctx context.Context) bool {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		missing, absent := false, false
		for _, gvr := range []schema.GroupVersionResource{
			{Group: group, Version: "v1", Resource: "httproutes"}, {Group: group, Version: "v1", Resource: "grpcroutes"},
			{Group: group, Version: "v1beta1", Resource: "referencegrants"},
		} {
			_, err := c.cfg.Client.Dynamic.Resource(gvr).List(ctx, metav1.ListOptions{Limit: 1})
			missing, absent = missing || err != nil, absent || apierrors.IsNotFound(err)
			if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
				c.cfg.Log.Warn("routes cannot be listed, trying on", "resource", gvr.Resource, "error", err)
			}
		}
		if !missing {
			return true
		}
		if absent {
			c.open()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}

// due is what a route's status should say of its parents.
type due struct {
	route  *object
	status []gatewayv1.RouteParentStatus
}

// writeStatuses is false when one has to be written again. It ends early, after a
// second, when there is something new to translate.
func (c *Controller) writeStatuses(ctx context.Context, all []due) (complete bool) {
	complete = true
	start := time.Now()
	for _, d := range all {
		if ctx.Err() != nil || len(c.wake) > 0 && time.Since(start) > time.Second {
			return false
		}
		complete = c.writeStatus(ctx, d.route, d.status) && complete
	}
	return complete
}

// translate says what all routes mean, and what their statuses should be.
func (c *Controller) translate() (out []mesh.Resource, statuses []due) {
	view := view{c: c, grants: c.readGrants()}
	objects := append(c.https.List(), c.grpcs.List()...)
	slices.SortFunc(objects, func(a, b *object) int { return strings.Compare(a.id(), b.id()) })
	live := map[types.UID]bool{}
	for _, o := range objects {
		live[o.UID] = true
		route, err := o.route()
		if err != nil { // the API server validates; a newer one may have other forms
			c.cfg.Log.Warn("route cannot be read", "route", o.id(), "error", err)
			continue
		}
		t := Translate(route, view)
		out = append(out, t.Resources...)
		statuses = append(statuses, due{o, t.Status})
	}
	maps.DeleteFunc(c.written, func(id types.UID, _ written) bool { return !live[id] })
	return out, statuses
}

func (o *object) id() string { return o.kind + "/" + o.Namespace + "/" + o.Name }

func (o *object) route() (Route, error) {
	switch o.kind {
	case "HTTPRoute":
		in := &gatewayv1.HTTPRoute{ObjectMeta: o.ObjectMeta}
		if err := into(o.spec, &in.Spec); err != nil {
			return Route{}, err
		}
		return HTTP(in), nil
	case "GRPCRoute":
		in := &gatewayv1.GRPCRoute{ObjectMeta: o.ObjectMeta}
		if err := into(o.spec, &in.Spec); err != nil {
			return Route{}, err
		}
		return GRPC(in), nil
	default:
		return Route{}, fmt.Errorf("kind %q is not a route of a mesh", o.kind)
	}
}

// into converts by way of JSON.
func into(from, to any) error {
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, to)
}

// grant is one pair of a ReferenceGrant.
type grant struct {
	kind, from, to, service string // service "" is every one
}

func (c *Controller) readGrants() map[grant]bool {
	out := map[grant]bool{}
	for _, o := range c.grants.List() {
		var spec struct {
			From []struct{ Group, Kind, Namespace string }
			To   []struct{ Group, Kind, Name string }
		}
		if err := into(o.spec, &spec); err != nil {
			continue // grants nothing
		}
		for _, f := range spec.From {
			for _, t := range spec.To {
				if f.Group == group && t.Group == "" && t.Kind == "Service" {
					out[grant{f.Kind, f.Namespace, o.Namespace, t.Name}] = true
				}
			}
		}
	}
	return out
}

// view is the cluster as one translation sees it.
type view struct {
	c      *Controller
	grants map[grant]bool
}

// Zone implements Cluster.
func (v view) Zone() string { return v.c.cfg.Zone }

// Service implements Cluster.
func (v view) Service(namespace, name string) (Service, bool) {
	return v.c.cfg.Service(namespace, name)
}

// Granted implements Cluster.
func (v view) Granted(kind, from, to, service string) bool {
	return v.grants[grant{kind, from, to, service}] || v.grants[grant{kind, from, to, ""}]
}

// writeStatus puts this controller's conditions into a route's status, beside
// those of others, if they are not there already. It reports whether they are.
func (c *Controller) writeStatus(ctx context.Context, o *object, ours []gatewayv1.RouteParentStatus) bool {
	have, err := statusOf(o.status)
	if err != nil {
		c.cfg.Log.Warn("status of a route cannot be read", "route", o.id(), "error", err)
		return true
	}
	if w, ok := c.written[o.UID]; ok && w.over == o.ResourceVersion {
		have = w.status // the watch has not shown it yet
	}
	if reflect.DeepEqual(have, merge(have, ours)) {
		return true
	}
	client := c.cfg.Client.Dynamic.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: strings.ToLower(o.kind) + "s"}).Namespace(o.Namespace)
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	// Another controller may have written its part meanwhile.
	fresh, err := client.Get(ctx, o.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && (fresh.GetUID() != o.UID || fresh.GetGeneration() != o.Generation) {
		return true // the watch will say so
	}
	if err == nil {
		err = c.updateStatus(ctx, client, o, fresh, ours)
	}
	if err != nil && !apierrors.IsNotFound(err) {
		c.cfg.Log.Warn("status of a route not written, trying again", "route", o.id(), "error", err)
		return false
	}
	return true
}

func (c *Controller) updateStatus(ctx context.Context, client dynamic.ResourceInterface, o *object, fresh *unstructured.Unstructured, ours []gatewayv1.RouteParentStatus) error {
	raw, _, err := unstructured.NestedMap(fresh.Object, "status")
	if err != nil {
		return err
	}
	have, err := statusOf(raw)
	if err != nil {
		return err
	}
	next := merge(have, ours)
	if !reflect.DeepEqual(have, next) {
		var status map[string]any
		if err := into(next, &status); err != nil {
			return err
		}
		fresh.Object["status"] = status
		if _, err := client.UpdateStatus(ctx, fresh, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	c.written[o.UID] = written{over: o.ResourceVersion, status: next}
	return nil
}

// statusOf reads a status; its list of parents is never nil.
func statusOf(raw map[string]any) (gatewayv1.RouteStatus, error) {
	var out gatewayv1.RouteStatus
	err := into(raw, &out)
	if out.Parents == nil {
		out.Parents = []gatewayv1.RouteParentStatus{}
	}
	return out, err
}

// merge puts this controller's parents in, each in the place that it has; those of
// others stay. A condition that stays as it was keeps the time of its last
// transition.
func merge(have gatewayv1.RouteStatus, ours []gatewayv1.RouteParentStatus) gatewayv1.RouteStatus {
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	out := gatewayv1.RouteStatus{Parents: []gatewayv1.RouteParentStatus{}}
	placed := make([]bool, len(ours))
	for _, p := range have.Parents {
		if p.ControllerName != ControllerName {
			out.Parents = append(out.Parents, p)
			continue
		}
		at := slices.IndexFunc(ours, func(n gatewayv1.RouteParentStatus) bool { return reflect.DeepEqual(n.ParentRef, p.ParentRef) })
		if at >= 0 && !placed[at] {
			placed[at] = true
			out.Parents = append(out.Parents, timed(ours[at], p.Conditions, now))
		}
	}
	for i, p := range ours {
		if !placed[i] {
			out.Parents = append(out.Parents, timed(p, nil, now))
		}
	}
	return out
}

// timed gives conditions the times of their last transitions.
func timed(p gatewayv1.RouteParentStatus, before []metav1.Condition, now metav1.Time) gatewayv1.RouteParentStatus {
	p.Conditions = slices.Clone(p.Conditions)
	for i := range p.Conditions {
		c := &p.Conditions[i]
		c.LastTransitionTime = now
		for _, old := range before {
			if old.Type == c.Type && old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
		}
	}
	return p
}
