package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// Groups that users may be in.
const (
	// GroupAdmin may do everything.
	GroupAdmin = "admin"
	// GroupAuthor may read and write what people author, except Secrets and tokens.
	GroupAuthor = "author"
	// GroupReader may read what is no Secret.
	GroupReader = "reader"
)

// HeaderRevision carries the revision of what was written or read.
const HeaderRevision = "Tombolo-Revision"

// headerRequestID names a request in answers and logs.
const headerRequestID = "X-Request-Id"

// request is an HTTP request with who asks.
type request struct {
	*http.Request
	id   string
	user token.Claims
	log  *slog.Logger
}

func (r *request) admin() bool { return slices.Contains(r.user.Groups, GroupAdmin) }

// author as the change log names who did it.
func (r *request) author() string { return "user:" + r.user.Name }

// statusWriter remembers what was answered.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// entry is what every request of a path goes through.
func (s *Server) entry(path string, methods map[string]*route) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, hr *http.Request) {
		began := s.cfg.Now()
		w := &statusWriter{ResponseWriter: rw}
		r := &request{Request: hr, id: requestID(hr)}
		r.log = s.log.With("request", r.id)
		h := w.Header()
		h.Set(headerRequestID, r.id)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		method := hr.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		rt := methods[method]
		err := s.serve(w, r, rt, path, methods)
		if err != nil {
			p := problemOf(err)
			if p.Status >= 500 {
				r.log.Error("request failed", "method", hr.Method, "route", path, "status", p.Status, "err", err)
			}
			if w.status == 0 {
				p.write(w, r.id)
			}
		}
		if rt == nil {
			method = "other"
		}
		s.metrics.request(method, path, w.status, s.cfg.Now().Sub(began))
		r.log.Debug("request", "method", hr.Method, "route", path, "status", w.status, "user", r.user.Name)
	})
}

// serve authenticates, authorizes and calls the handler. A panic is an error.
func (s *Server) serve(w http.ResponseWriter, r *request, rt *route, path string, methods map[string]*route) (err error) {
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler {
				panic(v)
			}
			s.metrics.panics.Inc()
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	if rt == nil || rt.need != public {
		if err := s.authenticate(r); err != nil {
			return err
		}
	}
	if methods == nil {
		return problem(http.StatusNotFound, "there is no %s", oneLine(clip(r.URL.Path)))
	}
	if rt == nil {
		return s.notAllowed(path, methods)
	}
	if err := authorize(r, rt); err != nil {
		return err
	}
	limit := int64(MaxBody)
	if path == batchPath || path == planPath {
		limit = MaxBatchBody
	}
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	ctx, cancel := context.WithCancel(r.Context())
	if rt.op.long {
		end := make(chan struct{})
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			select {
			case <-s.draining:
				cancel()
			case <-end:
			}
		}()
		defer func() { close(end); cancel(); <-stopped }()
	} else {
		defer cancel()
		ctx, cancel = context.WithTimeout(ctx, requestTime)
		defer cancel()
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(2 * requestTime)) // not every writer can
	}
	r.Request = r.WithContext(ctx)
	return rt.handle(w, r)
}

// notAllowed says which methods are, and why a zone's kind cannot be written.
func (s *Server) notAllowed(path string, methods map[string]*route) error {
	detail := "allowed are " + allow(methods)
	for _, rt := range methods {
		if rt.kind != nil && !rt.kind.Flow.Has(mesh.GlobalToZones) && rt.kind.Flow.Has(mesh.ZoneToGlobal) {
			detail = fmt.Sprintf("zones own what is a %s; it is read-only here", rt.kind.Name)
		}
	}
	return problem(http.StatusMethodNotAllowed, "%s", detail).with("Allow", allow(methods))
}

func (s *Server) authenticate(r *request) error {
	header := r.Header.Get("Authorization")
	scheme, raw, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") || raw == "" {
		return problem(http.StatusUnauthorized, "a user token is required: Authorization: Bearer <token>").
			with("WWW-Authenticate", `Bearer realm="tombolo"`)
	}
	c, err := s.cfg.Tokens.Verify(r.Context(), token.User, strings.TrimSpace(raw))
	if err != nil {
		if !isTokenError(err) {
			return err
		}
		s.metrics.refused.Inc()
		return problem(http.StatusUnauthorized, "%s", err).
			with("WWW-Authenticate", `Bearer realm="tombolo", error="invalid_token"`)
	}
	r.user = c
	return nil
}

