package driver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	gosync "sync"
	"time"

	"github.com/tombolo-mesh/tombolo/global/rollout"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
)

const (
	// askEvery is how often a zone is asked how calls go, and askBefore before the first
	// stage: it compiles the documents for each answer.
	askEvery  = 3 * time.Second
	askBefore = 10 * time.Second
	// askTime is how long it has to answer.
	askTime = 20 * time.Second
	// stale is how old the last answer may be.
	stale = 30 * time.Second
	// window is what a rate is of.
	window = time.Minute
	// maxAnswer bounds the bytes of an answer, and maxRates the rates of a zone.
	maxAnswer = 8 << 20
	maxRates  = 1000
)

// place is a zone under a rollout, or before its first stage.
type place struct {
	rollout, zone string
	before        bool
}

func placeOf(r rollout.Rollout, zone string) place { return place{r.Name, zone, r.Status.Stage < 0} }

// counted is what a zone said of how calls go.
type counted struct {
	// asked last, whether or not it answered; problem is why it did not.
	asked   time.Time
	problem string
	// at is when it answered last, with last: by proxy and service.
	at   time.Time
	last map[string]map[string]rate
	// steps are what the calls grew by from one answer to the next, oldest first.
	steps []step
	// unsettled is when the rollout was last waiting for something: what was counted
	// before says nothing of how calls go with its documents.
	unsettled time.Time
}

type rate struct{ calls, failed uint64 }

type step struct {
	from, to time.Time
	by       map[string]rate
}

// calls asks zones how calls go, beside the driver: it waits for none of them. What
// is known is in memory alone; after a restart it is learned anew, and until then
// unknown.
type calls struct {
	cfg    Config
	mu     gosync.Mutex
	places map[place]*counted
	busy   map[string]bool // zones that are asked now
	asking gosync.WaitGroup
}

func newCalls(cfg Config) *calls {
	return &calls{cfg: cfg, places: map[place]*counted{}, busy: map[string]bool{}}
}

// wait returns when nobody is asked any more.
func (c *calls) wait() { c.asking.Wait() }

// forget drops what is of rollouts that ended.
func (c *calls) forget(running []rollout.Rollout) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := range c.places {
		if !slices.ContainsFunc(running, func(r rollout.Rollout) bool { return placeOf(r, p.zone) == p }) {
			delete(c.places, p)
		}
	}
}

// ask asks zones, those whose turn it is.
func (c *calls) ask(ctx context.Context, r rollout.Rollout, zones []string, settled bool) {
	var asked zonesync.Success
	often := askEvery
	for _, d := range r.Spec.Documents {
		asked.Documents = append(asked.Documents, d.Key())
		if r.Status.Stage < 0 {
			often = askBefore
			asked.Before = append(asked.Before, zonesync.PlannedOf(mesh.Change{Resource: mesh.Resource{Key: d.Key(), Labels: d.Labels, Spec: d.Spec}}))
		}
	}
	body, err := json.Marshal(asked)
	if err != nil {
		c.cfg.Log.Error("a rollout cannot be asked about", "rollout", r.Name, "err", err)
		return
	}
	now := c.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, zone := range zones {
		p := placeOf(r, zone)
		known := c.places[p]
		if known == nil {
			known = &counted{unsettled: now}
			c.places[p] = known
		}
		if !settled {
			known.unsettled = now
		}
		if c.busy[zone] || now.Sub(known.asked) < often {
			continue
		}
		known.asked, c.busy[zone] = now, true
		c.asking.Go(func() { c.inquire(ctx, p, body) })
	}
}

// inquire asks one zone, and keeps what it says.
func (c *calls) inquire(ctx context.Context, p place, body []byte) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var said zonesync.SuccessCounts
	text := &bounded{}
	err := c.cfg.Fleet.Inspect(ctx, p.zone, sync.Question{What: zonesync.WhatSuccess, Body: body}, text)
	if err == nil {
		said, err = together(&text.text)
	}
	if err == nil && said.Silent > 0 && len(said.Proxies) == 0 {
		err = fmt.Errorf("none of %d proxies tells its counters", said.Silent)
	}
	now := c.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.busy, p.zone)
	known := c.places[p]
	if known == nil {
		return // it ended meanwhile
	}
	known.take(said, err, now)
}

// together reads the answers of the instances of a zone.
func together(answers io.Reader) (out zonesync.SuccessCounts, err error) {
	proxies := map[string]bool{}
	for next := json.NewDecoder(answers); ; {
		var one zonesync.SuccessCounts
		if err := next.Decode(&one); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return out, fmt.Errorf("the answer cannot be read: %w", err)
		}
		out.Reached, out.Silent = out.Reached+one.Reached, out.Silent+one.Silent
		for _, p := range one.Proxies {
			if !proxies[p.Proxy] { // one on its way from one instance to another
				proxies[p.Proxy] = true
				out.Proxies = append(out.Proxies, p)
			}
		}
	}
}

// take keeps an answer.
func (k *counted) take(said zonesync.SuccessCounts, err error, now time.Time) {
	if err != nil {
		k.problem = err.Error()
		if errors.Is(err, sync.ErrOutdated) {
			k.problem = sync.ErrOutdated.Error()
		}
		return
	}
	k.problem = ""
	next := step{from: k.at, to: now, by: map[string]rate{}}
	last := map[string]map[string]rate{}
	for _, proxy := range said.Proxies {
		had, before := k.last[proxy.Proxy]
		has := map[string]rate{}
		for _, s := range proxy.Services {
			is, was := rate{s.Requests, s.Failed}, had[s.Service]
			has[s.Service] = is
			if is.calls < was.calls || is.failed < was.failed {
				was = rate{} // it was started anew
			}
			if sum := next.by[s.Service]; before && (is != was) {
				next.by[s.Service] = rate{sum.calls + is.calls - was.calls, sum.failed + is.failed - was.failed}
			}
		}
		last[proxy.Proxy] = has
	}
	if !k.at.IsZero() {
		k.steps = append(k.steps, next)
	}
	k.at, k.last = now, last
	k.steps = slices.DeleteFunc(k.steps, func(s step) bool { return now.Sub(s.from) > window })
}

// bounded is a buffer that fails when it has enough.
type bounded struct{ text bytes.Buffer }

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	if b.text.Len()+len(p) > maxAnswer {
		return 0, fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	}
	return b.text.Write(p)
}

// rates are those of the last minute in some zones, the worst first, and why those
// of a zone are not known.
func (c *calls) rates(r rollout.Rollout, zones []string) (out []rollout.Rate, unknown string) {
	now := c.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, zone := range zones {
		known := c.places[placeOf(r, zone)]
		switch {
		case known == nil:
			unknown = "how calls go in zone " + zone + " is not known yet"
			continue
		case known.problem != "" && now.Sub(known.at) > stale:
			unknown = "zone " + zone + " does not say how calls go: " + known.problem
			continue
		case now.Sub(known.at) > stale || len(known.steps) == 0 || known.steps[len(known.steps)-1].from.Before(known.unsettled):
			unknown = "how calls go in zone " + zone + " is not known yet"
		}
		sums := map[string]rate{}
		for _, s := range known.steps {
			for service, by := range s.by {
				sum := sums[service]
				sums[service] = rate{sum.calls + by.calls, sum.failed + by.failed}
			}
		}
		for service, sum := range sums {
			out = append(out, rollout.Rate{Zone: zone, Service: service, Calls: sum.calls, Failed: sum.failed})
		}
	}
	rollout.SortRates(out)
	return out[:min(len(out), maxRates)], unknown
}
