package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tombolo-mesh/tombolo/bench/load"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// steps are what a step can do.
func steps() map[string]func(*world, context.Context, int) (metrics, error) {
	return map[string]func(*world, context.Context, int) (metrics, error){
		"policy":   (*world).policyStep,
		"wide":     (*world).wideStep,
		"endpoint": (*world).endpointStep,
		"churn":    (*world).churnStep,
		"idle":     (*world).idleStep,
		"memory":   (*world).memoryStep,
		"restart":  (*world).restartStep,
		"stall":    (*world).stallStep,
		"appear":   (*world).appearStep,
		"refuse":   (*world).refuseStep,
		"plan":     (*world).planStep,
	}
}

// stepTime bounds one change.
const stepTime = 60 * time.Second

// policyStep writes a policy that reaches every proxy, waits until all have
// acknowledged it, and until global says so.
func (w *world) policyStep(ctx context.Context, at int) (metrics, error) {
	st := w.scenario.Steps[at]
	var seen, all, reported []time.Duration
	bytes, proxies, responses := 0, 0, 0
	warm := 2 // the first changes grow buffers
	var before []proc
	for i := range st.Times + warm {
		if i == warm {
			before = w.usages()
		}
		one, err := w.policyOnce(ctx)
		if err != nil {
			return nil, err
		}
		if i < warm {
			continue
		}
		seen, reported = append(seen, one.last), append(reported, one.reported)
		all = append(all, one.all...)
		bytes, proxies = one.bytes/max(1, len(one.all)), len(one.all)
		responses += one.responses
	}
	cpu := w.spent(before)
	w.wire[at] = wire{bytes: bytes, proxies: proxies, p50: time.Duration(quantile(seen, 0.5) * float64(time.Millisecond)), cpu: cpu / time.Duration(max(1, st.Times*proxies))}
	return metrics{
		"last p50": quantile(seen, 0.5), "last p99": quantile(seen, 0.99), "last max": quantile(seen, 1),
		"each p50": quantile(all, 0.5), "reported p50": quantile(reported, 0.5), "reported max": quantile(reported, 1),
		"cpu per proxy":   cpu.Seconds() * 1e6 / float64(max(1, st.Times*proxies)),
		"cpu":             cpu.Seconds() * 1e3 / float64(st.Times),
		"global cpu":      (w.global.usage().cpu - before[0].cpu).Seconds() * 1e3 / float64(st.Times),
		"bytes per proxy": float64(bytes), "responses per proxy": float64(responses) / float64(max(1, st.Times*proxies)),
		"cpu per response": cpu.Seconds() * 1e6 / float64(max(1, responses)),
	}, nil
}

type change struct {
	last, reported time.Duration
	all            []time.Duration
	bytes          int
	responses      int
	resources      []int // by zone
	// changed and same are bytes of resources that proxies lacked, and of those they had.
	changed, same int
}

func (w *world) policyOnce(ctx context.Context) (change, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	w.turn++
	var watches []*load.Watch
	for _, f := range w.fleets {
		x, end := f.WatchMark(w.rev)
		defer end()
		watches = append(watches, x)
	}
	began := time.Now()
	rev, err := w.api.change(ctx, w.turn)
	if err != nil {
		return change{}, err
	}
	if err := w.api.complete(ctx, rev); err != nil {
		return change{}, err
	}
	out := change{reported: time.Since(began)}
	w.rev = rev
	for _, x := range watches {
		if n := x.Wait(ctx); n > 0 {
			return change{}, fmt.Errorf("revision %d: %d proxies have not acknowledged", rev, n)
		}
		out.all = append(out.all, x.Took(began)...)
		out.bytes += x.Bytes()
		out.responses += x.Responses()
		out.resources = append(out.resources, x.Resources())
	}
	for _, d := range out.all {
		out.last = max(out.last, d)
	}
	return out, nil
}

