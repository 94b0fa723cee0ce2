package sync

import "github.com/prometheus/client_golang/prometheus"

// metrics of the zone streams. None has a label, so their number is fixed.
type metrics struct {
	streams                                                 prometheus.Gauge
	sent, pushes, snapshots, nacks, facts, refused, unknown prometheus.Counter
	delay, ack, settle                                      prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "tombolo", Subsystem: "zonesync", Name: name, Help: help})
		if r != nil {
			r.MustRegister(c)
		}
		return c
	}
	histogram := func(name, help string) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "tombolo", Subsystem: "zonesync", Name: name, Help: help,
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)})
		if r != nil {
			r.MustRegister(h)
		}
		return h
	}
	streams := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "tombolo", Subsystem: "zonesync", Name: "streams", Help: "Zones connected to this instance."})
	if r != nil {
		r.MustRegister(streams)
	}
	return &metrics{
		streams:   streams,
		sent:      counter("sent_bytes_total", "Bytes of frames sent to zones."),
		pushes:    counter("pushes_total", "Pushes sent to zones."),
		snapshots: counter("snapshots_total", "Snapshots sent to zones."),
		nacks:     counter("nacks_total", "Pushes and snapshots that zones refused."),
		facts:     counter("facts_total", "Writes and deletions of facts that zones told."),
		refused:   counter("facts_refused_total", "Facts of zones that were refused."),
		unknown:   counter("unknown_frames_total", "Frames of an unknown type, ignored."),
		delay:     histogram("push_seconds", "Time from the commit of a change to its push to a zone that is up to date."),
		ack:       histogram("ack_seconds", "Time from the push to the zone's acknowledgement."),
		settle:    histogram("settle_seconds", "Time from the commit to the zone's report of the last proxy."),
	}
}
