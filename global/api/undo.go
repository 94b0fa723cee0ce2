package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/tombolo-mesh/tombolo/global/api/access"
	"github.com/tombolo-mesh/tombolo/global/rollout"
	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
)

func (s *Server) undoRoutes() []route {
	return []route{{method: http.MethodPost, path: "/changes/{revision}/undo", need: author, handle: s.undo, op: operation{
		summary: "Restore what was before the write that a revision is of, as a new change", answer: "Written", codes: []int{400, 401, 403, 404, 409, 410},
		query: []parameter{{"dryRun", "true says what would change, without writing", "boolean"},
			{"force", "true restores also what was changed since", "boolean"}, weakeningParameter()}}}}
}

func (s *Server) undo(w http.ResponseWriter, r *request) error {
	rev, err := s.reached(r)
	if err != nil {
		return err
	}
	dry, err := r.flag("dryRun")
	if err != nil {
		return err
	}
	force, err := r.flag("force")
	if err != nil {
		return err
	}
	c, err := r.consent()
	if err != nil {
		return err
	}
	list, err := s.writeOf(r.Context(), rev)
	if err != nil {
		return err
	}
	wr := writer{s: s, user: r.author(), dry: dry}
	for try := 1; ; try++ {
		p, err := s.undoing(r.Context(), list, force, r.admin())
		if err != nil {
			return err
		}
		if try == 1 { // what was before may have let callers in
			if wr.warnings, err = s.weakens(r.Context(), p.ops, c); err != nil {
				return err
			}
		}
		out, err := wr.commit(r.Context(), p)
		switch {
		case err == nil:
			s.wrote(w, r, out)
			return answer(w, http.StatusOK, out)
		case !errors.Is(err, store.ErrConflict):
			return err
		case try == attempts:
			return problem(http.StatusConflict, "%s %d times; try again", errRace, attempts)
		}
	}
}

// undoing plans the way back to before a write.
func (s *Server) undoing(ctx context.Context, list []mesh.Change, force, admin bool) (*plan, error) {
	first := list[0].Revision
	if fact(list[0]) {
		return nil, problem(http.StatusConflict, "revision %d is what %s told of what it owns; it is changed there", first, strings.Replace(list[0].Author, ":", " ", 1))
	}
	left := map[mesh.Key]mesh.Change{} // what the write left, by resource
	var keys []mesh.Key
	for _, c := range list {
		if c.Resource.Kind == rollout.Kind {
			continue // the end of a rollout comes with what it wrote
		}
		if _, ok := left[c.Resource.Key]; !ok {
			keys = append(keys, c.Resource.Key)
		}
		left[c.Resource.Key] = c
	}
	if len(keys) == 0 {
		return nil, problem(http.StatusConflict, "revision %d is a step of rollout %q; while it runs it can be aborted, and when it is done its last revision can be undone", first, list[0].Resource.Name)
	}
	if err := s.notStaged(ctx, keys...); err != nil {
		return nil, err
	}
	var bad []InvalidParameter
	refuse := func(key mesh.Key, format string, args ...any) {
		bad = append(bad, InvalidParameter{Resource: clip(label(key)), Field: "revision", Reason: fmt.Sprintf(format, args...)})
	}
	if err := undoable(left, admin); err != nil {
		return nil, err
	}
	var puts, deletes []undone
	returns := map[string]bool{} // meshes that come back
	for _, key := range keys {
		old, how, err := s.before(ctx, key, first)
		if err != nil {
			return nil, err
		}
		if c := left[key]; how == beyond && !c.Deleted && c.Resource.Created.Equal(c.Time) {
			how = absent
		}
		now, err := s.cfg.Store.Get(ctx, key)
		exists := err == nil
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		switch {
		case how == beyond:
			refuse(key, "what it was before revision %d is no longer in the log", first)
			continue
		case force:
		case exists && (left[key].Deleted || now.Revision != left[key].Revision):
			refuse(key, "was changed since, at revision %d", now.Revision)
			continue
		case !exists && !left[key].Deleted:
			refuse(key, "was deleted since")
			continue
		}
		one := undone{key: key, now: now, exists: exists}
		if how == was {
			one.back = old.Resource
			one.back.Status = now.Status
			puts = append(puts, one)
			returns[key.Name] = returns[key.Name] || key.Kind == mesh.KindMesh
		} else if exists {
			deletes = append(deletes, one)
		}
	}
	if len(bad) > 0 {
		p := problem(http.StatusConflict, "%s of revision %d cannot be restored; nothing was written", count(len(bad), "resource"), first)
		p.Invalid = bad[:min(len(bad), maxReported)]
		return nil, p
	}
	return s.undoPlan(ctx, puts, deletes, returns, force)
}

