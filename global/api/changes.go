package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/tombolo-mesh/tombolo/global/api/access"
	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// Bounds of watches.
const (
	// maxRange of revisions whose state is asked for together.
	maxRange = MaxDocuments + 64
	// defaultWatch and maxWatch bound how long a watch lasts.
	defaultWatch = 60 * time.Second
	maxWatch     = time.Hour
)

// ChangeEntry is one change of the log.
type ChangeEntry struct {
	// Revision of it.
	Revision mesh.Revision `json:"revision"`
	// Time of the commit.
	Time time.Time `json:"time"`
	// Author who made it.
	Author string `json:"author"`
	// Kind, Mesh, Name and Zone of the resource.
	Kind mesh.KindName `json:"kind"`
	Mesh string        `json:"mesh,omitempty"`
	Name string        `json:"name"`
	Zone string        `json:"zone,omitempty"`
	// Deleted is set when the resource went away.
	Deleted bool `json:"deleted,omitempty"`
	// Resource after the change, for a single change; never of a Secret.
	Resource json.RawMessage `json:"resource,omitempty"`
	// Status of it in the zones, for a single change.
	Status *sync.ChangeStatus `json:"status,omitempty"`
}

// ChangeList is a page of the log, newest first.
type ChangeList struct {
	// Items, newest first.
	Items []ChangeEntry `json:"items"`
	// Next is the path of the page before; null at the beginning of the log.
	Next *string `json:"next"`
}

func (s *Server) changeRoutes() []route {
	statusQuery := []parameter{
		{"from", "first revision of the write; the state of all from there is combined", "integer"},
		{"watch", "true streams each new state as a line of JSON until it is complete", "boolean"},
		{"timeout", "how long a watch lasts, as 90s or 5m; default 60s, at most 1h", "string"},
	}
	return []route{
		{method: http.MethodGet, path: "/changes", need: reader, handle: s.changes, op: operation{
			summary: "List changes, newest first", answer: "ChangeList", codes: []int{400, 401, 403, 410},
			query: []parameter{{"size", "items of a page, 1 to 1000, default 100", "integer"}, {"before", "list what is older than this revision", "integer"}}}},
		{method: http.MethodGet, path: "/changes/{revision}", need: reader, handle: s.change, op: operation{
			summary: "Read a change and how far it came", answer: "ChangeEntry", codes: []int{400, 401, 403, 404, 410}}},
		{method: http.MethodGet, path: "/changes/{revision}/status", need: reader, handle: s.changeStatus, op: operation{
			summary: "How far a change came in every zone", answer: "ChangeStatus", long: true, query: statusQuery, codes: []int{400, 401, 403, 404, 503}}},
	}
}

func entryOf(c mesh.Change) ChangeEntry {
	return ChangeEntry{Revision: c.Revision, Time: c.Time.UTC(), Author: c.Author, Kind: c.Resource.Kind, Mesh: c.Resource.Mesh,
		Name: c.Resource.Name, Zone: c.Resource.Zone, Deleted: c.Deleted}
}

func (s *Server) changes(w http.ResponseWriter, r *request) error {
	size, err := r.number("size", defaultSize, 1, maxSize)
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
	before = min(before, head.Revision+1)
	list, err := s.changesBefore(r.Context(), before, size)
	if err != nil {
		return err
	}
	out := ChangeList{Items: make([]ChangeEntry, 0, len(list))}
	for _, c := range slices.Backward(list) {
		out.Items = append(out.Items, entryOf(c))
	}
	if len(list) == size && list[0].Revision > 1 {
		next := "/changes?size=" + strconv.Itoa(size) + "&before=" + strconv.FormatInt(int64(list[0].Revision), 10)
		out.Next = &next
	}
	setRevision(w, head.Revision)
	return answer(w, http.StatusOK, out)
}

