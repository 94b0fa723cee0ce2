package mesh

import (
	"crypto/x509"
	"encoding/pem"
	"strings"
	"time"
)

// Bounds of identities and trust.
const (
	minLeafLife     = 10 * time.Second
	maxLeafLife     = 8760 * time.Hour
	maxBundles      = 16
	maxBundleOctets = 256 << 10
	maxAuthorities  = 64
	maxSecret       = 1 << 20
	maxSkip         = 64
)

// Validate implements Spec.
func (s *MeshIdentity) Validate() Problems {
	var out Problems
	out.labelPairs("selector.dataplane.matchLabels", s.labels())
	out.In("", s.sampleProblems())
	switch s.Provider.Type {
	case ProviderBundled:
	case "Spire", "Extension":
		out.Addf("provider.type", "%s is not supported; only Bundled is", s.Provider.Type)
	default:
		out.oneOf("provider.type", s.Provider.Type, ProviderBundled)
	}
	b := s.Provider.Bundled
	if b == nil {
		return out
	}
	out.oneOfOrNone("provider.bundled.meshTrustCreation", b.MeshTrustCreation, meshTrustCreationOn, meshTrustCreationOff)
	if p := b.CertificateParameters; p != nil && p.Expiry != nil && (p.Expiry.Duration < minLeafLife || p.Expiry.Duration > maxLeafLife) {
		out.Addf("provider.bundled.certificateParameters.expiry", "must be %s to %s, not %s", minLeafLife, maxLeafLife, p.Expiry)
	}
	if a := b.Autogenerate; a != nil && a.Enabled != nil && !*a.Enabled {
		out.Addf("provider.bundled.autogenerate.enabled", "must be true: each zone makes its own authority, whose key never leaves it")
	}
	return out
}

// sampleProblems renders the templates for a proxy that has every label that
// they may ask for, with the longest values that there are.
func (s *MeshIdentity) sampleProblems() Problems {
	var out Problems
	if s.SpiffeID == nil {
		return nil
	}
	long := strings.Repeat("x", MaxLabelLength)
	who := IdentitySubject{Mesh: long, Zone: long, Name: long, Labels: map[string]string{
		LabelWorkload: long, LabelNamespace: long, LabelServiceAccount: long, LabelDisplayName: long,
	}}
	for _, text := range []string{s.SpiffeID.TrustDomain, s.SpiffeID.Path} {
		for _, key := range templateLabels(text) {
			who.Labels[CanonicalLabel(key)] = long
		}
	}
	_, problems := s.render(who)
	for _, p := range problems {
		// The samples are ours; what an author can do about it is to ask for less.
		out.Addf(p.Field, "%s", strings.ReplaceAll(p.Reason, long, "<longest value>"))
	}
	return out
}

// Validate implements Spec.
func (s *MeshTrust) Validate() Problems {
	var out Problems
	if _, err := parseTrustDomain(s.TrustDomain); err != nil {
		out.Addf("trustDomain", "%v", err)
	}
	out.count("caBundles", len(s.CABundles), 1, maxBundles)
	for i, b := range s.CABundles {
		at := indexPath("caBundles", i)
		out.oneOf(at+".type", b.Type, caBundleTypePEM)
		out.add(at+".pem.value", checkAuthorities(b.PEM.Value))
	}
	return out
}

// checkAuthorities says what is wrong with PEM text that must hold certificates
// of authorities and nothing else.
func checkAuthorities(text string) string {
	if len(text) > maxBundleOctets {
		return "has more than 256 KiB"
	}
	if strings.Contains(text, "PRIVATE KEY-----") {
		return "contains a private key; a bundle is public and holds certificates only. Consider that key as lost"
	}
	rest, n := []byte(text), 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return "contains a block of type " + abridge(block.Type) + "; only CERTIFICATE is allowed"
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return "contains a certificate that cannot be parsed"
		}
		if cert.BasicConstraintsValid && !cert.IsCA {
			return "contains the certificate of " + abridge(cert.Subject.String()) + ", which is no authority (CA:FALSE)"
		}
		if n++; n > maxAuthorities {
			return "contains more than 64 certificates"
		}
	}
	switch {
	case n == 0:
		return "is required: one or more PEM certificates"
	case strings.Contains(string(rest), "-----BEGIN"):
		return "contains a PEM block that cannot be decoded"
	}
	return ""
}

// Validate implements Spec.
func (s *Secret) Validate() Problems {
	var out Problems
	switch {
	case len(s.Data) == 0:
		out.Addf("data", "is required: 1 octet to 1 MiB, as base64")
	case len(s.Data) > maxSecret:
		out.Addf("data", "has %d octets; at most %d are allowed", len(s.Data), maxSecret)
	}
	return out
}

// Validate implements Spec.
func (s *Mesh) Validate() Problems {
	var out Problems
	out.count("skipCreatingInitialPolicies", len(s.SkipCreatingInitialPolicies), 0, maxSkip)
	for i, name := range s.SkipCreatingInitialPolicies {
		at := indexPath("skipCreatingInitialPolicies", i)
		if name != "*" && (len(name) > 63 || !isLabelWord(name)) {
			out.Addf(at, "must be \"*\" or the name of a kind, not %q", abridge(name))
		}
	}
	return out
}

// Validate implements Spec.
func (s *Zone) Validate() Problems { return nil }
