package mesh

// TargetRef selects what a policy applies to (top level), or the destination it
// speaks of (`to`).
type TargetRef struct {
	// Kind is one of Mesh, Dataplane (top level) or Mesh, MeshService,
	// MeshMultiZoneService, MeshHTTPRoute (`to`).
	Kind KindName `json:"kind"`
	// Labels that the target must all have; empty selects all of the kind.
	Labels map[string]string `json:"labels,omitempty"`
	// SectionName narrows to one inbound, listener or port, by name.
	SectionName string `json:"sectionName,omitempty"`
}

// BackendRef names where traffic goes.
type BackendRef struct {
	// Kind is MeshService or MeshMultiZoneService.
	Kind KindName `json:"kind" enum:"MeshService,MeshMultiZoneService"`
	// Name is the display name; allowed in a Dataplane's outbounds only, where
	// it is short for the label display-name and means the caller's own zone.
	Name string `json:"name,omitempty"`
	// Labels that the backend must all have. Several matches: the oldest.
	Labels map[string]string `json:"labels,omitempty"`
	// SectionName names the port instead of its number.
	SectionName string `json:"sectionName,omitempty"`
	// Port number of the backend.
	Port uint32 `json:"port,omitempty"`
	// Weight relative to the other backends; default 1, 0 sends nothing.
	Weight *uint32 `json:"weight,omitempty"`
	// Filters of the requests that go here, on top of the rule's; in a
	// MeshHTTPRoute's backends only.
	Filters []BackendFilter `json:"filters,omitempty"`
}

// BackendFilter is a filter that one backend of several can have; exactly the
// field of its type is set.
type BackendFilter struct {
	// Type is RequestHeaderModifier or ResponseHeaderModifier.
	Type string `json:"type" enum:"RequestHeaderModifier,ResponseHeaderModifier"`
	// RequestHeaderModifier changes request headers.
	RequestHeaderModifier *HeaderModifier `json:"requestHeaderModifier,omitempty"`
	// ResponseHeaderModifier changes response headers.
	ResponseHeaderModifier *HeaderModifier `json:"responseHeaderModifier,omitempty"`
}

// Match of an inbound rule. Given fields must all hold; at least one is required.
type Match struct {
	// SpiffeID of the caller.
	SpiffeID *SpiffeIDMatch `json:"spiffeID,omitempty"`
	// SNI that the caller asked for.
	SNI *SNIMatch `json:"sni,omitempty"`
}

// SpiffeIDMatch matches the caller's SPIFFE ID.
type SpiffeIDMatch struct {
	// Type is Exact or Prefix.
	Type string `json:"type" enum:"Exact,Prefix"`
	// Value, for example "spiffe://default.east.mesh.local/workload/web".
	Value string `json:"value"`
}

// SNIMatch matches the TLS server name.
type SNIMatch struct {
	// Type is Exact.
	Type string `json:"type" enum:"Exact"`
	// Value is the whole server name.
	Value string `json:"value"`
}

// Types of matches.
const (
	MatchExact             = "Exact"
	MatchPrefix            = "Prefix"
	MatchPathPrefix        = "PathPrefix"
	MatchRegularExpression = "RegularExpression"
	MatchPresent           = "Present"
	MatchAbsent            = "Absent"
)
