package xdstest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// Resource types that the fake understands.
const (
	ClusterType   = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType  = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType     = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	SecretType    = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	ExtensionType = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
)

// Config of a fake Envoy.
type Config struct {
	// Node is its id.
	Node string
	// Refuse returns Envoy's words against a resource, or "" to accept it; nil accepts all.
	Refuse func(*discoveryv3.Resource) string
	// Late says that a refused cluster fails late: it stays among those that warm, and
	// from the next cluster on that warms none is answered for.
	Late bool
}

// Envoy is a fake one. What it runs outlives its streams, as in the real one.
type Envoy struct {
	cfg Config

	mu       sync.Mutex
	running  map[string]map[string]*discoveryv3.Resource
	refs     map[string]map[string]references
	wanted   map[string]map[string]bool // names subscribed by type
	warming  map[string]*warming        // clusters, by name
	paused   bool                       // no request for clusters leaves
	held     []*discoveryv3.DeltaDiscoveryRequest
	booked   map[string]string // versions of clusters and listeners are told when they came without a NACK
	received []string
	faults   []string
	stream   discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	stalled  chan struct{}
}

// warming is a cluster that waits for its endpoints, or for ever.
type warming struct {
	version, endpoints string
	failed             bool
}

// New makes a fake Envoy; Run connects it.
func New(cfg Config) *Envoy {
	e := &Envoy{cfg: cfg, running: map[string]map[string]*discoveryv3.Resource{}, refs: map[string]map[string]references{}, wanted: map[string]map[string]bool{}, warming: map[string]*warming{}, booked: map[string]string{}}
	for _, t := range []string{ClusterType, EndpointType, ListenerType, RouteType, SecretType, ExtensionType} {
		e.refs[t] = map[string]references{}
		e.running[t], e.wanted[t] = map[string]*discoveryv3.Resource{}, map[string]bool{}
	}
	return e
}

// Run opens a stream and speaks until it breaks or ctx ends. It can be run again:
// then it tells what it has.
func (e *Envoy) Run(ctx context.Context, conn grpc.ClientConnInterface) error {
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return fmt.Errorf("open stream: %w", err)
	}
	e.mu.Lock()
	e.stream, e.held = stream, nil
	out := e.hello()
	e.mu.Unlock()
	for {
		for _, req := range out {
			if err := stream.Send(req); err != nil {
				break // Recv says why
			}
		}
		resp, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("stream: %w", err)
		}
		e.mu.Lock()
		stalled := e.stalled
		e.mu.Unlock()
		if stalled != nil {
			select {
			case <-stalled:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		e.mu.Lock()
		out = e.take(resp)
		e.mu.Unlock()
	}
}

// Stall makes the fake stop reading until the returned function is called.
func (e *Envoy) Stall() (resume func()) {
	c := make(chan struct{})
	e.mu.Lock()
	e.stalled = c
	e.mu.Unlock()
	return func() {
		e.mu.Lock()
		e.stalled = nil
		e.mu.Unlock()
		close(c)
	}
}

// SetRefuse replaces the rule of what to refuse.
func (e *Envoy) SetRefuse(refuse func(*discoveryv3.Resource) string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cfg.Refuse = refuse
}

// Config is what the fake runs: versions by name, by type.
func (e *Envoy) Config() map[string]map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := map[string]map[string]string{}
	for t, byName := range e.running {
		all[t] = map[string]string{}
		for name, r := range byName {
			all[t][name] = r.Version
		}
	}
	return all
}

// Resource is one that the fake runs, or nil.
func (e *Envoy) Resource(typeURL, name string) *discoveryv3.Resource {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running[typeURL][name]
}

// Faults are what a control plane must never do, and did: a route that names a
// cluster that is not there, for example.
func (e *Envoy) Faults() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.faults)
}

// Received lists the resources that came, in order, as "type/name@version" or
// "type/-name", and empties the list.
func (e *Envoy) Received() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.received
	e.received = nil
	return r
}

// hello is the first requests of a stream: wildcards for clusters and listeners,
// and the names of what they refer to, with versions when it has any.
func (e *Envoy) hello() []*discoveryv3.DeltaDiscoveryRequest {
	var out []*discoveryv3.DeltaDiscoveryRequest
	for _, t := range []string{ClusterType, EndpointType, SecretType, ListenerType, RouteType, ExtensionType} {
		wildcard := t == ClusterType || t == ListenerType
		if !wildcard && len(e.wanted[t]) == 0 {
			continue
		}
		versions := map[string]string{}
		for name, r := range e.running[t] {
			if version, ok := e.booked[t+name]; ok || !wildcard {
				versions[name] = cmp.Or(version, r.Version)
			}
		}
		out = append(out, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t, ResourceNamesSubscribe: slices.Sorted(maps.Keys(e.wanted[t])), InitialResourceVersions: versions})
	}
	if e.paused {
		e.held, out = out[:1:1], out[1:]
	}
	if len(out) > 0 {
		out[0].Node = &corev3.Node{Id: e.cfg.Node}
	}
	return out
}

