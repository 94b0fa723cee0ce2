package sync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	gosync "sync"
	"time"

	"github.com/tombolo-mesh/tombolo/global/rollout"
	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// Bounds of the feed's shared window. What is older is read from the store.
const (
	windowChanges = 4096
	windowBytes   = 16 << 20
	readChanges   = 256
	// historyChanges are remembered by key, for the status of a change.
	historyChanges = 1024
)

// feed is the single reader of the store's changes. It keeps the newest of them
// in a window that all streams share, and the few facts about the fleet that
// decide what a zone may see and say. Older changes leave the window first.
type feed struct {
	store store.Store
	log   *slog.Logger

	mu gosync.Mutex
	// ready is closed once the first load is done.
	ready chan struct{}
	// wake is closed and replaced whenever head moves or the history is replaced.
	wake chan struct{}
	// epoch counts replaced histories; a stream of an older one must end.
	epoch int
	head  store.Position
	// base is the revision before the first change of the window.
	base   mesh.Revision
	window []mesh.Change
	bytes  int
	// digests of the ends of the batches that were read, within the window.
	digests map[mesh.Revision]store.Digest
	history []past
	// zones says for each Zone whether it is enabled. The maps are replaced, never changed.
	zones      map[string]bool
	meshes     map[string]bool
	identities map[mesh.Key]mesh.Resource
	// rollouts that run, by name.
	rollouts map[string]rollout.Rollout
	// meddled has the last revision at which another than the zone itself changed
	// what it owns, for example by deleting a whole mesh.
	meddled map[string]mesh.Revision
	// secrets is the last revision of a Secret of no mesh: keys and revocations of zones.
	secrets mesh.Revision
}

// past is what is remembered of a change.
type past struct {
	revision mesh.Revision
	key      mesh.Key
	time     time.Time
}

func newFeed(s store.Store, log *slog.Logger) *feed {
	return &feed{store: s, log: log, ready: make(chan struct{}), wake: make(chan struct{}), digests: map[mesh.Revision]store.Digest{}}
}

// run reads for ever. An unavailable store is retried; the window stays.
func (f *feed) run(ctx context.Context) error {
	delay := time.Duration(0)
	loaded := false
	for {
		var err error
		if !loaded {
			err = f.load(ctx)
			loaded = err == nil
		} else if err = f.verify(ctx); err == nil {
			delay = 0
			err = f.follow(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errHistory) || errors.Is(err, store.ErrCompacted) {
			f.log.Warn("history replaced, reloading", "error", err)
			loaded = false
		} else if err != nil {
			f.log.Warn("reading changes failed, retrying", "error", err)
		}
		if loaded && err == nil {
			continue
		}
		delay = min(max(2*delay, 50*time.Millisecond), 2*time.Second)
		if !pause(ctx, delay/2+rand.N(delay/2)) {
			return nil
		}
	}
}

// errHistory says that the store is not the one that was read before.
var errHistory = errors.New("the store has another history")

// load reads what the feed must know and starts a new epoch at the head. The
// lists may be newer than the head; replaying changes over them does no harm.
func (f *feed) load(ctx context.Context) error {
	head, err := f.store.Head(ctx)
	if err != nil {
		return fmt.Errorf("read the head: %w", err)
	}
	zones, meshes, identities := map[string]bool{}, map[string]bool{}, map[mesh.Key]mesh.Resource{}
	rollouts := map[string]rollout.Rollout{}
	for _, kind := range []mesh.KindName{mesh.KindZone, mesh.KindMesh, mesh.KindMeshIdentity, rollout.Kind} {
		page, err := f.store.List(ctx, store.Query{Kind: kind})
		if err != nil {
			return fmt.Errorf("list %s: %w", kind, err)
		}
		for _, r := range page.Items {
			switch kind {
			case mesh.KindZone:
				zones[r.Name] = zoneEnabled(r)
			case mesh.KindMesh:
				meshes[r.Name] = true
			case rollout.Kind:
				rollouts = learnRollout(rollouts, mesh.Change{Revision: r.Revision, Resource: r}, f.log)
			default:
				identities[r.Key] = r
			}
		}
	}
	history, err := f.remember(ctx, head.Revision)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch++
	f.head, f.base, f.window, f.bytes, f.history = head, head.Revision, nil, 0, history
	f.digests = map[mesh.Revision]store.Digest{head.Revision: head.Digest}
	f.zones, f.meshes, f.identities, f.rollouts, f.meddled = zones, meshes, identities, rollouts, map[string]mesh.Revision{}
	f.bumpLocked()
	select {
	case <-f.ready:
	default:
		close(f.ready)
	}
	return nil
}

// remember reads the history before a revision, for the status of its changes.
// What was compacted is not remembered.
func (f *feed) remember(ctx context.Context, head mesh.Revision) ([]past, error) {
	var history []past
	for after := max(0, head-historyChanges); after < head; {
		changes, err := f.store.Changes(ctx, after, readChanges)
		if errors.Is(err, store.ErrCompacted) {
			return nil, nil
		} else if err != nil {
			return nil, fmt.Errorf("read changes after revision %d: %w", after, err)
		}
		if len(changes) == 0 {
			return nil, nil
		}
		for _, c := range changes {
			if after = c.Revision; after <= head {
				history = append(history, past{c.Revision, c.Resource.Key, c.Time})
			}
		}
	}
	return history, nil
}

// verify checks that the store still has the history that was read from it.
func (f *feed) verify(ctx context.Context) error {
	head := f.position()
	if head.Revision == 0 {
		return nil
	}
	digest, err := f.store.DigestAt(ctx, head.Revision)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("%w: revision %d is gone", errHistory, head.Revision)
	case errors.Is(err, store.ErrCompacted):
		return nil
	case err != nil:
		return fmt.Errorf("read the digest of revision %d: %w", head.Revision, err)
	case digest != head.Digest:
		return fmt.Errorf("%w: revision %d differs", errHistory, head.Revision)
	}
	return nil
}

