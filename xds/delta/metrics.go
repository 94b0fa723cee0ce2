package delta

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	streams prometheus.Gauge
	pushes  *prometheus.CounterVec
	nacks   *prometheus.CounterVec
	acks    *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		streams: prometheus.NewGauge(prometheus.GaugeOpts{Name: "tombolo_xds_streams", Help: "Open streams of proxies."}),
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tombolo_xds_pushes_total", Help: "Responses sent, by resource type."}, []string{"type"}),
		nacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tombolo_xds_nacks_total", Help: "Responses that a proxy refused, by resource type."}, []string{"type"}),
		acks: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tombolo_xds_ack_seconds", Help: "From sending a response to its ACK or NACK, by resource type.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}, []string{"type"}),
	}
	if r != nil {
		r.MustRegister(m.streams, m.pushes, m.nacks, m.acks)
	}
	return m
}

// short is a type's name in metrics and logs; others are one word, so that a
// peer cannot invent label values.
func short(typeURL string) string {
	switch typeURL {
	case clusterType:
		return "cds"
	case endpointType:
		return "eds"
	case secretType:
		return "sds"
	case listenerType:
		return "lds"
	case routeType:
		return "rds"
	case extensionType:
		return "ecds"
	}
	return "other"
}
