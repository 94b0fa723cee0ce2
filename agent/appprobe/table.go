package appprobe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Port of the agent that kubelets ask.
const Port = 9001

// Bounds of a table.
const (
	maxTable   = 256 << 10
	maxEntries = 256
	maxSecret  = 64
)

// Type says how the application is asked.
type Type string

// The ways to ask.
const (
	HTTP  Type = "http"
	HTTPS Type = "https" // the application's certificate is not verified, as kubelets do
	TCP   Type = "tcp"
	GRPC  Type = "grpc" // grpc.health.v1, without TLS
)

// Kinds of probes and hooks of a container, the last part of a path.
const (
	Liveness  = "liveness"
	Readiness = "readiness"
	Startup   = "startup"
	PostStart = "poststart"
	PreStop   = "prestop"
)

// Probe is one check of the application.
type Probe struct {
	Type Type   `json:"type"`
	Port uint16 `json:"port"`
	// Path and query, for HTTP; default "/".
	Path string `json:"path,omitempty"`
	// Headers for HTTP, in order; Host becomes the request's host.
	Headers []Header `json:"headers,omitempty"`
	// Service for GRPC; empty asks for the whole server.
	Service string `json:"service,omitempty"`
	// TimeoutSeconds after which the kubelet gives up; 0 for hooks, which have none.
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`
	// Secret is the last part of the path, which only who knows it can ask; hooks
	// have one, since what they do is not everybody's to start. Empty for none.
	Secret string `json:"secret,omitempty"`
}

// Header of an HTTP request.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Table is what may be asked, by "<container>/<kind>".
type Table map[string]Probe

// Key of a container's probe in a table.
func Key(container, kind string) string { return container + "/" + kind }

// Path of a probe on the agent: "/app-probes/web/liveness", and with a secret
// "/app-probes/web/prestop/<secret>".
func Path(container, kind, secret string) string {
	path := "/app-probes/" + Key(container, kind)
	if secret != "" {
		path += "/" + secret
	}
	return path
}

// Parse reads a table written as JSON; empty text is an empty table.
func Parse(text []byte) (Table, error) {
	if len(text) == 0 {
		return nil, nil
	}
	if len(text) > maxTable {
		return nil, fmt.Errorf("application probes: %d bytes, at most %d are allowed", len(text), maxTable)
	}
	var t Table
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return nil, fmt.Errorf("application probes: %w", err)
	}
	return t, t.Validate()
}

// Validate returns every problem of a table, each with its entry.
func (t Table) Validate() error {
	var errs []error
	if len(t) > maxEntries {
		return fmt.Errorf("application probes: %d entries, at most %d are allowed", len(t), maxEntries)
	}
	for key, p := range t {
		bad := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("application probe %q: %s", key, fmt.Sprintf(format, args...)))
		}
		container, kind, _ := strings.Cut(key, "/")
		if container == "" || !slices.Contains([]string{Liveness, Readiness, Startup, PostStart, PreStop}, kind) {
			bad("must be <container>/<liveness, readiness, startup, poststart or prestop>")
		}
		if !slices.Contains([]Type{HTTP, HTTPS, TCP, GRPC}, p.Type) {
			bad("type must be http, https, tcp or grpc, not %q", p.Type)
		}
		if p.Port == 0 {
			bad("port must be 1 to 65535")
		}
		if len(p.Secret) > maxSecret || strings.Trim(p.Secret, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") != "" {
			bad("secret must have letters and digits, at most %d", maxSecret)
		}
		if p.TimeoutSeconds < 0 {
			bad("timeoutSeconds must not be negative")
		}
	}
	return errors.Join(errs...)
}
