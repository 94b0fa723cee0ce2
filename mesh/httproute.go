package mesh

// MeshHTTPRoute decides where an HTTP request goes.
type MeshHTTPRoute struct {
	// TargetRef selects the calling proxies; absent means the whole mesh.
	TargetRef *TargetRef `json:"targetRef,omitempty"`
	// To are the destinations whose traffic is routed.
	To []HTTPRouteTo `json:"to,omitempty"`
}

// HTTPRouteTo routes the traffic to one destination.
type HTTPRouteTo struct {
	// TargetRef is the destination that callers address.
	TargetRef TargetRef `json:"targetRef"`
	// Hostnames is reserved; must be empty.
	Hostnames []string `json:"hostnames,omitempty"`
	// Rules, required.
	Rules []HTTPRouteRule `json:"rules"`
	// Unmatched says what becomes of requests that no rule matches: Forward
	// (default) sends them to the destination, NotFound answers 404.
	Unmatched string `json:"unmatched,omitempty"`
}

// Values of HTTPRouteTo.Unmatched.
const (
	UnmatchedForward  = "Forward"
	UnmatchedNotFound = "NotFound"
)

// HTTPRouteRule is a set of matches and what to do with such requests.
type HTTPRouteRule struct {
	// Matches are alternatives; at least one is required.
	Matches []HTTPMatch `json:"matches"`
	// Default is what to do.
	Default HTTPRouteConf `json:"default"`
}

// HTTPRouteConf is mergeable: nil inherits.
type HTTPRouteConf struct {
	// Filters change the request or response, or answer at once.
	Filters *[]HTTPFilter `json:"filters,omitempty"`
	// BackendRefs with weights; absent means the destination itself.
	BackendRefs *[]BackendRef `json:"backendRefs,omitempty"`
}

// HTTPMatch holds when every given part does.
type HTTPMatch struct {
	// Path of the request.
	Path *PathMatch `json:"path,omitempty"`
	// Method: CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT or TRACE.
	Method *string `json:"method,omitempty" enum:"CONNECT,DELETE,GET,HEAD,OPTIONS,PATCH,POST,PUT,TRACE"`
	// Headers that must all match.
	Headers []HeaderMatch `json:"headers,omitempty"`
	// QueryParams that must all match.
	QueryParams []QueryMatch `json:"queryParams,omitempty"`
}

// PathMatch matches the path.
type PathMatch struct {
	// Type is Exact, PathPrefix or RegularExpression (RE2, whole path).
	Type string `json:"type" enum:"Exact,PathPrefix,RegularExpression"`
	// Value to match.
	Value string `json:"value"`
}

// HeaderMatch matches one header.
type HeaderMatch struct {
	// Type is Exact (default), Present, RegularExpression, Absent or Prefix.
	Type string `json:"type,omitempty" enum:"Exact,Present,RegularExpression,Absent,Prefix"`
	// Name, lower case.
	Name string `json:"name"`
	// Value; empty for Present and Absent.
	Value string `json:"value,omitempty"`
}

// QueryMatch matches one query parameter.
type QueryMatch struct {
	// Type is Exact or RegularExpression.
	Type string `json:"type" enum:"Exact,RegularExpression"`
	// Name of the parameter.
	Name string `json:"name"`
	// Value to match.
	Value string `json:"value"`
}

// HTTPFilter is one filter; exactly the field of its type is set.
type HTTPFilter struct {
	// Type is RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect, URLRewrite or RequestMirror.
	Type string `json:"type" enum:"RequestHeaderModifier,ResponseHeaderModifier,RequestRedirect,URLRewrite,RequestMirror"`
	// RequestHeaderModifier changes request headers.
	RequestHeaderModifier *HeaderModifier `json:"requestHeaderModifier,omitempty"`
	// ResponseHeaderModifier changes response headers.
	ResponseHeaderModifier *HeaderModifier `json:"responseHeaderModifier,omitempty"`
	// RequestRedirect answers with a redirect.
	RequestRedirect *RequestRedirect `json:"requestRedirect,omitempty"`
	// URLRewrite changes path or host before forwarding.
	URLRewrite *URLRewrite `json:"urlRewrite,omitempty"`
	// RequestMirror sends a copy elsewhere and ignores the answer.
	RequestMirror *RequestMirror `json:"requestMirror,omitempty"`
}

