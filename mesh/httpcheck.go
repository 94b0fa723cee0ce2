package mesh

import (
	"net/netip"
	"strings"
)

// Bounds of a route's parts.
const (
	maxRouteRules   = 256
	maxRouteMatches = 64
	maxParts        = 16 // headers, query parameters, filters, entries of a modifier
	maxText         = 1024
)

// Validate implements Spec.
func (s *MeshHTTPRoute) Validate() Problems {
	out := policyProblems(KindMeshHTTPRoute, s)
	for i := range s.To {
		at, to := indexPath("to", i), &s.To[i]
		if len(to.Hostnames) > 0 {
			out.Addf(join(at, "hostnames"), "must be absent: it is reserved")
		}
		if to.Unmatched != "" {
			out.oneOf(join(at, "unmatched"), to.Unmatched, UnmatchedForward, UnmatchedNotFound)
		}
		out.count(join(at, "rules"), len(to.Rules), 1, maxRouteRules)
		for j := range to.Rules {
			out.In(indexPath(join(at, "rules"), j), to.Rules[j].problems())
		}
	}
	return out
}

func (r *HTTPRouteRule) problems() Problems {
	var out Problems
	out.count("matches", len(r.Matches), 1, maxRouteMatches)
	prefixes := true
	for i := range r.Matches {
		m := &r.Matches[i]
		out.In(indexPath("matches", i), m.problems())
		prefixes = prefixes && m.Path != nil && m.Path.Type == MatchPathPrefix
	}
	if r.Default.Filters != nil {
		out.In("default.filters", filterList(*r.Default.Filters, prefixes))
	}
	out.In("default", backendRefs("backendRefs", r.Default.BackendRefs, true))
	return out
}

