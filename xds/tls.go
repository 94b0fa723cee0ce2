package xds

import (
	"slices"
	"strings"
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
// leave verification out. Validation names the secret with the bundles. Pins may
// be empty on the server side only, where the permission decides.
func commonTLS(validation string, pins, alpn []string) *tlsv3.CommonTlsContext {
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
					Name: validation, SdsConfig: adsSource(0),
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
		CommonTlsContext: commonTLS(BundlesSecret, identities, alpn),
		// A resumed session is not verified anew; trust withdrawn must hold at
		// the next handshake.
		MaxSessionKeys: wrapperspb.UInt32(0),
	})
}

// serverTLS requires a certificate that the secret named validation accepts.
func serverTLS(validation string, alpn []string) *corev3.TransportSocket {
	return socket(tlsSocket, &tlsv3.DownstreamTlsContext{
		CommonTlsContext:                 commonTLS(validation, nil, alpn),
		RequireClientCertificate:         wrapperspb.Bool(true),
		SessionTicketKeysType:            &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true},
		DisableStatefulSessionResumption: true,
	})
}

// bundles holds each trust domain's authorities apart: a peer is verified against
// its own domain's only.
func bundles(trust []ir.TrustBundle) *tlsv3.Secret {
	return validation(BundlesSecret, trust, nil)
}

// callers is the trust that a TCP inbound has: the mesh's bundles, narrowed to the
// identities that its permission can let in. The permission's own filter looks at
// the first byte of a caller; whoever it would refuse must not hear before what a
// server says first. It comes by SDS, where a change costs no connection.
func callers(in *ir.Inbound, trust []ir.TrustBundle) *tlsv3.Secret {
	return validation(CallersName(in.Name), trust, admissible(in.Permission))
}

// admissible is a superset of the callers that a permission lets in: exact IDs
// without those that are denied, and prefixes. No matcher at all means that
// nothing but the server name decides.
func admissible(p ir.Permission) []*matcherv3.StringMatcher {
	var out []*matcherv3.StringMatcher
	add := func(list []ir.PermissionMatch) (all bool) {
		for _, m := range list {
			switch id := m.SpiffeID; {
			case id == nil && m.SNI != nil:
				return false
			case id == nil:
			case id.Type == "Prefix":
				out = append(out, prefixed(id.Value))
			case !slices.ContainsFunc(p.Deny, func(d ir.PermissionMatch) bool { return denies(d, id.Value) }):
				out = append(out, exactly(id.Value))
			}
		}
		return true
	}
	if !add(p.AllowWithShadowDeny) || !add(p.Allow) {
		return nil
	}
	if len(out) == 0 {
		out = append(out, exactly(nobody))
	}
	return out
}

// denies reports whether a line refuses an identity whatever name it asks for.
func denies(d ir.PermissionMatch, id string) bool {
	if d.SNI != nil || d.SpiffeID == nil {
		return false
	}
	if d.SpiffeID.Type == "Prefix" {
		return strings.HasPrefix(id, d.SpiffeID.Value)
	}
	return id == d.SpiffeID.Value
}

func validation(name string, trust []ir.TrustBundle, ids []*matcherv3.StringMatcher) *tlsv3.Secret {
	spiffe := &tlsv3.SPIFFECertValidatorConfig{}
	for _, t := range trust {
		spiffe.TrustDomains = append(spiffe.TrustDomains, &tlsv3.SPIFFECertValidatorConfig_TrustDomain{
			Name: t.TrustDomain, TrustBundle: inline(t.PEM),
		})
	}
	context := &tlsv3.CertificateValidationContext{
		CustomValidatorConfig: &corev3.TypedExtensionConfig{
			Name: "envoy.tls.cert_validator.spiffe", TypedConfig: pack(spiffe),
		},
	}
	for _, id := range ids {
		context.MatchTypedSubjectAltNames = append(context.MatchTypedSubjectAltNames,
			&tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: id})
	}
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: context}}
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
