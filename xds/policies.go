package xds

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// policy is how one kind of policy shapes Envoy: hooks that run while a message
// is built, before anything is packed. Nil hooks have nothing to say there.
type policy struct {
	kind mesh.KindName
	// destination shapes the cluster of a destination.
	destination func(d *ir.Destination, c *clusterv3.Cluster)
	// inboundCluster shapes the cluster towards the application.
	inboundCluster func(in *ir.Inbound, c *clusterv3.Cluster)
	// route shapes one outbound route's action.
	route func(r *ir.Route, a *routev3.RouteAction)
	// inboundRoutes shapes the routes of an inbound; the last one is the catch-all.
	inboundRoutes func(in *ir.Inbound, rc *routev3.VirtualHost)
	// outboundTCP shapes the TCP proxy of an outbound, of which it sees the target alone
	// (ir.Outbound.Parts).
	outboundTCP func(o *ir.Outbound, t *tcpv3.TcpProxy)
	// inboundTCP shapes the TCP proxy of an inbound.
	inboundTCP func(in *ir.Inbound, t *tcpv3.TcpProxy)
	// outboundHTTP and inboundHTTP shape connection managers. They live in
	// listeners: whatever varies there costs connections, gracefully. Of an outbound,
	// they see the listener alone (ir.Outbound.Parts).
	outboundHTTP func(o *ir.Outbound, m *hcmv3.HttpConnectionManager)
	inboundHTTP  func(in *ir.Inbound, m *hcmv3.HttpConnectionManager)
}

// policies lists every policy with hooks, in the order in which they apply.
// Routes and permissions are not here: they are what route.go and permission.go
// build.
func policies() []policy {
	return []policy{
		timeout(),
	}
}
