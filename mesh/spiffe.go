package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Defaults of MeshIdentity.
const (
	DefaultTrustDomain    = "{{ .Mesh }}.{{ .Zone }}.mesh.local"
	DefaultPathUniversal  = "/workload/{{ .Workload }}"
	DefaultPathKubernetes = "/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}"
	DefaultLeafLife       = 24 * time.Hour
	ProviderBundled       = "Bundled"
	maxSpiffeID           = 2048
	maxTrustDomain        = 253
	meshTrustCreationOn   = "Enabled"
	meshTrustCreationOff  = "Disabled"
	identityTypeSpiffeID  = "SpiffeID"
	caBundleTypePEM       = "Pem"
	spiffeIDScheme        = "spiffe://"
	sniAliasMeshService   = "sni.msvc."
)

// IdentitySubject is the proxy, or class of proxies, that wants an identity.
type IdentitySubject struct {
	// Mesh and Zone it is in.
	Mesh, Zone string
	// Name of the Dataplane; for a class it may be empty.
	Name string
	// Labels with canonical keys; the label workload is what .Workload stands for.
	Labels map[string]string
}

// IdentityDecision is the identity that a proxy gets.
type IdentityDecision struct {
	// SpiffeID, for example "spiffe://default.west.mesh.local/workload/backend".
	SpiffeID string
	// TrustDomain, for example "default.west.mesh.local".
	TrustDomain string
	// Source is the MeshIdentity that decided, at Revision.
	Source   Key
	Revision Revision
	// Provider that signs.
	Provider IdentityProvider
	// Expiry is the life of a leaf certificate.
	Expiry time.Duration
	// PublishTrust says whether the zone makes the bundle known by itself.
	PublishTrust bool
}

// IdentityFor decides the identity of a proxy. Of the MeshIdentities that select
// it, the one with the most labels counts, then the first by name. Without one
// the decision is nil. If the one that counts yields no valid SPIFFE ID the
// decision is nil with problems; there is no second choice.
func IdentityFor(identities []PolicyResource, who IdentitySubject) (*IdentityDecision, Problems) {
	var best *PolicyResource
	for i := range identities {
		p := &identities[i]
		spec, ok := p.Decoded.(*MeshIdentity)
		if !ok || p.Mesh != who.Mesh || !zoneSelects(&p.Resource, who.Zone) || !matchNamed(spec.labels(), who.Labels, who.Name) {
			continue
		}
		if best == nil || compareIdentity(p, best) < 0 {
			best = p
		}
	}
	if best == nil {
		return nil, nil
	}
	spec := best.Decoded.(*MeshIdentity)
	id, problems := spec.render(who)
	if len(problems) > 0 {
		return nil, problems
	}
	d := &IdentityDecision{SpiffeID: id.String(), TrustDomain: id.TrustDomain().Name(), Source: best.Key, Revision: best.Revision,
		Provider: spec.Provider, Expiry: DefaultLeafLife, PublishTrust: true}
	if b := spec.Provider.Bundled; b != nil {
		d.PublishTrust = b.MeshTrustCreation != meshTrustCreationOff
		if b.CertificateParameters != nil && b.CertificateParameters.Expiry != nil {
			d.Expiry = b.CertificateParameters.Expiry.Duration
		}
	}
	return d, nil
}

// compareIdentity is negative when a counts before b.
func compareIdentity(a, b *PolicyResource) int {
	return cmp.Or(
		len(b.Decoded.(*MeshIdentity).labels())-len(a.Decoded.(*MeshIdentity).labels()),
		strings.Compare(a.DisplayName(), b.DisplayName()),
		strings.Compare(a.Key.String(), b.Key.String()),
	)
}

func (s *MeshIdentity) labels() map[string]string {
	if s.Selector == nil || s.Selector.Dataplane == nil {
		return nil
	}
	return s.Selector.Dataplane.MatchLabels
}

