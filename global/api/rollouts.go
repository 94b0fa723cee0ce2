package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/global/rollout"
	"github.com/tombolo-mesh/tombolo/global/rollout/driver"
	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// maxPause of a stage.
const maxPause = 7 * 24 * time.Hour

// RolloutView is a staged change and how far it came.
type RolloutView struct {
	// Name of it.
	Name string `json:"name"`
	// Revision of its last step.
	Revision mesh.Revision `json:"revision"`
	// Created is when it was applied, Author by whom.
	Created time.Time `json:"created"`
	Author  string    `json:"author"`
	// Phase is running, done or aborted; Reason says why aborted.
	Phase  string `json:"phase"`
	Reason string `json:"reason,omitempty"`
	// Stages in order; Stage is the one it is at, from 1, since when. 0: calls are counted
	// before the first.
	Stages [][]string `json:"stages"`
	Stage  int        `json:"stage"`
	Since  time.Time  `json:"since"`
	// Pause of a stage, and the guards.
	Pause   string   `json:"pause"`
	AbortOn []string `json:"abortOn"`
	// Waiting says what the stage waits for.
	Waiting string `json:"waiting,omitempty"`
	// Rejected and Gone proxies, as guards count them.
	Rejected int `json:"rejected"`
	Gone     int `json:"gone"`
	// Success are the worst services of the last minute, where a guard watches them.
	Success []ServiceRate `json:"success,omitempty"`
	// Notes say which zones are left out, and of what the guards know nothing.
	Notes []string `json:"notes,omitempty"`
	// Resources that it writes.
	Resources []string `json:"resources"`
	// Zones whose stage has come, and how far its last step came there.
	Zones []sync.ZoneProgress `json:"zones"`
	// Warnings for the author, when it is applied.
	Warnings []string `json:"warnings,omitempty"`
}

// ServiceRate is how the calls of a service went in the last minute.
type ServiceRate struct {
	// Zone that counted.
	Zone string `json:"zone"`
	// Service and who called it: "backend.west:8080 by web"; "backend:8080" where its
	// own proxies count.
	Service string `json:"service"`
	// Calls, and those that failed.
	Calls  uint64 `json:"calls"`
	Failed uint64 `json:"failed"`
	// Percent of the calls that succeeded.
	Percent float64 `json:"percent"`
	// Before is the percentage before the first stage, where it was below a guard's limit.
	Before *float64 `json:"before,omitempty"`
	// Counts: there were enough calls for guards to judge.
	Counts bool `json:"counts"`
}

// maxServiceRates of a rollout are shown.
const maxServiceRates = 10

// RolloutList has every rollout that runs and the last that ended.
type RolloutList struct {
	// Items, newest first.
	Items []RolloutView `json:"items"`
}

func (s *Server) rolloutRoutes() []route {
	return []route{
		{method: http.MethodGet, path: "/rollouts", need: reader, handle: s.listRollouts, op: operation{
			summary: "List staged changes, newest first", answer: "RolloutList", codes: []int{401, 403}}},
		{method: http.MethodPost, path: "/rollouts", need: author, handle: s.startRollout, op: operation{
			summary: "Apply documents in stages, zone after zone", body: bodyManifests, answer: "RolloutView", codes: []int{400, 401, 403, 409, 413, 415, 422},
			query: []parameter{{"name", "name of the rollout; default made of the revision", "string"},
				{"stages", "zones in order, as east,west; zones of one stage with +, as east+west,north", "string"},
				{"pause", "that a stage lasts at least, as 5m; default 0", "string"},
				{"abortOn", "guards, as rejected>0,gone>3,success<99", "string"},
				{"dryRun", "true validates without writing", "boolean"}, weakeningParameter()}}},
		{method: http.MethodGet, path: "/rollouts/{name}", need: reader, handle: s.showRollout, op: operation{
			summary: "Read a staged change and how far it came", answer: "RolloutView", codes: []int{401, 403, 404}}},
		{method: http.MethodPost, path: "/rollouts/{name}/abort", need: author, handle: s.moveRollout(func(r rollout.Rollout, user string, now time.Time) rollout.Rollout {
			return r.Ended(rollout.Aborted, "by "+user, now)
		}), op: operation{summary: "Return what a staged change did", answer: "RolloutView", query: []parameter{weakeningParameter()}, codes: []int{400, 401, 403, 404, 409}}},
		{method: http.MethodPost, path: "/rollouts/{name}/promote", need: author, handle: s.moveRollout(func(r rollout.Rollout, _ string, _ time.Time) rollout.Rollout {
			return r.Skipped()
		}), op: operation{summary: "Leave out the rest of a stage's pause", answer: "RolloutView", codes: []int{401, 403, 404, 409}}},
	}
}

