package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/global/api/access"
	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/internal/linediff"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// Bounds of the history.
const (
	// maxScanned changes are looked at for one page of writes.
	maxScanned = 20_000
	// scanned are read at a time.
	scanned = 1000
	// maxNamed resources of a write are in a list.
	maxNamed = 10
	// maxStates is how many revisions of a write, its last, tell how far it came.
	maxStates = 64
	// maxDiffs resources of a write are shown with their difference, and
	// maxDiffBytes of each.
	maxDiffs     = 200
	maxDiffBytes = 64 << 10
)

// Changed is what a write did to one resource.
type Changed struct {
	// Revision of the change.
	Revision mesh.Revision `json:"revision"`
	// Kind, Mesh, Name and Zone of the resource.
	Kind mesh.KindName `json:"kind"`
	Mesh string        `json:"mesh,omitempty"`
	Name string        `json:"name"`
	Zone string        `json:"zone,omitempty"`
	// Action is created, updated or deleted.
	Action string `json:"action"`
	// Diff of labels and spec, lines with - and +; not in lists, and never of a Secret.
	Diff string `json:"diff,omitempty"`
	// Beyond: what was before is no longer in the log, so that Diff has the new alone.
	Beyond bool `json:"beyondLog,omitempty"`
	// Author and Time of the change, in the history of a resource.
	Author string     `json:"author,omitempty"`
	Time   *time.Time `json:"time,omitempty"`
}

// Write is what was committed together.
type Write struct {
	// Revision of the last change, First of the first.
	Revision mesh.Revision `json:"revision"`
	First    mesh.Revision `json:"firstRevision"`
	// Time of the commit.
	Time time.Time `json:"time"`
	// Author who made it.
	Author string `json:"author"`
	// Total changes; Changes are the first of them.
	Total   int       `json:"total"`
	Changes []Changed `json:"changes"`
	// State is the worst of the zones: done, rejected, behind, unknown or offline; done where
	// no zone has joined.
	State sync.ZoneState `json:"state"`
	// Zones say how far it came in each; in lists without names of proxies.
	Zones []sync.ZoneProgress `json:"zones"`
}

// WriteList is a page of writes, newest first.
type WriteList struct {
	// Items, newest first.
	Items []Write `json:"items"`
	// Next is the path of the page before; null where the log begins.
	Next *string `json:"next"`
	// Begins is the first revision of the log; what is older was compacted.
	Begins mesh.Revision `json:"logBegins"`
}

// ResourceHistory is a page of the changes of one resource, newest first.
type ResourceHistory struct {
	// Items, newest first, each with the difference to the one before.
	Items []Changed `json:"items"`
	// Next is the path of the page before; null where the log begins.
	Next *string `json:"next"`
	// Begins is the first revision of the log; what is older was compacted.
	Begins mesh.Revision `json:"logBegins"`
}

func (s *Server) historyRoutes() []route {
	page := []parameter{{"size", "items of a page, 1 to 1000, default 100", "integer"}, {"before", "list what is older than this revision", "integer"}}
	return []route{
		{method: http.MethodGet, path: "/changes/_writes", need: reader, handle: s.writes, op: operation{
			summary: "List what was written together, newest first, with how far it came", answer: "WriteList", codes: []int{400, 401, 403, 410},
			query: append(page, parameter{"facts", "true lists what zones told, too", "boolean"})}},
		{method: http.MethodGet, path: "/changes/_history", need: reader, handle: s.resourceHistory, op: operation{
			summary: "List the changes of one resource, newest first, with differences", answer: "ResourceHistory", codes: []int{400, 401, 403, 404},
			query: append(slices.Clone(page), parameter{"kind", "kind of the resource", "string"}, parameter{"mesh", "mesh of the resource", "string"},
				parameter{"name", "name of the resource, as in its path", "string"})}},
		{method: http.MethodGet, path: "/changes/{revision}/write", need: reader, handle: s.showWrite, op: operation{
			summary: "Read the write that a revision is of, with differences and how far it came", answer: "Write", codes: []int{400, 401, 403, 404, 410}}},
	}
}

