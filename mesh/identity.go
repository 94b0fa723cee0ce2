package mesh

// MeshIdentity gives the selected proxies a SPIFFE ID. Of several that select a
// proxy, the one with the most matching labels counts, then the first by name.
type MeshIdentity struct {
	// Selector of proxies; absent or empty selects all.
	Selector *IdentitySelector `json:"selector,omitempty"`
	// SpiffeID templates.
	SpiffeID *SpiffeIDTemplate `json:"spiffeID,omitempty"`
	// Provider that signs.
	Provider IdentityProvider `json:"provider"`
}

// IdentitySelector selects proxies.
type IdentitySelector struct {
	// Dataplane labels.
	Dataplane *LabelSelector `json:"dataplane,omitempty"`
}

// SpiffeIDTemplate has Go templates with .Mesh .Zone .Workload .Namespace
// .ServiceAccount and label "x".
type SpiffeIDTemplate struct {
	// TrustDomain, default "{{ .Mesh }}.{{ .Zone }}.mesh.local".
	TrustDomain string `json:"trustDomain,omitempty"`
	// Path, default "/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}" for pods of
	// Kubernetes zones and "/workload/{{ .Workload }}" for everything else.
	Path string `json:"path,omitempty"`
}

// IdentityProvider says who signs.
type IdentityProvider struct {
	// Type is Bundled; Spire and Extension are refused for now.
	Type string `json:"type" enum:"Bundled"`
	// Bundled is the authority in the zone's control plane.
	Bundled *BundledProvider `json:"bundled,omitempty"`
}

// BundledProvider is the authority that each zone keeps.
type BundledProvider struct {
	// MeshTrustCreation is Enabled (default) or Disabled.
	MeshTrustCreation string `json:"meshTrustCreation,omitempty" enum:"Enabled,Disabled"`
	// InsecureAllowSelfSigned is accepted for compatibility.
	InsecureAllowSelfSigned *bool `json:"insecureAllowSelfSigned,omitempty"`
	// CertificateParameters of the leaves.
	CertificateParameters *CertificateParameters `json:"certificateParameters,omitempty"`
	// Autogenerate the authority; must be enabled, keys never leave a zone.
	Autogenerate *Autogenerate `json:"autogenerate,omitempty"`
}

// CertificateParameters of leaf certificates.
type CertificateParameters struct {
	// Expiry is the life of a leaf, 10s to 8760h, default 24h; renewed at half.
	Expiry *Duration `json:"expiry,omitempty"`
}

// Autogenerate of the authority.
type Autogenerate struct {
	// Enabled, default true.
	Enabled *bool `json:"enabled,omitempty"`
}

// MeshTrust is the public bundle of a trust domain.
type MeshTrust struct {
	// TrustDomain, at most 253 octets.
	TrustDomain string `json:"trustDomain"`
	// CABundles, at least one.
	CABundles []CABundle `json:"caBundles"`
}

// CABundle is one set of authorities.
type CABundle struct {
	// Type is Pem.
	Type string `json:"type" enum:"Pem"`
	// PEM certificates.
	PEM PEMBundle `json:"pem"`
}

// PEMBundle holds PEM text.
type PEMBundle struct {
	// Value is one or more certificates; never a private key.
	Value string `json:"value"`
}

// Secret holds bytes.
type Secret struct {
	// Data, base64 in JSON, at most 1 MiB.
	Data []byte `json:"data"`
}

// Mesh is a set of workloads that share policy and trust.
type Mesh struct {
	// SkipCreatingInitialPolicies names kinds ("*" for all) whose defaults are not created.
	SkipCreatingInitialPolicies []string `json:"skipCreatingInitialPolicies,omitempty"`
}

// Zone is a zone that has joined.
type Zone struct {
	// Enabled, default true; false withholds its resources from other zones.
	Enabled *bool `json:"enabled,omitempty"`
}
