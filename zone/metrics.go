package zone

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	batch, commit prometheus.Histogram
	compiles      *prometheus.CounterVec
	proxies       *prometheus.GaugeVec
	world         *prometheus.GaugeVec
	doubted       prometheus.Counter
	diskErrors    prometheus.Counter
	signed        prometheus.Counter
	revision      prometheus.Gauge
	quarantined   prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	buckets := prometheus.ExponentialBuckets(0.0001, 3, 10)
	m := &metrics{
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tombolo_zone_batch_seconds",
			Help: "Time from taking a batch of changes to having published it.", Buckets: buckets}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tombolo_zone_commit_seconds",
			Help: "Time to make a batch durable.", Buckets: buckets}),
		compiles: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tombolo_zone_compiles_total",
			Help: "Compiles, by kind: class, endpoints."}, []string{"kind"}),
		proxies: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tombolo_zone_proxies",
			Help: "Proxies that are members, by state: present, presumed, lost."}, []string{"state"}),
		world: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tombolo_zone_world",
			Help: "Size of the world, by part: objects, units, reads."}, []string{"part"}),
		doubted: prometheus.NewCounter(prometheus.CounterOpts{Name: "tombolo_zone_losses_doubted_total",
			Help: "Proxies that vanished together with too many others to be believed at once."}),
		diskErrors: prometheus.NewCounter(prometheus.CounterOpts{Name: "tombolo_zone_disk_errors_total",
			Help: "Writes of the state file that failed."}),
		signed: prometheus.NewCounter(prometheus.CounterOpts{Name: "tombolo_zone_certificates_total",
			Help: "Certificates issued to proxies."}),
		revision: prometheus.NewGauge(prometheus.GaugeOpts{Name: "tombolo_zone_revision",
			Help: "Global's revision up to which everything is applied."}),
		quarantined: prometheus.NewGauge(prometheus.GaugeOpts{Name: "tombolo_zone_quarantined_classes",
			Help: "Classes of proxies of which some resource is refused and held at its last good version."}),
	}
	if r != nil {
		r.MustRegister(m.batch, m.commit, m.compiles, m.proxies, m.world, m.doubted, m.diskErrors, m.signed, m.revision, m.quarantined)
	}
	return m
}

// countProxies brings the gauges up to date.
func (e *engine) countProxies() {
	for i, state := range [presences]string{present: "present", presumed: "presumed", lost: "lost"} {
		e.metrics.proxies.WithLabelValues(state).Set(float64(e.census[i]))
	}
	objects, units, reads := e.world.Size()
	e.metrics.world.WithLabelValues("objects").Set(float64(objects))
	e.metrics.world.WithLabelValues("units").Set(float64(units))
	e.metrics.world.WithLabelValues("reads").Set(float64(reads))
	e.metrics.revision.Set(float64(e.position.Load().Revision))
}
