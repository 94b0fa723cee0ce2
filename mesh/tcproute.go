package mesh

// MeshTCPRoute spreads TCP connections over weighted backends.
type MeshTCPRoute struct {
	// TargetRef selects the calling proxies; absent means the whole mesh.
	TargetRef *TargetRef `json:"targetRef,omitempty"`
	// To are the destinations whose traffic is routed.
	To []TCPRouteTo `json:"to,omitempty"`
}

// TCPRouteTo routes the traffic to one destination.
type TCPRouteTo struct {
	// TargetRef is the destination that callers address.
	TargetRef TargetRef `json:"targetRef"`
	// Rules, exactly one.
	Rules []TCPRouteRule `json:"rules"`
}

// TCPRouteRule is what to do with connections.
type TCPRouteRule struct {
	// Default is what to do.
	Default TCPRouteConf `json:"default"`
}

// TCPRouteConf is mergeable: nil inherits.
type TCPRouteConf struct {
	// BackendRefs with weights; absent means the destination itself.
	BackendRefs *[]BackendRef `json:"backendRefs,omitempty"`
}
