package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	gosync "sync"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir/explain"
)

// maxReply bounds what one zone may say of a call, or of a policy.
const maxReply = 16 << 20

// maxAsked bounds the zones that are asked at once.
const maxAsked = 16

func (s *Server) explainRoutes() []route {
	return []route{{method: http.MethodGet, path: "/meshes/{mesh}/explain", need: reader, handle: s.explain, op: operation{
		summary: "The way of a call, hop by hop, and what becomes of it", answer: "Explanation", long: true, codes: []int{400, 401, 403, 404, 409, 429, 501, 503},
		query: []parameter{
			{"source", "who calls: a Dataplane, pod, workload or MeshService, <name> or <name>.<zone>", "string"},
			{"destination", "who is called: a service, hostname or address", "string"},
			{"port", "port of the destination; needed when it has several", "integer"},
			{"method", "of an HTTP request, default GET", "string"},
			{"path", "of an HTTP request with its query, default /", "string"},
			{"header", "of an HTTP request, name=value; may be repeated", "string"},
		}}}}
}

func callOf(r *request) (explain.Call, error) {
	q := r.URL.Query()
	call := explain.Call{Source: q.Get("source"), Destination: q.Get("destination"), Method: q.Get("method"), Path: q.Get("path")}
	if text := q.Get("port"); text != "" {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			return call, invalidField(http.StatusBadRequest, "port", "must be a number from 1 to 65535, not %q", clip(text))
		}
		call.Port = uint32(port)
	}
	for _, h := range q["header"] {
		name, value, ok := strings.Cut(h, "=")
		if !ok {
			return call, invalidField(http.StatusBadRequest, "header", "must be name=value, not %q", clip(h))
		}
		call.Headers = append(call.Headers, explain.Header{Name: name, Value: value})
	}
	if err := call.Check(); err != nil {
		return call, problem(http.StatusBadRequest, "%s", err)
	}
	return call, nil
}

func (s *Server) explain(w http.ResponseWriter, r *request) error {
	if _, err := s.meshExists(r.Context(), r.PathValue("mesh")); err != nil {
		return err
	}
	call, err := callOf(r)
	if err != nil {
		return err
	}
	meshName := r.PathValue("mesh")
	zone, err := s.sourceZone(r.Context(), meshName, call.Source)
	if err != nil {
		return err
	}
	reply, err := s.askExplain(r.Context(), zone, meshName, explain.Question{Leave: &call})
	switch {
	case err != nil:
		return unanswered(call.Source, zone, err)
	case reply.Problem != nil && reply.Problem.Unknown:
		return invalidField(http.StatusNotFound, reply.Problem.Field, "%s", reply.Problem.Reason)
	case reply.Problem != nil:
		return invalidField(http.StatusConflict, reply.Problem.Field, "%s", reply.Problem.Reason)
	case reply.Explanation == nil:
		return problem(http.StatusNotImplemented, "zone %s has another version: it does not explain calls", zone)
	}
	x := reply.Explanation
	s.arrivals(r.Context(), meshName, x)
	x.Conclude()
	return answer(w, http.StatusOK, x)
}

// unanswered is what the client is told of something in a zone that did not answer.
func unanswered(what, zone string, err error) *Problem {
	code := http.StatusServiceUnavailable
	switch {
	case errors.Is(err, sync.ErrOutdated):
		code = http.StatusNotImplemented
	case errors.Is(err, sync.ErrZoneOffline), errors.Is(err, sync.ErrZoneUnknown), errors.Is(err, context.DeadlineExceeded):
	default:
		if p := problemOf(err); p.Status != http.StatusInternalServerError {
			return p
		}
		return problem(code, "%s", oneLine(clip(err.Error())))
	}
	return problem(code, "%s: nothing can be said of %s", silence(zone, err), clip(what))
}

