package peers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	gosync "sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/sync"
	peersv1 "github.com/tombolo-mesh/tombolo/proto/peers/v1"
)

// Times of the roster.
const (
	// Beat is how often an instance says that it lives.
	Beat = 5 * time.Second
	// Life is after how long without it is forgotten.
	Life = 20 * time.Second
	// refreshPause is the least time between two readings that strangers cause.
	refreshPause = 200 * time.Millisecond
	callTime     = 5 * time.Second
)

// Roster is where instances find each other; the PostgreSQL store is one.
type Roster interface {
	// Register notes that an instance lives, forgets those that were silent for
	// longer than life, and returns the records of all by id, itself included.
	Register(ctx context.Context, id string, record []byte, life time.Duration) (map[string][]byte, error)
	// Leave takes an instance off.
	Leave(ctx context.Context, id string) error
}

// Fleet is what this instance knows of its zones; *sync.Server implements it.
type Fleet interface {
	// Export tells of the zones that are connected here until ctx ends or send fails.
	Export(ctx context.Context, send func(*peersv1.Update) error) error
	// Import takes what another instance tells.
	Import(instance string, m *peersv1.Member)
	// Unreached says that nothing is known of an instance that lives, and Reached
	// that all of it is; Lost, that it is gone with what it knew.
	Unreached(instance string)
	Reached(instance string)
	Lost(instance string)
	// InspectHere asks a zone that is connected here.
	InspectHere(ctx context.Context, zone string, q sync.Question, w io.Writer) error
}

// Config of Peers.
type Config struct {
	// Instance is the id of this process, different for each. Required.
	Instance string
	// Address that the others dial, host:port. Required.
	Address string
	// Roster of instances. Required.
	Roster Roster
	// Keys that all instances share. Required.
	Keys *store.Keyring
	// Version of the software, for people.
	Version string
	// Log, default discards.
	Log *slog.Logger
	// Registerer of metrics; nil registers none.
	Registerer prometheus.Registerer
	// DialOptions are appended to those for other instances, for tests.
	DialOptions []grpc.DialOption
}

// Instance is one that is known.
type Instance struct {
	// ID of it.
	ID string `json:"id"`
	// Address that the others dial.
	Address string `json:"address"`
	// Version of its software.
	Version string `json:"version,omitempty"`
	// Self is set for the instance that answers.
	Self bool `json:"self,omitempty"`
	// Connected: this instance knows all of what that one knows.
	Connected bool `json:"connected"`
	// Since when it is connected, or not.
	Since time.Time `json:"since"`
	// Error that ended the last connection; empty while connected.
	Error string `json:"error,omitempty"`
}

// Peers is this instance among the others. Safe for concurrent use.
type Peers struct {
	cfg      Config
	log      *slog.Logger
	identity tls.Certificate
	self     record
	began    time.Time
	// strangers asks for a reading of the roster; done is closed when Run ends.
	strangers chan struct{}
	done      chan struct{}

	mu gosync.Mutex
	// links by instance, without this one.
	links map[string]*link
	// read is closed and replaced after each reading of the roster.
	read chan struct{}
}

// New makes the identity of this instance; no I/O.
func New(cfg Config) (*Peers, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := CheckAddress(cfg.Address); err != nil {
		return nil, fmt.Errorf("the address for other instances: %w", err)
	}
	now := time.Now()
	identity, err := newIdentity(cfg.Instance, now)
	if err != nil {
		return nil, err
	}
	p := &Peers{cfg: cfg, log: cfg.Log, identity: identity, began: now, strangers: make(chan struct{}, 1), done: make(chan struct{}),
		self:  record{Address: cfg.Address, Key: keyDigest(identity.Leaf), Version: cfg.Version},
		links: map[string]*link{}, read: make(chan struct{})}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(p.gauge("known", "Other instances of global that live.", func(*link) bool { return true }),
			p.gauge("connected", "Other instances of global whose zones are known here.", func(l *link) bool { return l.status.Connected }))
	}
	return p, nil
}

func (p *Peers) gauge(name, help string, counts func(*link) bool) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "tombolo", Subsystem: "peers", Name: name, Help: help}, func() float64 {
		p.mu.Lock()
		defer p.mu.Unlock()
		n := 0
		for _, l := range p.links {
			if counts(l) {
				n++
			}
		}
		return float64(n)
	})
}

