package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

// unknownHealth in Register says that no port was probed yet.
const unknownHealth = "*"

// Bounds and defaults of probes.
const (
	maxProbes       = 256
	defaultInterval = 250 * time.Millisecond
	minInterval     = 50 * time.Millisecond
	maxInterval     = time.Hour
	defaultTimeout  = 200 * time.Millisecond
)

// prober watches the application's ports, by connecting to each at its interval.
// A port that was never reached is not ready.
type prober struct {
	log *slog.Logger

	mu      sync.Mutex
	probes  map[string]*agentv1.Probe
	cancel  map[string]context.CancelFunc
	ready   map[string]bool       // absent until probed once
	sets    chan []*agentv1.Probe // capacity 1, the newest replaces
	changed chan struct{}         // capacity 1, coalesced
}

func newProber(log *slog.Logger) *prober {
	return &prober{log: log, probes: map[string]*agentv1.Probe{}, cancel: map[string]context.CancelFunc{},
		ready: map[string]bool{}, sets: make(chan []*agentv1.Probe, 1), changed: make(chan struct{}, 1)}
}

// set says what to watch. One goroutine only may call it.
func (p *prober) set(probes []*agentv1.Probe) {
	select {
	case <-p.sets:
	default:
	}
	p.sets <- probes
}

// run watches what set says, until ctx ends.
func (p *prober) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case set := <-p.sets:
			for _, x := range p.replace(set) {
				watch, cancel := context.WithCancel(ctx)
				p.mu.Lock()
				p.cancel[x.Inbound] = cancel
				p.mu.Unlock()
				wg.Go(func() { p.watch(watch, x) })
			}
			p.signal()
		}
	}
}

// replace ends the watches that are not in the set any more and returns the new ones.
func (p *prober) replace(set []*agentv1.Probe) []*agentv1.Probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	want := map[string]*agentv1.Probe{}
	for _, x := range set {
		if len(want) < maxProbes {
			want[x.Inbound] = x
		}
	}
	for name, have := range p.probes {
		if w, ok := want[name]; !ok || w.String() != have.String() {
			p.cancel[name]()
			delete(p.probes, name)
			delete(p.cancel, name)
			delete(p.ready, name)
		}
	}
	var fresh []*agentv1.Probe
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if _, ok := p.probes[name]; !ok {
			p.probes[name] = want[name]
			fresh = append(fresh, want[name])
		}
	}
	return fresh
}

// notReady names the ports that do not answer, or were not probed yet, sorted.
func (p *prober) notReady() (names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.probes {
		if !p.ready[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (p *prober) signal() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *prober) watch(ctx context.Context, x *agentv1.Probe) {
	interval := clamp(x.IntervalMillis, defaultInterval, minInterval, maxInterval)
	timeout := clamp(x.TimeoutMillis, defaultTimeout, time.Millisecond, interval)
	address := net.JoinHostPort(x.Address, strconv.Itoa(int(x.Port)))
	if _, err := netip.ParseAddr(x.Address); err != nil || x.Port == 0 || x.Port > 65535 {
		p.log.Error("port cannot be watched", "inbound", x.Inbound, "address", address)
		return
	}
	t := time.NewTicker(interval)
	defer t.Stop()
	failed, succeeded := uint32(0), uint32(0)
	for {
		err := connect(ctx, address, timeout)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failed, succeeded = 0, succeeded+1
		} else {
			failed, succeeded = failed+1, 0
		}
		p.result(ctx, x, err, succeeded >= max(1, x.HealthyThreshold), failed >= max(1, x.UnhealthyThreshold))
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// result records a probe. The first failure of a port never reached before counts at once.
func (p *prober) result(ctx context.Context, x *agentv1.Probe, err error, up, down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil { // replaced meanwhile
		return
	}
	was, known := p.ready[x.Inbound]
	is := was
	switch {
	case up:
		is = true
	case down || !known:
		is = false
	}
	if known && is == was {
		return
	}
	p.ready[x.Inbound] = is
	if is {
		p.log.Info("application answers", "inbound", x.Inbound, "port", x.Port)
	} else {
		p.log.Warn("application does not answer", "inbound", x.Inbound, "port", x.Port, "error", fmt.Sprint(err))
	}
	p.signal()
}

func connect(ctx context.Context, address string, timeout time.Duration) error {
	d := net.Dialer{Timeout: timeout, KeepAlive: -1}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

func clamp(millis uint32, def, low, high time.Duration) time.Duration {
	if millis == 0 {
		return min(def, high)
	}
	return min(max(time.Duration(millis)*time.Millisecond, low), high)
}
