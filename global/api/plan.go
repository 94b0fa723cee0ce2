package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	gosync "sync"
	"sync/atomic"
	"time"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
)

const (
	// askTime is how long zones have to answer, if the request does not say.
	askTime = 10 * time.Second
	// maxPreview bounds the answer of one zone.
	maxPreview = 64 << 20
	// maxPreviews bounds the answers of all zones to one plan.
	maxPreviews = 256 << 20
)

// Planned is what a change would do, in every zone.
type Planned struct {
	// Revision of global that the change was compared with.
	Revision mesh.Revision `json:"revision"`
	// Results by document: what would be created, updated, deleted or unchanged.
	Results []Result `json:"results"`
	// Warnings for the author.
	Warnings []string `json:"warnings"`
	// Zones that answered, sorted by name.
	Zones []zonesync.Preview `json:"zones"`
	// Unanswered are the zones of which nothing is known, and why.
	Unanswered []Unanswered `json:"unanswered"`
}

// Unanswered is a zone that did not say what a change would do there.
type Unanswered struct {
	// Zone that did not answer.
	Zone string `json:"zone"`
	// Reason: it is offline, of an older version, or took too long.
	Reason string `json:"reason"`
}

// planPath previews many documents at once.
const planPath = "/plan"

// actionDeleted is what becomes of a document of a deletion.
const actionDeleted = "deleted"

func (s *Server) planRoutes() []route {
	return []route{{method: http.MethodPost, path: planPath, need: reader, handle: s.plan, op: operation{
		summary: "What a change would do to every proxy of every zone, without making it", body: bodyManifests, answer: "Planned", long: true,
		query: []parameter{{"delete", "true: the documents would be deleted; only kind, mesh and name count", "boolean"},
			{"envoy", "true: with the difference of Envoy's resources", "boolean"},
			{"zone", "ask this zone alone; may be repeated", "string"},
			{"timeout", "how long zones have to answer, as 5s; default 10s, at most 25s", "string"}},
		codes: []int{400, 401, 403, 404, 409, 413, 415, 422, 429}}}}
}

// maxPlans bounds the plans at once, of all users: the answers of the zones are in
// memory. A user has one at a time, so that nobody keeps zones from others' plans.
const maxPlans = 8

// plans are the users who plan now.
type plans struct {
	mu    gosync.Mutex
	users map[string]bool
}

func (p *plans) begin(user string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.users[user]:
		return problem(http.StatusTooManyRequests, "%s has a plan under way; one at a time", user).with("Retry-After", "1")
	case len(p.users) >= maxPlans:
		return problem(http.StatusTooManyRequests, "%d plans are under way already", maxPlans).with("Retry-After", "1")
	}
	if p.users == nil {
		p.users = map[string]bool{}
	}
	p.users[user] = true
	return nil
}

func (p *plans) end(user string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.users, user)
}

// plan answers POST /plan.
func (s *Server) plan(w http.ResponseWriter, r *request) error {
	erase, err := r.flag("delete")
	if err != nil {
		return err
	}
	envoy, err := r.flag("envoy")
	if err != nil {
		return err
	}
	timeout := askTime
	if text := r.URL.Query().Get("timeout"); text != "" {
		if timeout, err = time.ParseDuration(text); err != nil || timeout <= 0 || timeout > requestTime-5*time.Second {
			return invalidField(http.StatusBadRequest, "timeout", "must be a duration above 0s and at most %s, not %q", requestTime-5*time.Second, clip(text))
		}
	}
	var p *plan
	wr := writer{s: s, user: r.author(), dry: true}
	if erase {
		p, err = s.planDeletion(r)
	} else {
		var docs []document
		if docs, err = s.batch(r); err == nil {
			p, err = wr.plan(r.Context(), docs)
		}
	}
	if err != nil {
		return err
	}
	if err := s.plans.begin(r.author()); err != nil {
		return err
	}
	defer s.plans.end(r.author())
	out, err := s.preview(r.Context(), p.ops, previewOptions{envoy: envoy, zones: r.URL.Query()["zone"], timeout: timeout})
	if err != nil {
		return err
	}
	for i := range p.results {
		if p.results[i].Action != actionUnchanged {
			p.results[i].Revision = 0
		}
	}
	out.Results, out.Warnings = p.results, append([]string{}, wr.warnings...)
	setRevision(w, out.Revision)
	return answer(w, http.StatusOK, out)
}

