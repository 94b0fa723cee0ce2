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

// TopTarget implements Policy.
func (s *MeshTCPRoute) TopTarget() *TargetRef { return s.TargetRef }

// ToItems implements Policy.
func (s *MeshTCPRoute) ToItems() []ToItem {
	var out []ToItem
	for i := range s.To {
		conf := &TCPRouteConf{}
		if len(s.To[i].Rules) > 0 {
			conf = &s.To[i].Rules[0].Default
		}
		out = append(out, ToItem{Target: s.To[i].TargetRef, Conf: conf})
	}
	return out
}

// RuleItems implements Policy; a route has none.
func (s *MeshTCPRoute) RuleItems() []RuleItem { return nil }

// Validate implements Spec.
func (s *MeshTCPRoute) Validate() Problems {
	out := policyProblems(KindMeshTCPRoute, s)
	for i := range s.To {
		rules := s.To[i].Rules
		at := indexPath("to", i) + ".rules"
		if len(rules) != 1 {
			out.Addf(at, "must have exactly 1 item, not %d", len(rules))
		}
		for j := range rules {
			out.In(indexPath(at, j)+".default", backendRefs("backendRefs", rules[j].Default.BackendRefs, false))
		}
	}
	return out
}