// changesBefore reads up to size changes below a revision, as far as the log reaches back.
func (s *Server) changesBefore(ctx context.Context, before mesh.Revision, size int) ([]mesh.Change, error) {
	after := max(before-1-mesh.Revision(size), 0)
	if before-1 <= after {
		return nil, nil
	}
	var out []mesh.Change
	read := func(from mesh.Revision) error {
		out = out[:0]
		for from < before-1 { // the store may stop early at its bound of bytes
			part, err := s.cfg.Store.Changes(ctx, from, int(before-1-from))
			if err != nil || len(part) == 0 {
				return err
			}
			out, from = append(out, part...), part[len(part)-1].Revision
		}
		return nil
	}
	err := read(after)
	if errors.Is(err, store.ErrCompacted) {
		err = read(s.floor(ctx, after, before-1))
	}
	if errors.Is(err, store.ErrCompacted) {
		return nil, problem(http.StatusGone, "changes before revision %d are no longer in the log", before)
	}
	return out, err
}

// floor finds by halving the oldest revision in [low, high] from which the log can be read.
func (s *Server) floor(ctx context.Context, low, high mesh.Revision) mesh.Revision {
	n := sort.Search(int(high-low), func(i int) bool {
		_, err := s.cfg.Store.Changes(ctx, low+mesh.Revision(i), 1)
		return !errors.Is(err, store.ErrCompacted)
	})
	return low + mesh.Revision(n)
}

// revision reads a revision from the query.
func (r *request) revision(name string, fallback mesh.Revision) (mesh.Revision, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return fallback, nil
	}
	return parseRevision(name, text)
}

func parseRevision(name, text string) (mesh.Revision, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		return 0, invalidField(http.StatusBadRequest, name, "must be a revision, 1 or more, not %q", clip(text))
	}
	return mesh.Revision(n), nil
}

// reached is the revision of the path, or a 404 when it was never committed.
func (s *Server) reached(r *request) (mesh.Revision, error) {
	rev, err := parseRevision("revision", r.PathValue("revision"))
	if err != nil {
		return 0, err
	}
	head, err := s.cfg.Store.Head(r.Context())
	if err != nil {
		return 0, err
	}
	if rev > head.Revision {
		return 0, problem(http.StatusNotFound, "there is no revision %d; the last is %d", rev, head.Revision)
	}
	return rev, nil
}

func (s *Server) change(w http.ResponseWriter, r *request) error {
	rev, err := s.reached(r)
	if err != nil {
		return err
	}
	list, err := s.cfg.Store.Changes(r.Context(), rev-1, 1)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return problem(http.StatusNotFound, "there is no revision %d", rev)
	}
	c := list[0]
	out := entryOf(c)
	if k, ok := mesh.KindByName(c.Resource.Kind); ok && !c.Deleted && !k.AdminOnly && !access.Reserved(c.Resource.Name) {
		if out.Resource, err = s.encode(c.Resource, nil); err != nil {
			return err
		}
	}
	status := s.cfg.Fleet.Change(rev)
	out.Status = &status
	return answer(w, http.StatusOK, out)
}

func (s *Server) changeStatus(w http.ResponseWriter, r *request) error {
	last, err := s.reached(r)
	if err != nil {
		return err
	}
	first, err := r.revision("from", last)
	if err != nil {
		return err
	}
	if first > last || last-first >= maxRange {
		return invalidField(http.StatusBadRequest, "from", "must be at most %d, and at most %d revisions before it", last, maxRange-1)
	}
	watch, err := r.flag("watch")
	if err != nil {
		return err
	}
	if !watch {
		return answer(w, http.StatusOK, s.combined(first, last))
	}
	life := defaultWatch
	if text := r.URL.Query().Get("timeout"); text != "" {
		if life, err = time.ParseDuration(text); err != nil || life <= 0 || life > maxWatch {
			return invalidField(http.StatusBadRequest, "timeout", "must be a duration such as 90s, at most %s, not %q", maxWatch, clip(text))
		}
	}
	select {
	case s.watchers <- struct{}{}:
		defer func() { <-s.watchers }()
	default:
		return problem(http.StatusServiceUnavailable, "%d watches are open already", maxWatchers).with("Retry-After", "1")
	}
	ctx, cancel := context.WithTimeout(r.Context(), life)
	defer cancel()
	return s.stream(ctx, w, first, last)
}

