package zone

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/internal/memory"
	"github.com/tombolo-mesh/tombolo/mesh"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
	wire "github.com/tombolo-mesh/tombolo/proto/zonesync"
	"github.com/tombolo-mesh/tombolo/xds/delta"
	"github.com/tombolo-mesh/tombolo/zone/agents"
)

// Bounds of the server for agents and Envoys.
const (
	maxStreamsPerConnection = 16
	maxMessage              = 4 << 20
	// writeBuffer is a record of TLS. Connections share them, and have one only while
	// they write: as many are held at once as connections are written to.
	writeBuffer = 16 << 10
)

// Times of TCP: a host that is cut off is noticed within two seconds, by the
// kernel, without a message of ours. It gives up as soon on a peer that has no room:
// an agent always has, whatever its Envoy reads. One that is not an agent of this
// version, whose Envoy connects by itself, comes again.
const (
	keepAliveIdle     = time.Second
	keepAliveInterval = time.Second
	tcpUserTimeout    = 1800 // milliseconds
	optUserTimeout    = 0x12 // TCP_USER_TIMEOUT of Linux; accepted connections inherit it
)

// listen opens the port for agents and Envoys.
func listen(ctx context.Context, address string) (net.Listener, error) {
	lc := net.ListenConfig{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: 2},
		Control: func(_, _ string, c syscall.RawConn) error {
			var failed error
			err := c.Control(func(fd uintptr) {
				failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, optUserTimeout, tcpUserTimeout)
			})
			if err != nil {
				return err
			}
			return failed
		},
	}
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for agents and proxies: %w", err)
	}
	return l, nil
}

func newServer(cfg *tls.Config, server *agents.Server, xds *delta.Server, e *engine) *grpc.Server {
	options := append(agents.ServerOptions(), grpc.StreamInterceptor(e.gate), grpc.ForceServerCodecV2(delta.NewCodec()),
		grpc.Creds(credentials.NewTLS(cfg)), grpc.MaxConcurrentStreams(maxStreamsPerConnection), grpc.MaxRecvMsgSize(maxMessage),
		// TLS holds what it has decrypted: a buffer behind it would hold it twice.
		grpc.ReadBufferSize(0), grpc.WriteBufferSize(writeBuffer), grpc.StaticStreamWindowSize(1<<16-1), grpc.HeaderTableSize(0))
	s := grpc.NewServer(options...)
	agentv1.RegisterAgentServiceServer(s, server)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, xds)
	return s
}

// gate turns away who has no session token before a stream counts as one: else
// anybody could open the streams that the proxies need, and say nothing on them.
// Agents' streams are checked by their own server, as early.
func (e *engine) gate(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if strings.HasPrefix(info.FullMethod, "/"+discoveryv3.AggregatedDiscoveryService_ServiceDesc.ServiceName+"/") {
		if err := memory.Apart(func() error {
			_, err := e.sessionOf(stream.Context())
			return err
		}); err != nil {
			return err
		}
	}
	return next(srv, stream)
}

// authorize maps a stream of Envoy to its proxy: by the session token that its
// agent got, and only while the proxy is a member.
func (e *engine) authorize(ctx context.Context, node *corev3.Node) (string, error) {
	id, err := e.sessionOf(ctx)
	if err != nil {
		return "", err
	}
	if node.GetId() != id {
		return "", status.Errorf(codes.PermissionDenied, "the session token is for node %q, not %.200q", id, node.GetId())
	}
	return id, nil
}

// sessionOf is the member whose session token a stream carries.
func (e *engine) sessionOf(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return "", status.Error(codes.Unauthenticated, "metadata must have one authorization: Bearer <session token>")
	}
	raw, ok := strings.CutPrefix(values[0], "Bearer ")
	if !ok {
		return "", status.Error(codes.Unauthenticated, "authorization must be Bearer <session token>")
	}
	session, err := e.session.Check(raw)
	if err != nil {
		return "", status.Error(codes.Unauthenticated, err.Error())
	}
	id := nodeID(mesh.Key{Mesh: session.Mesh, Name: session.Name})
	if _, ok := e.members.Load(id); !ok {
		return "", status.Errorf(codes.Unavailable, "%s is no member of zone %s: its agent must register first", id, e.cfg.zone)
	}
	return id, nil
}

// identities are the MeshIdentity resources of every mesh.
func (e *engine) identities() []mesh.Resource {
	return e.world.Resources(mesh.KindMeshIdentity)
}

// handler serves metrics and health.
func (z *Zone) handler(p *parts) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(z.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-z.ready:
		default:
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		link := "not configured"
		if p.client != nil {
			link = "down"
			if p.client.Connected() {
				link = "up"
			}
		}
		fmt.Fprintf(w, "ok\nglobal %s\nrevision %d\n", link, p.engine.position.Load().Revision)
	})
	mux.HandleFunc("GET /proxies", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := (inspector{p.engine}).Inspect(r.Context(), wire.Question{What: "proxies", Mesh: r.URL.Query().Get("mesh")}, w); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	return mux
}