func (m *HTTPMatch) problems() Problems {
	var out Problems
	if m.Path != nil {
		out.In("path", m.Path.problems())
	}
	if m.Method != nil {
		out.oneOf("method", *m.Method, "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
	}
	out.count("headers", len(m.Headers), 0, maxParts)
	for i := range m.Headers {
		out.In(indexPath("headers", i), m.Headers[i].problems())
	}
	out.count("queryParams", len(m.QueryParams), 0, maxParts)
	seen := map[string]bool{}
	for i, q := range m.QueryParams {
		at := indexPath("queryParams", i)
		out.oneOf(at+".type", q.Type, MatchExact, MatchRegularExpression)
		switch {
		case q.Name == "":
			out.Addf(at+".name", "is required")
		case seen[q.Name]:
			out.Addf(at+".name", "%q is given twice; a parameter is matched once", abridge(q.Name))
		}
		seen[q.Name] = true
		out.length(at+".name", q.Name, 256)
		out.textOrRegex(at+".value", q.Type, q.Value)
	}
	return out
}

// textOrRegex checks a value by its type of match.
func (p *Problems) textOrRegex(field, kind, s string) {
	if kind == MatchRegularExpression {
		if s == "" {
			p.Addf(field, "is required; a regular expression (RE2)")
		}
		p.regex(field, s)
		return
	}
	p.length(field, s, maxText)
}

func (m *PathMatch) problems() Problems {
	var out Problems
	out.oneOf("type", m.Type, MatchExact, MatchPathPrefix, MatchRegularExpression)
	if m.Type == MatchRegularExpression {
		out.textOrRegex("value", m.Type, m.Value)
		return out
	}
	out.path("value", m.Value)
	if m.Type == MatchPathPrefix && len(m.Value) > 1 && strings.HasSuffix(m.Value, "/") {
		out.Addf("value", "must not end with '/': a prefix matches whole segments, so /api matches /api and /api/x")
	}
	return out
}

// path checks an absolute path.
func (p *Problems) path(field, s string) {
	p.length(field, s, maxText)
	switch {
	case !strings.HasPrefix(s, "/"):
		p.Addf(field, "must be an absolute path, beginning with '/'")
	case !pathOctetsForm.MatchString(s) || strings.ContainsAny(s, "?#"):
		p.Addf(field, "must be printable ASCII without spaces, '?' and '#'; escape others as %%XX")
	}
}

func (m *HeaderMatch) problems() Problems {
	var out Problems
	out.oneOfOrNone("type", m.Type, MatchExact, MatchPresent, MatchRegularExpression, MatchAbsent, MatchPrefix)
	out.headerName("name", m.Name)
	if strings.ToLower(m.Name) != m.Name {
		out.Addf("name", "must be in lower case: %s", abridge(strings.ToLower(m.Name)))
	}
	switch m.Type {
	case MatchPresent, MatchAbsent:
		if m.Value != "" {
			out.Addf("value", "must be absent for type %s", m.Type)
		}
	case MatchPrefix:
		if m.Value == "" {
			out.Addf("value", "is required for type Prefix")
		}
		out.headerValue("value", m.Value)
	case MatchRegularExpression:
		out.textOrRegex("value", m.Type, m.Value)
	default:
		out.headerValue("value", m.Value)
	}
	return out
}

func filterList(list []HTTPFilter, prefixes bool) Problems {
	var out Problems
	if len(list) > maxParts {
		out.Addf("", "has %d items; at most %d are allowed", len(list), maxParts)
	}
	redirects, rewrites := 0, 0
	for i := range list {
		f, at := &list[i], indexPath("", i)
		out.In(at, f.problems(prefixes))
		switch f.Type {
		case FilterRequestRedirect:
			redirects++
		case FilterURLRewrite:
			rewrites++
		default:
			continue
		}
		if redirects+rewrites > 1 {
			out.Addf(at+".type", "only one of RequestRedirect and URLRewrite is allowed, once")
		}
	}
	return out
}

func (f *HTTPFilter) problems(prefixes bool) Problems {
	var out Problems
	parts := []struct {
		kind, field string
		given       bool
	}{
		{FilterRequestHeaderModifier, "requestHeaderModifier", f.RequestHeaderModifier != nil},
		{FilterResponseHeaderModifier, "responseHeaderModifier", f.ResponseHeaderModifier != nil},
		{FilterRequestRedirect, "requestRedirect", f.RequestRedirect != nil},
		{FilterURLRewrite, "urlRewrite", f.URLRewrite != nil},
		{FilterRequestMirror, "requestMirror", f.RequestMirror != nil},
	}
	var kinds []string
	for _, p := range parts {
		kinds = append(kinds, p.kind)
		switch {
		case p.kind == f.Type && !p.given:
			out.Addf(p.field, "is required for type %s", f.Type)
		case p.kind != f.Type && p.given:
			out.Addf(p.field, "must be absent for type %s", f.Type)
		}
	}
	out.oneOf("type", f.Type, kinds...)
	switch {
	case f.Type == FilterRequestHeaderModifier && f.RequestHeaderModifier != nil:
		out.In("requestHeaderModifier", f.RequestHeaderModifier.problems())
	case f.Type == FilterResponseHeaderModifier && f.ResponseHeaderModifier != nil:
		out.In("responseHeaderModifier", f.ResponseHeaderModifier.problems())
	case f.Type == FilterRequestRedirect && f.RequestRedirect != nil:
		out.In("requestRedirect", f.RequestRedirect.problems(prefixes))
	case f.Type == FilterURLRewrite && f.URLRewrite != nil:
		out.In("urlRewrite", f.URLRewrite.problems(prefixes))
	case f.Type == FilterRequestMirror && f.RequestMirror != nil:
		out.In("requestMirror", f.RequestMirror.problems())
	}
	return out
}

func backendFilters(list []BackendFilter) Problems {
	var out Problems
	out.count("", len(list), 0, maxParts)
	for i, f := range list {
		if at := indexPath("", i); f.Type != FilterRequestHeaderModifier && f.Type != FilterResponseHeaderModifier {
			out.oneOf(at+".type", f.Type, FilterRequestHeaderModifier, FilterResponseHeaderModifier)
		} else {
			whole := HTTPFilter{Type: f.Type, RequestHeaderModifier: f.RequestHeaderModifier, ResponseHeaderModifier: f.ResponseHeaderModifier}
			out.In(at, whole.problems(false))
		}
	}
	return out
}

func (h *HeaderModifier) problems() Problems {
	var out Problems
	if len(h.Set)+len(h.Add)+len(h.Remove) == 0 {
		out.Addf("", "must have at least one of set, add, remove")
	}
	seen := map[string]bool{}
	name := func(field, s string) {
		out.headerName(field, s)
		lower := strings.ToLower(s)
		switch {
		case lower == "host":
			out.Addf(field, "must not be host; use urlRewrite.hostname")
		case seen[lower] && s != "":
			out.Addf(field, "%q is named twice in this modifier", abridge(s))
		}
		seen[lower] = true
	}
	values := func(field string, list []HeaderValue) {
		out.count(field, len(list), 0, maxParts)
		for i, v := range list {
			name(indexPath(field, i)+".name", v.Name)
			out.headerValue(indexPath(field, i)+".value", v.Value)
		}
	}
	values("set", h.Set)
	values("add", h.Add)
	out.count("remove", len(h.Remove), 0, maxParts)
	for i, s := range h.Remove {
		name(indexPath("remove", i), s)
	}
	return out
}

func (r *RequestRedirect) problems(prefixes bool) Problems {
	var out Problems
	if r.Scheme != nil {
		out.oneOf("scheme", *r.Scheme, "http", "https")
	}
	out.hostname("hostname", r.Hostname)
	if r.Port != nil {
		out.port("port", *r.Port)
	}
	if r.Path != nil {
		out.In("path", r.Path.problems(prefixes))
	}
	if r.StatusCode != nil {
		switch *r.StatusCode {
		case 301, 302, 303, 307, 308:
		default:
			out.Addf("statusCode", "must be 301, 302, 303, 307 or 308, not %d", *r.StatusCode)
		}
	}
	return out
}

func (u *URLRewrite) problems(prefixes bool) Problems {
	var out Problems
	if u.Hostname == nil && u.Path == nil {
		out.Addf("", "must have hostname or path")
	}
	out.hostname("hostname", u.Hostname)
	if u.Path != nil {
		out.In("path", u.Path.problems(prefixes))
	}
	if u.HostToBackendHostname != nil {
		out.Addf("hostToBackendHostname", "must be absent: it is reserved")
	}
	return out
}

func (m *RequestMirror) problems() Problems {
	var out Problems
	out.In("backendRef", backendRef(&m.BackendRef, false, false))
	if m.Percentage != nil && (*m.Percentage < 0 || *m.Percentage > 100) {
		out.Addf("percentage", "must be 0 to 100, not %v", float64(*m.Percentage))
	}
	return out
}

func (w *PathRewrite) problems(prefixes bool) Problems {
	var out Problems
	out.oneOf("type", w.Type, ReplaceFullPath, ReplacePrefixMatch)
	part := func(kind, field string, s *string) {
		switch {
		case w.Type == kind && s == nil:
			out.Addf(field, "is required for type %s", kind)
		case w.Type != kind && s != nil:
			out.Addf(field, "must be absent for type %s", w.Type)
		case s != nil && (*s != "" || kind == ReplaceFullPath):
			out.path(field, *s)
		}
	}
	part(ReplaceFullPath, "replaceFullPath", w.ReplaceFullPath)
	part(ReplacePrefixMatch, "replacePrefixMatch", w.ReplacePrefixMatch)
	if w.Type == ReplacePrefixMatch && !prefixes {
		out.Addf("type", "ReplacePrefixMatch needs a path of type PathPrefix in every match of the rule")
	}
	return out
}

// hostname is a DNS name, never an address.
func (p *Problems) hostname(field string, s *string) {
	if s == nil {
		return
	}
	if _, err := netip.ParseAddr(*s); err == nil {
		p.Addf(field, "must be a DNS name, not an IP address")
		return
	}
	p.dnsName(field, *s)
}
