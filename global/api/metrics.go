package api

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the API. Routes are patterns, so that labels are bounded.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	stages   *prometheus.HistogramVec
	refused  prometheus.Counter
	panics   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tombolo_api_requests_total", Help: "Requests by method, route and status."}, []string{"method", "route", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tombolo_api_request_seconds", Help: "Time to answer requests, watches and inspections included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 12)}, []string{"method", "route"}),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tombolo_api_write_stage_seconds", Help: "Time of the stages of a write: validate, commit.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 12)}, []string{"stage"}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tombolo_api_tokens_refused_total", Help: "Requests with a token that is forged, expired, revoked or for another use."}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tombolo_api_panics_total", Help: "Requests that ended in a panic; each is a defect."}),
	}
	reg.MustRegister(m.requests, m.seconds, m.stages, m.refused, m.panics)
	return m
}

func (m *metrics) request(method, route string, status int, took time.Duration) {
	m.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(method, route).Observe(took.Seconds())
}