// HeaderModifier changes headers; at most 16 of each.
type HeaderModifier struct {
	// Set overwrites.
	Set []HeaderValue `json:"set,omitempty"`
	// Add appends.
	Add []HeaderValue `json:"add,omitempty"`
	// Remove deletes, by name.
	Remove []string `json:"remove,omitempty"`
}

// HeaderValue is a header; the name has at most 256 octets.
type HeaderValue struct {
	// Name of the header.
	Name string `json:"name"`
	// Value of the header.
	Value string `json:"value"`
}

// PathRewrite replaces a path or the matched prefix.
type PathRewrite struct {
	// Type is ReplaceFullPath or ReplacePrefixMatch.
	Type string `json:"type" enum:"ReplaceFullPath,ReplacePrefixMatch"`
	// ReplaceFullPath is the new path.
	ReplaceFullPath *string `json:"replaceFullPath,omitempty"`
	// ReplacePrefixMatch is the new prefix; needs a PathPrefix match.
	ReplacePrefixMatch *string `json:"replacePrefixMatch,omitempty"`
}

// RequestRedirect answers with a redirect.
type RequestRedirect struct {
	// Scheme is http or https.
	Scheme *string `json:"scheme,omitempty" enum:"http,https"`
	// Hostname, at most 253 octets.
	Hostname *string `json:"hostname,omitempty"`
	// Port 1-65535.
	Port *uint32 `json:"port,omitempty"`
	// Path rewrite of the location.
	Path *PathRewrite `json:"path,omitempty"`
	// StatusCode is 301, 302 (default), 303, 307 or 308.
	StatusCode *int `json:"statusCode,omitempty"`
}

// URLRewrite changes what the backend sees.
type URLRewrite struct {
	// Hostname for the Host header.
	Hostname *string `json:"hostname,omitempty"`
	// Path rewrite.
	Path *PathRewrite `json:"path,omitempty"`
	// HostToBackendHostname is reserved; must be absent.
	HostToBackendHostname *bool `json:"hostToBackendHostname,omitempty"`
}

// RequestMirror copies requests.
type RequestMirror struct {
	// BackendRef gets the copies.
	BackendRef BackendRef `json:"backendRef"`
	// Percentage of requests, 0-100, default 100.
	Percentage *Decimal `json:"percentage,omitempty"`
}

// TopTarget implements Policy.
func (s *MeshHTTPRoute) TopTarget() *TargetRef { return s.TargetRef }

// ToItems implements Policy; see HTTPRules.
func (s *MeshHTTPRoute) ToItems() []ToItem {
	out := make([]ToItem, len(s.To))
	for i := range s.To {
		out[i] = ToItem{Target: s.To[i].TargetRef, Conf: &HTTPRouteRules{Rules: s.To[i].Rules, Unmatched: s.To[i].Unmatched}}
	}
	return out
}

// RuleItems implements Policy; a route has none.
func (s *MeshHTTPRoute) RuleItems() []RuleItem { return nil }

// Types of filters.
const (
	FilterRequestHeaderModifier  = "RequestHeaderModifier"
	FilterResponseHeaderModifier = "ResponseHeaderModifier"
	FilterRequestRedirect        = "RequestRedirect"
	FilterURLRewrite             = "URLRewrite"
	FilterRequestMirror          = "RequestMirror"
)

// Types of path rewrites.
const (
	ReplaceFullPath    = "ReplaceFullPath"
	ReplacePrefixMatch = "ReplacePrefixMatch"
)