// planDeletion plans to delete what documents name.
func (s *Server) planDeletion(r *request) (*plan, error) {
	data, err := r.body()
	if err != nil {
		return nil, err
	}
	manifests, err := decodeBatch(data)
	if err != nil {
		return nil, problem(http.StatusBadRequest, "the body %s", oneLine(err.Error()))
	}
	p := &plan{}
	gone := map[mesh.Key]bool{}
	for i := range manifests {
		key := manifests[i].Resource.Key
		if k, ok := mesh.KindByName(key.Kind); ok && k.AdminOnly && !r.admin() {
			return nil, problem(http.StatusForbidden, "only group %s may delete a %s", GroupAdmin, key.Kind)
		}
		res := Result{Kind: key.Kind, Mesh: key.Mesh, Name: key.Name, Action: actionDeleted}
		old, err := s.cfg.Store.Get(r.Context(), key)
		switch {
		case errors.Is(err, store.ErrNotFound):
			res.Action = actionUnchanged
		case err != nil:
			return nil, err
		default:
			ops, err := s.deletion(r.Context(), old)
			if err != nil {
				return nil, err
			}
			for _, op := range ops {
				if !gone[op.Resource.Key] {
					gone[op.Resource.Key] = true
					p.add(op, true, len(p.results))
				}
			}
		}
		p.results = append(p.results, res)
	}
	return p, nil
}

// previewOptions say how zones are asked.
type previewOptions struct {
	envoy bool
	// zones to ask; empty are all.
	zones   []string
	timeout time.Duration
}

// preview asks every zone what writes would do there. Nothing is written.
func (s *Server) preview(ctx context.Context, ops []store.Op, o previewOptions) (*Planned, error) {
	out := &Planned{}
	changes, err := s.changesOf(ctx, ops, out)
	if err != nil {
		return nil, err
	}
	return out, s.previewChanges(ctx, changes, o, out)
}

// previewChanges asks zones what changes would do there.
func (s *Server) previewChanges(ctx context.Context, changes []mesh.Change, o previewOptions, out *Planned) error {
	out.Zones, out.Unanswered = []zonesync.Preview{}, []Unanswered{}
	enabled, err := s.enabledZones(ctx)
	if err != nil {
		return err
	}
	for _, name := range o.zones {
		if _, ok := enabled[name]; !ok {
			return problem(http.StatusNotFound, "there is no zone %q", clip(name))
		}
	}
	if changes, err = s.shown(ctx, changes, enabled); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	var mu gosync.Mutex
	var all gosync.WaitGroup
	var left atomic.Int64
	left.Store(maxPreviews)
	for name := range enabled {
		if len(o.zones) > 0 && !slices.Contains(o.zones, name) {
			continue
		}
		seen := sync.Visible(name, changes, enabled)
		if len(seen) == 0 {
			mu.Lock()
			out.Zones = append(out.Zones, zonesync.Preview{Zone: name, Revision: out.Revision})
			mu.Unlock()
			continue
		}
		all.Go(func() {
			p, err := s.ask(ctx, name, seen, o.envoy, &left)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				out.Unanswered = append(out.Unanswered, Unanswered{Zone: name, Reason: unansweredReason(err, o.timeout)})
				return
			}
			out.Zones = append(out.Zones, *p)
		})
	}
	all.Wait()
	slices.SortFunc(out.Zones, func(a, b zonesync.Preview) int { return cmp.Compare(a.Zone, b.Zone) })
	slices.SortFunc(out.Unanswered, func(a, b Unanswered) int { return cmp.Compare(a.Zone, b.Zone) })
	return nil
}

// changesOf are the changes that the store would make of writes.
func (s *Server) changesOf(ctx context.Context, ops []store.Op, out *Planned) ([]mesh.Change, error) {
	head, err := s.cfg.Store.Head(ctx)
	if err != nil {
		return nil, err
	}
	out.Revision = head.Revision
	planner := store.NewPlanner(head, s.cfg.Now(), func(k mesh.Key) (mesh.Resource, bool, error) {
		r, err := s.cfg.Store.Get(ctx, k)
		if errors.Is(err, store.ErrNotFound) {
			return r, false, nil
		}
		return r, err == nil, err
	})
	free := slices.Clone(ops)
	for i := range free {
		free[i].IfRevision = nil // whoever writes meanwhile spoils no preview
	}
	if _, err := planner.Add("", free); err != nil {
		return nil, err
	}
	var changes []mesh.Change
	for _, e := range planner.Entries() {
		changes = append(changes, e.Change)
	}
	return changes, nil
}

