package global

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// historian bounds the change log by number and age. Every instance may run one:
// compaction is a transaction that takes away at most what is beyond the bounds,
// whoever does it, and the second finds nothing to do.
type historian struct {
	store store.Store
	// size is how many changes stay, age for how long; 0 is for ever.
	size int64
	age  time.Duration
	now  func() time.Time

	begin  prometheus.Gauge
	failed prometheus.Counter
}

func newHistorian(cfg Config, st store.Store, reg prometheus.Registerer) *historian {
	h := &historian{store: st, size: cfg.HistorySize, age: cfg.HistoryAge, now: time.Now,
		begin: prometheus.NewGauge(prometheus.GaugeOpts{Name: "tombolo_global_log_begins_after_revision",
			Help: "The last revision that is no longer in the change log."}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{Name: "tombolo_global_compaction_failures_total",
			Help: "Times that the change log could not be bounded."})}
	reg.MustRegister(h.begin, h.failed)
	return h
}

// run bounds the log at once and then every now and then.
func (g *Global) runHistory(ctx context.Context, h *historian) error {
	tick := time.NewTicker(compactEvery)
	defer tick.Stop()
	for {
		if err := h.compact(ctx); err != nil && ctx.Err() == nil {
			h.failed.Inc()
			g.log.Warn("change log not compacted", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (h *historian) compact(ctx context.Context) error {
	head, err := h.store.Head(ctx)
	if err != nil {
		return fmt.Errorf("read the head: %w", err)
	}
	begin, err := h.store.Begin(ctx)
	if err != nil {
		return fmt.Errorf("read where the log begins: %w", err)
	}
	to := begin
	if h.size > 0 {
		to = max(to, head.Revision-mesh.Revision(h.size))
	}
	if h.age > 0 {
		old, err := h.before(ctx, to, head.Revision, h.now().Add(-h.age))
		if err != nil {
			return err
		}
		to = max(to, old)
	}
	if to > begin {
		if err := h.store.Compact(ctx, to); err != nil {
			return fmt.Errorf("compact to revision %d: %w", to, err)
		}
	}
	h.begin.Set(float64(to))
	return nil
}

// before finds by halving the last revision in (from, head] that is older than a
// time; from when none is.
func (h *historian) before(ctx context.Context, from, head mesh.Revision, then time.Time) (mesh.Revision, error) {
	var failed error
	n := sort.Search(int(head-from), func(i int) bool {
		if failed != nil {
			return true
		}
		list, err := h.store.Changes(ctx, from+mesh.Revision(i), 1)
		switch {
		case errors.Is(err, store.ErrCompacted): // by another, meanwhile
			return false
		case err != nil:
			failed = fmt.Errorf("read the change after revision %d: %w", from+mesh.Revision(i), err)
			return true
		}
		return len(list) == 0 || !list[0].Time.Before(then)
	})
	return from + mesh.Revision(n), failed
}
