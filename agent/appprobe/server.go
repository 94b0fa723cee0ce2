package appprobe

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"
)

// maxInFlight bounds the hooks that run at once. Of each check one runs at a time.
const maxInFlight = 64

// Config of a Server.
type Config struct {
	// Table of what may be asked.
	Table Table
	// Host is the pod's first address, which kubelets ask.
	Host string
	// Address to listen on, default ":9001".
	Address string
	// Log for failures; default discards.
	Log *slog.Logger
}

// Server answers kubelets.
type Server struct {
	cfg  Config
	http *http.Client
	// checks under way, by key, and slots of hooks.
	checks singleflight.Group
	slots  chan struct{}
}

// NewServer checks the configuration. It does no I/O.
func NewServer(cfg Config) (*Server, error) {
	if err := cfg.Table.Validate(); err != nil {
		return nil, err
	}
	if cfg.Host == "" {
		return nil, errors.New("application probes: the address of the pod is required")
	}
	if cfg.Address == "" {
		cfg.Address = fmt.Sprintf(":%d", Port)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, http: client(), slots: make(chan struct{}, maxInFlight)}, nil
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.Address)
	if err != nil {
		return fmt.Errorf("serve application probes: %w", err)
	}
	server := &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve application probes: %w", err)
	}
	return nil
}

// find what a path asks for. A wrong secret looks like a path that nobody has.
func (s *Server) find(path string) (key string, p Probe, ok bool) {
	rest, ok := strings.CutPrefix(path, "/app-probes/")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) < 2 || len(parts) > 3 {
		return "", p, false
	}
	key = Key(parts[0], parts[1])
	p, ok = s.cfg.Table[key]
	secret := ""
	if len(parts) == 3 {
		secret = parts[2]
	}
	return key, p, ok && (len(parts) == 3) == (p.Secret != "") && subtle.ConstantTimeCompare([]byte(secret), []byte(p.Secret)) == 1
}

// ServeHTTP answers GET /app-probes/<container>/<kind>, and /<secret> behind it for
// what has one.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, probe, known := s.find(r.URL.Path)
	if !known {
		http.Error(w, "no such probe", http.StatusNotFound)
		return
	}
	if r.Method != http.MethodGet {
		http.Error(w, "only GET is allowed", http.StatusMethodNotAllowed)
		return
	}
	var status int
	var err error
	if probe.hook() {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		default:
			http.Error(w, "too many hooks at once", http.StatusServiceUnavailable)
			return
		}
		status, err = s.ask(r.Context(), probe, r.UserAgent())
	} else {
		status, err = s.together(r, key, probe)
	}
	switch {
	case err == nil:
		w.WriteHeader(status)
	case probe.hook():
		// A kubelet takes any answer to a hook for success.
		s.cfg.Log.Debug("hook failed", "probe", key, "error", err)
		panic(http.ErrAbortHandler) // net/http's way to cut a connection
	default:
		s.cfg.Log.Debug("probe failed", "probe", key, "error", err)
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
}

// together makes one check for all who ask for it at once. Everybody may ask, and
// must not be able to keep the kubelet from its answer: that restarts the container.
func (s *Server) together(r *http.Request, key string, p Probe) (int, error) {
	status, err, _ := s.checks.Do(key, func() (any, error) {
		ctx, cancel := p.bound(context.WithoutCancel(r.Context())) // who asked first may leave first
		defer cancel()
		return s.ask(ctx, p, r.UserAgent())
	})
	if err != nil {
		return 0, err
	}
	return status.(int), nil
}

func (p Probe) hook() bool { return p.TimeoutSeconds == 0 }

// bound ends a check a little before the kubelet gives up, so that it hears why.
func (p Probe) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	t := time.Duration(p.TimeoutSeconds) * time.Second
	return context.WithTimeout(ctx, t-min(t/10, 100*time.Millisecond))
}