// together says whether two adjacent changes were committed by one write.
func together(a, b mesh.Change) bool { return a.Author == b.Author && a.Time.Equal(b.Time) }

// backwards calls fn with the changes before a revision, newest first, until it
// returns false or the log begins.
func (s *Server) backwards(ctx context.Context, before mesh.Revision, fn func(mesh.Change) bool) error {
	for before > 1 {
		list, err := s.changesBefore(ctx, before, scanned)
		if err != nil || len(list) == 0 {
			return err
		}
		for _, c := range slices.Backward(list) {
			if !fn(c) {
				return nil
			}
		}
		before = list[0].Revision
	}
	return nil
}

// fact says whether a zone told a change.
func fact(c mesh.Change) bool { return strings.HasPrefix(c.Author, "zone:") }

func (s *Server) writes(w http.ResponseWriter, r *request) error {
	size, err := r.number("size", defaultSize, 1, maxSize)
	if err != nil {
		return err
	}
	facts, err := r.flag("facts")
	if err != nil {
		return err
	}
	head, err := s.cfg.Store.Head(r.Context())
	if err != nil {
		return err
	}
	before, err := r.revision("before", head.Revision+1)
	if err != nil {
		return err
	}
	begin, err := s.cfg.Store.Begin(r.Context())
	if err != nil {
		return err
	}
	out := WriteList{Items: []Write{}, Begins: begin + 1}
	var last mesh.Change
	var next mesh.Revision
	n := 0
	err = s.backwards(r.Context(), min(before, head.Revision+1), func(c mesh.Change) bool {
		n++
		same := last.Revision > 0 && together(c, last)
		switch {
		case same && fact(c) && !facts:
		case same:
			write := &out.Items[len(out.Items)-1]
			write.First = c.Revision
			write.Total++
			write.Changes = append([]Changed{changedOf(c)}, write.Changes[:min(len(write.Changes), maxNamed-1)]...)
		case len(out.Items) == size || n > maxScanned:
			next = last.Revision
			return false
		case facts || !fact(c):
			out.Items = append(out.Items, Write{Revision: c.Revision, First: c.Revision, Time: c.Time.UTC(), Author: c.Author, Total: 1, Changes: []Changed{changedOf(c)}})
		}
		last = c
		return true
	})
	if err != nil {
		return err
	}
	refused, err := s.refused(r.Context())
	if err != nil {
		return err
	}
	for i := range out.Items {
		s.state(&out.Items[i], refused)
		zones := out.Items[i].Zones
		for n := range zones { // a list counts; one write names
			zones[n].BehindNames, zones[n].Rejections = nil, nil
		}
	}
	if next > 0 {
		v := r.URL.Query()
		v.Set("before", strconv.FormatInt(int64(next), 10))
		path := (&url.URL{Path: r.URL.Path, RawQuery: v.Encode()}).String()
		out.Next = &path
	}
	setRevision(w, head.Revision)
	return answer(w, http.StatusOK, out)
}

func changedOf(c mesh.Change) Changed {
	out := Changed{Revision: c.Revision, Kind: c.Resource.Kind, Mesh: c.Resource.Mesh, Name: c.Resource.Name, Zone: c.Resource.Zone, Action: actionUpdated}
	switch {
	case c.Deleted:
		out.Action = actionDeleted
	case c.Resource.Created.Equal(c.Time):
		out.Action = actionCreated
	}
	return out
}

// standing is what a zone says of a resource that its proxies refuse.
type standing struct {
	zone string
	sync.ResourceProblem
}

// refused are the resources, as they are now, that proxies refuse now, by
// revision. It tells of old revisions what zones have long forgotten to report.
func (s *Server) refused(ctx context.Context) (map[mesh.Revision][]standing, error) {
	out := map[mesh.Revision][]standing{}
	known := map[mesh.Key]mesh.Revision{}
	for _, z := range s.cfg.Fleet.Zones() {
		for _, p := range z.Problems {
			if p.Proxies == 0 || !p.Refused() {
				continue
			}
			key := mesh.Key{Kind: mesh.KindName(p.Kind), Mesh: p.Mesh, Zone: p.Zone, Name: p.Name}
			if _, ok := known[key]; !ok {
				res, err := s.cfg.Store.Get(ctx, key)
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					return nil, err
				}
				known[key] = res.Revision
			}
			if rev := known[key]; rev > 0 {
				out[rev] = append(out[rev], standing{z.Name, p})
			}
		}
	}
	return out, nil
}

