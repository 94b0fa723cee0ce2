package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// admin talks to Envoy's admin API over its Unix socket.
type admin struct {
	client *http.Client
	// served: the Envoy that runs now has had a configuration.
	served atomic.Bool
	// called: others have been sent to it.
	called atomic.Bool
	// said: it was logged why they are not.
	said atomic.Bool
}

// began says that another Envoy runs now.
func (a *admin) began() {
	a.served.Store(false)
	a.called.Store(false)
	a.said.Store(false)
}

func newAdmin(socket string) *admin {
	return &admin{client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		MaxIdleConns: 1, IdleConnTimeout: time.Second, DisableCompression: true,
	}}}
}

func (a *admin) do(ctx context.Context, method, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("envoy admin: %w", err)
	}
	response, err := a.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("envoy admin: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 200))
		_ = response.Body.Close()
		return nil, fmt.Errorf("envoy admin: %s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	return response, nil
}

// post calls an endpoint that changes something.
func (a *admin) post(ctx context.Context, path string) error {
	response, err := a.do(ctx, http.MethodPost, path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<20))
	return err
}

// ready asks whether Envoy has its listeners and takes traffic.
func (a *admin) ready(ctx context.Context) error {
	if err := a.check(ctx, "/ready"); err != nil {
		return err
	}
	return a.configured(ctx)
}

// sendAway asks callers to take their next requests elsewhere; what is in flight is
// answered, and who comes all the same too.
func (a *admin) sendAway(ctx context.Context, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := a.post(ctx, inboundDrain); err != nil {
		log.Warn("callers are not asked to go", "error", err)
		return
	}
	log.Info("terminating: callers are asked to go")
}

// inboundDrain ends keep-alive of inbound connections; the listeners stay.
const inboundDrain = "/drain_listeners?graceful&skip_exit&inboundonly"

// configured asks whether Envoy has got listeners from the zone: without a zone, it
// gives up waiting after a while and says that it is ready, with none.
func (a *admin) configured(ctx context.Context) error {
	if a.served.Load() {
		return nil
	}
	const stat = "listener_manager.lds.update_success"
	response, err := a.do(ctx, http.MethodGet, "/stats?filter=^"+stat+"$")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 4096))
	if err != nil {
		return fmt.Errorf("envoy admin: %w", err)
	}
	if value, ok := strings.CutPrefix(strings.TrimSpace(string(text)), stat+": "); !ok || value == "0" {
		return errNoConfiguration
	}
	a.served.Store(true)
	return nil
}

var errNoConfiguration = errors.New("envoy has no configuration from the zone yet")

func (a *admin) check(ctx context.Context, path string) error {
	response, err := a.do(ctx, http.MethodGet, path)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// activity is what is still in flight in an Envoy.
type activity struct {
	// connections from outside, requests of HTTP.
	connections, requests int
}

// activity sums up the gauges of all listeners, without those of the admin API.
func (a *admin) activity(ctx context.Context) (activity, error) {
	response, err := a.do(ctx, http.MethodGet, "/stats?usedonly&filter=downstream_(cx|rq)_active$")
	if err != nil {
		return activity{}, err
	}
	defer response.Body.Close()
	return parseActivity(io.LimitReader(response.Body, 8<<20))
}

func parseActivity(r io.Reader) (activity, error) {
	var out activity
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), ": ")
		if !ok || strings.HasPrefix(name, "listener.admin.") || strings.HasPrefix(name, "http.admin.") || strings.Contains(name, ".worker_") {
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			continue
		}
		switch {
		case strings.HasPrefix(name, "listener.") && strings.HasSuffix(name, ".downstream_cx_active"):
			out.connections += n
		case strings.HasPrefix(name, "http.") && strings.HasSuffix(name, ".downstream_rq_active"):
			out.requests += n
		}
	}
	return out, lines.Err()
}

// inspectable are the paths of the admin API that the zone may read. None changes
// anything, and Envoy leaves private keys out of its dumps.
func inspectable(path string) bool {
	name, _, _ := strings.Cut(path, "?")
	switch name {
	case "/certs", "/clusters", "/config_dump", "/init_dump", "/listeners", "/memory", "/ready", "/runtime", "/server_info", "/stats", "/stats/prometheus":
		return len(path) <= 1024
	}
	return false
}

// inspect opens the answer to a path of the admin API.
func (a *admin) inspect(ctx context.Context, path string) (io.ReadCloser, error) {
	if !inspectable(path) {
		return nil, fmt.Errorf("path %.100q may not be inspected", path)
	}
	response, err := a.do(ctx, http.MethodGet, path)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}
