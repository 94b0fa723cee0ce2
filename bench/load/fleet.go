package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
	"unique"

	"google.golang.org/grpc"
)

// perConnection is how many light proxies share a connection: each has two streams, of
// the 16 that a zone allows.
const perConnection = 8

// Config of a Fleet.
type Config struct {
	// Address of the zone, host:port.
	Address string
	// TLS to reach it.
	TLS *tls.Config
	// Dials bounds the connections that are made at once, default 64.
	Dials int
}

// Spec of a proxy.
type Spec struct {
	// Name of the Dataplane.
	Name string
	// Node id.
	Node string
	// Token of the workload.
	Token string
	// Dataplane manifest.
	Dataplane string
	// Names: its agent serves names, as beside a transparent proxy.
	Names bool
	// Light proxies share a connection with others: they are there to be called.
	Light bool
}

// Fleet is the proxies of one zone.
type Fleet struct {
	cfg     Config
	refs    references
	watches watches
	dials   chan struct{}

	mu      sync.Mutex
	proxies []*Proxy
	byName  map[string]*Proxy
	lights  *grpc.ClientConn
	inLight int
	conns   []*grpc.ClientConn
	errs    map[string]int
	last    error

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New makes a fleet of nobody; Close ends it.
func New(ctx context.Context, cfg Config) *Fleet {
	if cfg.Dials == 0 {
		cfg.Dials = 64
	}
	cfg.TLS = clientTLS(cfg.TLS)
	f := &Fleet{cfg: cfg, dials: make(chan struct{}, cfg.Dials), byName: map[string]*Proxy{}, errs: map[string]int{}}
	f.ctx, f.cancel = context.WithCancel(ctx)
	return f
}

// Add starts proxies and their agents.
func (f *Fleet) Add(specs ...Spec) error {
	for _, s := range specs {
		p, err := f.add(s)
		if err != nil {
			return err
		}
		if s.Dataplane != "" {
			f.wg.Go(func() { p.agent.run(f.ctx) })
		}
		f.wg.Go(func() { p.run(f.ctx) })
	}
	return nil
}

func (f *Fleet) add(s Spec) (*Proxy, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	conn, err := f.connection(s.Light)
	if err != nil {
		return nil, err
	}
	p := &Proxy{Node: s.Node, fleet: f, agent: &agent{fleet: f, spec: s, conn: conn, joined: make(chan struct{})},
		have: map[string]map[unique.Handle[string]]unique.Handle[string]{}, refs: map[key][]key{}, subs: map[key]int{}}
	f.proxies = append(f.proxies, p)
	f.byName[s.Name] = p
	return p, nil
}

// connection is a new one, or one with a free place among those of light proxies.
func (f *Fleet) connection(light bool) (*grpc.ClientConn, error) {
	if light && f.lights != nil && f.inLight < perConnection {
		f.inLight++
		return f.lights, nil
	}
	c, err := grpc.NewClient("passthrough:///"+f.cfg.Address, f.dialOptions()...)
	if err != nil {
		return nil, err
	}
	f.conns = append(f.conns, c)
	if light {
		f.lights, f.inLight = c, 1
	}
	return c, nil
}

// Proxies are all.
func (f *Fleet) Proxies() []*Proxy {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*Proxy(nil), f.proxies...)
}

// Health tells the zone which inbounds of a proxy do not answer.
func (f *Fleet) Health(name string, notReady ...string) error {
	f.mu.Lock()
	p := f.byName[name]
	f.mu.Unlock()
	if p == nil {
		return fmt.Errorf("no proxy %s", name)
	}
	return p.agent.health(notReady)
}

// Holders are the proxies that hold a resource now, but for light ones, which call nobody.
func (f *Fleet) Holders(typeURL, name string) []*Proxy {
	var holders []*Proxy
	for _, p := range f.Proxies() {
		if !p.agent.spec.Light && !p.aside.Load() && p.Has(typeURL, name) {
			holders = append(holders, p)
		}
	}
	return holders
}

// Watch times a resource's next arrival at proxies that hold it. Close it.
func (f *Fleet) Watch(typeURL, name string, holders []*Proxy) (w *Watch, end func()) {
	w = newWatch(holders)
	w.typeURL, w.name = typeURL, name
	f.watches.add(w)
	return w, func() { f.watches.remove(w) }
}

// WatchMark times responses of any publication after a revision, at every proxy that is
// not aside.
func (f *Fleet) WatchMark(after int64) (w *Watch, end func()) {
	w = newWatch(slices.DeleteFunc(f.Proxies(), func(p *Proxy) bool { return p.aside.Load() }))
	w.after = after
	f.watches.add(w)
	return w, func() { f.watches.remove(w) }
}

// Settle waits until every proxy has all it asked for and nothing came for a while.
func (f *Fleet) Settle(ctx context.Context, quiet time.Duration) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		late, last := 0, int64(0)
		for _, p := range f.Proxies() {
			if p.streams.Load() == 0 || !p.complete() {
				late++
			}
			last = max(last, p.last.Load())
		}
		if late == 0 && time.Since(time.Unix(0, last)) > quiet {
			return nil
		}
		select {
		case <-ctx.Done():
			f.mu.Lock()
			defer f.mu.Unlock()
			return fmt.Errorf("%d of %d proxies are not configured (%v; last: %w)", late, len(f.proxies), f.errs, f.last)
		case <-tick.C:
		}
	}
}

// Connected counts the proxies with an open stream.
func (f *Fleet) Connected() int {
	n := 0
	for _, p := range f.Proxies() {
		if p.streams.Load() > 0 {
			n++
		}
	}
	return n
}

// LastResponse is when any proxy received something last.
func (f *Fleet) LastResponse() time.Time {
	last := int64(0)
	for _, p := range f.Proxies() {
		last = max(last, p.last.Load())
	}
	return time.Unix(0, last)
}

// Close ends every stream.
func (f *Fleet) Close() {
	f.cancel()
	f.wg.Wait()
	for _, c := range f.conns {
		_ = c.Close() // it has no streams any more
	}
}

// turn waits for a place among those that dial; took gives it back.
func (f *Fleet) turn(ctx context.Context) error {
	select {
	case f.dials <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *Fleet) took() { <-f.dials }

func (f *Fleet) jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.5 + rand.Float64()))
}

func (f *Fleet) failed(who string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	kind := "proxies"
	if len(who) > 5 && who[:5] == "agent" {
		kind = "agents"
	}
	f.errs[kind]++
	f.last = errors.Join(err)
}
