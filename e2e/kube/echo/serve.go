package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/tombolo-mesh/tombolo/e2e/kube/calls"
)

type server struct {
	http, grpc, tcp, control string
	self                     calls.Reply
	linger                   time.Duration
}

var (
	xfccBy  = regexp.MustCompile(`By=([^;,"]+)`)
	xfccURI = regexp.MustCompile(`URI=([^;,"]+)`)
)

func called(r calls.Reply, xfcc string) calls.Reply {
	if m := xfccBy.FindStringSubmatch(xfcc); m != nil {
		r.Self = m[1]
	}
	if m := xfccURI.FindStringSubmatch(xfcc); m != nil {
		r.Caller = m[1]
	}
	return r
}

// run serves until ctx ends and the time to linger has passed, and then ends the
// connections in order.
func (s *server) run(ctx context.Context) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	web := &http.Server{Addr: s.http, Handler: http.HandlerFunc(s.answer), Protocols: protocols, ReadHeaderTimeout: 10 * time.Second}
	orders := &http.Server{Addr: s.control, Handler: calls.NewTraffic().Handler(), ReadHeaderTimeout: 10 * time.Second}
	rpc := grpc.NewServer()
	healthv1.RegisterHealthServer(rpc, &rpcServer{self: s.self})
	rpcPort, err := net.Listen("tcp", s.grpc)
	if err != nil {
		return err
	}
	lines, err := net.Listen("tcp", s.tcp)
	if err != nil {
		return err
	}
	failed := make(chan error, 4)
	go func() { failed <- web.ListenAndServe() }()
	go func() { failed <- orders.ListenAndServe() }()
	go func() { failed <- rpc.Serve(rpcPort) }()
	go func() { failed <- s.echoLines(lines) }()
	fmt.Println("serving")
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-failed:
		return err
	case <-time.After(s.linger):
	}
	end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	rpcDone := make(chan struct{})
	go func() { rpc.GracefulStop(); close(rpcDone) }()
	err = web.Shutdown(end)
	select {
	case <-rpcDone:
	case <-end.Done():
		rpc.Stop()
	}
	return errors.Join(err, lines.Close(), orders.Close())
}

// answer says who called. /status/503 answers with that status, ?wait=2s takes its time.
func (s *server) answer(w http.ResponseWriter, r *http.Request) {
	if d, err := time.ParseDuration(r.URL.Query().Get("wait")); err == nil {
		select {
		case <-time.After(min(d, time.Minute)):
		case <-r.Context().Done():
			return
		}
	}
	out := called(s.self, r.Header.Get("X-Forwarded-Client-Cert"))
	out.Protocol, out.Remote, out.Host, out.Path = r.Proto, r.RemoteAddr, r.Host, r.URL.Path
	w.Header().Set("Content-Type", "application/json")
	var status int
	if _, err := fmt.Sscanf(r.URL.Path, "/status/%d", &status); err == nil && status >= 200 && status < 600 {
		w.WriteHeader(status)
	}
	if err := json.NewEncoder(w).Encode(out); err != nil {
		return // the caller has gone
	}
}

// rpcServer answers health checks; who it is travels in the header "reply".
type rpcServer struct {
	healthv1.UnimplementedHealthServer
	self calls.Reply
}

// Check implements healthv1.HealthServer.
func (s *rpcServer) Check(ctx context.Context, _ *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	out := s.self
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		for _, v := range md.Get("x-forwarded-client-cert") {
			out = called(out, v)
		}
		for _, v := range md.Get(":authority") {
			out.Host = v
		}
	}
	out.Protocol = "grpc"
	text, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	if err := grpc.SetHeader(ctx, metadata.Pairs("reply", string(text))); err != nil {
		return nil, err
	}
	return &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_SERVING}, nil
}

// echoLines sends each line back behind the reply as JSON and a space.
func (s *server) echoLines(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			out := s.self
			out.Protocol, out.Remote = "tcp", conn.RemoteAddr().String()
			text, err := json.Marshal(out)
			if err != nil {
				return
			}
			for in := bufio.NewScanner(conn); in.Scan(); {
				if _, err := fmt.Fprintf(conn, "%s %s\n", text, in.Bytes()); err != nil {
					return
				}
			}
		}()
	}
}
