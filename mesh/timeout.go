package mesh

// MeshTimeout bounds how long connections, requests and streams may take.
// `rules` (inbound) and `to` (outbound) exclude each other.
type MeshTimeout struct {
	// TargetRef selects the proxies; absent means the whole mesh.
	TargetRef *TargetRef `json:"targetRef,omitempty"`
	// Rules for inbound traffic.
	Rules []TimeoutRule `json:"rules,omitempty"`
	// To for outbound traffic, by destination.
	To []TimeoutTo `json:"to,omitempty"`
}

// TimeoutRule is the inbound half.
type TimeoutRule struct {
	// Matches limits the rule to some callers; empty is everyone.
	Matches []Match `json:"matches,omitempty"`
	// Default is what applies.
	Default TimeoutConf `json:"default"`
}

// TimeoutTo is the outbound half.
type TimeoutTo struct {
	// TargetRef is the destination.
	TargetRef TargetRef `json:"targetRef"`
	// Default is what applies.
	Default TimeoutConf `json:"default"`
}

// TimeoutConf is mergeable: nil inherits. Durations are Go durations ("1.5s");
// 0 disables the timeout.
type TimeoutConf struct {
	// ConnectionTimeout bounds the TCP and TLS handshake; must be > 0.
	ConnectionTimeout *Duration `json:"connectionTimeout,omitempty"`
	// IdleTimeout closes a connection without traffic.
	IdleTimeout *Duration `json:"idleTimeout,omitempty"`
	// HTTP has the timeouts of HTTP traffic.
	HTTP *TimeoutHTTP `json:"http,omitempty"`
}

// TimeoutHTTP are the timeouts of HTTP traffic.
type TimeoutHTTP struct {
	// RequestTimeout is for the whole response to arrive.
	RequestTimeout *Duration `json:"requestTimeout,omitempty"`
	// StreamIdleTimeout is for a stream without activity.
	StreamIdleTimeout *Duration `json:"streamIdleTimeout,omitempty"`
	// MaxStreamDuration bounds a stream's life.
	MaxStreamDuration *Duration `json:"maxStreamDuration,omitempty"`
	// MaxConnectionDuration bounds a connection's life; it is then drained.
	MaxConnectionDuration *Duration `json:"maxConnectionDuration,omitempty"`
	// RequestHeadersTimeout is for the request's headers to arrive.
	RequestHeadersTimeout *Duration `json:"requestHeadersTimeout,omitempty"`
}

// TopTarget implements Policy.
func (s *MeshTimeout) TopTarget() *TargetRef { return s.TargetRef }

// ToItems implements Policy.
func (s *MeshTimeout) ToItems() []ToItem {
	out := make([]ToItem, len(s.To))
	for i := range s.To {
		out[i] = ToItem{Target: s.To[i].TargetRef, Conf: &s.To[i].Default}
	}
	return out
}

// RuleItems implements Policy.
func (s *MeshTimeout) RuleItems() []RuleItem {
	out := make([]RuleItem, len(s.Rules))
	for i := range s.Rules {
		out[i] = RuleItem{Matches: s.Rules[i].Matches, Conf: &s.Rules[i].Default}
	}
	return out
}

// Validate implements Spec.
func (s *MeshTimeout) Validate() Problems {
	out := policyProblems(KindMeshTimeout, s)
	for i := range s.Rules {
		out.In(indexPath("rules", i)+".default", s.Rules[i].Default.problems())
	}
	for i := range s.To {
		at := indexPath("to", i) + ".default"
		out.In(at, s.To[i].Default.problems())
		if s.To[i].TargetRef.Kind == KindMeshHTTPRoute {
			out.In(at, s.To[i].Default.routeProblems())
		}
	}
	return out
}

func (c *TimeoutConf) problems() Problems {
	var out Problems
	if c.ConnectionTimeout == nil && c.IdleTimeout == nil && c.HTTP == nil {
		out.Addf("", "must have at least one of connectionTimeout, idleTimeout, http")
	}
	out.positive("connectionTimeout", c.ConnectionTimeout)
	out.notNegative("idleTimeout", c.IdleTimeout)
	if h := c.HTTP; h != nil {
		if *h == (TimeoutHTTP{}) {
			out.Addf("http", "must have at least one of requestTimeout, streamIdleTimeout, maxStreamDuration, maxConnectionDuration, requestHeadersTimeout")
		}
		out.notNegative("http.requestTimeout", h.RequestTimeout)
		out.notNegative("http.streamIdleTimeout", h.StreamIdleTimeout)
		out.notNegative("http.maxStreamDuration", h.MaxStreamDuration)
		out.notNegative("http.maxConnectionDuration", h.MaxConnectionDuration)
		out.notNegative("http.requestHeadersTimeout", h.RequestHeadersTimeout)
	}
	return out
}

// routeProblems: a route has requests and streams, no connections.
func (c *TimeoutConf) routeProblems() Problems {
	var out Problems
	refuse := func(field string, d *Duration) {
		if d != nil {
			out.Addf(field, "must be absent for kind MeshHTTPRoute: it is about connections, which routes share")
		}
	}
	refuse("connectionTimeout", c.ConnectionTimeout)
	refuse("idleTimeout", c.IdleTimeout)
	if c.HTTP != nil {
		refuse("http.maxConnectionDuration", c.HTTP.MaxConnectionDuration)
		refuse("http.requestHeadersTimeout", c.HTTP.RequestHeadersTimeout)
	}
	return out
}