// endpointStep takes one instance out of traffic and back, each time another.
func (w *world) endpointStep(ctx context.Context, at int) (metrics, error) {
	st := w.scenario.Steps[at]
	var last, all []time.Duration
	bytes, proxies := 0, 0
	const warm = 4
	var before []proc
	for i := range st.Times + warm {
		if i == warm {
			before = w.usages()
		}
		one, err := w.endpointOnce(ctx, i, w.callersOf(i))
		if err != nil {
			return nil, err
		}
		if i < warm {
			continue
		}
		last, all = append(last, one.last), append(all, one.all...)
		bytes, proxies = one.bytes/max(1, len(one.all)), len(one.all)
	}
	cpu := w.spent(before)
	w.wire[at] = wire{bytes: bytes, proxies: proxies, p50: time.Duration(quantile(last, 0.5) * float64(time.Millisecond)), cpu: cpu / time.Duration(max(1, st.Times*proxies))}
	return metrics{
		"last p50": quantile(last, 0.5), "last p99": quantile(last, 0.99), "each p50": quantile(all, 0.5), "each p99": quantile(all, 0.99),
		"cpu": cpu.Seconds() * 1e3 / float64(st.Times), "proxies": float64(proxies),
		"cpu per proxy":   cpu.Seconds() * 1e6 / float64(max(1, st.Times*proxies)),
		"bytes per proxy": float64(bytes),
	}, nil
}

// endpointName is the endpoint set of a service of a zone.
func endpointName(z, s int) string {
	return mesh.KRI("msvc", "default", zoneName(z), "", service(s), "8080")
}

// callersOf are the proxies that hold the endpoints of the service that the ith change is of.
func (w *world) callersOf(i int) []*load.Proxy {
	return w.fleets[0].Holders(load.EndpointType, endpointName(1, i%w.scenario.Topology.Services))
}

func (w *world) endpointOnce(ctx context.Context, i int, callers []*load.Proxy) (change, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	s := i % w.scenario.Topology.Services
	x, end := w.fleets[0].Watch(load.EndpointType, endpointName(1, s), callers)
	defer end()
	began := time.Now()
	if err := w.fleets[0].Health(instance(s, 0), w.otherHealth(s)...); err != nil {
		return change{}, err
	}
	if n := x.Wait(ctx); n > 0 {
		return change{}, fmt.Errorf("endpoints of %s: %d proxies have not acknowledged", service(s), n)
	}
	out := change{all: x.Took(began), bytes: x.Bytes()}
	for _, d := range out.all {
		out.last = max(out.last, d)
	}
	return out, nil
}

// otherHealth is what the first instance of a service is not ready for, the other
// way each time.
func (w *world) otherHealth(s int) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down[s] = !w.down[s]; w.down[s] {
		return []string{"http"}
	}
	return nil
}

// churnStep changes instances at a rate, whether or not those before have arrived.
func (w *world) churnStep(ctx context.Context, at int) (metrics, error) {
	st := w.scenario.Steps[at]
	if st.Rate == 0 {
		st.Rate = 50
	}
	callers := make([][]*load.Proxy, w.scenario.Topology.Services)
	for i := range callers {
		callers[i] = w.callersOf(i)
	}
	before := w.usages()
	began := time.Now()
	tick := time.NewTicker(time.Second / time.Duration(st.Rate))
	defer tick.Stop()
	var mu sync.Mutex
	var last []time.Duration
	var failed error
	lost := 0
	var wg sync.WaitGroup
	n := 0
	for ; time.Since(began) < st.For; n++ {
		i := n
		wg.Go(func() {
			one, err := w.endpointOnce(ctx, i, callers[i%len(callers)])
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				lost++
				failed = err
				return
			}
			last = append(last, one.last)
		})
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
	took := time.Since(began)
	wg.Wait()
	drained := time.Since(began) - took
	cpu := w.spent(before)
	if lost > n/100 {
		return nil, fmt.Errorf("%d of %d changes did not arrive: %w", lost, n, failed)
	}
	half := len(last) / 2
	return metrics{
		"last p50": quantile(last, 0.5), "last p99": quantile(last, 0.99), "last max": quantile(last, 1),
		"growth": quantile(last[half:], 0.5) / quantile(last[:half], 0.5), "drained": float64(drained.Milliseconds()),
		"cpu": cpu.Seconds() * 1e3 / float64(n), "cores": cpu.Seconds() / took.Seconds(), "rate": float64(n) / took.Seconds(),
		"rss grown": w.grown(before),
	}, nil
}

// idleStep does nothing.
func (w *world) idleStep(ctx context.Context, at int) (metrics, error) {
	st := w.scenario.Steps[at]
	if err := rest(ctx, 3*time.Second); err != nil { // what came before may have left something to tidy up
		return nil, err
	}
	before := w.usages()
	if err := rest(ctx, st.For); err != nil {
		return nil, err
	}
	out := metrics{}
	for i, u := range w.usages() {
		share := 100 * (u.cpu - before[i].cpu).Seconds() / st.For.Seconds()
		if i == 0 {
			out["global"] = share
			continue
		}
		out["zone"] = max(out["zone"], share)
	}
	return out, nil
}

