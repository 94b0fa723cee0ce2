package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
)

// The applications of the laboratory beside the sample service are this very
// binary, started again with appVariable set.
const (
	appVariable = "TOMBOLO_E2E_APP"
	echoPort    = "19090"
	grpcPort    = "19091"
	echoAddress = "127.0.0.1:8090" // outbound to echo of the other zone
	grpcAddress = "127.0.0.1:8091" // outbound to its gRPC port
	failHeader  = "x-fail"         // a gRPC call with it is answered with UNAVAILABLE
)

// allowEcho lets the workload echo-caller of east call echo.
const allowEcho = `type: MeshTrafficPermission
mesh: default
name: allow-echo
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: echo}}
  rules:
    - default:
        allow: [{spiffeID: {type: Exact, value: spiffe://default.east.mesh.local/workload/echo-caller}}]
`

func TestMain(m *testing.M) {
	if ip := os.Getenv(appVariable); ip != "" {
		if err := serveApps(ip); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// serveApps is the application: lines come back by TCP, and gRPC's health service, which
// fails when it is asked to.
func serveApps(ip string) error {
	echo, err := net.Listen("tcp", net.JoinHostPort(ip, echoPort))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(ip, grpcPort))
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if len(metadata.ValueFromIncomingContext(ctx, failHeader)) > 0 {
			return nil, status.Error(codes.Unavailable, "as asked for")
		}
		return next(ctx, in)
	}))
	healthv1.RegisterHealthServer(server, health.NewServer())
	ended := make(chan error, 2)
	go func() { ended <- server.Serve(l) }()
	go func() {
		for {
			conn, err := echo.Accept()
			if err != nil {
				ended <- err
				return
			}
			go func() {
				defer conn.Close()
				lines := bufio.NewReader(conn)
				for {
					line, err := lines.ReadString('\n')
					if err != nil {
						return
					}
					if _, err := conn.Write([]byte(line)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return <-ended
}

// startEcho starts the service echo on a host: a TCP and a gRPC port.
func (f *fleet) startEcho(z *zone, h *lab.Host, mesh string) {
	f.t.Helper()
	self, err := os.Executable()
	must(f.t, err)
	name := "echo-" + z.name
	app, err := h.Start(f.dir, "app-"+name, []string{appVariable + "=" + h.IP}, self)
	must(f.t, err)
	f.procs["app-"+name] = app
	f.listens(h, app, h.IP+":"+echoPort, h.IP+":"+grpcPort)
	f.startAgent("sidecar", z, h, mesh, name, "echo", fmt.Sprintf(`type: Dataplane
mesh: %s
name: %s
labels: {kuma.io/workload: echo}
networking:
  address: %s
  inbound:
    - {name: lines, port: 9090, servicePort: %s, protocol: tcp}
    - {name: grpc, port: 9091, servicePort: %s, protocol: grpc}
`, mesh, name, h.IP, echoPort, grpcPort))
}

// startEchoCaller starts a caller of the other zone's echo.
func (f *fleet) startEchoCaller(z *zone, h *lab.Host, mesh string) {
	f.t.Helper()
	other := map[string]string{"east": "west", "west": "east"}[z.name]
	ref := fmt.Sprintf("{kind: MeshService, labels: {kuma.io/display-name: echo, kuma.io/zone: %s}, port: ", other)
	name := "echo-caller-" + z.name
	f.startAgent("sidecar", z, h, mesh, name, "echo-caller", fmt.Sprintf(`type: Dataplane
mesh: %s
name: %s
labels: {kuma.io/workload: echo-caller}
networking:
  address: %s
  outbound:
    - {port: 8090, backendRef: %s9090}}
    - {port: 8091, backendRef: %s9091}}
`, mesh, name, h.IP, ref, ref))
}

// echoes waits until echo answers a host, or refuses it.
func (f *fleet) echoes(from *lab.Host, want bool) {
	f.t.Helper()
	f.eventually(60*time.Second, fmt.Sprintf("echo answers %s: %v", from.Name, want), func() bool {
		return lab.Answered(from.Echo(echoAddress)) == want
	})
}
