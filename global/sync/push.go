package sync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tombolo-mesh/tombolo/global/rollout"
	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// push is the sender: a snapshot when one is needed, then changes as they come,
// while the zone's window has room. Control frames go between.
func (st *stream) push(ctx context.Context, cursor mesh.Revision) error {
	delay := time.Duration(0)
	for {
		if err := st.sendControl(); err != nil {
			return err
		}
		if st.takeNack() {
			cursor = -1
		}
		head, _, moved := st.s.feed.now()
		var err error
		worked := false
		switch {
		case cursor < 0:
			cursor, err = st.sendSnapshot(ctx)
			worked = err == nil
		case cursor < head.Revision && st.hasRoom():
			cursor, err = st.sendChanges(ctx, cursor)
			worked = err == nil
		}
		var failed sendError
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &failed):
			return failed.error
		case errors.Is(err, store.ErrCompacted):
			st.s.log.Info("zone is behind the change log, sending a snapshot", "zone", st.zone.name, "rev", cursor)
			cursor = -1
			continue
		case err != nil:
			st.s.log.Warn("push failed, retrying", "zone", st.zone.name, "rev", cursor, "error", err)
			delay = min(max(2*delay, 50*time.Millisecond), 2*time.Second)
			if !pause(ctx, delay) {
				return context.Cause(ctx)
			}
			continue
		case worked:
			delay = 0
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case frame := <-st.control:
			if err := st.send(frame); err != nil {
				return err
			}
		case <-st.wake:
		case <-moved:
		}
	}
}

// sendError is a failed Send: the stream is gone.
type sendError struct{ error }