// arrivals asks the zones where a call may arrive, side by side.
func (s *Server) arrivals(ctx context.Context, meshName string, x *explain.Explanation) {
	slots := make(chan struct{}, maxAsked)
	var wg gosync.WaitGroup
	for zone, peers := range x.Missing() {
		q := explain.Question{}
		for _, p := range peers[:min(len(peers), explain.MaxArriving)] {
			q.Arrive = append(q.Arrive, x.Arriving(p))
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			reply, err := s.askExplain(ctx, zone, meshName, q)
			if err == nil && len(reply.Arrivals) != len(q.Arrive) {
				err = sync.ErrOutdated
			}
			for i, p := range peers {
				switch {
				case err != nil:
					p.Unanswered = silence(zone, err)
				case i < len(reply.Arrivals):
					p.Arrival = reply.Arrivals[i]
				}
			}
		})
	}
	wg.Wait()
}

func (s *Server) askExplain(ctx context.Context, zone, meshName string, q explain.Question) (*explain.Reply, error) {
	var reply explain.Reply
	if err := s.question(ctx, zone, "explain", meshName, q, &reply); err != nil {
		return nil, err
	}
	return &reply, nil
}

// question puts a question with a body to a zone and reads its answer.
func (s *Server) question(ctx context.Context, zone, what, meshName string, question, into any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("encode question: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	out := &bounded{most: maxReply}
	if err := s.cfg.Fleet.Inspect(ctx, zone, sync.Question{What: what, Mesh: meshName, Body: body}, out); err != nil {
		return err
	}
	if err := json.Unmarshal(out.Bytes(), into); err != nil {
		return fmt.Errorf("zone %s answers something else: %w", zone, err)
	}
	return nil
}

// bounded keeps an answer up to a size.
type bounded struct {
	bytes.Buffer
	most int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.most {
		return 0, fmt.Errorf("the answer has more than %d bytes", b.most)
	}
	return b.Buffer.Write(p)
}

// sourceZone finds the one zone that has a source: by the zone in its name, else
// by what the zones say of their Dataplanes and services.
func (s *Server) sourceZone(ctx context.Context, meshName, source string) (string, error) {
	name, zone := source, ""
	if i := strings.LastIndexByte(source, '.'); i > 0 {
		if _, err := s.cfg.Store.Get(ctx, mesh.Key{Kind: mesh.KindZone, Name: source[i+1:]}); err == nil {
			name, zone = source[:i], source[i+1:]
		} else if !errors.Is(err, store.ErrNotFound) {
			return "", err
		}
	}
	if zone != "" {
		return zone, nil // the zone says whether it has it
	}
	queries := []store.Query{
		{Kind: mesh.KindDataplane, NameContains: name},
		{Kind: mesh.KindDataplane, Labels: map[string]string{mesh.LabelPod: name}},
		{Kind: mesh.KindDataplane, Labels: map[string]string{mesh.LabelWorkload: name}},
		{Kind: mesh.KindMeshService, NameContains: name},
	}
	if workload, namespace, ok := strings.Cut(name, "."); ok {
		queries = append(queries, store.Query{Kind: mesh.KindDataplane, Labels: map[string]string{mesh.LabelWorkload: workload, mesh.LabelNamespace: namespace}})
	}
	for _, q := range queries {
		q.Mesh = meshName
		page, err := s.cfg.Store.List(ctx, q)
		if err != nil {
			return "", err
		}
		zones := map[string]bool{}
		for i := range page.Items {
			r := &page.Items[i]
			if r.Zone != "" && (q.NameContains == "" || r.Name == name || r.DisplayName() == name) {
				zones[r.Zone] = true
			}
		}
		switch all := slices.Sorted(maps.Keys(zones)); len(all) {
		case 0:
		case 1:
			return all[0], nil
		default:
			for i := range all {
				all[i] = name + "." + all[i]
			}
			return "", invalidField(http.StatusConflict, "source", "%q is in %d zones: say %s", name, len(all), strings.Join(all, " or "))
		}
	}
	return "", invalidField(http.StatusNotFound, "source", "no Dataplane, pod, workload or MeshService of mesh %s is called %q", meshName, name)
}