// rollouts reads every rollout, newest first.
func (s *Server) rollouts(ctx context.Context) ([]rollout.Rollout, error) {
	page, err := s.cfg.Store.List(ctx, store.Query{Kind: rollout.Kind})
	if err != nil {
		return nil, err
	}
	var out []rollout.Rollout
	for _, res := range page.Items {
		r, err := rollout.Decode(res)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b rollout.Rollout) int { return b.Created.Compare(a.Created) })
	return out, nil
}

// notStaged is a 409 when a resource, or anything in a mesh, is under a rollout.
func (s *Server) notStaged(ctx context.Context, keys ...mesh.Key) error {
	all, err := s.rollouts(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.Status.Phase != rollout.Running {
			continue
		}
		for _, d := range r.Spec.Documents {
			for _, k := range keys {
				if k == d.Key() || k.Kind == mesh.KindMesh && k.Name == d.Mesh {
					return problem(http.StatusConflict, "%s is under rollout %q, which is at stage %d of %d; wait for it or abort it: tombolo rollout abort %s",
						label(d.Key()), r.Name, r.Status.Stage+1, len(r.Spec.Stages), r.Name)
				}
			}
		}
	}
	return nil
}

func (s *Server) listRollouts(w http.ResponseWriter, r *request) error {
	all, err := s.rollouts(r.Context())
	if err != nil {
		return err
	}
	out := RolloutList{Items: []RolloutView{}}
	for _, one := range all {
		out.Items = append(out.Items, s.viewRollout(one))
	}
	return answer(w, http.StatusOK, out)
}

func (s *Server) rolloutOf(r *request) (rollout.Rollout, error) {
	res, err := s.cfg.Store.Get(r.Context(), rollout.Key(r.PathValue("name")))
	if errors.Is(err, store.ErrNotFound) {
		return rollout.Rollout{}, problem(http.StatusNotFound, "there is no rollout %q", clip(r.PathValue("name")))
	}
	if err != nil {
		return rollout.Rollout{}, err
	}
	return rollout.Decode(res)
}

func (s *Server) showRollout(w http.ResponseWriter, r *request) error {
	one, err := s.rolloutOf(r)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, s.viewRollout(one))
}

func (s *Server) viewRollout(r rollout.Rollout) RolloutView {
	out := RolloutView{Name: r.Name, Revision: r.Revision, Created: r.Created.UTC(), Author: r.Spec.Author, Phase: string(r.Status.Phase), Reason: r.Status.Reason,
		Stages: r.Spec.Stages, Stage: r.Status.Stage + 1, Since: r.Status.Since, Pause: r.Spec.Pause.String(), AbortOn: []string{}, Resources: []string{}, Zones: []sync.ZoneProgress{}}
	for _, g := range r.Spec.AbortOn {
		out.AbortOn = append(out.AbortOn, g.String())
	}
	for _, d := range r.Spec.Documents {
		out.Resources = append(out.Resources, label(d.Key()))
	}
	here := r.Zones()
	status := s.cfg.Fleet.Change(r.Revision)
	for _, rev := range r.Status.Revisions { // counts are the largest of its steps
		merge(&status, s.cfg.Fleet.Change(rev))
	}
	for _, z := range status.Zones {
		if slices.Contains(here, z.Zone) {
			out.Zones = append(out.Zones, z)
		}
	}
	name(out.Zones)
	if r.Status.Phase != rollout.Running {
		return out
	}
	o := s.cfg.Observe(r)
	out.Rejected, out.Gone, out.Notes = o.Rejected, o.Gone, o.Notes
	for _, x := range o.Rates[:min(len(o.Rates), maxServiceRates)] {
		rate := ServiceRate{Zone: x.Zone, Service: x.Service, Calls: x.Calls, Failed: x.Failed, Percent: x.Percent(), Counts: x.Counts()}
		if was, ok := r.Before(x.Zone, x.Service); ok {
			percent := was.Percent()
			rate.Before = &percent
		}
		out.Success = append(out.Success, rate)
	}
	move, why := r.Next(o, s.cfg.Now())
	if move == rollout.Stay {
		out.Waiting = why
	}
	if o.Unknown != "" && o.Unknown != why {
		out.Notes = append(out.Notes, o.Unknown)
	}
	return out
}

