package kube

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/kube/cluster"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

// Times of the platform.
const (
	// resolveEvery is how often the names of load balancers are looked up.
	resolveEvery   = 30 * time.Second
	resolveTimeout = 5 * time.Second
)

// Config of a Platform.
type Config struct {
	// Zone is the name of this zone. Required.
	Zone string
	// Client of the cluster. Required.
	Client *cluster.Client
	// Sink takes what the cluster tells. Required.
	Sink platform.Sink
	// Changed is called, from Run, after services of the mesh changed; nil for nobody.
	Changed func()
	// Log, default discards.
	Log *slog.Logger
	// Registerer for metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
}

// Platform follows one cluster. It is safe for concurrent use.
type Platform struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	namespaces *cluster.Table[*Namespace]
	nodes      *cluster.Table[*Node]
	pods       *cluster.Table[*Pod]
	services   *cluster.Table[*Service]
	slices     *cluster.Table[*Slice]

	wake  chan struct{} // capacity 1
	ready chan struct{}

	mu    sync.Mutex
	model *model

	members members
}

// New makes a platform. It does no I/O; Run does.
func New(cfg Config) *Platform {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Platform{cfg: cfg, log: cfg.Log, metrics: newMetrics(cfg.Registerer),
		wake: make(chan struct{}, 1), ready: make(chan struct{}), model: newModel(cfg.Zone)}
	core := cfg.Client.Core
	p.namespaces = cluster.NewTable(cluster.Typed(core, "namespaces", "", &corev1.Namespace{}), slimNamespace, follow(p, (*model).setNamespace))
	p.nodes = cluster.NewTable(cluster.Typed(core, "nodes", "", &corev1.Node{}), slimNode, follow(p, (*model).setNode))
	p.pods = cluster.NewTable(cluster.Typed(core, "pods", "", &corev1.Pod{}), p.slimPod, follow(p, (*model).setPod))
	p.services = cluster.NewTable(cluster.Typed(core, "services", "", &corev1.Service{}), p.slimService, follow(p, (*model).setService))
	p.slices = cluster.NewTable(cluster.Typed(cfg.Client.Discovery, "endpointslices", "", &discoveryv1.EndpointSlice{}), slimSlice, follow(p, (*model).setSlice))
	return p
}

// operators reports whether a namespace is the operator's: whoever else says that
// their Service or pod is an ingress would send the traffic of other zones anywhere,
// and be told of every service of the zone.
func (p *Platform) operators(namespace string) bool { return mesh.IsSystemNamespace(namespace) }

func (p *Platform) slimPod(o runtime.Object) *Pod { return slimPod(o, p.operators) }

func (p *Platform) slimService(o runtime.Object) *Service { return slimService(o, p.operators) }

// follow hands the changes of a table to the model.
func follow[T cluster.Slim](p *Platform, set func(*model, cluster.Change[T])) func([]cluster.Change[T]) {
	return func(changes []cluster.Change[T]) {
		p.mu.Lock()
		for _, c := range changes {
			set(p.model, c)
		}
		p.mu.Unlock()
		p.ring()
	}
}

func (p *Platform) ring() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Ready is closed when the zone has everything that the cluster held at first. Until
// then a zone serves nobody: what it left out would look as if it were gone.
func (p *Platform) Ready() <-chan struct{} { return p.ready }

// Namespace finds a namespace, with those of its labels and annotations that say
// something to us, in canonical form. One that the watch has not shown yet is asked
// for: pods come right after their namespace.
func (p *Platform) Namespace(ctx context.Context, name string) (*Namespace, error) {
	if ns, ok := p.namespaces.Get("", name); ok {
		return ns, nil
	}
	var ns corev1.Namespace
	if err := p.cfg.Client.Core.Get().Resource("namespaces").Name(name).Do(ctx).Into(&ns); err != nil {
		return nil, err
	}
	return slimNamespace(&ns), nil
}

// Run follows the cluster until ctx ends. While the API server is away, everything
// stays as it is.
func (p *Platform) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	tables := []interface {
		Run(context.Context, *cluster.Client)
		Synced() <-chan struct{}
	}{p.namespaces, p.nodes, p.pods, p.services, p.slices}
	for _, t := range tables {
		g.Go(func() error { t.Run(ctx, p.cfg.Client); return nil })
	}
	g.Go(func() error { p.resolve(ctx); return nil })
	g.Go(func() error {
		start := time.Now()
		for _, t := range tables {
			select {
			case <-t.Synced():
			case <-ctx.Done():
				return nil
			}
		}
		p.log.Info("cluster is known", "pods", p.pods.Len(), "services", p.services.Len(), "took", time.Since(start))
		return p.loop(ctx)
	})
	return g.Wait()
}

