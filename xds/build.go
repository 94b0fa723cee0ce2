package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/xds/delta"
)

// Resource types that this package produces.
const (
	ClusterType   = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType  = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType     = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	SecretType    = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	ExtensionType = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
)

// Build returns what every proxy of the class shares: clusters, outbound
// listeners, routes and extension configurations. Endpoints and bundles have
// builders of their own, since they change by themselves.
func Build(p *ir.Proxy) ([]*delta.Resource, error) { return build(p, nil, ir.Digests{}) }

func build(p *ir.Proxy, cache *Cache, of ir.Digests) ([]*delta.Resource, error) {
	b := &builder{proxy: p, cache: cache}
	if p.Class.Role == ir.Ingress {
		for i := range p.Exports {
			b.add(exportCluster(&p.Exports[i]))
		}
		return b.resources, b.err
	}
	for i := range p.Destinations {
		d := &p.Destinations[i]
		b.share("destination", of.Destinations, i, func() proto.Message { return destinationCluster(d, p) })
	}
	for i := range p.Gateways {
		b.add(gatewayCluster(&p.Gateways[i]))
	}
	if len(p.Gateways) > 0 {
		b.add(remotePeersListener())
	}
	if p.Class.Transparent != nil {
		if p.Passthrough {
			b.add(passthroughCluster())
		}
		b.add(redirectedOutbound(p))
		b.add(redirectedInbound(p))
	}
	led := map[string]bool{}
	for i := range p.Outbounds {
		listener, target := p.Outbounds[i].Parts()
		b.share("listener", of.Listeners, i, func() proto.Message { return outboundListener(&listener) })
		switch {
		case led[target.Name]:
		case target.Protocol.IsHTTP():
			b.share("routes", of.Targets, i, func() proto.Message { return outboundRoutes(&target) })
		default:
			b.share("tcp", of.Targets, i, func() proto.Message { return outboundTCP(&target) })
		}
		led[target.Name] = true
	}
	for i := range p.Inbounds {
		in := &p.Inbounds[i]
		b.add(permission(in))
		if in.Protocol.IsHTTP() {
			b.add(inboundRoutes(in))
			continue
		}
		b.add(inboundTCP(in))
		// Without trust there is nothing to send: Envoy keeps what it had, and a
		// new inbound opens to nobody.
		if len(p.Trust) > 0 {
			b.add(callers(in, p.Trust))
		}
	}
	return b.resources, b.err
}

// BuildInstance returns what one proxy has of its own: listeners at its
// addresses, unless all connections are redirected to one, and clusters towards
// its application.
func BuildInstance(p *ir.Proxy, own *ir.Instance) ([]*delta.Resource, error) {
	b := &builder{}
	if p.Class.Role == ir.Ingress {
		for i := range p.Class.Listeners {
			b.add(ingressListener(p, i, own.Listeners[i]))
		}
		return b.resources, b.err
	}
	for i := range p.Inbounds {
		if p.Class.Transparent == nil {
			b.add(inboundListener(&p.Inbounds[i], own.Inbounds[i].Address))
		}
		b.add(inboundCluster(&p.Inbounds[i], own.Inbounds[i].ServiceAddress))
	}
	return b.resources, b.err
}

// BuildEndpoints returns the hosts behind a name.
func BuildEndpoints(set *ir.EndpointSet) (*delta.Resource, error) {
	b := &builder{}
	b.add(loadAssignment(set))
	if b.err != nil {
		return nil, b.err
	}
	return b.resources[0], nil
}

// BuildBundles returns the trust bundles of a mesh. It refuses an empty set: with
// one Envoy would turn every peer away, and ACK it.
func BuildBundles(trust []ir.TrustBundle) (*delta.Resource, error) {
	if len(trust) == 0 {
		return nil, fmt.Errorf("no trust bundle: an empty set would refuse every peer")
	}
	b := &builder{}
	b.add(bundles(trust))
	if b.err != nil {
		return nil, b.err
	}
	return b.resources[0], nil
}

// builder marshals each message once and remembers the first error.
type builder struct {
	resources []*delta.Resource
	err       error
	// proxy and cache, where parts of one are shared with others.
	proxy *ir.Proxy
	cache *Cache
}

func (b *builder) add(m proto.Message) {
	r, err := resourceOf(m)
	b.take(r, err)
}

// share adds what is built from one node of the proxy alone.
func (b *builder) share(kind string, nodes []ir.Digest, i int, message func() proto.Message) {
	fresh := func() (*delta.Resource, error) { return resourceOf(message()) }
	if b.cache != nil && nodes[i] != (ir.Digest{}) {
		b.take(b.cache.resource(part{kind, b.proxy.Zone, b.proxy.Class.Transparent != nil, nodes[i]}, fresh))
		return
	}
	b.take(fresh())
}

func (b *builder) take(r *delta.Resource, err error) {
	if err == nil {
		b.resources = append(b.resources, r)
	} else if b.err == nil {
		b.err = err
	}
}

func resourceOf(m proto.Message) (*delta.Resource, error) {
	body, err := marshal.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("marshal %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	sum := sha256.Sum256(body)
	r := &delta.Resource{Version: hex.EncodeToString(sum[:8]), Body: body}
	switch m := m.(type) {
	case *clusterv3.Cluster:
		r.TypeURL, r.Name = ClusterType, m.Name
		if m.GetType() == clusterv3.Cluster_EDS {
			r.Endpoints = m.Name
		}
	case *endpointv3.ClusterLoadAssignment:
		r.TypeURL, r.Name = EndpointType, m.ClusterName
	case *listenerv3.Listener:
		r.TypeURL, r.Name = ListenerType, m.Name
	case *routev3.RouteConfiguration:
		r.TypeURL, r.Name = RouteType, m.Name
	case *tlsv3.Secret:
		r.TypeURL, r.Name = SecretType, m.Name
	case *corev3.TypedExtensionConfig:
		r.TypeURL, r.Name = ExtensionType, m.Name
	default:
		return nil, fmt.Errorf("%T is not a resource", m)
	}
	return r, nil
}

// marshal is deterministic: same message, same bytes.
var marshal = proto.MarshalOptions{Deterministic: true}

// pack wraps a message that this package just made. Marshalling such a message
// fails on invalid UTF-8 alone, which validation keeps out; the empty Any that
// remains then is refused by Envoy, never obeyed.
func pack(m proto.Message) *anypb.Any {
	out := &anypb.Any{}
	if err := anypb.MarshalFrom(out, m, marshal); err != nil {
		return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: []byte{0xff}}
	}
	return out
}