// moveRollout writes a step that people ask for.
func (s *Server) moveRollout(move func(r rollout.Rollout, user string, now time.Time) rollout.Rollout) func(http.ResponseWriter, *request) error {
	return func(w http.ResponseWriter, r *request) error {
		c, err := r.consent()
		if err != nil {
			return err
		}
		var warnings []string
		for try := 1; ; try++ {
			was, err := s.rolloutOf(r)
			if err != nil {
				return err
			}
			if was.Status.Phase != rollout.Running {
				return problem(http.StatusConflict, "rollout %q has ended: %s", was.Name, was.Status.Phase)
			}
			next := move(was, r.author(), s.cfg.Now())
			if next.Status.Phase == was.Status.Phase && next.Status.Promoted == was.Status.Promoted {
				return s.showRollout(w, r) // promoted already: each step would be one more to look at
			}
			if try == 1 && next.Status.Phase == rollout.Aborted { // what is returned may have let callers in
				if warnings, err = s.returnWeakens(r.Context(), was, c); err != nil {
					return err
				}
			}
			err = driver.Save(r.Context(), s.cfg.Store, r.author(), was, next)
			if errors.Is(err, store.ErrConflict) && try < attempts {
				continue // the driver was faster
			}
			if err != nil {
				return err
			}
			one, err := s.rolloutOf(r)
			if err != nil {
				return err
			}
			view := s.viewRollout(one)
			view.Warnings = warnings
			return answer(w, http.StatusOK, view)
		}
	}
}

// returnWeakens says whom it lets in, in the zones whose stage has come, that they
// get back what the store holds.
func (s *Server) returnWeakens(ctx context.Context, r rollout.Rollout, c consent) ([]string, error) {
	if c == consentAccept {
		return nil, nil
	}
	head, err := s.cfg.Store.Head(ctx)
	if err != nil {
		return nil, err
	}
	may := false
	var changes []mesh.Change
	for _, d := range r.Spec.Documents {
		held, err := s.cfg.Store.Get(ctx, d.Key())
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		change, back := mesh.Change{Revision: head.Revision + 1, Resource: held}, &held
		if err != nil {
			change.Deleted, change.Resource, back = true, mesh.Resource{Key: d.Key()}, nil
		}
		changes = append(changes, change)
		if d.Kind == mesh.KindMeshTrafficPermission {
			may = may || opens(d.Kind, &mesh.Resource{Key: d.Key(), Labels: d.Labels, Spec: d.Spec}, back)
		}
	}
	zones := r.Zones()
	enabled, err := s.enabledZones(ctx)
	if err != nil {
		return nil, err
	}
	zones = slices.DeleteFunc(zones, func(name string) bool { return !enabled[name] })
	if !may || len(zones) == 0 {
		return nil, nil
	}
	p := &Planned{Revision: head.Revision}
	if err := s.previewChanges(ctx, changes, previewOptions{zones: zones, timeout: weakeningTime}, p); err != nil {
		return nil, err
	}
	return s.saying(ctx, p, c)
}

