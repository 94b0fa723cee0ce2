package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// Defaults of a Config, as client-go's own electors have them.
const (
	// DefaultDuration is how long a lease that is not renewed keeps others out.
	DefaultDuration = 15 * time.Second
	// DefaultRetry is how often a holder renews and the others look.
	DefaultRetry = 2 * time.Second
)

// Config of an Elector.
type Config struct {
	// Client of the cluster. Required.
	Client dynamic.Interface
	// Namespace and Name of the Lease. Required.
	Namespace, Name string
	// Identity of this instance, different for each. Required.
	Identity string
	// Duration, default DefaultDuration; at least one second.
	Duration time.Duration
	// Retry, default DefaultRetry; less than a third of Duration.
	Retry time.Duration
	// OnChange is called, from Run, when this instance begins or ceases to lead.
	OnChange func(leads bool)
	// Log of changes, default discards.
	Log *slog.Logger
}

// Elector takes part in the election. It is safe for concurrent use.
type Elector struct {
	cfg   Config
	doubt chan struct{}

	mu     sync.Mutex
	leads  bool
	holder string
	known  chan struct{}
	// renewed is when this instance's hold was last confirmed.
	renewed time.Time
	// seen is the state of the lease as last read, and since when it is that: the
	// clocks of two nodes are not compared.
	seen  string
	since time.Time
}

// New checks the configuration.
func New(cfg Config) (*Elector, error) {
	if cfg.Client == nil || cfg.Namespace == "" || cfg.Name == "" || cfg.Identity == "" {
		return nil, errors.New("lease: client, namespace, name and identity are required")
	}
	if cfg.Duration == 0 {
		cfg.Duration = DefaultDuration
	}
	if cfg.Retry == 0 {
		cfg.Retry = DefaultRetry
	}
	if cfg.Duration < time.Second || cfg.Duration%time.Second != 0 || cfg.Retry <= 0 || 3*cfg.Retry >= cfg.Duration {
		return nil, fmt.Errorf("lease: duration must be whole seconds and more than three times the retry, not %s and %s", cfg.Duration, cfg.Retry)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Elector{cfg: cfg, doubt: make(chan struct{}, 1), known: make(chan struct{})}, nil
}

// Leads reports whether this instance leads.
func (e *Elector) Leads() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.leads
}

// Known is closed once the lease was read: it is known whether this instance leads.
func (e *Elector) Known() <-chan struct{} { return e.known }

// Doubt tells that another instance acts as the leader. This one gives up if its
// renewals have failed for longer than the lease lasts.
func (e *Elector) Doubt() {
	select {
	case e.doubt <- struct{}{}:
	default:
	}
}

// Run takes part until ctx ends, then releases the lease, so that another
// instance leads within one Retry.
func (e *Elector) Run(ctx context.Context) error {
	tick := time.NewTicker(e.cfg.Retry)
	defer tick.Stop()
	failing := false
	for {
		switch err := e.try(ctx); {
		case ctx.Err() != nil:
			e.release()
			return nil
		case err != nil && !failing:
			failing = true
			e.cfg.Log.Warn("lease cannot be read or renewed, trying on", "lease", e.cfg.Name, "leads", e.Leads(), "error", err)
		case err == nil:
			failing = false
		}
		select {
		case <-ctx.Done():
			e.release()
			return nil
		case <-tick.C:
		case <-e.doubt:
			e.mu.Lock()
			stale := e.leads && time.Since(e.renewed) > e.cfg.Duration
			e.mu.Unlock()
			if stale {
				e.become(false, "", "another instance acts as the leader and the lease cannot be renewed")
			}
		}
	}
}

func leases() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}
}

