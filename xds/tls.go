package xds

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

const (
	tlsSocket = "envoy.transport_sockets.tls"
	// nobody is a SPIFFE ID that no authority issues: the pin of hosts whose peer
	// is not known (yet), so that they fail closed.
	nobody = "spiffe://nobody.invalid/none"
)

// commonTLS is the one place where a TLS context is made: there is no way to
// leave verification out. Pins may be empty on the server side only, where the
// permission decides.
func commonTLS(pins, alpn []string) *tlsv3.CommonTlsContext {
	pinned := &tlsv3.CertificateValidationContext{}
	for _, id := range pins {
		pinned.MatchTypedSubjectAltNames = append(pinned.MatchTypedSubjectAltNames, &tlsv3.SubjectAltNameMatcher{
			SanType: tlsv3.SubjectAltNameMatcher_URI,
			Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: id}},
		})
	}
	return &tlsv3.CommonTlsContext{
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		},
		AlpnProtocols: alpn,
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{
			Name: IdentitySecret, SdsConfig: agentSource(),
		}},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext: pinned,
				ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{
					Name: BundlesSecret, SdsConfig: adsSource(0),
				},
			},
		},
	}
}

// clientTLS verifies that the server proves one of the identities.
func clientTLS(sni string, identities, alpn []string) *corev3.TransportSocket {
	if len(identities) == 0 {
		identities = []string{nobody}
	}
	return socket(tlsSocket, &tlsv3.UpstreamTlsContext{
		Sni:              sni,
		CommonTlsContext: commonTLS(identities, alpn),
		// A resumed session is not verified anew; trust withdrawn must hold at
		// the next handshake.
		MaxSessionKeys: wrapperspb.UInt32(0),
	})
}

// serverTLS requires a certificate of a trusted domain.
func serverTLS(alpn []string) *corev3.TransportSocket {
	return socket(tlsSocket, &tlsv3.DownstreamTlsContext{
		CommonTlsContext:                 commonTLS(nil, alpn),
		RequireClientCertificate:         wrapperspb.Bool(true),
		SessionTicketKeysType:            &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true},
		DisableStatefulSessionResumption: true,
	})
}

// bundles holds each trust domain's authorities apart: a peer is verified against
// its own domain's only.
func bundles(trust []ir.TrustBundle) *tlsv3.Secret {
	spiffe := &tlsv3.SPIFFECertValidatorConfig{}
	for _, t := range trust {
		spiffe.TrustDomains = append(spiffe.TrustDomains, &tlsv3.SPIFFECertValidatorConfig_TrustDomain{
			Name: t.TrustDomain, TrustBundle: inline(t.PEM),
		})
	}
	return &tlsv3.Secret{Name: BundlesSecret, Type: &tlsv3.Secret_ValidationContext{
		ValidationContext: &tlsv3.CertificateValidationContext{
			CustomValidatorConfig: &corev3.TypedExtensionConfig{
				Name: "envoy.tls.cert_validator.spiffe", TypedConfig: pack(spiffe),
			},
		},
	}}
}

// adsSource is the zone's stream; a timeout of 0 waits for ever.
func adsSource(timeout time.Duration) *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		InitialFetchTimeout:   durationpb.New(timeout),
	}
}

// agentSource is the agent's socket.
func agentSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:  corev3.ApiVersion_V3,
		InitialFetchTimeout: durationpb.New(0),
		ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
			ApiType:                   corev3.ApiConfigSource_DELTA_GRPC,
			TransportApiVersion:       corev3.ApiVersion_V3,
			SetNodeOnFirstMessageOnly: true,
			GrpcServices: []*corev3.GrpcService{{
				TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: AgentCluster}},
			}},
		}},
	}
}

func inline(s string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
}
