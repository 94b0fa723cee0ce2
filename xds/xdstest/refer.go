package xdstest

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// references of a resource to others that come by ADS.
type references struct {
	clusters, endpoints, routes, secrets, extensions []string
}

// referred reads the references of a resource, also from what is packed inside.
// Packed messages of types that this program does not link are passed over.
func referred(body *anypb.Any) references {
	var r references
	r.unpack(body)
	return r
}

func (r *references) unpack(body *anypb.Any) {
	if body == nil {
		return
	}
	if m, err := body.UnmarshalNew(); err == nil {
		r.visit(m)
	}
}

func (r *references) visit(m proto.Message) {
	switch m := m.(type) {
	case *anypb.Any:
		r.unpack(m)
		return
	case *clusterv3.Cluster:
		if m.GetType() == clusterv3.Cluster_EDS && m.GetEdsClusterConfig().GetEdsConfig().GetAds() != nil {
			r.endpoints = append(r.endpoints, endpointsOf(m))
		}
	case *hcmv3.HttpConnectionManager:
		if m.GetRds().GetConfigSource().GetAds() != nil {
			r.routes = append(r.routes, m.GetRds().GetRouteConfigName())
		}
		for _, f := range m.GetHttpFilters() {
			r.extension(f.GetName(), f.GetConfigDiscovery())
		}
	case *listenerv3.Filter:
		r.extension(m.GetName(), m.GetConfigDiscovery())
	case *tlsv3.SdsSecretConfig:
		if m.GetSdsConfig().GetAds() != nil {
			r.secrets = append(r.secrets, m.GetName())
		}
	case *routev3.RouteAction:
		r.cluster(m.GetCluster())
		for _, w := range m.GetWeightedClusters().GetClusters() {
			r.cluster(w.GetName())
		}
	case *tcpv3.TcpProxy:
		r.cluster(m.GetCluster())
		for _, w := range m.GetWeightedClusters().GetClusters() {
			r.cluster(w.GetName())
		}
	}
	r.fields(m.ProtoReflect())
}

// fields visits the messages inside a message.
func (r *references) fields(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					r.visit(v.Message().Interface())
					return true
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				r.visit(v.List().Get(i).Message().Interface())
			}
		default:
			r.visit(v.Message().Interface())
		}
		return true
	})
}

func (r *references) cluster(name string) {
	if name != "" {
		r.clusters = append(r.clusters, name)
	}
}

func (r *references) extension(name string, source *corev3.ExtensionConfigSource) {
	if source.GetConfigSource().GetAds() != nil {
		r.extensions = append(r.extensions, name)
	}
}

func endpointsOf(c *clusterv3.Cluster) string {
	if name := c.GetEdsClusterConfig().GetServiceName(); name != "" {
		return name
	}
	return c.GetName()
}
