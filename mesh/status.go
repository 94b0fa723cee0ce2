package mesh

// DataplaneStatus is what the zone knows of a proxy beyond its spec.
type DataplaneStatus struct {
	// Connected: its agent's stream is up.
	Connected bool `json:"connected"`
	// Draining: it is about to stop; no endpoint set names it any more.
	Draining bool `json:"draining,omitempty"`
	// NotReady names inbounds whose application does not answer.
	NotReady []string `json:"notReady,omitempty"`
	// SpiffeID that the zone gives it; empty while it has none.
	SpiffeID string `json:"spiffeID,omitempty"`
	// Envoy version.
	Envoy string `json:"envoy,omitempty"`
	// Agent version.
	Agent string `json:"agent,omitempty"`
}