// state fills in how far a write came.
func (s *Server) state(w *Write, refused map[mesh.Revision][]standing) {
	status := s.combined(max(w.First, w.Revision-maxStates+1), w.Revision)
	zones := slices.Clone(status.Zones)
	for rev := w.First; rev <= w.Revision && len(refused) > 0; rev++ {
		for _, p := range refused[rev] {
			for i := range zones {
				z := &zones[i]
				if z.Zone != p.zone || z.Rejected > 0 {
					continue
				}
				z.Rejected = p.Proxies
				z.Affected = max(z.Affected, z.Rejected)
				z.Done = max(0, z.Affected-z.Behind-z.Rejected)
				z.Rejections = []sync.Rejection{{Reason: p.Reason}}
				if z.State == sync.Done {
					z.State = sync.Rejected
				}
			}
		}
	}
	w.State, w.Zones = sync.Done, zones
	for _, z := range zones {
		if worse(z.State) > worse(w.State) {
			w.State = z.State
		}
	}
}

// writeOf reads the changes of the write that a revision is of, in order. It is
// a 410 when the log does not have all of it.
func (s *Server) writeOf(ctx context.Context, rev mesh.Revision) ([]mesh.Change, error) {
	at, err := s.cfg.Store.Changes(ctx, rev-1, 1)
	if err != nil {
		return nil, err
	}
	if len(at) == 0 {
		return nil, problem(http.StatusNotFound, "there is no revision %d", rev)
	}
	var out []mesh.Change
	err = s.backwards(ctx, rev, func(c mesh.Change) bool {
		if !together(c, at[0]) {
			return false
		}
		out = append(out, c)
		return true
	})
	if err != nil {
		return nil, err
	}
	slices.Reverse(out)
	out = append(out, at[0])
	for after := rev; ; {
		list, err := s.cfg.Store.Changes(ctx, after, scanned)
		if err != nil {
			return nil, err
		}
		if len(list) == 0 {
			return out, nil
		}
		for _, c := range list {
			if !together(c, at[0]) {
				return out, nil
			}
			out = append(out, c)
			after = c.Revision
		}
	}
}

func (s *Server) showWrite(w http.ResponseWriter, r *request) error {
	rev, err := s.reached(r)
	if err != nil {
		return err
	}
	list, err := s.writeOf(r.Context(), rev)
	if err != nil {
		return err
	}
	first, last := list[0], list[len(list)-1]
	out := Write{Revision: last.Revision, First: first.Revision, Time: last.Time.UTC(), Author: last.Author, Total: len(list), Changes: []Changed{}}
	for _, c := range list[:min(len(list), maxDiffs)] {
		before, how, err := s.before(r.Context(), c.Resource.Key, c.Revision)
		if err != nil {
			return err
		}
		out.Changes = append(out.Changes, diffed(c, before, how))
	}
	refused, err := s.refused(r.Context())
	if err != nil {
		return err
	}
	s.state(&out, refused)
	return answer(w, http.StatusOK, out)
}

// earlier says what is known of a resource before a revision.
type earlier int

const (
	was    earlier = iota // it was as given
	absent                // it did not exist
	beyond                // the log does not say
)

// before is what a resource was before a revision, as the log has it.
func (s *Server) before(ctx context.Context, key mesh.Key, rev mesh.Revision) (mesh.Change, earlier, error) {
	list, err := s.cfg.Store.History(ctx, key, rev, 1)
	if errors.Is(err, store.ErrCompacted) {
		return mesh.Change{}, beyond, nil
	}
	if err != nil {
		return mesh.Change{}, absent, err
	}
	if len(list) == 1 {
		if list[0].Deleted {
			return list[0], absent, nil
		}
		return list[0], was, nil
	}
	begin, err := s.cfg.Store.Begin(ctx)
	if err != nil || begin == 0 {
		return mesh.Change{}, absent, err
	}
	return mesh.Change{}, beyond, nil
}

