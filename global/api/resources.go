package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/global/api/access"
	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// batchPath takes many documents at once.
const batchPath = "/resources"

const (
	defaultSize = 100
	maxSize     = 1000
	maxOffset   = 10_000_000
)

// List is a page of resources.
type List struct {
	// Items in the REST form.
	Items []json.RawMessage `json:"items"`
	// Total that match.
	Total int `json:"total"`
	// Next is the path of the next page; null on the last.
	Next *string `json:"next"`
}

// resourceRoutes are the paths of every kind.
func (s *Server) resourceRoutes() []route {
	routes := []route{{
		method: http.MethodPut, path: batchPath, need: author, handle: s.putBatch,
		op: operation{summary: "Apply many documents, all or none", body: bodyManifests, answer: "Written",
			query: []parameter{{"dryRun", "true validates and says what would change, without writing", "boolean"}, weakeningParameter()},
			codes: []int{401, 403, 409, 413, 415, 422}},
	}}
	for _, k := range mesh.Kinds() {
		read, write := reader, author
		if k.AdminOnly {
			read, write = adminish, adminish
		}
		base := "/" + k.Plural()
		if k.Scope == mesh.ScopeMesh {
			if !k.AdminOnly {
				routes = append(routes, route{method: http.MethodGet, path: base, need: read, kind: &k,
					handle: s.list(k), op: operation{summary: "List " + k.Plural() + " of all meshes", answer: "List", query: listQuery(), codes: []int{400, 401, 403}}})
			}
			base = "/meshes/{mesh}" + base
		}
		one := base + "/{name}"
		kind := string(k.Name)
		routes = append(routes,
			route{method: http.MethodGet, path: base, need: read, kind: &k, handle: s.list(k),
				op: operation{summary: "List " + k.Plural(), answer: "List", query: listQuery(), codes: []int{400, 401, 403, 404}}},
			route{method: http.MethodGet, path: one, need: read, kind: &k, handle: s.get(k),
				op: operation{summary: "Read a " + kind, answer: kind, codes: []int{304, 401, 403, 404}}})
		if !k.Flow.Has(mesh.GlobalToZones) && k.Flow != 0 {
			continue // zones own it
		}
		routes = append(routes,
			route{method: http.MethodPut, path: one, need: write, kind: &k, handle: s.put(k),
				op: operation{summary: "Create or update a " + kind, body: kind, answer: "Written", created: true,
					query: []parameter{{"dryRun", "true validates without writing", "boolean"}, weakeningParameter()}, codes: []int{400, 401, 403, 404, 409, 412, 413, 415, 422}}},
			route{method: http.MethodDelete, path: one, need: write, kind: &k, handle: s.remove(k),
				op: operation{summary: "Delete a " + kind, answer: "Written", query: []parameter{weakeningParameter()}, codes: []int{400, 401, 403, 404, 405, 409, 412}}})
	}
	return routes
}

func listQuery() []parameter {
	return []parameter{
		{"size", "items of a page, 1 to 1000, default 100", "integer"},
		{"offset", "items to leave out, default 0", "integer"},
		{"name", "part of the name", "string"},
		{"filter[labels.<key>]", "value that the label must have; may be given for several keys", "string"},
	}
}

// key of a path. A zone's resource is "<name>.<zone>".
func (s *Server) key(ctx context.Context, k mesh.Kind, meshName, name string) (mesh.Key, error) {
	key := mesh.Key{Kind: k.Name, Mesh: meshName, Name: name}
	if !k.Flow.Has(mesh.ZoneToGlobal) {
		return key, nil
	}
	i := strings.LastIndexByte(name, '.')
	if i < 1 || i == len(name)-1 {
		return key, nil
	}
	owned := key
	owned.Name, owned.Zone = name[:i], name[i+1:]
	if !k.Flow.Has(mesh.GlobalToZones) {
		return owned, nil
	}
	switch _, err := s.cfg.Store.Get(ctx, owned); {
	case err == nil:
		return owned, nil
	case errors.Is(err, store.ErrNotFound):
		return key, nil
	default:
		return key, err
	}
}

// target is the key that a request is for; its mesh exists.
func (s *Server) target(r *request, k mesh.Kind) (mesh.Key, error) {
	meshName := r.PathValue("mesh")
	if k.Scope == mesh.ScopeMesh {
		if _, err := s.meshExists(r.Context(), meshName); err != nil {
			return mesh.Key{}, err
		}
	}
	return s.key(r.Context(), k, meshName, r.PathValue("name"))
}

func (s *Server) get(k mesh.Kind) func(http.ResponseWriter, *request) error {
	return func(w http.ResponseWriter, r *request) error {
		key, err := s.target(r, k)
		if err != nil {
			return err
		}
		return s.show(w, r, key)
	}
}

