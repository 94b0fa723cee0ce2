package delta

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	streams prometheus.Gauge
	types   map[string]typeMetrics // by URL
	others  typeMetrics
}

type typeMetrics struct {
	pushes, nacks prometheus.Counter
	acks          prometheus.Observer
}

func (m *metrics) of(typeURL string) typeMetrics {
	if t, ok := m.types[typeURL]; ok {
		return t
	}
	return m.others
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{types: map[string]typeMetrics{},
		streams: prometheus.NewGauge(prometheus.GaugeOpts{Name: "tombolo_xds_streams", Help: "Open streams of proxies."})}
	pushes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tombolo_xds_pushes_total", Help: "Responses sent, by resource type."}, []string{"type"})
	nacks := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tombolo_xds_nacks_total", Help: "Responses that a proxy refused, by resource type."}, []string{"type"})
	acks := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "tombolo_xds_ack_seconds", Help: "From sending a response to its ACK or NACK, by resource type.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}, []string{"type"})
	of := func(name string) typeMetrics {
		return typeMetrics{pushes.WithLabelValues(name), nacks.WithLabelValues(name), acks.WithLabelValues(name)}
	}
	for _, typeURL := range []string{clusterType, endpointType, secretType, listenerType, routeType, extensionType} {
		m.types[typeURL] = of(short(typeURL))
	}
	m.others = of(short(""))
	if r != nil {
		r.MustRegister(m.streams, pushes, nacks, acks)
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
