package e2e

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
)

// unlimited lets a stream last.
const unlimited = `type: MeshTimeout
mesh: default
name: a-unlimited
spec:
  targetRef: {kind: Mesh}
  to: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 0s, streamIdleTimeout: 0s}}}]
---
type: MeshTimeout
mesh: default
name: a-unlimited-inbound
spec:
  targetRef: {kind: Mesh}
  rules: [{default: {http: {requestTimeout: 0s, streamIdleTimeout: 0s}}}]
`

// TestRatchet: a connection of TCP and a stream of gRPC stay open through changes of
// timeouts, routes, permissions and certificates. Then the identity that all proxies have is
// deleted, and the control planes start again: what is allowed passes, nobody gets
// in who was refused, in plain text neither, and certificates are renewed. Who does
// let a caller in is told, asked, and obeyed.
func TestRatchet(t *testing.T) {
	f := served(t)
	east, west := f.zones["east"], f.zones["west"]
	f.startEcho(west, west.backends[1], "default")
	f.startEchoCaller(east, east.stranger, "default")
	f.apply(allowEcho, unlimited)
	f.echoes(east.stranger, true)
	refused, plain := f.denied(), f.plainText()
	from := time.Now()
	traffic, long := east.web.Send(remote, 20), east.stranger.Hold(echoAddress, 20)
	ended := f.stream(east.stranger)

	leaf := func() string { return string(f.stolen("echo-caller-east").Certificate[0]) }
	renewed := func(what string) {
		t.Helper()
		was := leaf()
		f.eventually(60*time.Second, "a certificate is renewed "+what, func() bool { return leaf() != was })
	}
	first := leaf()
	for what, manifest := range map[string]string{"timeouts": slowConnect, "routes": routed("[a-z]"), "permissions": allowWeb("allow-more", "south"), "certificates": shortLeaf} {
		f.apply(manifest)
		f.passes(long, time.Second)
		t.Logf("%s have changed", what)
	}
	f.eventually(60*time.Second, "a certificate is of the new kind", func() bool { return leaf() != first })

	t.Log(f.cli("", "delete", "meshidentity", "default", "--wait=60s"))
	renewed("without an identity")
	long.Stop()
	select {
	case err := <-ended:
		t.Errorf("the stream that was open has ended: %v", err)
	default:
	}
	good, bad := long.Count(from, time.Now(), lab.Answered)
	f.report("lines on one connection throughout", good, bad, 0)
	for _, z := range f.zones {
		z.control.Kill()
		f.startZone(z)
	}
	f.global.Kill()
	f.startGlobal()
	f.everywhereNow(60 * time.Second)
	renewed("after the control planes started again")

	out, err := f.tryCLI(allowWeb("allow-west", "west"), "apply", "-f", "-")
	if exitCode(err) != 1 || !strings.Contains(out, "can be called by spiffe://default.west.mesh.local/workload/web") {
		t.Errorf("a change that lets a caller in, without --yes: %v\n%s", err, out)
	}
	if out, err := f.tryCLI("", "get", "meshtrafficpermission", "allow-west"); err == nil {
		t.Errorf("it was written all the same:\n%s", out)
	}
	f.passes(traffic, time.Second)
	traffic.Stop()
	good, bad = traffic.Count(from, time.Now(), fromZone("west"))
	f.report("east to west throughout", good, bad, 0)
	refused()
	plain()
	f.apply(allowWeb("allow-west", "west"))
	f.answers(west.web, remote, http.StatusOK)
}

// stream opens a stream of gRPC that ends when something ends it, and says with what.
func (f *fleet) stream(from *lab.Host) (ended <-chan error) {
	f.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+grpcAddress, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return from.Dial(ctx, "tcp", address) }))
	must(f.t, err)
	f.t.Cleanup(func() { conn.Close() })
	var open healthv1.Health_WatchClient
	f.eventually(60*time.Second, "a stream is open", func() bool {
		open, err = healthv1.NewHealthClient(conn).Watch(f.t.Context(), &healthv1.HealthCheckRequest{})
		if err == nil {
			_, err = open.Recv()
		}
		return err == nil
	})
	end := make(chan error, 1)
	go func() {
		_, err := open.Recv()
		end <- err
	}()
	return end
}
