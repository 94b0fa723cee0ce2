package sync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/tombolo-mesh/tombolo/global/rollout"
	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// A staged change is an overlay: zones whose stage has come see its documents in
// place of what the store holds. A step of the rollout is a change of the log
// like any other, so that push, snapshot and resume say the same to every zone,
// whichever instance it is connected to.

// learnRollout keeps the rollouts that run. The map is replaced, never changed.
func learnRollout(rollouts map[string]rollout.Rollout, c mesh.Change, log *slog.Logger) map[string]rollout.Rollout {
	if c.Deleted {
		return with(rollouts, c.Resource.Name, rollout.Rollout{}, true)
	}
	r, err := rollout.Decode(c.Resource)
	if err != nil {
		log.Error("a rollout cannot be read", "rev", int64(c.Revision), "err", err)
	}
	return with(rollouts, r.Name, r, err != nil || r.Status.Phase != rollout.Running)
}

// staged are the resources that a zone has in place of what the store holds.
func (f *feed) staged(zone string) map[mesh.Key]mesh.Resource {
	f.mu.Lock()
	rollouts := f.rollouts
	f.mu.Unlock()
	var out map[mesh.Key]mesh.Resource
	for _, r := range rollouts {
		for _, res := range r.Staged(zone) {
			if out == nil {
				out = map[mesh.Key]mesh.Resource{}
			}
			out[res.Key] = res
		}
	}
	return out
}

// stage tells the zone what a step of a rollout changes for it: its documents, or
// what the store holds.
func (st *stream) stage(ctx context.Context, c mesh.Change, enabled map[string]bool, staged map[mesh.Key]mesh.Resource, add func(mesh.Change)) error {
	if c.Deleted {
		return nil // of one that ended
	}
	r, err := rollout.Decode(c.Resource)
	if err != nil || !r.Reached(st.zone.name) || r.Status.Phase == rollout.Done {
		return nil // unreadable is logged where it is learned; the end's documents are changes of their own
	}
	for _, d := range r.Spec.Documents {
		change := mesh.Change{Revision: c.Revision}
		if over, ok := staged[d.Key()]; ok {
			change.Resource = over
		} else {
			held, err := st.s.cfg.Store.Get(ctx, d.Key())
			switch {
			case errors.Is(err, store.ErrNotFound):
				change.Deleted, change.Resource = true, mesh.Resource{Key: d.Key()}
			case err != nil:
				return fmt.Errorf("read %s: %w", d.Key(), err)
			default:
				change.Resource = held
			}
		}
		if mine, ok := st.s.view.change(st.zone.name, change, enabled); ok {
			add(mine)
		}
	}
	return nil
}