// rolloutSpec reads what is asked for from the query.
func (s *Server) rolloutSpec(r *request) (spec rollout.Spec, err error) {
	q := r.URL.Query()
	bad := func(field, format string, args ...any) error {
		return invalidField(http.StatusBadRequest, field, format, args...)
	}
	known := map[string]bool{}
	for _, z := range s.cfg.Fleet.Zones() {
		known[z.Name] = true
	}
	seen := map[string]bool{}
	for stage := range strings.SplitSeq(q.Get("stages"), ",") {
		var zones []string
		for zone := range strings.SplitSeq(stage, "+") {
			zone = strings.TrimSpace(zone)
			switch {
			case zone == "":
				return spec, bad("stages", "must be zones in order, as east,west or east+west,north")
			case !known[zone]:
				return spec, bad("stages", "there is no zone %q", clip(zone))
			case seen[zone]:
				return spec, bad("stages", "zone %q is in two stages", clip(zone))
			}
			seen[zone] = true
			zones = append(zones, zone)
		}
		spec.Stages = append(spec.Stages, zones)
	}
	if len(spec.Stages) > rollout.MaxStages {
		return spec, bad("stages", "must be at most %d", rollout.MaxStages)
	}
	if text := q.Get("pause"); text != "" {
		if spec.Pause.Duration, err = time.ParseDuration(text); err != nil || spec.Pause.Duration < 0 || spec.Pause.Duration > maxPause {
			return spec, bad("pause", "must be a duration such as 5m, at most %s, not %q", maxPause, clip(text))
		}
	}
	if text := q.Get("abortOn"); text != "" {
		for part := range strings.SplitSeq(text, ",") {
			g, err := rollout.ParseGuard(part)
			if err != nil {
				return spec, bad("abortOn", "%s", err)
			}
			spec.AbortOn = append(spec.AbortOn, g)
		}
	}
	if (rollout.Rollout{Spec: spec}).Watches(rollout.Success) && spec.Pause.Duration < rollout.MinWatched {
		return spec, bad("pause", "must be at least %s where success is watched: the calls of a stage are counted until it is over", rollout.MinWatched)
	}
	spec.Author = r.author()
	return spec, nil
}

// stageable says why a kind cannot be staged, or nothing.
func stageable(k mesh.KindName) string {
	kind, ok := mesh.KindByName(k)
	switch {
	case !ok || !kind.Flow.Has(mesh.GlobalToZones) || kind.AdminOnly:
		return "goes to no zone, or is for administrators"
	case k == mesh.KindMesh || k == mesh.KindMeshIdentity || k == mesh.KindMeshTrust:
		return "is of a mesh as a whole; apply it without stages"
	}
	return ""
}

func (s *Server) startRollout(w http.ResponseWriter, r *request) error {
	dry, err := r.flag("dryRun")
	if err != nil {
		return err
	}
	consent, err := r.consent()
	if err != nil {
		return err
	}
	spec, err := s.rolloutSpec(r)
	if err != nil {
		return err
	}
	data, err := r.body()
	if err != nil {
		return err
	}
	manifests, err := decodeBatch(data)
	if err != nil {
		return problem(http.StatusBadRequest, "the body %s", oneLine(err.Error()))
	}
	if len(manifests) == 0 || len(manifests) > rollout.MaxDocuments {
		return problem(http.StatusUnprocessableEntity, "the body has %d documents; 1 to %d are allowed", len(manifests), rollout.MaxDocuments)
	}
	docs, bad, err := s.documents(r, manifests)
	if err != nil {
		return err
	}
	for _, d := range docs {
		if why := stageable(d.resource.Kind); why != "" && d.spec != nil {
			bad = append(bad, InvalidParameter{Resource: clip(label(d.resource.Key)), Field: "type", Reason: "a " + string(d.resource.Kind) + " " + why})
		}
	}
	if len(bad) > 0 {
		p := problem(http.StatusUnprocessableEntity, "%s in %s; nothing was written", count(len(bad), "problem"), count(len(manifests), "document"))
		p.Invalid = bad[:min(len(bad), maxReported)]
		return p
	}
	return s.writeRollout(w, r, spec, docs, dry, consent)
}