// diffed is a change with its difference to what was before.
func diffed(c, before mesh.Change, how earlier) Changed {
	out := changedOf(c)
	if out.Action == actionCreated && how == beyond {
		how = absent
	}
	switch {
	case c.Deleted:
	case how == absent:
		out.Action = actionCreated
	case how == was:
		out.Action = actionUpdated
	}
	out.Beyond = how == beyond
	if k, ok := mesh.KindByName(c.Resource.Kind); !ok || k.AdminOnly || access.Reserved(c.Resource.Name) {
		return out
	}
	old, next := "", ""
	if how == was {
		old = readable(before.Resource)
	}
	if !c.Deleted {
		next = readable(c.Resource)
	}
	out.Diff = linediff.Unified(old, next)
	if len(out.Diff) > maxDiffBytes {
		out.Diff = strings.ToValidUTF8(out.Diff[:maxDiffBytes], "") + "\n… the rest is left out\n"
	}
	return out
}

// readable is what people compare of a resource.
func readable(r mesh.Resource) string {
	doc := map[string]any{"spec": r.Spec}
	if len(r.Labels) > 0 {
		doc["labels"] = r.Labels
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return string(r.Spec)
	}
	text, err := yaml.JSONToYAML(raw)
	if err != nil {
		return string(r.Spec)
	}
	return string(text)
}

func (s *Server) resourceHistory(w http.ResponseWriter, r *request) error {
	size, err := r.number("size", defaultSize, 1, maxSize)
	if err != nil {
		return err
	}
	values := r.URL.Query()
	k, ok := mesh.KindByNoun(strings.ToLower(values.Get("kind")))
	if !ok {
		return invalidField(http.StatusBadRequest, "kind", "must be a kind, not %q", clip(values.Get("kind")))
	}
	if values.Get("name") == "" || (k.Scope == mesh.ScopeMesh) != (values.Get("mesh") != "") {
		return invalidField(http.StatusBadRequest, "name", "is required; mesh is of what is in a mesh")
	}
	if k.AdminOnly && !r.admin() {
		return problem(http.StatusForbidden, "only group %s may read a %s", GroupAdmin, k.Name)
	}
	key, err := s.key(r.Context(), k, values.Get("mesh"), values.Get("name"))
	if err != nil {
		return err
	}
	head, err := s.cfg.Store.Head(r.Context())
	if err != nil {
		return err
	}
	before, err := r.revision("before", head.Revision+1)
	if err != nil {
		return err
	}
	begin, err := s.cfg.Store.Begin(r.Context())
	if err != nil {
		return err
	}
	list, err := s.cfg.Store.History(r.Context(), key, before, size+1)
	if err != nil {
		return err
	}
	out := ResourceHistory{Items: []Changed{}, Begins: begin + 1}
	for i, c := range list[:min(size, len(list))] {
		var item Changed
		switch {
		case i+1 < len(list) && list[i+1].Deleted:
			item = diffed(c, list[i+1], absent)
		case i+1 < len(list):
			item = diffed(c, list[i+1], was)
		case begin == 0 && len(list) <= size:
			item = diffed(c, mesh.Change{}, absent)
		default:
			old, how, err := s.before(r.Context(), key, c.Revision)
			if err != nil {
				return err
			}
			item = diffed(c, old, how)
		}
		when := c.Time.UTC()
		item.Author, item.Time = c.Author, &when
		out.Items = append(out.Items, item)
	}
	if len(list) > size {
		values.Set("before", strconv.FormatInt(int64(list[size-1].Revision), 10))
		path := (&url.URL{Path: r.URL.Path, RawQuery: values.Encode()}).String()
		out.Next = &path
	}
	if len(out.Items) == 0 {
		if _, err := s.cfg.Store.Get(r.Context(), key); errors.Is(err, store.ErrNotFound) && begin == 0 {
			return missing(key)
		} else if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return answer(w, http.StatusOK, out)
}
