package sync

import "github.com/prometheus/client_golang/prometheus"

// metrics of the stream to global.
type metrics struct {
	connected                  prometheus.Gauge
	sent, facts, lies, unknown prometheus.Counter
	apply                      prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "tombolo", Subsystem: "global_stream", Name: name, Help: help})
	}
	m := &metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "tombolo", Subsystem: "global_stream", Name: "connected", Help: "1 while the stream to global is up."}),
		sent:      counter("sent_bytes_total", "Bytes of frames sent to global."),
		facts:     counter("facts_total", "Deltas of facts sent to global."),
		lies:      counter("ignored_total", "Resources that arrived in the name of a zone that may not tell them."),
		unknown:   counter("unknown_frames_total", "Frames of an unknown type, ignored."),
		apply: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "tombolo", Subsystem: "global_stream", Name: "apply_seconds",
			Help: "Time to make a push or snapshot durable and visible.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}),
	}
	if r != nil {
		r.MustRegister(m.connected, m.sent, m.facts, m.lies, m.unknown, m.apply)
	}
	return m
}