// show answers with one resource.
func (s *Server) show(w http.ResponseWriter, r *request, key mesh.Key) error {
	res, err := s.cfg.Store.Get(r.Context(), key)
	if errors.Is(err, store.ErrNotFound) {
		return missing(key)
	}
	if err != nil {
		return err
	}
	match, err := preconditionOf(r.Header)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", etag(res.Revision))
	setRevision(w, res.Revision)
	w.Header().Set("Last-Modified", res.Modified.UTC().Format(http.TimeFormat))
	if slices.Contains(match.not, res.Revision) || match.none {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	data, err := s.encode(res, s.problemsByKey())
	if err != nil {
		return err
	}
	return answerRaw(w, http.StatusOK, data)
}

func missing(key mesh.Key) error {
	if key.Mesh == "" {
		return problem(http.StatusNotFound, "there is no %s %q", key.Kind, clip(key.RESTName()))
	}
	return problem(http.StatusNotFound, "there is no %s %q in mesh %q", key.Kind, clip(key.RESTName()), clip(key.Mesh))
}

// ReportedProblem is what a zone says of a resource.
type ReportedProblem struct {
	// Zone that reports it.
	Zone string `json:"zone"`
	// Reason in the zone's or Envoy's words.
	Reason string `json:"reason"`
	// Proxies that it concerns.
	Proxies int `json:"proxies"`
	// Path of the rule at fault inside the spec, empty for the whole resource.
	Path string `json:"path,omitempty"`
	// TypeURL and Resource of Envoy that a proxy refused; empty for what the zone
	// found before it reached one.
	TypeURL  string `json:"typeUrl,omitempty"`
	Resource string `json:"resource,omitempty"`
	// Quarantined: the proxies keep the last good one, and new ones get it.
	Quarantined bool `json:"quarantined,omitempty"`
}

func (s *Server) problemsByKey() map[mesh.Key][]ReportedProblem {
	out := map[mesh.Key][]ReportedProblem{}
	for _, z := range s.cfg.Fleet.Zones() {
		for _, p := range z.Problems {
			key := mesh.Key{Kind: mesh.KindName(p.Kind), Mesh: p.Mesh, Zone: p.Zone, Name: p.Name}
			out[key] = append(out[key], ReportedProblem{Zone: z.Name, Reason: p.Reason, Proxies: p.Proxies,
				Path: p.Path, TypeURL: p.TypeURL, Resource: p.Resource, Quarantined: p.Quarantined})
		}
	}
	return out
}

// encode writes the REST form, with what zones report, and without the keys of tokens.
func (s *Server) encode(res mesh.Resource, problems map[mesh.Key][]ReportedProblem) (json.RawMessage, error) {
	if res.Kind == mesh.KindSecret && access.Reserved(res.Name) {
		res.Spec = json.RawMessage("{}")
	}
	if list := problems[res.Key]; len(list) > 0 {
		// Below status, which a PUT ignores: what was read can be written back.
		status := map[string]any{}
		if len(res.Status) > 0 && json.Unmarshal(res.Status, &status) != nil {
			status = map[string]any{}
		}
		status["problems"] = list
		merged, err := json.Marshal(status)
		if err != nil {
			return nil, fmt.Errorf("encode problems: %w", err)
		}
		res.Status = merged
	}
	return mesh.EncodeResource(res)
}

func (s *Server) list(k mesh.Kind) func(http.ResponseWriter, *request) error {
	return func(w http.ResponseWriter, r *request) error {
		q := store.Query{Kind: k.Name, Mesh: r.PathValue("mesh")}
		if q.Mesh != "" {
			if _, err := s.meshExists(r.Context(), q.Mesh); err != nil {
				return err
			}
		}
		if err := r.query(&q); err != nil {
			return err
		}
		page, err := s.cfg.Store.List(r.Context(), q)
		if err != nil {
			return err
		}
		out := List{Items: make([]json.RawMessage, 0, len(page.Items)), Total: page.Total}
		problems := s.problemsByKey()
		for _, res := range page.Items {
			data, err := s.encode(res, problems)
			if err != nil {
				return err
			}
			out.Items = append(out.Items, data)
		}
		if q.Offset+len(page.Items) < page.Total && len(page.Items) > 0 {
			v := r.URL.Query()
			v.Set("offset", strconv.Itoa(q.Offset+len(page.Items)))
			next := (&url.URL{Path: r.URL.Path, RawQuery: v.Encode()}).String()
			out.Next = &next
		}
		setRevision(w, page.At)
		return answer(w, http.StatusOK, out)
	}
}

// query reads paging and filters; what it does not know is refused, so that a
// misspelt filter never selects everything.
func (r *request) query(q *store.Query) (err error) {
	if q.Size, err = r.number("size", defaultSize, 1, maxSize); err != nil {
		return err
	}
	if q.Offset, err = r.number("offset", 0, 0, maxOffset); err != nil {
		return err
	}
	values := r.URL.Query()
	q.NameContains = values.Get("name")
	for name := range values {
		if slices.Contains([]string{"size", "offset", "name"}, name) {
			continue
		}
		label, ok := strings.CutPrefix(name, "filter[labels.")
		label, closed := strings.CutSuffix(label, "]")
		if !ok || !closed || label == "" {
			return invalidField(http.StatusBadRequest, clip(name), "is unknown; known are size, offset, name, filter[labels.<key>]")
		}
		if q.Labels == nil {
			q.Labels = map[string]string{}
		}
		q.Labels[mesh.CanonicalLabel(label)] = values.Get(name)
	}
	return nil
}

func (s *Server) put(k mesh.Kind) func(http.ResponseWriter, *request) error {
	return func(w http.ResponseWriter, r *request) error {
		began := time.Now()
		want := mesh.Key{Kind: k.Name, Mesh: r.PathValue("mesh"), Name: r.PathValue("name")}
		if key, err := s.key(r.Context(), k, want.Mesh, want.Name); err != nil {
			return err
		} else if key.Zone != "" {
			return owned(key)
		}
		match, err := preconditionOf(r.Header)
		if err != nil {
			return err
		}
		if len(match.not) > 0 {
			return invalidField(http.StatusBadRequest, "If-None-Match", "must be * in a PUT")
		}
		dry, err := r.flag("dryRun")
		if err != nil {
			return err
		}
		c, err := r.consent()
		if err != nil {
			return err
		}
		if want.Mesh != "" {
			if _, err := s.meshExists(r.Context(), want.Mesh); err != nil {
				return err
			}
		}
		data, err := r.body()
		if err != nil {
			return err
		}
		m, err := mesh.DecodeManifest(data, MaxBody, want)
		if err != nil {
			return problem(http.StatusBadRequest, "the body %s", oneLine(err.Error()))
		}
		doc, problems := s.document(r, &m)
		if len(problems) > 0 {
			return invalid(problems)
		}
		s.metrics.stages.WithLabelValues("validate").Observe(time.Since(began).Seconds())
		wr := writer{s: s, user: r.author(), match: match, dry: dry, weakening: c}
		out, err := wr.write(r.Context(), []document{doc})
		if err != nil {
			return err
		}
		res := out.Results[0]
		out.Results = nil
		status := http.StatusOK
		if res.Action == actionCreated && !dry {
			status = http.StatusCreated
			w.Header().Set("Location", r.URL.EscapedPath())
		}
		if res.Revision > 0 {
			w.Header().Set("ETag", etag(res.Revision))
		}
		s.wrote(w, r, out)
		return answer(w, status, out)
	}
}

// wrote tells the log and the client of a write.
func (s *Server) wrote(w http.ResponseWriter, r *request, out Written) {
	setRevision(w, out.Revision)
	if out.First > 0 {
		r.log.Info("resources written", "rev", int64(out.Revision), "first", int64(out.First), "author", r.author(), "path", r.URL.Path)
	}
}

// document validates a manifest as far as the store is not needed.
func (s *Server) document(r *request, m *mesh.Manifest) (document, mesh.Problems) {
	problems := m.Validate()
	k, ok := mesh.KindByName(m.Resource.Kind)
	if !ok || m.Decoded == nil {
		return document{}, problems
	}
	if !k.Flow.Has(mesh.GlobalToZones) && k.Flow != 0 {
		problems.Addf("type", "zones own what is a %s; it is read-only here", k.Name)
		return document{}, problems
	}
	if k.AdminOnly && !r.admin() {
		problems.Addf("type", "only group %s may write a %s", GroupAdmin, k.Name)
	}
	if k.Name == mesh.KindSecret && access.Reserved(m.Resource.Name) {
		problems.Addf("name", "is reserved for keys and revocations of tokens; see /tokens")
	}
	res := m.Resource
	labels, more := mesh.ComputeLabels(res, m.Decoded, mesh.EnvUniversal)
	problems = append(problems, more...)
	res.Labels = labels
	return document{resource: res, spec: m.Decoded}, problems
}

func (s *Server) remove(k mesh.Kind) func(http.ResponseWriter, *request) error {
	return func(w http.ResponseWriter, r *request) error {
		match, err := preconditionOf(r.Header)
		if err != nil {
			return err
		}
		key, err := s.target(r, k)
		if err != nil {
			return err
		}
		if key.Zone != "" {
			return owned(key)
		}
		if k.Name == mesh.KindSecret && access.Reserved(key.Name) {
			return problem(http.StatusForbidden, "secret %q holds keys or revocations of tokens and goes with its mesh", key.Name)
		}
		c, err := r.consent()
		if err != nil {
			return err
		}
		out, err := s.erase(r.Context(), r.author(), key, match, c)
		if errors.Is(err, store.ErrNotFound) {
			return missing(key)
		}
		if err != nil {
			return err
		}
		s.wrote(w, r, out)
		return answer(w, http.StatusOK, out)
	}
}

// owned refuses to write what a zone owns, and says where it is written.
func owned(key mesh.Key) error {
	return problem(http.StatusMethodNotAllowed, "zone %q owns %s %q; it is read-only here, change it there", key.Zone, key.Kind, key.Name).
		with("Allow", "GET, HEAD")
}

func joinNames(names []string) string { return strings.Join(names, ", ") }