// stream writes each new state as a line, until all are complete or ctx ends.
func (s *Server) stream(ctx context.Context, w http.ResponseWriter, first, last mesh.Revision) error {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	control, enc := http.NewResponseController(w), json.NewEncoder(w)
	var sent *sync.ChangeStatus
	show := func() (complete bool, err error) {
		now := s.combined(first, last)
		if sent != nil && equalStatus(*sent, now) {
			return now.Complete, nil
		}
		sent = &now
		_ = control.SetWriteDeadline(time.Now().Add(requestTime)) // not every writer can
		if err := enc.Encode(now); err != nil {
			return false, err
		}
		return now.Complete, control.Flush()
	}
	for rev := last; rev >= first && ctx.Err() == nil; rev-- {
		if rev != last && s.cfg.Fleet.Change(rev).Complete {
			continue
		}
		var broken error
		err := s.cfg.Fleet.WatchChange(ctx, rev, func(at sync.ChangeStatus) bool {
			all, err := show()
			broken = err
			return err == nil && !all && !at.Complete
		})
		if broken != nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return nil // the client went away, or the time is over; the last line says how it stands
		}
		if err != nil {
			return err
		}
	}
	_, _ = show() // the last of them may have become complete between two looks
	return nil
}

func equalStatus(a, b sync.ChangeStatus) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// combined is the state of several revisions that were written together. A
// proxy may be affected by more than one, so counts are the largest of them,
// and a proxy is done where it is neither behind nor rejecting any.
func (s *Server) combined(first, last mesh.Revision) sync.ChangeStatus {
	out := s.cfg.Fleet.Change(last)
	for rev := last - 1; rev >= first; rev-- {
		merge(&out, s.cfg.Fleet.Change(rev))
	}
	name(out.Zones)
	return out
}

// Bounds of the proxies that one answer names, over all its zones. Counts say of
// all of them.
const (
	maxNamedBehind   = 1000
	maxNamedRejected = 100
)

// name leaves out names beyond what an answer has room for; each zone keeps some.
func name(zones []sync.ZoneProgress) {
	behind, rejected := 0, 0
	for _, z := range zones {
		behind += min(len(z.BehindNames), 1)
		rejected += min(len(z.Rejections), 1)
	}
	for i := range zones {
		z := &zones[i]
		if n := len(z.BehindNames); n > 0 {
			z.BehindNames = z.BehindNames[:min(n, max(1, maxNamedBehind/behind))]
		}
		if n := len(z.Rejections); n > 0 {
			z.Rejections = z.Rejections[:min(n, max(1, maxNamedRejected/rejected))]
		}
	}
}

func merge(out *sync.ChangeStatus, one sync.ChangeStatus) {
	out.Complete = out.Complete && one.Complete
	zones := slices.Clone(out.Zones)
	for _, z := range one.Zones {
		i := slices.IndexFunc(zones, func(have sync.ZoneProgress) bool { return have.Zone == z.Zone })
		if i < 0 {
			zones = append(zones, z)
			continue
		}
		have := &zones[i]
		if worse(z.State) > worse(have.State) {
			have.State, have.MayBeAt = z.State, z.MayBeAt
		}
		have.Affected = max(have.Affected, z.Affected)
		have.Behind = max(have.Behind, z.Behind)
		have.Rejected = max(have.Rejected, z.Rejected)
		have.Done = max(have.Affected-have.Behind-have.Rejected, 0)
		have.Settled = max(have.Settled, z.Settled)
		have.BehindNames = union(have.BehindNames, z.BehindNames)
		for _, rejection := range z.Rejections {
			if len(have.Rejections) < 10 && !slices.Contains(have.Rejections, rejection) {
				have.Rejections = append(slices.Clip(have.Rejections), rejection)
			}
		}
	}
	slices.SortFunc(zones, func(a, b sync.ZoneProgress) int {
		if a.Zone < b.Zone {
			return -1
		}
		return 1
	})
	out.Zones = zones
}

// worse orders states by how much is left to do.
func worse(state sync.ZoneState) int {
	return slices.Index([]sync.ZoneState{sync.Done, sync.Rejected, sync.Behind, sync.Unknown, sync.Offline}, state)
}

func union(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(len(out), 10)]
}
