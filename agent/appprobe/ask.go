package appprobe

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

const (
	// maxBody is how much of an answer is read, as kubelets do.
	maxBody      = 10 << 10
	maxRedirects = 10
	userAgent    = "kube-probe/tombolo"
)

// ask returns the status for the kubelet: 200, or the application's own failure.
// An error says that there was no answer.
func (s *Server) ask(ctx context.Context, p Probe, caller string) (int, error) {
	address := net.JoinHostPort(s.cfg.Host, strconv.Itoa(int(p.Port)))
	switch p.Type {
	case TCP:
		c, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", address)
		if err != nil {
			return 0, err
		}
		_ = c.Close() // it was open: that was the question
		return http.StatusOK, nil
	case GRPC:
		return s.askGRPC(ctx, address, p)
	}
	return s.askHTTP(ctx, address, p, caller)
}

func (s *Server) askHTTP(ctx context.Context, address string, p Probe, caller string) (int, error) {
	target, err := url.Parse(string(p.Type) + "://" + address + "/" + strings.TrimPrefix(p.Path, "/"))
	if err != nil { // a path that only kubelets understand: sent as it is
		target = &url.URL{Scheme: string(p.Type), Host: address, Path: "/" + strings.TrimPrefix(p.Path, "/")}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return 0, err
	}
	for _, h := range p.Headers {
		if strings.EqualFold(h.Name, "Host") {
			r.Host = h.Value
			continue
		}
		r.Header.Add(h.Name, h.Value)
	}
	if _, set := r.Header["User-Agent"]; !set {
		// Applications know kubelets by this prefix; nothing else of the caller is let through.
		if !strings.HasPrefix(caller, "kube-probe/") || len(caller) > 64 {
			caller = userAgent
		}
		r.Header.Set("User-Agent", caller)
	}
	if _, set := r.Header["Accept"]; !set {
		r.Header.Set("Accept", "*/*")
	}
	response, err := s.http.Do(r)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, _ = io.CopyN(io.Discard, response.Body, maxBody) // the status is the answer
	if response.StatusCode < http.StatusBadRequest {
		return http.StatusOK, nil // a redirect to elsewhere counts, as for kubelets
	}
	return response.StatusCode, nil
}

// client follows redirects on the same host, as kubelets do, and trusts nobody
// in particular: a probe asks whether, not whom.
func client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // kubelets do not verify either
			DisableKeepAlives:  true,
			DisableCompression: true,
			Proxy:              nil, // the environment's proxy is not between kubelet and pod
		},
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			if next.URL.Hostname() != via[0].URL.Hostname() {
				return http.ErrUseLastResponse
			}
			if len(via) >= maxRedirects {
				return fmt.Errorf("stopped after %d redirects", maxRedirects)
			}
			return nil
		},
	}
}

func (s *Server) askGRPC(ctx context.Context, address string, p Probe) (int, error) {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUserAgent(userAgent), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxBody)), grpc.WithNoProxy())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: p.Service})
	if err != nil {
		return 0, err
	}
	if answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return 0, fmt.Errorf("service %q is %s", p.Service, answer.Status)
	}
	return http.StatusOK, nil
}