// enabledZones are all zones, and whether each is enabled.
func (s *Server) enabledZones(ctx context.Context) (map[string]bool, error) {
	page, err := s.cfg.Store.List(ctx, store.Query{Kind: mesh.KindZone})
	if err != nil {
		return nil, err
	}
	out := make(map[string]bool, len(page.Items))
	for _, z := range page.Items {
		out[z.Name] = zoneEnabled(z)
	}
	return out, nil
}

// zoneEnabled reads a Zone; what cannot be read is enabled, the default.
func zoneEnabled(z mesh.Resource) bool {
	spec, err := mesh.DecodeSpec(mesh.KindZone, z.Spec)
	zone, ok := spec.(*mesh.Zone)
	return err != nil || !ok || zone.Enabled == nil || *zone.Enabled
}

// shown adds what zones begin or cease to see of each other when Zones change.
func (s *Server) shown(ctx context.Context, changes []mesh.Change, enabled map[string]bool) ([]mesh.Change, error) {
	out := changes
	for _, c := range changes {
		if c.Resource.Kind != mesh.KindZone {
			continue
		}
		name := c.Resource.Name
		was := enabled[name]
		enabled[name] = !c.Deleted && zoneEnabled(c.Resource)
		if was == enabled[name] {
			continue
		}
		for _, k := range mesh.Kinds() {
			if !k.Flow.Has(mesh.AcrossZones) {
				continue
			}
			page, err := s.cfg.Store.List(ctx, store.Query{Kind: k.Name, Zone: &name})
			if err != nil {
				return nil, err
			}
			for _, r := range page.Items {
				out = append(out, mesh.Change{Revision: c.Revision, Resource: r})
			}
		}
		if c.Deleted {
			delete(enabled, name)
		}
	}
	return out, nil
}

// ask asks one zone.
func (s *Server) ask(ctx context.Context, zone string, changes []mesh.Change, envoy bool, left *atomic.Int64) (*zonesync.Preview, error) {
	body := zonesync.Plan{Envoy: envoy}
	for _, c := range changes {
		body.Changes = append(body.Changes, zonesync.PlannedOf(c))
	}
	data, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("plan for zone %s: %w", zone, err)
	}
	out := &limited{left: maxPreview, ofAll: left}
	if err := s.cfg.Fleet.Inspect(ctx, zone, sync.Question{What: zonesync.WhatPlan, Body: data}, out); err != nil {
		return nil, err
	}
	p := &zonesync.Preview{}
	if err := json.Unmarshal(out.Bytes(), p); err != nil {
		return nil, fmt.Errorf("the answer of zone %s: %w", zone, err)
	}
	p.Zone = zone
	return p, nil
}

// limited is a buffer that refuses more than it may hold, or all buffers together.
type limited struct {
	bytes.Buffer
	left  int
	ofAll *atomic.Int64
}

func (l *limited) Write(b []byte) (int, error) {
	if l.left -= len(b); l.left < 0 {
		return 0, fmt.Errorf("its answer is longer than %d MiB: ask for less, without Envoy's resources", maxPreview>>20)
	}
	if l.ofAll.Add(-int64(len(b))) < 0 {
		return 0, fmt.Errorf("the answers of the zones are longer than %d MiB together: ask fewer zones at once (--zone), or for less, without Envoy's resources", maxPreviews>>20)
	}
	return l.Buffer.Write(b)
}

// unansweredReason says in short why a zone is not in a preview.
func unansweredReason(err error, timeout time.Duration) string {
	switch {
	case errors.Is(err, sync.ErrZoneOffline):
		return "it is offline"
	case errors.Is(err, sync.ErrZoneUnknown):
		return oneLine(err.Error())
	case errors.Is(err, sync.ErrOutdated):
		return "its version is older and cannot preview changes"
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("it did not answer within %s", timeout)
	}
	return oneLine(clip(err.Error()))
}
