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

	mu sync.Mutex
	// written are the statuses that this instance wrote, or found right, by route.
	written map[string]gatewayv1.RouteStatus
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
	c := &Controller{cfg: cfg, wake: make(chan struct{}, 1), ready: make(chan struct{}), written: map[string]gatewayv1.RouteStatus{}}
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
		if err := c.tell(ctx, told, c.translate(ctx)); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		c.open()
		quiet := time.NewTimer(pause)
		select {
		case <-quiet.C:
		case <-ctx.Done():
		}
		select {
		case <-c.wake:
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

// translate says what all routes mean, and writes their statuses.
func (c *Controller) translate(ctx context.Context) []mesh.Resource {
	view := view{c: c, grants: c.readGrants()}
	objects := append(c.https.List(), c.grpcs.List()...)
	slices.SortFunc(objects, func(a, b *object) int { return strings.Compare(a.id(), b.id()) })
	var out []mesh.Resource
	for _, o := range objects {
		route, err := o.route()
		if err != nil { // the API server validates; a newer one may have other forms
			c.cfg.Log.Warn("route cannot be read", "route", o.id(), "error", err)
			continue
		}
		t := Translate(route, view)
		out = append(out, t.Resources...)
		if c.cfg.Leads() {
			c.writeStatus(ctx, o, t.Status)
		}
	}
	return out
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

func into(from map[string]any, to any) error {
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
// those of others, if they are not there already.
func (c *Controller) writeStatus(ctx context.Context, o *object, ours []gatewayv1.RouteParentStatus) {
	var have gatewayv1.RouteStatus
	if o.status != nil {
		if err := into(o.status, &have); err != nil {
			return
		}
	}
	next := merge(have, ours)
	if reflect.DeepEqual(have, next) {
		return
	}
	c.mu.Lock()
	same := reflect.DeepEqual(c.written[string(o.UID)], next)
	c.mu.Unlock()
	if same { // written, and not seen yet
		return
	}
	resource := strings.ToLower(o.kind) + "s"
	client := c.cfg.Client.Dynamic.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource}).Namespace(o.Namespace)
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	fresh, err := client.Get(ctx, o.Name, metav1.GetOptions{})
	if err == nil {
		var text []byte
		if text, err = json.Marshal(next); err == nil {
			var status map[string]any
			if err = json.Unmarshal(text, &status); err == nil {
				fresh.Object["status"] = status
				_, err = client.UpdateStatus(ctx, fresh, metav1.UpdateOptions{})
			}
		}
	}
	if err != nil {
		if !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			c.cfg.Log.Warn("status of a route not written", "route", o.id(), "error", err)
		}
		return // the next change of the route, or its list, tries again
	}
	c.mu.Lock()
	c.written[string(o.UID)] = next
	c.mu.Unlock()
}

// merge replaces this controller's parents. A condition that stays as it was
// keeps the time of its last transition.
func merge(have gatewayv1.RouteStatus, ours []gatewayv1.RouteParentStatus) gatewayv1.RouteStatus {
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	var out gatewayv1.RouteStatus
	for _, p := range have.Parents {
		if p.ControllerName != ControllerName {
			out.Parents = append(out.Parents, p)
		}
	}
	for _, p := range ours {
		for i := range p.Conditions {
			c := &p.Conditions[i]
			c.LastTransitionTime = now
			for _, old := range have.Parents {
				if old.ControllerName != ControllerName || !reflect.DeepEqual(old.ParentRef, p.ParentRef) {
					continue
				}
				for _, oc := range old.Conditions {
					if oc.Type == c.Type && oc.Status == c.Status && oc.Reason == c.Reason {
						c.LastTransitionTime = oc.LastTransitionTime
					}
				}
			}
		}
		out.Parents = append(out.Parents, p)
	}
	return out
}