// follow reads changes as they are committed, until an error.
func (f *feed) follow(ctx context.Context) error {
	for waited := false; ; {
		after := f.position().Revision
		changes, err := f.store.Changes(ctx, after, readChanges)
		if err != nil {
			return fmt.Errorf("read changes after revision %d: %w", after, err)
		}
		if len(changes) == 0 {
			// Waking up to nothing may mean that the store was replaced.
			if waited {
				if err := f.verify(ctx); err != nil {
					return err
				}
			}
			if err := f.store.Wait(ctx, after); err != nil {
				return fmt.Errorf("wait for a change after revision %d: %w", after, err)
			}
			waited = true
			continue
		}
		waited = false
		for i, c := range changes {
			if c.Revision != after+mesh.Revision(i)+1 {
				return fmt.Errorf("%w: revision %d follows %d", errHistory, c.Revision, after+mesh.Revision(i))
			}
		}
		last := changes[len(changes)-1].Revision
		digest, err := f.store.DigestAt(ctx, last)
		if err != nil {
			return fmt.Errorf("read the digest of revision %d: %w", last, err)
		}
		f.publish(changes, store.Position{Revision: last, Digest: digest})
	}
}

func (f *feed) publish(changes []mesh.Change, head store.Position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range changes {
		f.learnLocked(c)
		f.window = append(f.window, c)
		f.bytes += changeBytes(c)
		f.history = append(f.history, past{c.Revision, c.Resource.Key, c.Time})
	}
	f.head = head
	f.digests[head.Revision] = head.Digest
	drop := 0
	for ; drop < len(f.window) && (len(f.window)-drop > windowChanges || f.bytes > windowBytes); drop++ {
		f.bytes -= changeBytes(f.window[drop])
		f.base = f.window[drop].Revision
	}
	if drop > 0 {
		f.window = append([]mesh.Change(nil), f.window[drop:]...)
		maps.DeleteFunc(f.digests, func(r mesh.Revision, _ store.Digest) bool { return r < f.base })
	}
	if n := len(f.history); n > 2*historyChanges {
		f.history = append([]past(nil), f.history[n-historyChanges:]...)
	}
	f.bumpLocked()
}

// learnLocked keeps what decides about visibility and facts, before the change is published.
func (f *feed) learnLocked(c mesh.Change) {
	r := c.Resource
	if r.Key.Zone != "" && c.Author != zoneAuthor(r.Key.Zone) {
		f.meddled[r.Key.Zone] = c.Revision
	}
	switch r.Kind {
	case mesh.KindSecret:
		if r.Mesh == "" {
			f.secrets = c.Revision
		}
	case mesh.KindZone:
		f.zones = with(f.zones, r.Name, !c.Deleted && zoneEnabled(r), c.Deleted)
	case mesh.KindMesh:
		f.meshes = with(f.meshes, r.Name, true, c.Deleted)
	case rollout.Kind:
		f.rollouts = learnRollout(f.rollouts, c, f.log)
	case mesh.KindMeshIdentity:
		f.identities = with(f.identities, r.Key, r, c.Deleted)
	}
}

