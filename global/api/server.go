package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	gosync "sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tombolo-mesh/tombolo/global/api/access"
	"github.com/tombolo-mesh/tombolo/global/peers"
	"github.com/tombolo-mesh/tombolo/global/rollout"
	"github.com/tombolo-mesh/tombolo/global/rollout/driver"
	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// Bounds of requests.
const (
	// MaxBody of a request of one document.
	MaxBody = 4 << 20
	// MaxBatchBody of PUT /resources.
	MaxBatchBody = 16 << 20
	// MaxDocuments of PUT /resources.
	MaxDocuments = 5000
	// maxWatchers of statuses at once; more are told to come back.
	maxWatchers = 1000
	// requestTime bounds the answer of everything but watches and inspections.
	requestTime = 30 * time.Second
)

// Config of a Server.
type Config struct {
	// Store of resources, with Secrets readable. Required.
	Store store.Store
	// Fleet is what is known of zones. Required.
	Fleet Fleet
	// Observe looks at a rollout; default what the Fleet alone knows.
	Observe func(rollout.Rollout) rollout.Observation
	// Instances of global that are known; optional.
	Instances func() []peers.Instance
	// Tokens of users, zones and proxies. Required.
	Tokens *access.Tokens
	// Revoked is called after a token was revoked; optional.
	Revoked func()
	// Ready says why the process cannot serve yet, beyond the store; optional.
	Ready func() error
	// Logger, default discards.
	Logger *slog.Logger
	// Registry of the process's metrics, also served; default a new one.
	Registry *prometheus.Registry
	// Version of the software.
	Version string
	// Now, default time.Now.
	Now func() time.Time
}

// Server answers the REST API. Safe for concurrent use.
type Server struct {
	cfg      Config
	log      *slog.Logger
	metrics  *metrics
	routes   []route
	openapi  []byte
	watchers chan struct{}
	draining chan struct{}
	drain    gosync.Once
	plans    plans
}

// need says who may call a route.
type need uint8

const (
	public   need = iota // anybody, without a token
	anybody              // any valid user token
	reader               // groups reader, author, admin
	author               // groups author, admin
	adminish             // group admin
)

// route is one operation. The table of them makes the mux and the OpenAPI document.
type route struct {
	method, path string
	need         need
	kind         *mesh.Kind
	op           operation
	handle       func(w http.ResponseWriter, r *request) error
}

// New makes a server; no I/O.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.Fleet == nil || cfg.Tokens == nil {
		return nil, errors.New("api: Store, Fleet and Tokens are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Registry == nil {
		cfg.Registry = prometheus.NewRegistry()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Observe == nil {
		cfg.Observe = func(r rollout.Rollout) rollout.Observation { return driver.Observe(cfg.Fleet, r) }
	}
	s := &Server{cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Registry), watchers: make(chan struct{}, maxWatchers),
		draining: make(chan struct{})}
	s.routes = slices.Concat(s.metaRoutes(), s.resourceRoutes(), s.changeRoutes(), s.historyRoutes(), s.undoRoutes(), s.rolloutRoutes(), s.zoneRoutes(), s.explainRoutes(), s.reachRoutes(), s.planRoutes(), s.instanceRoutes(), s.tokenRoutes())
	var err error
	s.openapi, err = s.describe()
	return s, err
}

// Handler serves the API.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	byPath := map[string]map[string]*route{}
	for i := range s.routes {
		r := &s.routes[i]
		if byPath[r.path] == nil {
			byPath[r.path] = map[string]*route{}
		}
		byPath[r.path][r.method] = r
	}
	for path, methods := range byPath {
		pattern := path
		if path == "/" {
			pattern = "/{$}"
		}
		mux.Handle(pattern, s.entry(path, methods))
	}
	mux.Handle("/", s.entry("other", nil))
	return mux
}

// Drain ends watches and inspections, so that a shutdown need not wait for them.
func (s *Server) Drain() { s.drain.Do(func() { close(s.draining) }) }

// allow lists the methods of a path.
func allow(methods map[string]*route) string {
	var out []string
	for m := range methods {
		out = append(out, m)
		if m == http.MethodGet {
			out = append(out, http.MethodHead)
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// meshExists reads a mesh, or is a 404.
func (s *Server) meshExists(ctx context.Context, name string) (mesh.Resource, error) {
	r, err := s.cfg.Store.Get(ctx, mesh.Key{Kind: mesh.KindMesh, Name: name})
	if errors.Is(err, store.ErrNotFound) {
		return r, problem(http.StatusNotFound, "there is no mesh %q", name)
	}
	return r, err
}