func (st *stream) sendControl() error {
	for {
		select {
		case frame := <-st.control:
			if err := st.send(frame); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

func (st *stream) takeNack() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.nacked {
		return false
	}
	st.nacked = false
	st.snapshotting, st.snapshotTo = true, 0
	return true
}

func (st *stream) hasRoom() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.unacked < st.s.cfg.WindowBytes
}

// sendSnapshot sends everything that the zone may see, a chunk at a time.
func (st *stream) sendSnapshot(ctx context.Context) (mesh.Revision, error) {
	st.mu.Lock()
	st.snapshotting, st.snapshotTo, st.inflight, st.unacked = true, 0, nil, 0
	st.mu.Unlock()
	at, all, err := st.s.cfg.Store.Snapshot(ctx)
	if err != nil {
		return -1, fmt.Errorf("open a snapshot: %w", err)
	}
	// Which zones are enabled must be as new as the snapshot. The wait happens
	// with the first resource in hand, so that the sequence is always drained or broken off.
	var enabled map[string]bool
	var staged map[mesh.Key]mesh.Resource
	var chunk []*zonesyncv1.Resource
	size, total, count := 0, 0, 0
	add := func(r mesh.Resource) error {
		if !st.s.view.visible(st.zone.name, r, enabled) {
			return nil
		}
		m := zonesync.FromResource(st.s.view.strip(r))
		n := proto.Size(m) + 8
		if size > 0 && size+n > zonesync.ChunkBytes {
			if err := st.sendChunk(&zonesyncv1.SnapshotChunk{Resources: chunk}); err != nil {
				return err
			}
			chunk, size = nil, 0
		}
		chunk = append(chunk, m)
		size, total, count = size+n, total+n, count+1
		return nil
	}
	for r, err := range all {
		if err != nil {
			return -1, fmt.Errorf("read the snapshot: %w", err)
		}
		if enabled == nil {
			if err := st.s.feed.reach(ctx, at.Revision); err != nil {
				return -1, err
			}
			enabled, _, _ = st.s.feed.fleet()
			staged = st.s.feed.staged(st.zone.name)
		}
		if over, ok := staged[r.Key]; ok {
			r = over
			delete(staged, r.Key)
		}
		if err := add(r); err != nil {
			return -1, err
		}
	}
	for _, r := range staged { // what the store does not have yet
		if err := add(r); err != nil {
			return -1, err
		}
	}
	st.mu.Lock()
	st.sentTo, st.snapshotTo = at.Revision, at.Revision
	st.inflight = append(st.inflight, sent{at.Revision, 0, time.Now()})
	if at.Revision == 0 {
		// Nothing was ever written: there is nothing to wait for.
		st.snapshotting = false
	}
	st.mu.Unlock()
	st.cover(at.Revision)
	last := &zonesyncv1.SnapshotChunk{Resources: chunk, Last: true, To: &zonesyncv1.Position{Revision: int64(at.Revision), Digest: string(at.Digest)}}
	if err := st.sendChunk(last); err != nil {
		return -1, err
	}
	st.s.metrics.snapshots.Inc()
	st.s.log.Info("snapshot sent", "zone", st.zone.name, "rev", at.Revision, "resources", count, "bytes", total)
	return at.Revision, nil
}

func (st *stream) sendChunk(c *zonesyncv1.SnapshotChunk) error {
	if err := st.sendControl(); err != nil {
		return sendError{err}
	}
	if err := st.send(&zonesyncv1.GlobalFrame{Frame: &zonesyncv1.GlobalFrame_Snapshot{Snapshot: c}}); err != nil {
		return sendError{err}
	}
	return nil
}

// sendChanges sends the next changes after the cursor that concern the zone, if
// any, and returns the new cursor.
func (st *stream) sendChanges(ctx context.Context, cursor mesh.Revision) (mesh.Revision, error) {
	changes, to, err := st.s.feed.after(ctx, cursor, st.s.cfg.PushBytes)
	if err != nil || len(changes) == 0 {
		return cursor, err
	}
	enabled, _, _ := st.s.feed.fleet()
	staged := st.s.feed.staged(st.zone.name)
	var out []*zonesyncv1.Change
	newest := map[mesh.Key]int{}
	concerned := false
	add := func(c mesh.Change) {
		m := &zonesyncv1.Change{Revision: int64(c.Revision), Deleted: c.Deleted}
		if c.Deleted {
			m.Resource = zonesync.FromKey(c.Resource.Key)
		} else {
			m.Resource = zonesync.FromResource(c.Resource)
		}
		// Within a push the newest change of a resource is enough.
		if i, ok := newest[c.Resource.Key]; ok {
			out[i] = nil
		}
		newest[c.Resource.Key] = len(out)
		out = append(out, m)
	}
	for _, c := range changes {
		key := c.Resource.Key
		concerned = concerned || st.s.view.concerns(st.zone.name, key)
		if over, ok := staged[key]; ok {
			c.Deleted, c.Resource = false, over
		}
		if key.Kind == rollout.Kind {
			if err := st.stage(ctx, c, enabled, staged, add); err != nil {
				return cursor, err
			}
		} else if key.Kind == mesh.KindZone && key.Name != st.zone.name {
			if err := st.expand(ctx, c, enabled, add); err != nil {
				return cursor, err
			}
		} else if mine, ok := st.s.view.change(st.zone.name, c, enabled); ok {
			add(mine)
		}
	}
	st.mu.Lock()
	from := st.sentTo
	st.mu.Unlock()
	if !concerned && to.Revision-from < silentRevisions {
		return to.Revision, nil
	}
	out = slices.DeleteFunc(out, func(c *zonesyncv1.Change) bool { return c == nil })
	if err := st.sendPush(from, to, out); err != nil {
		return cursor, err
	}
	if head, _, _ := st.s.feed.now(); head.Revision == to.Revision {
		st.s.metrics.delay.Observe(max(0, time.Since(changes[len(changes)-1].Time).Seconds()))
	}
	return to.Revision, nil
}

// expand tells the zone everything that another zone owns, or that it is gone,
// after a change of that Zone.
func (st *stream) expand(ctx context.Context, c mesh.Change, enabled map[string]bool, add func(mesh.Change)) error {
	owner := c.Resource.Name
	for _, kind := range st.s.view.across {
		page, err := st.s.cfg.Store.List(ctx, store.Query{Kind: kind, Zone: &owner})
		if err != nil {
			return fmt.Errorf("list %s of zone %s: %w", kind, owner, err)
		}
		for _, r := range page.Items {
			if !mesh.Crosses(&r) {
				continue
			}
			if mine, ok := st.s.view.change(st.zone.name, mesh.Change{Revision: c.Revision, Resource: r}, enabled); ok {
				add(mine)
			}
		}
	}
	return nil
}

// sendPush sends changes in parts; the zone applies them together.
func (st *stream) sendPush(from mesh.Revision, to store.Position, changes []*zonesyncv1.Change) error {
	size := 0
	for _, c := range changes {
		size += proto.Size(c) + 8
	}
	st.mu.Lock()
	st.sentTo = to.Revision
	st.inflight = append(st.inflight, sent{to.Revision, size, time.Now()})
	st.unacked += size
	st.mu.Unlock()
	st.cover(to.Revision)
	parts := zonesync.Chunks(changes)
	if len(parts) == 0 {
		parts = append(parts, nil)
	}
	for i, part := range parts {
		p := &zonesyncv1.Push{From: int64(from), Changes: part, Partial: i < len(parts)-1,
			To: &zonesyncv1.Position{Revision: int64(to.Revision), Digest: string(to.Digest)}}
		if err := st.send(&zonesyncv1.GlobalFrame{Frame: &zonesyncv1.GlobalFrame_Push{Push: p}}); err != nil {
			return sendError{err}
		}
	}
	st.s.metrics.pushes.Inc()
	st.s.log.Debug("pushed", "zone", st.zone.name, "rev", to.Revision, "changes", len(changes), "bytes", size)
	return nil
}