// take applies a response and returns the requests that follow from it: what it
// subscribes to first, the answer last.
func (e *Envoy) take(resp *discoveryv3.DeltaDiscoveryResponse) []*discoveryv3.DeltaDiscoveryRequest {
	t := resp.TypeUrl
	short := t[strings.LastIndex(t, ".")+1:]
	answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t, ResponseNonce: resp.Nonce}
	if e.running[t] == nil {
		answer.ErrorDetail = refusal("unknown type " + t)
		return []*discoveryv3.DeltaDiscoveryRequest{answer}
	}
	for _, name := range resp.RemovedResources {
		e.received = append(e.received, short+"/-"+name)
		e.remove(t, name)
	}
	text := e.apply(t, short, resp.Resources)
	if text != "" {
		answer.ErrorDetail = refusal(text)
	} else if t == ClusterType || t == ListenerType {
		for _, r := range resp.Resources {
			e.booked[t+r.Name] = r.Version
		}
	}
	var out []*discoveryv3.DeltaDiscoveryRequest
	if t == ClusterType || t == ListenerType || t == ExtensionType {
		out = e.resubscribe()
	}
	if t == ClusterType {
		e.held = append(e.held, answer)
	} else {
		out = append(out, answer)
	}
	if len(e.warming) == 0 {
		e.paused = false
	}
	if !e.paused {
		out, e.held = append(out, e.held...), nil
	}
	return out
}

func refusal(text string) *statuspb.Status {
	return &statuspb.Status{Code: int32(codes.Internal), Message: text}
}

// apply takes in the resources of a response. Clusters and listeners: the good
// ones. Others: those before the first bad one.
func (e *Envoy) apply(t, short string, resources []*discoveryv3.Resource) (text string) {
	var bad []string
	for _, r := range resources {
		e.received = append(e.received, short+"/"+r.Name+"@"+r.Version)
		if w := e.warming[r.Name]; t == ClusterType && w != nil && w.version == r.Version {
			continue // the same content: passed over, failed or not
		}
		if e.cfg.Refuse != nil {
			if words := e.cfg.Refuse(r); words != "" {
				bad = append(bad, r.Name+": "+words)
				if t == EndpointType {
					e.remove(t, r.Name)
				}
				if t != ClusterType && t != ListenerType {
					return words
				}
				if t == ClusterType && e.cfg.Late {
					e.warming[r.Name] = &warming{version: r.Version, failed: true}
				}
				continue
			}
		}
		e.run(t, r)
	}
	switch {
	case len(bad) == 0:
		return ""
	case t == ClusterType:
		return "Error adding/updating cluster(s) " + strings.Join(bad, ", ")
	}
	return "Error adding/updating listener(s) " + strings.Join(bad, "\n") + "\n"
}

func (e *Envoy) run(t string, r *discoveryv3.Resource) {
	old := e.running[t][r.Name]
	e.running[t][r.Name] = r
	e.refs[t][r.Name] = referred(r.Resource)
	switch t {
	case ClusterType:
		var c clusterv3.Cluster
		if err := proto.Unmarshal(r.Resource.GetValue(), &c); err != nil {
			e.faults = append(e.faults, "cluster "+r.Name+": "+err.Error())
		} else if c.GetType() == clusterv3.Cluster_EDS && (old == nil || old.Version != r.Version || e.warming[r.Name] != nil) {
			e.warming[r.Name] = &warming{version: r.Version, endpoints: endpointsOf(&c)}
			e.paused = true
		} else {
			delete(e.warming, r.Name)
		}
	case EndpointType:
		e.warm(r.Name)
	case RouteType, ListenerType, ExtensionType:
		for _, cluster := range e.refs[t][r.Name].clusters {
			if e.running[ClusterType][cluster] == nil {
				e.faults = append(e.faults, fmt.Sprintf("%s names cluster %s, which is not there", r.Name, cluster))
			}
		}
	}
}

// warm ends the wait for endpoints, if there is one.
func (e *Envoy) warm(endpoints string) bool {
	n := len(e.warming)
	maps.DeleteFunc(e.warming, func(_ string, w *warming) bool { return !w.failed && w.endpoints == endpoints })
	return len(e.warming) < n
}

func (e *Envoy) remove(t, name string) {
	switch t {
	case EndpointType:
		if e.warm(name) {
			e.forget(t, name) // goes on without hosts
		}
		return // else the old ones stay
	case ClusterType:
		delete(e.warming, name)
		for _, of := range []string{RouteType, ListenerType, ExtensionType} {
			for user, refs := range e.refs[of] {
				if slices.Contains(refs.clusters, name) {
					e.faults = append(e.faults, fmt.Sprintf("cluster %s was removed under %s", name, user))
				}
			}
		}
	}
	e.forget(t, name)
}

func (e *Envoy) forget(t, name string) {
	delete(e.booked, t+name)
	delete(e.running[t], name)
	delete(e.refs[t], name)
}

// resubscribe derives the names that clusters and listeners refer to.
func (e *Envoy) resubscribe() []*discoveryv3.DeltaDiscoveryRequest {
	need := map[string]map[string]bool{EndpointType: {}, RouteType: {}, SecretType: {}, ExtensionType: {}}
	for _, t := range []string{ClusterType, ListenerType, ExtensionType} {
		for _, refs := range e.refs[t] {
			for of, names := range map[string][]string{EndpointType: refs.endpoints, RouteType: refs.routes, SecretType: refs.secrets, ExtensionType: refs.extensions} {
				for _, name := range names {
					need[of][name] = true
				}
			}
		}
	}
	var out []*discoveryv3.DeltaDiscoveryRequest
	for _, t := range []string{EndpointType, SecretType, RouteType, ExtensionType} {
		req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t}
		for name := range need[t] {
			if !e.wanted[t][name] {
				req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, name)
			}
		}
		for name := range e.wanted[t] {
			if !need[t][name] {
				req.ResourceNamesUnsubscribe = append(req.ResourceNamesUnsubscribe, name)
				e.forget(t, name)
				if t == EndpointType {
					e.warm(name)
				}
			}
		}
		e.wanted[t] = need[t]
		if len(req.ResourceNamesSubscribe)+len(req.ResourceNamesUnsubscribe) > 0 {
			slices.Sort(req.ResourceNamesSubscribe)
			slices.Sort(req.ResourceNamesUnsubscribe)
			out = append(out, req)
		}
	}
	return out
}
