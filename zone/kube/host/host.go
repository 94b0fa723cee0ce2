package host

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/agents"
	"github.com/tombolo-mesh/tombolo/zone/disk"
	"github.com/tombolo-mesh/tombolo/zone/kube"
	"github.com/tombolo-mesh/tombolo/zone/kube/certs"
	"github.com/tombolo-mesh/tombolo/zone/kube/cluster"
	"github.com/tombolo-mesh/tombolo/zone/kube/gateway"
	"github.com/tombolo-mesh/tombolo/zone/kube/lease"
	"github.com/tombolo-mesh/tombolo/zone/kube/nodes"
	"github.com/tombolo-mesh/tombolo/zone/kube/policy"
	"github.com/tombolo-mesh/tombolo/zone/kube/state"
	"github.com/tombolo-mesh/tombolo/zone/kube/webhook"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

// Defaults of a Config.
const (
	DefaultNamespace = mesh.SystemNamespace
	DefaultWebhooks  = ":5443"
	// name of the control plane's Deployment, Service and Lease.
	name = "tombolo-zone"
	// startRetry is the pause between attempts to read what a start needs.
	startRetry = time.Second
)

// Config of a Host.
type Config struct {
	// Zone is the name of the zone. Required.
	Zone string
	// Kubeconfig is a file, Context one of its contexts; empty: the service account
	// of the pod that this runs in.
	Kubeconfig, Context string
	// Namespace of the control plane, default and only value DefaultNamespace: who may
	// write there is the operator to every zone and to global.
	Namespace string
	// Instance names this process, different for each; default the host's name and
	// process id.
	Instance string
	// Names are further DNS names and addresses under which agents reach the zone.
	Names []string
	// Injection is a file that says what injected pods get; see README of the chart.
	// Without it no pod is injected.
	Injection string
	// Webhooks is the address of the webhooks, default DefaultWebhooks; "none" for none.
	Webhooks string
	// VIPs are the networks of the zone's virtual addresses, which pods redirect.
	VIPs []netip.Prefix
	// Log, default discards.
	Log *slog.Logger
	// Registerer for metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
}

// Engine is what a Host needs of the zone; package zone implements it.
type Engine interface {
	platform.Sink
	platform.View
	// Adopt takes what another instance decided.
	Adopt(u disk.Update)
	// Leads says that this instance begins or ceases to lead.
	Leads(leads bool)
}

// Host of a zone control plane. It is safe for concurrent use.
type Host struct {
	cfg     Config
	client  *cluster.Client
	elector *lease.Elector
	certs   *certs.Certs
	store   *state.Store
	ready   chan struct{}

	mu       sync.Mutex
	engine   Engine
	platform *kube.Platform
	routes   *gateway.Controller
	policies *policy.Resources
}

