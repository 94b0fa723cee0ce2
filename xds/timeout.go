package xds

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// timeout is MeshTimeout. Everything lives in clusters, routes and extension
// configurations, where a change costs no connection, but for
// requestHeadersTimeout, which Envoy has in the connection manager alone.
func timeout() policy {
	return policy{
		kind: mesh.KindMeshTimeout,
		destination: func(d *ir.Destination, c *clusterv3.Cluster) {
			c.ConnectTimeout = durationpb.New(d.Timeouts.Connect)
			connectionTimeouts(c, d.Timeouts, maxConnectionAge)
		},
		inboundCluster: func(in *ir.Inbound, c *clusterv3.Cluster) {
			c.ConnectTimeout = durationpb.New(in.Timeouts.Connect)
			connectionTimeouts(c, in.Timeouts, 0)
		},
		route: func(r *ir.Route, a *routev3.RouteAction) { requestTimeouts(a, r.Timeouts) },
		inboundRoutes: func(in *ir.Inbound, host *routev3.VirtualHost) {
			catchAll := host.Routes[len(host.Routes)-1]
			requestTimeouts(catchAll.GetRoute(), in.Timeouts)
			var matched []*routev3.Route
			for i := range in.Matched {
				r := inboundRoute(in, matchedRouteName(i))
				callerMatch(r.Match, in.Matched[i].Match)
				requestTimeouts(r.GetRoute(), in.Matched[i].Timeouts)
				matched = append(matched, r)
			}
			host.Routes = append(matched, catchAll)
		},
		outboundTCP: func(o *ir.Outbound, t *tcpv3.TcpProxy) { proxyTimeouts(t, o.Timeouts) },
		inboundTCP:  func(in *ir.Inbound, t *tcpv3.TcpProxy) { proxyTimeouts(t, in.Timeouts) },
		outboundHTTP: func(o *ir.Outbound, m *hcmv3.HttpConnectionManager) {
			m.RequestHeadersTimeout = optional(o.Timeouts.RequestHeaders)
		},
		inboundHTTP: func(in *ir.Inbound, m *hcmv3.HttpConnectionManager) {
			m.RequestHeadersTimeout = optional(in.Timeouts.RequestHeaders)
		},
	}
}

// connectionTimeouts bound upstream HTTP connections; age is the bound where the
// policy has none, 0 for none at all.
func connectionTimeouts(c *clusterv3.Cluster, t ir.Timeouts, age time.Duration) {
	amendOptions(c, func(o *corev3.HttpProtocolOptions) {
		o.IdleTimeout = durationpb.New(t.Idle)
		if t.MaxConnection > 0 {
			age = t.MaxConnection
		}
		o.MaxConnectionDuration = optional(age)
	})
}

func requestTimeouts(a *routev3.RouteAction, t ir.Timeouts) {
	a.Timeout = durationpb.New(t.Request)
	a.IdleTimeout = durationpb.New(t.StreamIdle)
	a.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(t.MaxStream)}
}

func proxyTimeouts(p *tcpv3.TcpProxy, t ir.Timeouts) {
	p.IdleTimeout = durationpb.New(t.Idle)
	p.MaxDownstreamConnectionDuration = optional(t.MaxConnection)
}

// optional is nil for 0, where Envoy has no way to say "none" but absence.
func optional(d time.Duration) *durationpb.Duration {
	if d <= 0 {
		return nil
	}
	return durationpb.New(d)
}
