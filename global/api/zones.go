package api

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// maxInspection bounds what is copied of one answer.
const maxInspection = 512 << 20

// ZoneOverview is a Zone and what is known of it.
type ZoneOverview struct {
	// Name of the zone.
	Name string `json:"name"`
	// Enabled as authored.
	Enabled bool `json:"enabled"`
	// Status now; a zone that never connected to this instance is offline.
	Status sync.ZoneStatus `json:"status"`
}

// ZoneOverviews lists every zone.
type ZoneOverviews struct {
	// Items sorted by name.
	Items []ZoneOverview `json:"items"`
	// Total of them.
	Total int `json:"total"`
}

// inspections are the last parts of paths, and what the zone is asked.
func inspections() []struct{ path, what, media string } {
	return []struct{ path, what, media string }{
		{"xds", "config_dump", "application/json"},
		{"stats", "stats", "text/plain; charset=utf-8"},
		{"clusters", "clusters", "application/json"},
		{"listeners", "listeners", "application/json"},
		{"certs", "certs", "application/json"},
		{"policies", "policies", "application/json"},
	}
}

func (s *Server) zoneRoutes() []route {
	routes := []route{{method: http.MethodGet, path: "/zones/_overview", need: reader, handle: s.zones,
		op: operation{summary: "Every zone and how it is", answer: "ZoneOverviews", codes: []int{401, 403}}}}
	for _, i := range inspections() {
		routes = append(routes, route{method: http.MethodGet, path: "/meshes/{mesh}/dataplanes/{name}/" + i.path, need: reader,
			handle: s.inspect(i.what, i.media), op: operation{long: true, media: i.media,
				summary: "What Envoy answers for " + i.what, codes: []int{401, 403, 404, 429, 503}}})
	}
	return routes
}

func (s *Server) zones(w http.ResponseWriter, r *request) error {
	page, err := s.cfg.Store.List(r.Context(), store.Query{Kind: mesh.KindZone})
	if err != nil {
		return err
	}
	live := map[string]sync.ZoneStatus{}
	for _, z := range s.cfg.Fleet.Zones() {
		live[z.Name] = z
	}
	out := ZoneOverviews{Items: make([]ZoneOverview, 0, len(page.Items)), Total: page.Total}
	for _, res := range page.Items {
		spec, err := mesh.DecodeSpec(res.Kind, res.Spec)
		if err != nil {
			return err
		}
		status, ok := live[res.Name]
		if !ok {
			status.Name = res.Name
		}
		enabled := spec.(*mesh.Zone).Enabled
		out.Items = append(out.Items, ZoneOverview{Name: res.Name, Enabled: enabled == nil || *enabled, Status: status})
	}
	setRevision(w, page.At)
	return answer(w, http.StatusOK, out)
}

func (s *Server) inspect(what, media string) func(http.ResponseWriter, *request) error {
	return func(w http.ResponseWriter, r *request) error {
		kind, _ := mesh.KindByName(mesh.KindDataplane)
		key, err := s.target(r, kind)
		if err != nil {
			return err
		}
		if key.Zone == "" {
			return problem(http.StatusNotFound, "there is no Dataplane %q; name it <name>.<zone>", clip(key.Name))
		}
		if _, err := s.cfg.Store.Get(r.Context(), key); err != nil {
			return missing(key)
		}
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		late := time.AfterFunc(askTime, func() { cancel(context.DeadlineExceeded) })
		defer late.Stop()
		out := &lazy{w: w, media: media, begins: late}
		buffered := bufio.NewWriterSize(out, 32<<10)
		err = s.cfg.Fleet.Inspect(ctx, key.Zone, sync.Question{What: what, Mesh: key.Mesh, Proxy: key.Name}, buffered)
		if err != nil && out.written == 0 && buffered.Buffered() == 0 {
			return unanswered(key.RESTName(), key.Zone, cmp.Or(context.Cause(ctx), err))
		}
		if err != nil {
			panic(http.ErrAbortHandler) // a part was sent; only a broken connection says that it is not all
		}
		return buffered.Flush()
	}
}

// lazy sends headers with the first bytes, so that an early error can be told. Who
// begins to answer has more time.
type lazy struct {
	w       http.ResponseWriter
	media   string
	begins  *time.Timer
	written int
}

var errTooMuch = fmt.Errorf("the answer has more than %d bytes: %w", maxInspection, io.ErrShortWrite)

func (l *lazy) Write(b []byte) (int, error) {
	if l.written == 0 {
		l.begins.Stop()
		l.w.Header().Set("Content-Type", l.media)
	}
	if l.written+len(b) > maxInspection {
		return 0, errTooMuch
	}
	_ = http.NewResponseController(l.w).SetWriteDeadline(time.Now().Add(requestTime)) // not every writer can
	n, err := l.w.Write(b)
	l.written += n
	return n, err
}

// shortKinds lists the abbreviations, for messages.
func shortKinds() string {
	var out []string
	for _, k := range mesh.Kinds() {
		if k.Short != "" {
			out = append(out, k.Short)
		}
	}
	return strings.Join(out, ", ")
}
