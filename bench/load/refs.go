package load

import (
	"sync"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// Types of resources, in the order in which Envoy subscribes after a reconnect.
const (
	ClusterType   = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType  = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	SecretType    = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	ListenerType  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType     = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	ExtensionType = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
)

// key names a resource.
type key struct{ typeURL, name string }

// references remembers what resources refer to by their versions, which are
// digests: proxies of a class share resources, and each is read once.
type references struct{ known sync.Map }

type version struct {
	key
	version string
}

func (c *references) of(r *discoveryv3.Resource) []key {
	switch r.Resource.GetTypeUrl() {
	case ClusterType, ListenerType:
	default:
		return nil
	}
	at := version{key{r.Resource.TypeUrl, r.Name}, r.Version}
	if v, ok := c.known.Load(at); ok {
		return v.([]key)
	}
	var out []key
	unpack(r.Resource, &out)
	c.known.Store(at, out)
	return out
}

// unpack passes over messages that this program does not link.
func unpack(body *anypb.Any, out *[]key) {
	if m, err := body.UnmarshalNew(); err == nil {
		visit(m, out)
	}
}

func visit(m proto.Message, out *[]key) {
	switch m := m.(type) {
	case *anypb.Any:
		unpack(m, out)
		return
	case *clusterv3.Cluster:
		if m.GetType() == clusterv3.Cluster_EDS {
			name := m.GetEdsClusterConfig().GetServiceName()
			if name == "" {
				name = m.GetName()
			}
			*out = append(*out, key{EndpointType, name})
		}
	case *hcmv3.HttpConnectionManager:
		if name := m.GetRds().GetRouteConfigName(); name != "" {
			*out = append(*out, key{RouteType, name})
		}
		for _, f := range m.GetHttpFilters() {
			extension(f.GetName(), f.GetConfigDiscovery(), out)
		}
	case *listenerv3.Filter:
		extension(m.GetName(), m.GetConfigDiscovery(), out)
	case *tlsv3.SdsSecretConfig:
		if m.GetSdsConfig().GetAds() != nil {
			*out = append(*out, key{SecretType, m.GetName()})
		}
	}
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					visit(v.Message().Interface(), out)
					return true
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				visit(v.List().Get(i).Message().Interface(), out)
			}
		default:
			visit(v.Message().Interface(), out)
		}
		return true
	})
}

func extension(name string, source *corev3.ExtensionConfigSource, out *[]key) {
	if source.GetConfigSource().GetAds() != nil {
		*out = append(*out, key{ExtensionType, name})
	}
}