// try takes, renews or looks at the lease once.
func (e *Elector) try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Duration/3)
	defer cancel()
	client := e.cfg.Client.Resource(leases()).Namespace(e.cfg.Namespace)
	now := time.Now()
	got, err := client.Get(ctx, e.cfg.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		fresh := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
			"metadata": map[string]any{"name": e.cfg.Name, "namespace": e.cfg.Namespace},
			"spec":     e.claim(now, nil),
		}}
		if _, err = client.Create(ctx, fresh, metav1.CreateOptions{}); err == nil {
			e.hold(now)
		}
		if apierrors.IsAlreadyExists(err) {
			return nil // the next look says whose it is
		}
		return err
	}
	if err != nil {
		return err
	}
	spec, _, _ := unstructured.NestedMap(got.Object, "spec")
	holder, _ := spec["holderIdentity"].(string)
	if holder != "" && holder != e.cfg.Identity && !e.expired(spec, now) {
		e.become(false, holder, "held by another instance")
		return nil
	}
	// Whoever reads this version and writes first wins; the others get a conflict.
	got.Object["spec"] = e.claim(now, spec)
	_, err = client.Update(ctx, got, metav1.UpdateOptions{})
	switch {
	case err == nil:
		e.hold(now)
	case apierrors.IsConflict(err):
		return nil // the next look says whose it is
	}
	return err
}

// claim is the spec of a lease that this instance holds.
func (e *Elector) claim(now time.Time, old map[string]any) map[string]any {
	stamp := now.UTC().Format("2006-01-02T15:04:05.000000Z07:00")
	spec := map[string]any{
		"holderIdentity": e.cfg.Identity, "leaseDurationSeconds": int64(e.cfg.Duration / time.Second),
		"acquireTime": stamp, "renewTime": stamp, "leaseTransitions": int64(0),
	}
	if old == nil {
		return spec
	}
	if n, ok := old["leaseTransitions"].(int64); ok {
		spec["leaseTransitions"] = n
	}
	if old["holderIdentity"] == e.cfg.Identity {
		if t, ok := old["acquireTime"].(string); ok {
			spec["acquireTime"] = t
		}
		return spec
	}
	spec["leaseTransitions"] = spec["leaseTransitions"].(int64) + 1
	return spec
}

// expired: the lease has not changed for its duration, by this instance's own clock.
func (e *Elector) expired(spec map[string]any, now time.Time) bool {
	duration := e.cfg.Duration
	if n, ok := spec["leaseDurationSeconds"].(int64); ok && n > 0 {
		duration = time.Duration(n) * time.Second
	}
	state := fmt.Sprint(spec["holderIdentity"], " ", spec["renewTime"])
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.seen != state {
		e.seen, e.since = state, now
		return false
	}
	return now.Sub(e.since) > duration
}

func (e *Elector) hold(now time.Time) {
	e.mu.Lock()
	e.renewed = now
	e.mu.Unlock()
	e.become(true, e.cfg.Identity, "holds the lease")
}

// become notes who leads, and tells it when that is another than before.
func (e *Elector) become(leads bool, holder, reason string) {
	e.mu.Lock()
	first := false
	select {
	case <-e.known:
	default:
		first = true
		close(e.known)
	}
	changed := e.leads != leads
	moved := e.holder != holder
	e.leads, e.holder = leads, holder
	e.mu.Unlock()
	if changed || first || moved {
		e.cfg.Log.Info("lead of the zone", "leads", leads, "holder", holder, "reason", reason)
	}
	if changed && e.cfg.OnChange != nil {
		e.cfg.OnChange(leads)
	}
}

// release lets another instance take the lease at once.
func (e *Elector) release() {
	if !e.Leads() {
		return
	}
	e.become(false, "", "stopping")
	ctx, cancel := context.WithTimeout(context.Background(), e.cfg.Retry)
	defer cancel()
	client := e.cfg.Client.Resource(leases()).Namespace(e.cfg.Namespace)
	got, err := client.Get(ctx, e.cfg.Name, metav1.GetOptions{})
	if err == nil {
		if holder, _, _ := unstructured.NestedString(got.Object, "spec", "holderIdentity"); holder != e.cfg.Identity {
			return
		}
		_ = unstructured.SetNestedField(got.Object, "", "spec", "holderIdentity")
		_, err = client.Update(ctx, got, metav1.UpdateOptions{})
	}
	if err != nil {
		e.cfg.Log.Warn("lease not released; it ends by itself", "lease", e.cfg.Name, "error", err)
	}
}
