package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
)

// cutWithin is how long an established TCP connection may outlive a tightening:
// Envoy's drain time, and some for busy cores.
const cutWithin = 30 * time.Second

const denyEcho = `type: MeshTrafficPermission
mesh: default
name: deny-echo
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: echo}}
  rules:
    - default:
        deny: [{spiffeID: {type: Exact, value: spiffe://default.east.mesh.local/workload/echo-caller}}]
`

// TestGrpcAndTCP: a gRPC and a TCP service across zones, refused before they are
// allowed, allowed, and refused again: gRPC from the next call on, new TCP
// connections at once, a connection that was there soon.
func TestGrpcAndTCP(t *testing.T) {
	f := newFleet(t)
	east, west := f.zones["east"], f.zones["west"]
	f.startEcho(west, west.backends[1], "default")
	f.startEchoCaller(east, east.stranger, "default")
	call, end := dialGRPC(t, east.stranger)
	defer end()
	f.eventually(60*time.Second, "gRPC is refused by default", func() bool { return call().Status == int(codes.PermissionDenied) })
	f.eventually(60*time.Second, "TCP is refused by default", func() bool { return refusedByServer(east.stranger.Echo(echoAddress)) })

	f.apply(allowEcho)
	allowed := time.Now()
	calls := lab.Repeat(20, call)
	short := lab.Repeat(20, func() lab.Sample { return east.stranger.Echo(echoAddress) })
	long := east.stranger.Hold(echoAddress, 20)
	f.passes(calls, 5*time.Second)
	tightened := time.Now()
	for _, traffic := range []*lab.Traffic{calls, short, long} {
		traffic.Settled()
	}
	f.apply(denyEcho)
	denied := time.Now()
	f.passes(calls, 3*time.Second)
	f.eventually(cutWithin, "the connection that was there is cut", func() bool {
		samples := long.Since(denied)
		return len(samples) > 0 && samples[len(samples)-1].Err != nil
	})
	again := time.Now()
	for _, traffic := range []*lab.Traffic{calls, short} {
		traffic.Settled()
	}
	t.Logf("the connection that was there is cut %s after the denial was in force", again.Sub(denied).Round(time.Millisecond))
	f.cli("", "delete", "meshtrafficpermission", "deny-echo", "--wait=60s")
	lifted := time.Now()
	f.passes(calls, 2*time.Second)
	for _, traffic := range []*lab.Traffic{calls, short, long} {
		traffic.Stop()
	}

	ok := func(s lab.Sample) bool { return s.Err == nil }
	for what, traffic := range map[string]*lab.Traffic{"gRPC calls": calls, "TCP connections": short, "lines on one connection": long} {
		good, bad := traffic.Count(allowed, tightened, ok)
		f.report(what+" while allowed", good, bad, 0)
	}
	good, bad := calls.Count(denied, again, func(s lab.Sample) bool { return s.Status == int(codes.PermissionDenied) })
	f.report("gRPC calls refused once --wait returned", good, bad, 0)
	good, bad = short.Count(denied, again, refusedByServer)
	f.report("TCP connections refused once --wait returned", good, bad, 0)
	good, bad = calls.Count(lifted, time.Now(), ok)
	f.report("gRPC calls after lifting", good, bad, 0)
	good, bad = short.Count(lifted, time.Now(), ok)
	f.report("TCP connections after lifting", good, bad, 0)
}

// dialGRPC makes a connection for gRPC calls; a sample's status is gRPC's code.
func dialGRPC(t *testing.T, from *lab.Host, more ...grpc.DialOption) (call func() lab.Sample, end func()) {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+grpcAddress, append(more, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return from.Dial(ctx, "tcp", address) }))...)
	must(t, err)
	client := healthv1.NewHealthClient(conn)
	return func() lab.Sample {
		s := lab.Sample{Sent: time.Now()}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		answer, err := client.Check(ctx, &healthv1.HealthCheckRequest{})
		s.Took, s.Err, s.Status = time.Since(s.Sent), err, int(status.Code(err))
		if err == nil {
			s.Status, s.Body = http.StatusOK, fmt.Sprint(answer.GetStatus())
		}
		return s
	}, func() { conn.Close() }
}

// refusedByServer: the connection was taken and closed again without an answer.
func refusedByServer(s lab.Sample) bool { return s.Err != nil && s.Took < 9*time.Second }