// undoable is a 403 when the author may not write what an undo would: to take back
// the first revocation of a token is to delete a Secret. The keys of a mesh that
// the write made go with it, as they do when it is deleted.
func undoable(left map[mesh.Key]mesh.Change, admin bool) error {
	for key, c := range left {
		k, ok := mesh.KindByName(key.Kind)
		if ok && !k.AdminOnly {
			continue
		}
		m, whole := left[mesh.Key{Kind: mesh.KindMesh, Name: key.Mesh}]
		reserved := key.Kind == mesh.KindSecret && access.Reserved(key.Name)
		switch {
		case reserved && whole && !c.Deleted && !m.Deleted:
		case reserved && !whole:
			return problem(http.StatusForbidden, "revision %d is of keys or revocations of tokens, which are not undone; see /tokens", c.Revision)
		case !admin:
			return problem(http.StatusForbidden, "only group %s may write a %s, which revision %d changed", GroupAdmin, key.Kind, c.Revision)
		}
	}
	return nil
}

// undone is a resource on its way back.
type undone struct {
	key       mesh.Key
	now, back mesh.Resource
	exists    bool
}

// undoPlan orders the ops: what comes back with its mesh first, then what goes
// away, with what is in it.
func (s *Server) undoPlan(ctx context.Context, puts, deletes []undone, returns map[string]bool, force bool) (*plan, error) {
	p := &plan{}
	result := func(key mesh.Key, action string, rev mesh.Revision) int {
		if key.Kind == mesh.KindSecret && access.Reserved(key.Name) {
			return -1 // comes and goes with its mesh
		}
		p.results = append(p.results, Result{Kind: key.Kind, Mesh: key.Mesh, Name: key.RESTName(), Action: action, Revision: rev})
		return len(p.results) - 1
	}
	isMesh := func(u undone) int {
		if u.key.Kind == mesh.KindMesh {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(puts, func(a, b undone) int { return isMesh(a) - isMesh(b) })
	slices.SortStableFunc(deletes, func(a, b undone) int { return isMesh(b) - isMesh(a) })
	guarded := map[string]bool{}
	for _, u := range puts {
		if m := u.key.Mesh; m != "" && !returns[m] && !guarded[m] {
			guarded[m] = true
			held, err := s.meshExists(ctx, m)
			if err != nil {
				return nil, problem(http.StatusConflict, "%s cannot come back: %s", label(u.key), problemOf(err).Detail)
			}
			p.add(store.Op{Resource: held, IfRevision: &held.Revision}, false, -1)
		}
	}
	for _, u := range puts {
		action, changes := actionUpdated, true
		switch {
		case !u.exists:
			action = actionCreated
		case store.SameContent(u.now, u.back):
			action, changes = actionUnchanged, false
		}
		rev := u.now.Revision
		p.add(store.Op{Resource: u.back, IfRevision: &rev}, changes, result(u.key, action, rev))
	}
	gone := map[mesh.Key]bool{}
	for _, u := range slices.Backward(deletes) { // meshes first: their deletion has everything in them
		if u.key.Kind != mesh.KindMesh && u.key.Kind != mesh.KindZone {
			continue
		}
		ops, err := s.deletion(ctx, u.now)
		if err != nil {
			return nil, err
		}
		for _, op := range ops {
			mine := slices.ContainsFunc(deletes, func(d undone) bool { return d.key == op.Resource.Key })
			if !mine && !force {
				return nil, problem(http.StatusConflict, "%s has %s, which is newer and would go away with it; nothing was written", label(u.key), label(op.Resource.Key))
			}
			if !gone[op.Resource.Key] {
				gone[op.Resource.Key] = true
				p.add(op, true, result(op.Resource.Key, actionDeleted, 0))
			}
		}
	}
	for _, u := range deletes {
		if !gone[u.key] {
			gone[u.key] = true
			rev := u.now.Revision
			p.add(store.Op{Delete: true, Resource: mesh.Resource{Key: u.key}, IfRevision: &rev}, true, result(u.key, actionDeleted, 0))
		}
	}
	return p, nil
}
