package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// readyTime bounds the question whether the store answers.
const readyTime = 2 * time.Second

// Index says what answers.
type Index struct {
	// Product is "Tombolo".
	Product string `json:"product"`
	// Version of the software.
	Version string `json:"version"`
	// Revision of the last change.
	Revision mesh.Revision `json:"revision"`
	// Links to what else there is, by name.
	Links map[string]string `json:"links"`
}

// WhoAmI is the user that a token names.
type WhoAmI struct {
	// Name of the user.
	Name string `json:"name"`
	// Groups of the user.
	Groups []string `json:"groups"`
	// TokenID by which the token can be revoked, and when it expires.
	TokenID string    `json:"tokenId"`
	Expires time.Time `json:"expires"`
}

// KindList is the catalogue of kinds.
type KindList struct {
	// Kinds in the order of mesh.Kinds.
	Kinds []KindInfo `json:"kinds"`
}

// KindInfo is one kind.
type KindInfo struct {
	// Name, Plural and Short name it.
	Name   mesh.KindName `json:"name"`
	Plural string        `json:"plural"`
	Short  string        `json:"short,omitempty"`
	// Path of its resources.
	Path string `json:"path"`
	// Scope is Global or Mesh.
	Scope string `json:"scope"`
	// ReadOnly kinds are written by zones.
	ReadOnly bool `json:"readOnly"`
	// AdminOnly kinds need group admin.
	AdminOnly bool `json:"adminOnly"`
	// Policy: it is one.
	Policy bool `json:"policy"`
	// Summary is one line.
	Summary string `json:"summary"`
}

// Health of the process.
type Health struct {
	// Status is "ok".
	Status string `json:"status"`
}

func (s *Server) metaRoutes() []route {
	get := func(path string, need need, op operation, handle func(http.ResponseWriter, *request) error) route {
		return route{method: http.MethodGet, path: path, need: need, op: op, handle: handle}
	}
	metrics := promhttp.HandlerFor(s.cfg.Registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: requestTime})
	return []route{
		get("/", anybody, operation{summary: "What answers here", answer: "Index", codes: []int{401}}, s.index),
		get("/who-am-i", anybody, operation{summary: "Whom the token names", answer: "WhoAmI", codes: []int{401}}, s.whoAmI),
		get("/_resources", reader, operation{summary: "The kinds", answer: "KindList", codes: []int{401, 403}}, s.kinds),
		get("/_kri/{kri}", reader, operation{summary: "Read a resource by its id", media: "application/json", codes: []int{304, 400, 401, 403, 404}}, s.kri),
		get("/openapi.json", public, operation{summary: "This document", media: "application/json"}, s.document31),
		get("/metrics", reader, operation{summary: "Metrics of this process", media: "text/plain", codes: []int{401, 403}},
			func(w http.ResponseWriter, r *request) error {
				metrics.ServeHTTP(w, r.Request)
				return nil
			}),
		get("/healthz", public, operation{summary: "Whether the process lives", answer: "Health"},
			func(w http.ResponseWriter, _ *request) error { return answer(w, http.StatusOK, Health{"ok"}) }),
		get("/readyz", public, operation{summary: "Whether the process serves: the store answers", answer: "Health", codes: []int{503}}, s.ready),
	}
}

func (s *Server) index(w http.ResponseWriter, r *request) error {
	head, err := s.cfg.Store.Head(r.Context())
	if err != nil {
		return err
	}
	setRevision(w, head.Revision)
	return answer(w, http.StatusOK, Index{Product: "Tombolo", Version: s.cfg.Version, Revision: head.Revision, Links: map[string]string{
		"kinds": "/_resources", "openapi": "/openapi.json", "changes": "/changes", "zones": "/zones/_overview", "meshes": "/meshes"}})
}

func (s *Server) whoAmI(w http.ResponseWriter, r *request) error {
	groups := r.user.Groups
	if groups == nil {
		groups = []string{}
	}
	return answer(w, http.StatusOK, WhoAmI{Name: r.user.Name, Groups: groups, TokenID: r.user.ID, Expires: r.user.Expires})
}

func (s *Server) kinds(w http.ResponseWriter, _ *request) error {
	out := KindList{}
	for _, k := range mesh.Kinds() {
		i := KindInfo{Name: k.Name, Plural: k.Plural(), Short: k.Short, Path: "/" + k.Plural(), Scope: "Global",
			ReadOnly: k.Flow != 0 && !k.Flow.Has(mesh.GlobalToZones), AdminOnly: k.AdminOnly, Policy: k.Policy != nil, Summary: k.Summary}
		if k.Scope == mesh.ScopeMesh {
			i.Path, i.Scope = "/meshes/{mesh}"+i.Path, "Mesh"
		}
		out.Kinds = append(out.Kinds, i)
	}
	return answer(w, http.StatusOK, out)
}

// kri reads a resource by its id: kri_<short>_<mesh>_<zone>_<namespace>_<name>_<section>.
func (s *Server) kri(w http.ResponseWriter, r *request) error {
	text := r.PathValue("kri")
	parts := strings.Split(text, "_")
	if len(parts) != 7 || parts[0] != "kri" {
		return invalidField(http.StatusBadRequest, "kri", "must be kri_<short>_<mesh>_<zone>_<namespace>_<name>_<section>, not %q", clip(text))
	}
	for _, k := range mesh.Kinds() {
		if k.Short == "" || k.Short != parts[1] {
			continue
		}
		if k.AdminOnly && !r.admin() {
			return problem(http.StatusForbidden, "only group %s may read a %s", GroupAdmin, k.Name)
		}
		name := parts[5]
		if parts[3] != "" { // at global a namespace is not part of the name
			name = mesh.NamespacedName(name, parts[4])
		}
		return s.show(w, r, mesh.Key{Kind: k.Name, Mesh: parts[2], Zone: parts[3], Name: name})
	}
	return invalidField(http.StatusBadRequest, "kri", "unknown kind %q; known are %s", clip(parts[1]), shortKinds())
}

func (s *Server) document31(w http.ResponseWriter, _ *request) error {
	return answerRaw(w, http.StatusOK, s.openapi)
}

func (s *Server) ready(w http.ResponseWriter, r *request) error {
	ctx, cancel := context.WithTimeout(r.Context(), readyTime)
	defer cancel()
	if _, err := s.cfg.Store.Head(ctx); err != nil {
		return problem(http.StatusServiceUnavailable, "the store does not answer")
	}
	if s.cfg.Ready != nil {
		if err := s.cfg.Ready(); err != nil {
			return problem(http.StatusServiceUnavailable, "%s", err)
		}
	}
	return answer(w, http.StatusOK, Health{"ok"})
}

func itoa(n int) string { return strconv.Itoa(n) }