func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// memoryStep divides what zones hold, above what they held with their first proxies,
// among the proxies that came since.
func (w *world) memoryStep(ctx context.Context, at int) (metrics, error) {
	if err := rest(ctx, w.scenario.Steps[at].For); err != nil {
		return nil, err
	}
	rss, own, connected := int64(0), int64(0), 0
	for i, z := range w.zones {
		u := z.usage()
		rss += u.rss - z.base.rss
		own += u.own - z.base.own
		connected += w.fleets[i].Connected() - z.first
	}
	each := func(bytes int64) float64 { return float64(bytes) / 1024 / float64(max(1, connected)) }
	return metrics{"per proxy": each(rss), "own per proxy": each(own), "zones": float64(rss) / (1 << 20) / float64(len(w.zones)),
		"global": float64(w.global.usage().rss) / (1 << 20)}, nil
}

// restartStep ends a zone and starts it again under its proxies. A policy that is
// written meanwhile tells when each of them is configured.
func (w *world) restartStep(ctx context.Context, _ int) (metrics, error) {
	w.zones[0].stop()
	began := time.Now()
	var err error
	if w.zones[0], err = w.launchZone(ctx, 1); err != nil {
		return nil, err
	}
	began2 := time.Now()
	one, err := w.policyOnce(ctx)
	if err != nil {
		return nil, err
	}
	if err := w.settle(ctx); err != nil {
		return nil, err
	}
	resent := 0
	for _, p := range w.fleets[0].Proxies() {
		resent += p.Resent()
	}
	return metrics{"took": (one.last + began2.Sub(began)).Seconds(), "resent": float64(resent - one.resources[0]), "cpu": w.zones[0].usage().cpu.Seconds()}, nil
}

// stallStep changes endpoints while some proxies do not read, and others hardly.
func (w *world) stallStep(ctx context.Context, at int) (metrics, error) {
	st := w.scenario.Steps[at]
	callers := w.fleets[0].Proxies()
	callers = callers[len(callers)-w.scenario.Topology.Callers:]
	if len(callers) < 3*st.Count {
		return nil, fmt.Errorf("%d proxies are to stall, of %d", 3*st.Count, len(callers))
	}
	var undo []func()
	for i, p := range callers[:3*st.Count] {
		p.Aside(true)
		switch i % 3 {
		case 0:
			undo = append(undo, p.Stall())
		case 1: // reads, and answers nothing
			p.Mute(true)
			undo = append(undo, func() { p.Mute(false) })
		case 2:
			p.Slow(4 << 10)
			undo = append(undo, func() { p.Slow(0) })
		}
	}
	defer func() {
		for _, fn := range undo {
			fn()
		}
	}()
	before := w.usages()
	var last []time.Duration
	began := time.Now()
	for i := 0; time.Since(began) < st.For; i++ {
		one, err := w.endpointOnce(ctx, i, w.callersOf(i))
		if err != nil {
			return nil, err
		}
		last = append(last, one.last)
		if err := rest(ctx, 20*time.Millisecond); err != nil {
			return nil, err
		}
	}
	if err := w.rest(ctx); err != nil { // garbage is not theirs
		return nil, err
	}
	return metrics{"last p50": quantile(last, 0.5), "last p99": quantile(last, 0.99), "rss grown": w.grown(before)}, nil
}

// refuseStep writes policies that some proxies refuse, and in the end one that none does.
func (w *world) refuseStep(ctx context.Context, at int) (metrics, error) {
	st := w.scenario.Steps[at]
	some := w.fleets[0].Proxies()[:st.Count]
	refuse := func(is bool) {
		for _, p := range some {
			p.Aside(is)
			p.Refuse(is)
		}
	}
	refuse(true)
	defer refuse(false)
	var last []time.Duration
	for range st.Times {
		one, err := w.policyOnce(ctx)
		if err != nil {
			return nil, err
		}
		last = append(last, one.last)
	}
	if !slices.ContainsFunc(some, func(p *load.Proxy) bool { return p.Refused() > 0 }) {
		return nil, errors.New("nothing was refused")
	}
	refuse(false)
	if _, err := w.policyOnce(ctx); err != nil {
		return nil, fmt.Errorf("what is refused no more: %w", err)
	}
	return metrics{"last p50": quantile(last, 0.5), "last max": quantile(last, 1)}, w.settle(ctx)
}