// TrustDomainsOf returns the trust domains that the MeshIdentities of a mesh
// yield for a zone, sorted, whatever labels they select by: what that zone may
// publish bundles for.
func TrustDomainsOf(identities []PolicyResource, mesh, zone string) []string {
	var out []string
	for i := range identities {
		p := &identities[i]
		spec, ok := p.Decoded.(*MeshIdentity)
		if !ok || p.Mesh != mesh || !zoneSelects(&p.Resource, zone) {
			continue
		}
		td, problems := spec.trustDomain(IdentitySubject{Mesh: mesh, Zone: zone})
		if len(problems) == 0 {
			out = append(out, td.Name())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Cautious specs are valid and still have something to warn their author of.
type Cautious interface {
	// Warnings, a sentence each; none is nil.
	Warnings() []string
}

// Warnings implements Cautious: a trust domain that is the same in every zone
// lets each zone's authority speak for the workloads of all the others, and a path
// that does not name the namespace lets each namespace of a cluster do so.
func (s *MeshIdentity) Warnings() []string {
	var out []string
	east, problems := s.trustDomain(IdentitySubject{Mesh: "mesh", Zone: "east"})
	west, more := s.trustDomain(IdentitySubject{Mesh: "mesh", Zone: "west"})
	if len(problems)+len(more) == 0 && east == west {
		out = append(out, "spiffeID.trustDomain is the same in every zone: a zone that is taken over can then impersonate the workloads of all; name {{ .Zone }} in it")
	}
	if s.SpiffeID != nil && s.SpiffeID.Path != "" && !s.namesNamespace() {
		out = append(out, "spiffeID.path does not name {{ .Namespace }}: in a Kubernetes zone whoever may create pods in any namespace can take the identity of any workload, "+
			"since labels, workloads and service accounts are theirs to name; without a path it is "+DefaultPathKubernetes+" there")
	}
	return out
}

// namesNamespace reports whether proxies of two namespaces never have one path.
func (s *MeshIdentity) namesNamespace() bool {
	path := func(namespace string) string {
		who := IdentitySubject{Mesh: "mesh", Zone: "east", Name: "x", Labels: map[string]string{LabelWorkload: "x", LabelServiceAccount: "x", LabelDisplayName: "x"}}
		for _, key := range templateLabels(s.SpiffeID.Path) {
			who.Labels[CanonicalLabel(key)] = "x"
		}
		who.Labels[LabelNamespace] = namespace
		text, _ := expand(s.SpiffeID.Path, who)
		return text
	}
	return path("a") != path("b")
}

func (s *MeshIdentity) trustDomain(who IdentitySubject) (spiffeid.TrustDomain, Problems) {
	var problems Problems
	text := DefaultTrustDomain
	if s.SpiffeID != nil && s.SpiffeID.TrustDomain != "" {
		text = s.SpiffeID.TrustDomain
	}
	name, err := expand(text, IdentitySubject{Mesh: who.Mesh, Zone: who.Zone})
	if err != nil {
		if _, other := expand(text, who); other == nil {
			err = errors.New("may use {{ .Mesh }} and {{ .Zone }} only: a trust domain is of a zone, whose authority signs for it, not of a workload")
		}
		problems.Addf("spiffeID.trustDomain", "%v", err)
		return spiffeid.TrustDomain{}, problems
	}
	td, err := parseTrustDomain(name)
	if err != nil {
		problems.Addf("spiffeID.trustDomain", "%v", err)
	}
	return td, problems
}

// render makes the SPIFFE ID of a proxy.
func (s *MeshIdentity) render(who IdentitySubject) (spiffeid.ID, Problems) {
	td, problems := s.trustDomain(who)
	text := DefaultPathUniversal
	if who.Labels[LabelEnv] == EnvKubernetes {
		text = DefaultPathKubernetes
	}
	if s.SpiffeID != nil && s.SpiffeID.Path != "" {
		text = s.SpiffeID.Path
	}
	path, err := expand(text, who)
	switch {
	case err != nil:
		problems.Addf("spiffeID.path", "%v", err)
	case path == "":
		problems.Addf("spiffeID.path", "is empty for this proxy; it must begin with '/'")
	default:
		if err := spiffeid.ValidatePath(path); err != nil {
			problems.Addf("spiffeID.path", "yields %q, which is no path of a SPIFFE ID: %v; allowed are segments of letters, digits, '-', '_' and '.', each after a '/'", path, err)
		}
	}
	if len(problems) > 0 {
		return spiffeid.ID{}, problems
	}
	id, err := spiffeid.FromPath(td, path)
	switch {
	case err != nil:
		problems.Addf("spiffeID.path", "yields no SPIFFE ID: %v", err)
	case len(id.String()) > maxSpiffeID:
		problems.Addf("spiffeID", "yields an ID of %d octets; at most %d are allowed", len(id.String()), maxSpiffeID)
	}
	return id, problems
}

func parseTrustDomain(name string) (spiffeid.TrustDomain, error) {
	switch {
	case name == "":
		return spiffeid.TrustDomain{}, fmt.Errorf("is empty; a trust domain such as \"default.west.mesh.local\" is required")
	case len(name) > maxTrustDomain:
		return spiffeid.TrustDomain{}, fmt.Errorf("has %d octets; a trust domain has at most %d", len(name), maxTrustDomain)
	case strings.Contains(name, ":"), strings.Contains(name, "/"):
		return spiffeid.TrustDomain{}, fmt.Errorf("%q is no trust domain; give it without \"spiffe://\" and path", name)
	}
	td, err := spiffeid.TrustDomainFromString(name)
	if err != nil {
		return td, fmt.Errorf("%q is no trust domain: lower-case letters, digits, '-', '_' and '.' are allowed", name)
	}
	return td, nil
}

// expand fills a template of MeshIdentity.
func expand(text string, who IdentitySubject) (string, error) {
	t, err := parseIdentityTemplate(text)
	if err != nil {
		return "", err
	}
	label := func(key string) (string, error) {
		value, ok := who.Labels[CanonicalLabel(key)]
		if !ok && CanonicalLabel(key) == LabelDisplayName && who.Name != "" {
			value, ok = who.Name, true
		}
		if !ok {
			return "", fmt.Errorf("uses label %q, which the proxy does not have", key)
		}
		return value, nil
	}
	return t.expand(who.field, label, 2*maxSpiffeID)
}

func parseIdentityTemplate(text string) (*template, error) {
	return parseTemplate(text, "Mesh", "Zone", "Workload", "Namespace", "ServiceAccount")
}

// templateLabels are the labels that a template asks for.
func templateLabels(text string) []string {
	t, err := parseIdentityTemplate(text)
	if err != nil {
		return nil
	}
	return t.labels()
}

// field is what a template names by {{ .Field }}.
func (who IdentitySubject) field(name string) (string, error) {
	var value, label string
	switch name {
	case "Mesh":
		value = who.Mesh
	case "Zone":
		value = who.Zone
	case "Workload":
		label = LabelWorkload
	case "Namespace":
		label = LabelNamespace
	case "ServiceAccount":
		label = LabelServiceAccount
	}
	if label != "" {
		value = who.Labels[label]
	}
	if value == "" {
		if label == "" {
			return "", fmt.Errorf("uses .%s, which is not known", name)
		}
		return "", fmt.Errorf("uses .%s, but the proxy has no label %s", name, label)
	}
	return value, nil
}

// SNIAlias is the longer way in which users may name one port of one service in
// a match by SNI: sni.msvc.<mesh>.<zone>[.<namespace>].<name>.<port name>. It is
// compared, never parsed.
func SNIAlias(mesh, zone, namespace, name, portName string) string {
	parts := []string{mesh, zone, namespace, name, portName}
	if namespace == "" {
		parts = slices.Delete(parts, 2, 3)
	}
	return sniAliasMeshService + strings.Join(parts, ".")
}