// loop tells the engine what changed, one batch after the other: what comes while
// one is taken is the next.
func (p *Platform) loop(ctx context.Context) error {
	numbers, err := p.cfg.Sink.Recall(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	first := platform.Batch{Remember: map[string]uint64{}}
	p.mu.Lock()
	p.model.recall(&first, numbers)
	p.mu.Unlock()
	for started := false; ; {
		p.mu.Lock()
		b, wrong := p.model.flush(time.Now())
		due := p.model.due()
		p.mu.Unlock()
		for k, v := range first.Remember {
			b.Remember[k] = v
		}
		clear(first.Remember)
		if err := p.tell(ctx, b); err != nil {
			return stopped(ctx, err)
		}
		for _, c := range wrong {
			p.log.Warn("object is not in the mesh", "kind", c.about.Kind, "namespace", c.about.Namespace, "name", c.about.Name, "error", c.err)
			p.cfg.Client.Events.Warn(c.about, c.reason, c.err.Error())
		}
		if !started {
			started = true
			close(p.ready)
		}
		if !p.pause(ctx, due) {
			return nil
		}
	}
}

// pause waits until something happens or is due; false says that ctx has ended.
func (p *Platform) pause(ctx context.Context, due time.Time) bool {
	var end <-chan time.Time
	if !due.IsZero() {
		t := time.NewTimer(time.Until(due))
		defer t.Stop()
		end = t.C
	}
	select {
	case <-p.wake:
	case <-end:
	case <-ctx.Done():
		return false
	}
	return true
}

// tell hands over a batch until the engine has taken it.
func (p *Platform) tell(ctx context.Context, b platform.Batch) error {
	if b.Empty() {
		return nil
	}
	start := time.Now()
	if err := p.cfg.Sink.Apply(ctx, b); err != nil {
		return err
	}
	p.members.apply(b.Pods)
	if p.cfg.Changed != nil {
		for k := range b.Resources {
			if k.Kind == mesh.KindMeshService {
				p.cfg.Changed()
				break
			}
		}
	}
	p.metrics.batches.Observe(time.Since(start).Seconds())
	p.metrics.changes.Add(float64(len(b.Pods) + len(b.Resources)))
	return nil
}

// stopped is nil when the end was asked for.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// resolve looks up the names of load balancers, again and again: they move.
func (p *Platform) resolve(ctx context.Context) {
	tick := time.NewTicker(resolveEvery)
	defer tick.Stop()
	known := ""
	poll := time.NewTicker(time.Second) // a new name does not wait for the next round
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			known = ""
		case <-poll.C:
		}
		p.mu.Lock()
		names := p.model.wanted()
		p.mu.Unlock()
		now := ""
		for _, n := range names {
			now += n + " "
		}
		if now == known {
			continue
		}
		known = now
		for _, name := range names {
			if addresses, err := lookup(ctx, name); err != nil {
				p.log.Warn("name of an ingress does not resolve; its last addresses stay", "name", name, "error", err)
			} else {
				p.mu.Lock()
				p.model.setResolved(name, addresses)
				p.mu.Unlock()
				p.ring()
			}
		}
	}
}

func lookup(ctx context.Context, name string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, err
	}
	text := make([]string, 0, len(ips))
	for _, ip := range ips {
		text = append(text, netip.Addr.String(ip.Unmap()))
	}
	return canonicalAddresses(text), nil
}

// members are the pods that the engine has, for admission.
type members struct {
	mu    sync.Mutex
	pods  map[string]*platform.Pod // by namespaced name
	grown chan struct{}            // closed and made anew at each change
}

func (m *members) apply(pods map[mesh.Key]*platform.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pods == nil {
		m.pods = map[string]*platform.Pod{}
	}
	// Ends first: a pod that moves to another mesh has two keys.
	for k, pod := range pods {
		if have := m.pods[k.Name]; pod == nil && have != nil && have.Resource.Key == k {
			delete(m.pods, k.Name)
		}
	}
	for k, pod := range pods {
		if pod != nil {
			m.pods[k.Name] = pod
		}
	}
	if m.grown != nil {
		close(m.grown)
		m.grown = nil
	}
}

// wait returns the pod of that name and uid as soon as the engine has it.
func (m *members) wait(ctx context.Context, name, uid string) (*platform.Pod, error) {
	for {
		m.mu.Lock()
		if pod := m.pods[name]; pod != nil && pod.UID == uid {
			m.mu.Unlock()
			return pod, nil
		}
		if m.grown == nil {
			m.grown = make(chan struct{})
		}
		grown := m.grown
		m.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

type metrics struct {
	batches prometheus.Histogram
	changes prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		batches: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tombolo_kube_batch_seconds",
			Help: "Time that the zone takes for a batch of changes of the cluster.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9)}),
		changes: prometheus.NewCounter(prometheus.CounterOpts{Name: "tombolo_kube_changes_total",
			Help: "Changes of pods and services of the cluster that the zone took."}),
	}
	if r != nil {
		r.MustRegister(m.batches, m.changes)
	}
	return m
}
