package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/tombolo-mesh/tombolo/agent/dns"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

const (
	bootstrapFile = "envoy.json"
	// zoneDrainTimeout bounds the wait for the zone to take the proxy out everywhere.
	zoneDrainTimeout = 10 * time.Second
	// settle is how long nothing must be in flight before Envoy is stopped: callers
	// of other zones learn a little later.
	settle = 500 * time.Millisecond
)

// supervisor starts Envoy, watches it and stops it.
type supervisor struct {
	cfg      Config
	dir      string
	sockets  sockets
	link     *link
	admin    *admin
	names    *dns.Server // nil without
	log      *slog.Logger
	draining atomic.Bool
}

// run supervises until stop ends (then it drains and returns nil), Envoy ends
// (then it returns *EnvoyExit), or live ends.
func (s *supervisor) run(stop, live context.Context) error {
	var now *agentv1.Registered
	select {
	case <-stop.Done():
		s.leave(live)
		return nil
	case <-live.Done():
		return nil
	case now = <-s.link.registered:
	}
	for {
		next, err := s.runEnvoy(stop, live, now)
		if err != nil || next == nil {
			return err
		}
		now = next
	}
}

// runEnvoy runs one Envoy. It returns a registration when Envoy is to be started
// again with it.
func (s *supervisor) runEnvoy(stop, live context.Context, r *agentv1.Registered) (*agentv1.Registered, error) {
	file, err := s.writeBootstrap(r)
	if err != nil {
		return nil, err
	}
	envoy, err := startEnvoy(s.cfg, envoyArguments(s.cfg, file))
	if err != nil {
		return nil, err
	}
	defer func() { // whatever happened, no Envoy stays behind
		envoy.kill(os.Kill)
		<-envoy.done
	}()
	s.admin.began()
	s.log.Info("envoy started", "pid", envoy.pid)
	watch, cancel := context.WithCancel(live)
	ready := make(chan struct{})
	go func() { // ends with cancel, and is waited for
		defer close(ready)
		s.watchReady(watch)
	}()
	defer func() { cancel(); <-ready }()
	for {
		select {
		case <-envoy.done:
			return nil, envoy.exit
		case <-live.Done():
			return nil, nil
		case <-stop.Done():
			if s.cfg.Kubernetes && !s.cfg.Gateway {
				// Kubelets stop a sidecar when the application's containers have ended:
				// nobody is left to answer, or to call from here.
				s.draining.Store(true)
				s.leave(live)
				envoy.stop()
				return nil, nil
			}
			err := s.drain(live, envoy)
			s.leave(live)
			return nil, err
		case next := <-s.link.registered:
			if nodeOf(r) == nodeOf(next) {
				continue
			}
			// An Envoy is one node for its life.
			s.log.Warn("zone knows the proxy by another name, restarting envoy", "node", next.NodeId)
			if err := s.drainEnvoy(live, envoy); err != nil {
				return nil, err
			}
			return next, nil
		}
	}
}

// writeBootstrap replaces the bootstrap file, readable by this user alone.
func (s *supervisor) writeBootstrap(r *agentv1.Registered) (string, error) {
	text, err := bootstrap{node: nodeOf(r), sockets: s.sockets}.json()
	if err != nil {
		return "", fmt.Errorf("bootstrap: %w", err)
	}
	path := filepath.Join(s.dir, bootstrapFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("bootstrap: %w", err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return "", fmt.Errorf("bootstrap: %w", err)
	}
	return path, nil
}

// watchReady says once when Envoy takes traffic.
func (s *supervisor) watchReady(ctx context.Context) {
	err := until(ctx, 50*time.Millisecond, func() bool { return s.admin.ready(ctx) == nil })
	if err == nil {
		s.log.Info("ready")
	}
}

// drain ends a proxy so that no request in flight fails: out of every endpoint
// set first, then out of the way of those who still come, then the end.
func (s *supervisor) drain(live context.Context, envoy *process) error {
	s.draining.Store(true)
	s.log.Info("draining")
	bounded, cancel := context.WithTimeout(live, zoneDrainTimeout)
	defer cancel()
	told := make(chan error, 1)
	go func() { told <- s.link.drain(bounded) }() // ends with bounded
	select {
	case err := <-told:
		if err != nil {
			s.log.Warn("zone did not take the proxy out, draining all the same", "error", err)
		}
	case <-envoy.done:
		return envoy.exit
	}
	return s.drainEnvoy(live, envoy)
}

// drainEnvoy asks callers to go, waits until they did, and stops Envoy.
func (s *supervisor) drainEnvoy(live context.Context, envoy *process) error {
	ctx, cancel := context.WithTimeout(live, s.cfg.StopTimeout)
	defer cancel()
	listeners := inboundDrain
	if s.cfg.Gateway {
		listeners = "/drain_listeners?graceful&skip_exit"
	}
	for _, path := range []string{"/healthcheck/fail", listeners} {
		if err := s.admin.post(ctx, path); err != nil {
			s.log.Warn("envoy does not drain", "path", path, "error", err)
		}
	}
	if err := s.waitIdle(ctx, envoy); err != nil {
		return err
	}
	select {
	case <-envoy.done: // not by us
		return envoy.exit
	default:
	}
	envoy.stop()
	return nil
}

// waitIdle returns when nothing is in flight. Connections without a request are
// given DrainTime, requests StopTimeout.
func (s *supervisor) waitIdle(ctx context.Context, envoy *process) error {
	begin := time.Now()
	idle := begin
	var exited error
	_ = until(ctx, 100*time.Millisecond, func() bool {
		select {
		case <-envoy.done:
			exited = envoy.exit
			return true
		default:
		}
		now := time.Now()
		a, err := s.admin.activity(ctx)
		s.log.Debug("in flight", "connections", a.connections, "requests", a.requests, "error", err)
		if err != nil || a.requests > 0 || a.connections > 0 && now.Sub(begin) < s.cfg.DrainTime {
			idle = now
			return false
		}
		return now.Sub(idle) >= settle
	})
	return exited
}

func (s *supervisor) leave(live context.Context) {
	ctx, cancel := context.WithTimeout(live, 2*time.Second)
	defer cancel()
	s.link.leave(ctx)
}

// serveReadiness answers GET /started: 200 while Envoy takes the application's traffic
// and the names of the mesh are answered; and GET /ready: also while others may be sent
// here. An application starts whether or not it may be called.
func (s *supervisor) serveReadiness(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.ReadinessAddress)
	if err != nil {
		return fmt.Errorf("serve readiness: %w", err)
	}
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, r *http.Request) {
		if s.draining.Load() {
			http.Error(w, "DRAINING", http.StatusServiceUnavailable)
			return
		}
		check, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if err := s.admin.ready(check); err != nil {
			if away := s.link.away(); away != "" {
				err = fmt.Errorf("zone %s is away: %s", s.cfg.ZoneAddress, away)
			}
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		if s.names != nil && !s.names.Ready() {
			http.Error(w, "names of the mesh are not here yet", http.StatusServiceUnavailable)
			return
		}
		if r.URL.Path == "/ready" {
			if err := s.admin.callable(check); err != nil {
				if !s.admin.said.Swap(true) { // kubelets keep the answer to themselves
					s.log.Warn("not ready", "error", err)
				}
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		_, _ = w.Write([]byte("LIVE\n")) // the caller's loss
	}
	mux.HandleFunc("GET /started", answer)
	mux.HandleFunc("GET /ready", answer)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second, ReadTimeout: time.Second, WriteTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve readiness: %w", err)
	}
	return nil
}