// Open connects, takes part in the election and reads state and certificates: it
// waits until they are there. What runs from then on runs in g, until ctx ends.
func Open(ctx context.Context, g *errgroup.Group, cfg Config) (*Host, error) {
	cfg.Namespace = cmp.Or(cfg.Namespace, DefaultNamespace)
	cfg.Webhooks = cmp.Or(cfg.Webhooks, DefaultWebhooks)
	if !mesh.IsSystemNamespace(cfg.Namespace) {
		return nil, fmt.Errorf("namespace: must be %s, not %q: what is written there is the operator's, to other zones and to global too", mesh.SystemNamespace, cfg.Namespace)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Instance == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("instance: %w", err)
		}
		cfg.Instance = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	h := &Host{cfg: cfg, ready: make(chan struct{})}
	var err error
	if h.client, err = cluster.Connect(cluster.Config{Kubeconfig: cfg.Kubeconfig, Context: cfg.Context, Component: name, Log: cfg.Log}); err != nil {
		return nil, err
	}
	h.elector, err = lease.New(lease.Config{Client: h.client.Dynamic, Namespace: cfg.Namespace, Name: name, Identity: cfg.Instance, OnChange: h.leads, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	g.Go(func() error { return h.elector.Run(ctx) })
	select {
	case <-h.elector.Known():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	names := append([]string{name + "." + cfg.Namespace + ".svc", name + "." + cfg.Namespace + ".svc.cluster.local", name + "." + cfg.Namespace, "localhost", "127.0.0.1", "::1"}, cfg.Names...)
	h.certs, err = certs.New(certs.Config{Client: h.client.Dynamic, Namespace: cfg.Namespace, Names: names, CommonName: "Tombolo zone " + cfg.Zone, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	if err := h.retry(ctx, "certificates", h.certs.Load); err != nil {
		return nil, err
	}
	store, err := state.Open(ctx, state.Config{Client: h.client.Dynamic, Namespace: cfg.Namespace, Zone: cfg.Zone, Leads: h.elector.Leads, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.store = store
	h.mu.Unlock()
	g.Go(func() error { return h.certs.Run(ctx) })
	g.Go(func() error { h.client.Events.Run(ctx); return nil })
	return h, nil
}

// retry tries until it works or ctx ends: an API server that is away now comes back.
func (h *Host) retry(ctx context.Context, what string, try func(context.Context) error) error {
	tick := time.NewTicker(startRetry)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		h.cfg.Log.Warn("waiting for the cluster", "what", what, "error", err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, errors.Join(ctx.Err(), err))
		}
	}
}

// leads is called when this instance begins or ceases to lead.
func (h *Host) leads(leads bool) {
	h.mu.Lock()
	store, engine := h.store, h.engine
	h.mu.Unlock()
	if leads && store != nil {
		store.Lead()
	}
	if engine != nil {
		engine.Leads(leads)
		if leads { // routes are there since the engine is
			h.routes.Changed() // statuses that the leader before did not write
		}
	}
}

// Leads reports whether this instance leads.
func (h *Host) Leads() bool { return h.elector.Leads() }

// Doubt tells that another instance acts as the leader.
func (h *Host) Doubt() { h.elector.Doubt() }

// Store is the zone's state.
func (h *Host) Store() disk.Store { return h.store }

// TLS is for the server of agents and Envoys.
func (h *Host) TLS() *tls.Config { return h.certs.TLS() }

// Ready is closed when the zone has everything that the cluster held at first.
func (h *Host) Ready() <-chan struct{} { return h.ready }

// Attach makes the parts that feed the engine and returns who may join. Call it
// once, before Run.
func (h *Host) Attach(e Engine) agents.Admitter {
	h.platform = kube.New(kube.Config{Zone: h.cfg.Zone, Client: h.client, Sink: e, Changed: func() { h.routes.Changed() }, Log: h.cfg.Log, Registerer: h.cfg.Registerer})
	h.routes = gateway.New(gateway.Config{Client: h.client, Zone: h.cfg.Zone, Sink: e, Leads: h.elector.Leads, Log: h.cfg.Log,
		Service: func(namespace, name string) (gateway.Service, bool) {
			s, ok := h.platform.Service(namespace, name)
			return gateway.Service(s), ok
		}})
	h.policies = policy.New(policy.Config{Zone: h.cfg.Zone, Client: h.client, Sink: e, World: e, Leads: h.elector.Leads, Log: h.cfg.Log})
	h.mu.Lock()
	h.engine = e
	h.mu.Unlock()
	return h.platform.Admitter()
}

// Run feeds the engine and serves the webhooks until ctx ends.
func (h *Host) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.store.Run(ctx, h.engine.Adopt) })
	g.Go(func() error { return h.platform.Run(ctx) })
	g.Go(func() error { return h.routes.Run(ctx) })
	g.Go(func() error { return h.policies.Run(ctx) })
	// Sources whose first batch the zone waits for before it serves.
	gates := []<-chan struct{}{h.platform.Ready(), h.routes.Ready(), h.policies.Synced()}
	g.Go(func() error {
		for _, gate := range gates {
			select {
			case <-gate:
			case <-ctx.Done():
				return nil
			}
		}
		close(h.ready)
		return nil
	})
	if h.cfg.Webhooks != "none" {
		if err := h.webhooks(ctx, g); err != nil {
			return errors.Join(err, g.Wait())
		}
	}
	return g.Wait()
}

// webhooks serves them, and keeps their authorities in the cluster.
func (h *Host) webhooks(ctx context.Context, g *errgroup.Group) error {
	validator := &policy.Validator{Zone: h.cfg.Zone, ServiceAccount: "system:serviceaccount:" + h.cfg.Namespace + ":" + name, MeshExists: h.policies.MeshExists}
	cfg := webhook.ServerConfig{Address: h.cfg.Webhooks, TLS: h.certs.TLS(), Validate: validator.Review, Log: h.cfg.Log}
	if h.cfg.Injection != "" {
		injection := &injection{host: h}
		if err := injection.load(); err != nil {
			return err
		}
		cfg.Inject = webhook.Pods(webhook.PodsConfig{Inject: injection.config, Namespace: h.namespace, Fresh: h.fresh, Recorder: h.client.Events, Log: h.cfg.Log})
		g.Go(func() error { injection.run(ctx); return nil })
		watch := nodes.New(nodes.Config{Client: h.client, Namespace: h.cfg.Namespace, Taint: injection.taint, Leads: h.elector.Leads, Log: h.cfg.Log})
		g.Go(func() error { return watch.Run(ctx) })
	}
	server, err := webhook.NewServer(cfg)
	if err != nil {
		return err
	}
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error {
		return webhook.CABundles{Client: h.client.Dynamic, Authorities: h.certs, Log: h.cfg.Log}.Run(ctx)
	})
	return nil
}

// namespace finds the namespace of a pod: by the watch, and for one that is just
// made by asking.
func (h *Host) namespace(ctx context.Context, name string) (webhook.Namespace, error) {
	ns, err := h.platform.Namespace(ctx, name)
	if err != nil {
		return webhook.Namespace{}, err
	}
	return webhook.Namespace{Name: name, Labels: ns.Labels, Annotations: ns.Annotations}, nil
}

// fresh is namespace as the API server has it now.
func (h *Host) fresh(ctx context.Context, name string) (webhook.Namespace, error) {
	var ns corev1.Namespace
	if err := h.client.Core.Get().Resource("namespaces").Name(name).Do(ctx).Into(&ns); err != nil {
		return webhook.Namespace{}, err
	}
	return webhook.Namespace{Name: name, Labels: ns.Labels, Annotations: ns.Annotations}, nil
}