func (s *Server) writeRollout(w http.ResponseWriter, r *request, spec rollout.Spec, docs []document, dry bool, consent consent) error {
	ctx := r.Context()
	// The plan of an ordinary write refuses what an ordinary write refuses, and has
	// as preconditions everything that it read.
	wr := writer{s: s, user: r.author(), dry: dry}
	p, err := wr.plan(ctx, docs)
	if err != nil {
		return err
	}
	warnings, err := s.weakens(ctx, p.ops, consent)
	if err != nil {
		return err
	}
	warnings = append(wr.warnings, warnings...)
	size := 0
	var ops []store.Op
	for i, op := range p.ops {
		k := op.Resource.Key
		if p.target[i] < 0 {
			ops = append(ops, op) // a mesh that must stay
			continue
		}
		size += len(op.Resource.Spec)
		spec.Documents = append(spec.Documents, rollout.Document{Kind: k.Kind, Mesh: k.Mesh, Name: k.Name, Labels: op.Resource.Labels, Spec: op.Resource.Spec, Base: *op.IfRevision})
		if *op.IfRevision == 0 {
			ops = append(ops, store.Op{Delete: true, Resource: mesh.Resource{Key: k}, IfRevision: op.IfRevision})
			continue
		}
		held, err := s.cfg.Store.Get(ctx, k)
		if err != nil {
			return err
		}
		ops = append(ops, store.Op{Resource: held, IfRevision: op.IfRevision})
	}
	if size > rollout.MaxBytes {
		return problem(http.StatusRequestEntityTooLarge, "the documents have %d bytes; a rollout has at most %d", size, rollout.MaxBytes)
	}
	head, err := s.cfg.Store.Head(ctx)
	if err != nil {
		return err
	}
	name := r.URL.Query().Get("name")
	if name == "" {
		name = "r" + strconv.FormatInt(int64(head.Revision)+1, 10)
	}
	if !rolloutName(name) {
		return invalidField(http.StatusBadRequest, "name", "must be of small letters, digits and -, at most 63, not %q", clip(name))
	}
	all, err := s.rollouts(ctx)
	if err != nil {
		return err
	}
	one := rollout.Rollout{Name: name, Spec: spec}
	running, ended := 0, 0
	for _, other := range all { // newest first
		switch {
		case other.Status.Phase == rollout.Running && other.Name == name:
			return problem(http.StatusConflict, "rollout %q runs already", name)
		case other.Status.Phase == rollout.Running:
			running++
		case other.Name == name:
			return problem(http.StatusConflict, "there was a rollout %q; take another name", name)
		default:
			if ended++; ended >= rollout.MaxEnded {
				rev := other.Revision
				ops = append(ops, store.Op{Delete: true, Resource: mesh.Resource{Key: rollout.Key(other.Name)}, IfRevision: &rev})
			}
		}
	}
	if running >= rollout.MaxRunning {
		return problem(http.StatusConflict, "%d rollouts run already", running)
	}
	one = one.Begun(s.cfg.Now(), driver.Connected(s.cfg.Fleet.Zones()))
	if dry {
		view := s.viewRollout(one)
		view.Warnings = warnings
		return answer(w, http.StatusOK, view)
	}
	if err := driver.Save(ctx, s.cfg.Store, r.author(), rollout.Rollout{}, one, ops...); err != nil {
		if errors.Is(err, store.ErrConflict) {
			return problem(http.StatusConflict, "%s; try again", errRace)
		}
		return err
	}
	res, err := s.cfg.Store.Get(ctx, rollout.Key(name))
	if err != nil {
		return fmt.Errorf("read the rollout: %w", err)
	}
	if one, err = rollout.Decode(res); err != nil {
		return err
	}
	r.log.Info("rollout started", "rollout", name, "rev", int64(one.Revision), "author", r.author())
	setRevision(w, one.Revision)
	view := s.viewRollout(one)
	view.Warnings = warnings
	return answer(w, http.StatusOK, view)
}

func rolloutName(name string) bool {
	ok := name != "" && len(name) <= 63
	for _, c := range name {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	return ok
}