func isTokenError(err error) bool {
	for _, e := range []error{token.ErrMalformed, token.ErrWrongUse, token.ErrUnknownKey, token.ErrBadSignature,
		token.ErrNotYetValid, token.ErrExpired, token.ErrRevoked} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// authorize compares the user's groups with what a route needs.
func authorize(r *request, rt *route) error {
	var groups []string
	switch rt.need {
	case public, anybody:
		return nil
	case reader:
		groups = []string{GroupAdmin, GroupAuthor, GroupReader}
	case author:
		groups = []string{GroupAdmin, GroupAuthor}
	default:
		groups = []string{GroupAdmin}
	}
	for _, g := range r.user.Groups {
		if slices.Contains(groups, g) {
			return nil
		}
	}
	return problem(http.StatusForbidden, "user %q is in groups [%s]; one of [%s] is needed",
		clip(r.user.Name), clip(strings.Join(r.user.Groups, ", ")), strings.Join(groups, ", "))
}

// requestID takes the caller's if it is harmless, or makes one.
func requestID(r *http.Request) string {
	id := r.Header.Get(headerRequestID)
	ok := len(id) > 0 && len(id) <= 64
	for _, c := range id {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_')
	}
	if ok {
		return id
	}
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}

// body reads a JSON or YAML body.
func (r *request) body() ([]byte, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if r.Header.Get("Content-Type") != "" && (err != nil || !slices.Contains(mediaTypes(), media)) {
		return nil, problem(http.StatusUnsupportedMediaType, "%q is not supported; send one of %s",
			clip(r.Header.Get("Content-Type")), strings.Join(mediaTypes(), ", ")).with("Accept", strings.Join(mediaTypes(), ", "))
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, err
		}
		return nil, problem(http.StatusBadRequest, "the body could not be read")
	}
	return data, nil
}

func mediaTypes() []string {
	return []string{"application/json", "application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"}
}

// jsonBody decodes a small JSON body strictly.
func (r *request) jsonBody(into any) error {
	data, err := r.body()
	if err != nil {
		return err
	}
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) && wrong.Field != "" {
			return invalidField(http.StatusUnprocessableEntity, wrong.Field, "must be a %s, not a %s", wrong.Type, wrong.Value)
		}
		if field, ok := strings.CutPrefix(err.Error(), `json: unknown field "`); ok {
			return invalidField(http.StatusUnprocessableEntity, strings.TrimSuffix(field, `"`), "unknown field")
		}
		return problem(http.StatusBadRequest, "the body must be one JSON object of known fields")
	}
	if dec.More() {
		return problem(http.StatusBadRequest, "the body has more than one JSON object")
	}
	return nil
}

// number reads a bounded query parameter.
func (r *request) number(name string, fallback, low, high int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		return 0, invalidField(http.StatusBadRequest, name, "must be a number from %d to %d, not %q", low, high, clip(text))
	}
	return n, nil
}

// flag reads a boolean query parameter.
func (r *request) flag(name string) (bool, error) {
	switch text := r.URL.Query().Get(name); text {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, invalidField(http.StatusBadRequest, name, "must be true or false, not %q", clip(text))
	}
}

// answer writes a JSON answer.
func answer(w http.ResponseWriter, status int, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	return answerRaw(w, status, data)
}

func answerRaw(w http.ResponseWriter, status int, data []byte) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // the client went away; nothing can be told
	return nil
}

// clip keeps what is quoted back short.
func clip(s string) string {
	const most = 120
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// etag of a revision.
func etag(rev mesh.Revision) string { return `"` + strconv.FormatInt(int64(rev), 10) + `"` }

// setRevision tells the head of the store in a header.
func setRevision(w http.ResponseWriter, rev mesh.Revision) {
	w.Header().Set(HeaderRevision, strconv.FormatInt(int64(rev), 10))
}