// with returns a copy of a map with one entry set or deleted.
func with[K comparable, V any](m map[K]V, k K, v V, deleted bool) map[K]V {
	m = maps.Clone(m)
	if deleted {
		delete(m, k)
	} else {
		m[k] = v
	}
	return m
}

func (f *feed) bumpLocked() {
	close(f.wake)
	f.wake = make(chan struct{})
}

// position of the last change that was read.
func (f *feed) position() store.Position {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.head
}

// now is the head, the epoch, and a channel that closes when either changes.
func (f *feed) now() (store.Position, int, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.head, f.epoch, f.wake
}

// fleet is which zones are enabled, which meshes exist, and the identities. Read only.
func (f *feed) fleet() (zones, meshes map[string]bool, identities map[mesh.Key]mesh.Resource) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.zones, f.meshes, f.identities
}

// meddledAfter says whether another than the zone changed what it owns, after a revision.
func (f *feed) meddledAfter(zone string, rev mesh.Revision) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.meddled[zone] > rev
}

// secretsAt is when a Secret of no mesh last changed, as far as it was read.
func (f *feed) secretsAt() mesh.Revision {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.secrets
}

// zoneAuthor is the author of what a zone tells.
func zoneAuthor(zone string) string { return "zone:" + zone }

// waitReady blocks until the first load.
func (f *feed) waitReady(ctx context.Context) error {
	select {
	case <-f.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// reach blocks until the feed has read up to a revision.
func (f *feed) reach(ctx context.Context, rev mesh.Revision) error {
	for {
		head, _, wake := f.now()
		if head.Revision >= rev {
			return nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// after returns changes after a revision, about maxBytes of them, and the
// position at the last of them: from the window, or else from the store. No
// changes means that rev is the head.
func (f *feed) after(ctx context.Context, rev mesh.Revision, maxBytes int) ([]mesh.Change, store.Position, error) {
	changes, to, known := f.fromWindow(rev, maxBytes)
	if !known {
		var err error
		if changes, err = f.store.Changes(ctx, rev, readChanges); err != nil {
			return nil, to, fmt.Errorf("read changes after revision %d: %w", rev, err)
		}
		for i, size := 0, 0; i < len(changes); i++ {
			if size += changeBytes(changes[i]); size > maxBytes && i > 0 {
				changes = changes[:i]
			}
		}
		if len(changes) == 0 {
			return nil, to, nil
		}
		to = store.Position{Revision: changes[len(changes)-1].Revision}
		// What the streams decide with must be as new as what they send.
		if err := f.reach(ctx, to.Revision); err != nil {
			return nil, to, err
		}
	}
	if len(changes) > 0 && to.Digest == "" {
		var err error
		if to.Digest, err = f.store.DigestAt(ctx, to.Revision); err != nil {
			return nil, to, fmt.Errorf("read the digest of revision %d: %w", to.Revision, err)
		}
	}
	return changes, to, nil
}

func (f *feed) fromWindow(rev mesh.Revision, maxBytes int) (changes []mesh.Change, to store.Position, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if rev < f.base {
		return nil, to, false
	}
	if rev >= f.head.Revision {
		return nil, f.head, true
	}
	start := int(rev - f.base)
	end, size := start, 0
	for end < len(f.window) && (end == start || size+changeBytes(f.window[end]) <= maxBytes) {
		size += changeBytes(f.window[end])
		end++
	}
	changes = f.window[start:end:end]
	last := changes[len(changes)-1].Revision
	return changes, store.Position{Revision: last, Digest: f.digests[last]}, true
}

// recall finds a change in the bounded history.
func (f *feed) recall(rev mesh.Revision) (past, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.history); n > 0 {
		if i := int(rev - f.history[0].revision); i >= 0 && i < n {
			return f.history[i], true
		}
	}
	return past{}, false
}

func changeBytes(c mesh.Change) int {
	n := 200 + len(c.Resource.Spec) + len(c.Resource.Status)
	for k, v := range c.Resource.Labels {
		n += len(k) + len(v) + 16
	}
	return n
}

// zoneEnabled reads a Zone's spec; what cannot be read is enabled, the default.
func zoneEnabled(r mesh.Resource) bool {
	var z mesh.Zone
	if err := json.Unmarshal(r.Spec, &z); err != nil || z.Enabled == nil {
		return true
	}
	return *z.Enabled
}

// pause waits, and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
