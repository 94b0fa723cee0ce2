package zone

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/internal/ports"
	"github.com/tombolo-mesh/tombolo/mesh"
	wire "github.com/tombolo-mesh/tombolo/proto/zonesync"
)

// sayer answers calls with the code that the caller asks for by its number.
type sayer struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (sayer) Check(_ context.Context, in *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	var code uint32
	if _, err := fmt.Sscan(in.GetService(), &code); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &grpc_health_v1.HealthCheckResponse{}, status.Error(codes.Code(code), "as asked for")
}

// Watch says the same behind a message that was sent already: in trailers of their own.
func (s sayer) Watch(in *grpc_health_v1.HealthCheckRequest, to grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	answer, err := s.Check(to.Context(), in)
	if e := to.Send(&grpc_health_v1.HealthCheckResponse{Status: answer.GetStatus()}); e != nil {
		return e
	}
	return err
}

// TestRealEnvoysCountGRPC: what fails inside of an answer of 200 is a failure, at the
// server and at its caller.
func TestRealEnvoysCountGRPC(t *testing.T) {
	r := startReal(t)
	l := ports.Listen(t)
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, sayer{})
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	r.proxy("api-1", "api", fmt.Sprintf("networking:\n  address: 127.77.0.1\n  inbound: [{name: grpc, port: %d, serviceAddress: 127.0.0.1, servicePort: %s, protocol: grpc}]\n",
		r.inbound, strings.TrimPrefix(l.Addr().String(), "127.0.0.1:")))
	at, err := url.Parse(r.web("web-1", 1))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+at.Host, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client := grpc_health_v1.NewHealthClient(conn)
	call := func(code codes.Code) codes.Code {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: fmt.Sprint(uint32(code))})
		return status.Code(err)
	}
	stream := func(code codes.Code) codes.Code {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		answers, err := client.Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: fmt.Sprint(uint32(code))})
		if err != nil {
			return status.Code(err)
		}
		if _, err = answers.Recv(); err != nil {
			t.Errorf("no first message of code %s: %v", code, err)
		}
		_, err = answers.Recv()
		return status.Code(err)
	}
	eventually(t, "web calls api", func() bool { return call(codes.NotFound) == codes.NotFound })
	r.push(put(resource(t, mesh.KindMeshTimeout, "default", "", "all",
		`{"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"requestTimeout":"19s"}}}],"rules":[{"default":{"http":{"requestTimeout":"18s"}}}]}`)))
	eventually(t, "it is settled", r.settled)
	counted := func() map[string]wire.ServiceCounts {
		out := map[string]wire.ServiceCounts{}
		for _, p := range ask[wire.SuccessCounts](r.live, wire.WhatSuccess, document(mesh.KindMeshTimeout, "all")).Proxies {
			for _, s := range p.Services {
				out[s.Service] = s
			}
		}
		return out
	}
	eventually(t, "both sides count", func() bool { return len(counted()) == 4 })
	before := counted()
	said := []codes.Code{codes.OK, codes.NotFound, codes.InvalidArgument, codes.PermissionDenied, codes.ResourceExhausted, // answers
		codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss} // failures
	for _, code := range said {
		if got := call(code); got != code {
			t.Errorf("asked for %s, got %s", code, got)
		}
		if got := stream(code); code != codes.OK && got != code {
			t.Errorf("a stream: asked for %s, got %s", code, got)
		}
	}
	at1 := fmt.Sprintf("api.east:%d by web, gRPC", r.inbound)
	at2 := fmt.Sprintf("api:%d, gRPC", r.inbound)
	eventually(t, "all are counted", func() bool {
		now := counted()
		return now[at1].Requests-before[at1].Requests == 22 && now[at2].Requests-before[at2].Requests == 22
	})
	now := counted()
	for _, name := range []string{at1, at2} {
		if n := now[name].Failed - before[name].Failed; n != 12 {
			t.Errorf("%d calls of %s failed, want 12: %+v", n, name, now)
		}
		if http := strings.TrimSuffix(name, ", gRPC"); now[http].Failed != 0 {
			t.Errorf("HTTP failed: %+v", now[http])
		}
	}

	// What Envoy answers itself, since there is nobody to answer, is 200 for gRPC, too.
	r.push(put(resource(t, mesh.KindMeshHTTPRoute, "default", "", "nowhere", fmt.Sprintf(
		`{"targetRef":{"kind":"Dataplane","labels":{"tombolo.io/workload":"web"}},"to":[{"targetRef":{"kind":"MeshService","labels":{"tombolo.io/display-name":"api"}},
		"rules":[{"matches":[{"path":{"type":"PathPrefix","value":"/"}}],"default":{"backendRefs":[{"kind":"MeshService","labels":{"tombolo.io/display-name":"nobody"},"port":%d}]}}]}]}`, r.inbound))))
	eventually(t, "it is settled", r.settled)
	eventually(t, "calls lead nowhere", func() bool { return call(codes.OK) != codes.OK })
	before = counted()
	for range 5 {
		if got := call(codes.OK); got == codes.OK {
			t.Error("a call without a backend succeeds")
		}
	}
	now = counted()
	if n, failed := now[at1].Requests-before[at1].Requests, now[at1].Failed-before[at1].Failed; n != 5 || failed != 5 {
		t.Errorf("of calls that lead nowhere %d are counted, %d as failed; want 5 and 5: %+v", n, failed, now)
	}
}
