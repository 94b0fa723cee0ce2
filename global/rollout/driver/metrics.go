package driver

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tombolo-mesh/tombolo/global/rollout"
)

// metrics of rollouts. Every instance of global shows the same: it counts the end
// of what it saw running, whoever wrote it.
type metrics struct {
	running prometheus.Gauge
	ended   *prometheus.CounterVec
	// oldest is when the stage began that has lasted longest, Unix nanoseconds; 0: none runs.
	oldest atomic.Int64
	// known ran at the last look; the driver's own.
	known map[string]bool
}

func newMetrics(reg prometheus.Registerer, now func() time.Time) *metrics {
	m := &metrics{
		running: prometheus.NewGauge(prometheus.GaugeOpts{Name: "tombolo_rollouts_running", Help: "Staged changes under way."}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tombolo_rollouts_ended_total",
			Help: "Staged changes that ended, by outcome: done or aborted."}, []string{"outcome"}),
	}
	for _, outcome := range []rollout.Phase{rollout.Done, rollout.Aborted} {
		m.ended.WithLabelValues(string(outcome))
	}
	if reg != nil {
		reg.MustRegister(m.running, m.ended, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tombolo_rollout_stage_age_seconds",
			Help: "How long the longest stage of those under way has lasted; 0 when none is."}, func() float64 {
			if at := m.oldest.Load(); at != 0 {
				return now().Sub(time.Unix(0, at)).Seconds()
			}
			return 0
		}))
	}
	return m
}

// saw takes every rollout, counts those that ended since, and returns those that run.
func (m *metrics) saw(all []rollout.Rollout) []rollout.Rollout {
	var running []rollout.Rollout
	names := map[string]bool{}
	oldest := int64(0)
	for _, r := range all {
		if r.Status.Phase != rollout.Running {
			if m.known[r.Name] {
				m.ended.WithLabelValues(string(r.Status.Phase)).Inc()
			}
			continue
		}
		running = append(running, r)
		names[r.Name] = true
		if at := r.Status.Since.UnixNano(); oldest == 0 || at < oldest {
			oldest = at
		}
	}
	m.known = names
	m.running.Set(float64(len(running)))
	m.oldest.Store(oldest)
	return running
}
