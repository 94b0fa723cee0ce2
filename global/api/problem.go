package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// Problem is an RFC 9457 problem document, and the error that handlers return.
type Problem struct {
	// Type names the class of the problem, for example "/problems/invalid".
	Type string `json:"type"`
	// Title of the class, for people.
	Title string `json:"title"`
	// Status is the HTTP status.
	Status int `json:"status"`
	// Detail of this occurrence.
	Detail string `json:"detail,omitempty"`
	// Instance is the id of the request.
	Instance string `json:"instance,omitempty"`
	// Invalid lists everything that is wrong with what was sent.
	Invalid []InvalidParameter `json:"invalid_parameters,omitempty"`

	header map[string]string
}

// InvalidParameter is one thing that is wrong.
type InvalidParameter struct {
	// Document counts from 1 in requests of several documents; Line is where it begins.
	Document int `json:"document,omitempty"`
	Line     int `json:"line,omitempty"`
	// Resource is "Kind mesh/name" in requests of several documents.
	Resource string `json:"resource,omitempty"`
	// Field is the path in the document, or the name of a parameter.
	Field string `json:"field"`
	// Reason says what is wrong and what is allowed.
	Reason string `json:"reason"`
}

// Error is the problem in one line.
func (p *Problem) Error() string {
	if p.Detail == "" {
		return p.Title
	}
	return p.Title + ": " + p.Detail
}

// problem makes a problem of a class; the status decides type and title.
func problem(status int, format string, args ...any) *Problem {
	kind := map[int]string{
		http.StatusBadRequest:            "malformed",
		http.StatusUnauthorized:          "unauthenticated",
		http.StatusForbidden:             "forbidden",
		http.StatusNotFound:              "not-found",
		http.StatusMethodNotAllowed:      "method-not-allowed",
		http.StatusConflict:              "conflict",
		http.StatusGone:                  "gone",
		http.StatusPreconditionFailed:    "precondition-failed",
		http.StatusRequestEntityTooLarge: "too-large",
		http.StatusUnsupportedMediaType:  "unsupported-media-type",
		http.StatusUnprocessableEntity:   "invalid",
		http.StatusTooManyRequests:       "too-many-requests",
		http.StatusNotImplemented:        "not-supported",
		http.StatusServiceUnavailable:    "unavailable",
		http.StatusGatewayTimeout:        "timeout",
	}[status]
	if kind == "" {
		kind = "internal"
	}
	return &Problem{Type: "/problems/" + kind, Title: http.StatusText(status), Status: status, Detail: fmt.Sprintf(format, args...)}
}

// invalid is the problem of a request of one document.
func invalid(problems mesh.Problems) *Problem {
	p := problem(http.StatusUnprocessableEntity, "%s", count(len(problems), "problem"))
	for _, x := range problems {
		p.Invalid = append(p.Invalid, InvalidParameter{Field: x.Field, Reason: x.Reason})
	}
	return p
}

// invalidField is the problem of one field or parameter.
func invalidField(status int, field, format string, args ...any) *Problem {
	reason := fmt.Sprintf(format, args...)
	p := problem(status, "%s: %s", field, reason)
	p.Invalid = []InvalidParameter{{Field: field, Reason: reason}}
	return p
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (p *Problem) with(header, value string) *Problem {
	if p.header == nil {
		p.header = map[string]string{}
	}
	p.header[header] = value
	return p
}

// problemOf maps any error to what the client is told. It is the only place
// that does; what it does not know is internal and only logged.
func problemOf(err error) *Problem {
	var p *Problem
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &tooLarge):
		return problem(http.StatusRequestEntityTooLarge, "the body has more than %d bytes", tooLarge.Limit)
	case errors.Is(err, store.ErrUnavailable):
		return problem(http.StatusServiceUnavailable, "the store does not answer; the outcome of a write is unknown").with("Retry-After", "1")
	case errors.Is(err, store.ErrNotFound):
		return problem(http.StatusNotFound, "%s", err)
	case errors.Is(err, store.ErrConflict):
		return problem(http.StatusConflict, "%s", err)
	case errors.Is(err, store.ErrCompacted):
		return problem(http.StatusGone, "%s", err)
	case errors.Is(err, store.ErrInvalid):
		return problem(http.StatusUnprocessableEntity, "%s", err)
	case errors.Is(err, sync.ErrZoneOffline), errors.Is(err, sync.ErrZoneUnknown):
		return problem(http.StatusServiceUnavailable, "%s", err)
	case errors.Is(err, sync.ErrBusy):
		return problem(http.StatusTooManyRequests, "%s", err)
	}
	return problem(http.StatusInternalServerError, "the request failed; its id is in the log")
}

// write answers with the problem.
func (p *Problem) write(w http.ResponseWriter, requestID string) {
	out := *p
	out.Instance = "/requests/" + requestID
	h := w.Header()
	for k, v := range p.header {
		h.Set(k, v)
	}
	h.Del("ETag")
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(out) // the client went away; nothing can be told
}

// oneLine makes foreign text fit for a header or a line of a log.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
