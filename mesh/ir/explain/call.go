package explain

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Bounds of a call's description.
const (
	maxName    = 512
	maxPath    = 8 << 10
	maxHeaders = 64
	maxHeader  = 8 << 10
)

// Call is what is to be explained.
type Call struct {
	// Source is a Dataplane, workload, MeshService or pod, for example "web-1.east"; of a
	// Kubernetes zone "web.shop", "web.shop.east" or "shop/web".
	Source string `json:"source"`
	// Destination is a MeshService, MeshMultiZoneService ("backend", "backend.west",
	// "meshmultizoneservice/backend"), of a Kubernetes zone also "backend.shop" and
	// "shop/backend", a hostname or the address of an outbound.
	Destination string `json:"destination"`
	// Port of the destination; 0 is the only one.
	Port uint32 `json:"port,omitempty"`
	// Method of the request, default GET.
	Method string `json:"method,omitempty"`
	// Path of the request with its query, default "/".
	Path string `json:"path,omitempty"`
	// Headers of the request.
	Headers []Header `json:"headers,omitempty"`
}

// Header of a request.
type Header struct {
	// Name, in lower case.
	Name string `json:"name"`
	// Value of it.
	Value string `json:"value"`
}

// Check completes a call and says what is wrong with it.
func (c *Call) Check() error {
	for field, s := range map[string]string{"source": c.Source, "destination": c.Destination} {
		if s == "" || len(s) > maxName {
			return fmt.Errorf("%s: must have 1 to %d octets", field, maxName)
		}
	}
	if namespace, name, ok := strings.Cut(c.Source, "/"); ok { // as kubectl says it
		c.Source = mesh.NamespacedName(name, namespace)
	}
	if c.Port > 65535 {
		return fmt.Errorf("port: must be 1 to 65535, not %d", c.Port)
	}
	if c.Method == "" {
		c.Method = "GET"
	}
	if c.Method = strings.ToUpper(c.Method); len(c.Method) > 32 || strings.Trim(c.Method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "" {
		return fmt.Errorf("method: %q is none", c.Method[:min(len(c.Method), 32)])
	}
	if c.Path == "" {
		c.Path = "/"
	}
	if c.Path[0] != '/' || len(c.Path) > maxPath {
		return fmt.Errorf("path: must begin with / and have at most %d octets", maxPath)
	}
	if len(c.Headers) > maxHeaders {
		return fmt.Errorf("headers: at most %d", maxHeaders)
	}
	for i := range c.Headers {
		h := &c.Headers[i]
		h.Name = strings.ToLower(h.Name)
		if h.Name == "" || len(h.Name)+len(h.Value) > maxHeader || strings.ContainsAny(h.Name, " \t\r\n:") || strings.ContainsAny(h.Value, "\r\n") {
			return fmt.Errorf("headers[%d]: is no header", i)
		}
	}
	return nil
}

// request is a call as Envoy matches it.
type request struct {
	method, path, query string
	headers             map[string]string
}

func (c *Call) request() request {
	path, query, _ := strings.Cut(c.Path, "?")
	path, _, _ = strings.Cut(path, "#")
	r := request{method: c.Method, path: normal(path), query: query, headers: map[string]string{
		// What a proxy adds before it looks for a route.
		"x-forwarded-proto": "http", "x-request-id": "(made by the proxy)", "host": c.Destination,
	}}
	given := map[string]bool{}
	for _, h := range c.Headers {
		if given[h.Name] { // repeated headers are one, with commas
			r.headers[h.Name] += "," + h.Value
			continue
		}
		given[h.Name], r.headers[h.Name] = true, h.Value
	}
	return r
}

// normal resolves dot segments, as proxies do before they match.
func normal(path string) string {
	if !strings.ContainsAny(path, `.\%`) {
		return path
	}
	path = strings.ReplaceAll(path, `\`, "/")
	path = dots().Replace(path)
	var out []string
	segments := strings.Split(path[1:], "/")
	for i, s := range segments {
		last := i == len(segments)-1
		switch s {
		case ".", "..":
			if s == ".." && len(out) > 0 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, s)
		}
	}
	return "/" + strings.Join(out, "/")
}

func dots() *strings.Replacer { return strings.NewReplacer("%2e", ".", "%2E", ".") }

// parameter is the first value of a query parameter, not decoded.
func (r *request) parameter(name string) (string, bool) {
	for part := range strings.SplitSeq(r.query, "&") {
		k, v, _ := strings.Cut(part, "=")
		if k == name {
			return v, true
		}
	}
	return "", false
}

// Query says a call as parameters of a URL.
func (c *Call) Query() url.Values {
	q := url.Values{"source": {c.Source}, "destination": {c.Destination}}
	if c.Port != 0 {
		q.Set("port", fmt.Sprint(c.Port))
	}
	if c.Method != "" {
		q.Set("method", c.Method)
	}
	if c.Path != "" {
		q.Set("path", c.Path)
	}
	for _, h := range c.Headers {
		q.Add("header", h.Name+"="+h.Value)
	}
	return q
}