// planStep previews a change that reaches every proxy.
func (w *world) planStep(ctx context.Context, at int) (metrics, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	st := w.scenario.Steps[at]
	var took []time.Duration
	affected := 0
	for i := range st.Times {
		began := time.Now()
		resp, err := w.api.do(ctx, http.MethodPost, "/plan", timeoutsOf(fmt.Sprintf(`{"http":{"requestTimeout":"%dms"}}`, 40000+i)))
		if err != nil {
			return nil, err
		}
		var out struct{ Zones []struct{ Affected int } }
		err = json.NewDecoder(resp.Body).Decode(&out)
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		took, affected = append(took, time.Since(began)), 0
		for _, z := range out.Zones {
			affected += z.Affected
		}
	}
	if t := w.scenario.Topology; affected != t.Zones*t.proxies() {
		return nil, fmt.Errorf("the plan reaches %d proxies", affected)
	}
	return metrics{"took p50": quantile(took, 0.5), "took max": quantile(took, 1) / 1e3}, nil
}

// appearStep gives the first zone many services at once, and waits until all
// callers have them.
func (w *world) appearStep(ctx context.Context, at int) (metrics, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	n := w.scenario.Steps[at].Count
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "---\ntype: MeshService\nmesh: default\nname: new-%d\nlabels: {tombolo.io/zone: %s}\nspec:\n  selector: {dataplaneLabels: {matchLabels: {tombolo.io/workload: %s}}}\n"+
			"  ports: [{port: 8080, appProtocol: http}]\n", i, zoneName(1), service(i%w.scenario.Topology.Services))
	}
	if err := os.WriteFile(filepath.Join(w.dir, zoneName(1)+".d", "new.yaml"), []byte(b.String()), 0o644); err != nil {
		return nil, err
	}
	callers := w.fleets[0].Proxies()
	callers = callers[len(callers)-w.scenario.Topology.Callers:]
	before := w.usages()
	began := time.Now()
	if err := w.zones[0].cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return nil, err
	}
	name := mesh.KRI("msvc", "default", zoneName(1), "", fmt.Sprintf("new-%d", n-1), "8080")
	err := until(ctx, func() bool {
		for _, p := range callers {
			if !p.Has(load.EndpointType, name) {
				return false
			}
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("%d services at once: %w", n, err)
	}
	if err := w.settle(ctx); err != nil {
		return nil, err
	}
	last := time.Time{}
	for _, f := range w.fleets[:1] {
		if t := f.LastResponse(); t.After(last) {
			last = t
		}
	}
	return metrics{"took": last.Sub(began).Seconds(), "cpu": w.spent(before).Seconds(),
		"cpu per proxy and service": w.spent(before).Seconds() * 1e6 / float64(n*len(callers))}, nil
}

// usages are global's and then each zone's.
func (w *world) usages() []proc {
	out := []proc{w.global.usage()}
	for _, z := range w.zones {
		out = append(out, z.usage())
	}
	return out
}

// rest waits until the control planes are done with what was before: what a start took of
// memory, they give back when it is over.
func (w *world) rest(ctx context.Context) error {
	const look = 2 * time.Second
	busy := 100*time.Millisecond + time.Duration(w.scenario.Topology.Streams)*3*time.Millisecond // zones and global hear of each other all the time
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for before := w.usages(); ; {
		select {
		case <-ctx.Done():
			return errors.New("the control planes have something to do for a minute, and nobody asks for anything")
		case <-tick.C:
		}
		now := w.usages()
		if !slices.ContainsFunc(now, func(u proc) bool {
			return slices.ContainsFunc(before, func(old proc) bool { return old.pid == u.pid && u.cpu-old.cpu > busy })
		}) {
			return nil
		}
		before = now
	}
}

// spent is the processor time of the zones since a moment.
func (w *world) spent(before []proc) time.Duration {
	sum := time.Duration(0)
	for i, u := range w.usages()[1:] {
		sum += u.cpu - before[i+1].cpu
	}
	return sum
}

// grown is the resident memory of the zones since a moment, MiB.
func (w *world) grown(before []proc) float64 {
	sum := int64(0)
	for i, u := range w.usages()[1:] {
		sum += u.rss - before[i+1].rss
	}
	return float64(sum) / (1 << 20)
}