// Instances that are known, sorted by id, this one included.
func (p *Peers) Instances() []Instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := []Instance{{ID: p.cfg.Instance, Address: p.cfg.Address, Version: p.cfg.Version, Self: true, Connected: true, Since: p.began}}
	for _, id := range slices.Sorted(maps.Keys(p.links)) {
		out = append(out, p.links[id].status)
	}
	slices.SortFunc(out, func(a, b Instance) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return out
}

// Run keeps this instance on the roster and a connection to each other, until
// ctx ends; then it leaves.
func (p *Peers) Run(ctx context.Context, fleet Fleet) error {
	defer close(p.done)
	var links gosync.WaitGroup
	defer links.Wait()
	sealed, err := p.self.seal(p.cfg.Keys, p.cfg.Instance)
	if err != nil {
		return err
	}
	tick := time.NewTicker(Beat)
	defer tick.Stop()
	down := false
	for {
		all, err := p.register(ctx, sealed)
		switch {
		case ctx.Err() != nil:
		case err != nil && !down:
			p.log.Warn("other instances of global cannot be looked up, retrying", "error", err)
		case err == nil && down:
			p.log.Info("other instances of global are looked up again")
		}
		if down = err != nil; !down {
			p.follow(ctx, &links, fleet, all)
		}
		p.mu.Lock()
		close(p.read)
		p.read = make(chan struct{})
		p.mu.Unlock()
		quiet := time.After(refreshPause)
		select {
		case <-ctx.Done():
		case <-tick.C:
			continue
		case <-p.strangers:
		}
		select {
		case <-ctx.Done():
			p.leave(ctx)
			return nil
		case <-quiet:
		}
	}
}

func (p *Peers) register(ctx context.Context, sealed []byte) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return p.cfg.Roster.Register(ctx, p.cfg.Instance, sealed, Life)
}

func (p *Peers) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer cancel()
	if err := p.cfg.Roster.Leave(ctx, p.cfg.Instance); err != nil {
		p.log.Warn("this instance stays on the roster until it is forgotten", "error", err)
	}
}

// follow makes the links as the roster says.
func (p *Peers) follow(ctx context.Context, running *gosync.WaitGroup, fleet Fleet, all map[string][]byte) {
	records := map[string]record{}
	for id, sealed := range all {
		if id == p.cfg.Instance {
			continue
		}
		r, err := openRecord(p.cfg.Keys, id, sealed)
		if err != nil {
			p.log.Warn("an instance on the roster is none of ours", "instance", id, "error", err)
			continue
		}
		records[id] = r
	}
	p.mu.Lock()
	var ended []*link
	for id, l := range p.links {
		if records[id] != l.record {
			delete(p.links, id)
			ended = append(ended, l)
		}
	}
	p.mu.Unlock()
	for _, l := range ended {
		l.stop()
		<-l.ended
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, r := range records {
		if p.links[id] == nil {
			l := p.newLink(ctx, id, r)
			p.links[id] = l
			running.Go(func() { l.run(fleet) })
		}
	}
}

// identify finds the instance that a certificate is of. One that is not known may
// have come just now: then the roster is read again.
func (p *Peers) identify(ctx context.Context, c *x509.Certificate) (string, error) {
	key := keyDigest(c)
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	// A reading that was under way may have missed it, the one after has not.
	for range 3 {
		p.mu.Lock()
		read := p.read
		for id, l := range p.links {
			if l.record.Key == key {
				p.mu.Unlock()
				return id, nil
			}
		}
		p.mu.Unlock()
		p.lookAgain()
		select {
		case <-read:
		case <-p.done:
			return "", errStopped
		case <-ctx.Done():
			return "", fmt.Errorf("look for the instance: %w", ctx.Err())
		}
	}
	return "", errors.New("no instance on the roster has this key")
}

// lookAgain has the roster read soon.
func (p *Peers) lookAgain() {
	select {
	case p.strangers <- struct{}{}:
	default:
	}
}

var errStopped = errors.New("this instance is shutting down")
