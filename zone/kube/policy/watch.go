package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/kube/cluster"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

const (
	// look is how often a cluster without a CustomResourceDefinition is asked
	// whether it has it now.
	look = 10 * time.Second
	// lookTimeout bounds one such question.
	lookTimeout = 5 * time.Second
)

// Applier takes resources that the zone owns; platform.Sink is one.
type Applier interface {
	Apply(ctx context.Context, b platform.Batch) error
}

// Config of Resources.
type Config struct {
	// Client of the cluster. Required.
	Client *cluster.Client
	// Zone is this zone's name. Required.
	Zone string
	// Sink takes what was authored in the cluster. Required.
	Sink Applier
	// World is what global authored and how the zone's proxies are with it. Nil:
	// no copies and no statuses.
	World World
	// Leads reports whether this instance writes copies and statuses. Required
	// with World.
	Leads func() bool
	// Log, default discards.
	Log *slog.Logger
}

// Resources follows our resources of a cluster.
type Resources struct {
	cfg    Config
	log    *slog.Logger
	tables []*table
	wake   chan struct{}
	// dirty wakes who writes copies and statuses.
	dirty chan struct{}
	// flushing lets one batch out at a time.
	flushing sync.Mutex
	// synced is closed when the first list of every kind that the cluster has is
	// handed over.
	synced chan struct{}

	mu sync.Mutex
	// pending are resources to hand over; nil ends one.
	pending map[mesh.Key]*mesh.Resource
	// told are those that were.
	told map[mesh.Key]bool
	// refused says why the zone cannot use an object, lastGood which spec of it is in
	// force instead, if there was one.
	refused  map[mesh.Key]mesh.Problems
	lastGood map[mesh.Key]json.RawMessage
	// versions are the resourceVersions of statuses that this instance wrote, and
	// when, by object.
	wrote map[objectKey]written
	// made are the copies that this instance wrote, as the API server has them.
	made map[objectKey]writtenCopy
}

// writtenCopy is a state of a copy.
type writtenCopy struct {
	uid        types.UID
	generation int64
}

// table is a kind in the cluster.
type table struct {
	kind    mesh.Kind
	objects *cluster.Table[*object]
	// absent is closed once it is known that the cluster lacks the kind for now.
	absent chan struct{}
}

// objectKey names an object of a kind.
type objectKey struct {
	kind            mesh.KindName
	namespace, name string
}

// New makes Resources. It does no I/O.
func New(cfg Config) *Resources {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Resources{cfg: cfg, log: cfg.Log, wake: make(chan struct{}, 1), dirty: make(chan struct{}, 1), synced: make(chan struct{}), pending: map[mesh.Key]*mesh.Resource{},
		told: map[mesh.Key]bool{}, refused: map[mesh.Key]mesh.Problems{}, lastGood: map[mesh.Key]json.RawMessage{}, wrote: map[objectKey]written{}, made: map[objectKey]writtenCopy{}}
	for _, k := range mesh.ClusterKinds() {
		t := &table{kind: k, absent: make(chan struct{})}
		t.objects = cluster.NewTable(cluster.Custom(cfg.Client, gvr(k), string(k.Name), ""), slim, func(list []cluster.Change[*object]) { r.changed(k, list) })
		r.tables = append(r.tables, t)
	}
	return r
}

// Synced is closed when everything that was authored in the cluster before the
// start is handed over, of the kinds that the cluster has.
func (r *Resources) Synced() <-chan struct{} { return r.synced }

// Run follows the resources until ctx ends.
func (r *Resources) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for _, t := range r.tables {
		all.Go(func() { r.follow(ctx, t) })
	}
	all.Go(func() {
		for _, t := range r.tables {
			select {
			case <-t.objects.Synced():
			case <-t.absent:
			case <-ctx.Done():
				return
			}
		}
		r.flush(ctx)
		close(r.synced)
		r.ring()
	})
	if r.cfg.World != nil {
		all.Go(func() { r.write(ctx) })
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
			r.flush(ctx)
		}
	}
}

// MeshExists reports whether the cluster shows a mesh. While it cannot be known
// every mesh does.
func (r *Resources) MeshExists(name string) bool {
	for _, t := range r.tables {
		if t.kind.Name != mesh.KindMesh {
			continue
		}
		select {
		case <-t.objects.Synced():
			_, ok := t.objects.Get("", name)
			return ok || t.objects.Len() == 0
		default:
		}
	}
	return true
}

func (r *Resources) ring() {
	for _, c := range []chan struct{}{r.wake, r.dirty} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// follow watches one kind, once the cluster has it.
func (r *Resources) follow(ctx context.Context, t *table) {
	said := false
	for {
		bounded, cancel := context.WithTimeout(ctx, lookTimeout)
		_, err := r.cfg.Client.Dynamic.Resource(gvr(t.kind)).List(bounded, metav1.ListOptions{Limit: 1})
		cancel()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		if !said {
			r.log.Warn("resources cannot be read", "kind", t.kind.Name, "error", err)
			said = true
		}
		pause := look
		if apierrors.IsNotFound(err) {
			select {
			case <-t.absent:
			default:
				close(t.absent)
			}
		} else {
			pause = time.Second
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
	t.objects.Run(ctx, r.cfg.Client)
}

// changed files what a watch saw.
func (r *Resources) changed(k mesh.Kind, list []cluster.Change[*object]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range list {
		good := r.forget(k, c.Old)
		if c.New == nil || mirrored(c.New.Labels) {
			continue
		}
		res, problems := resourceOf(r.cfg.Zone, k, c.New)
		if len(problems) == 0 {
			r.pending[res.Key] = &res
			continue
		}
		r.refused[res.Key] = problems
		r.pending[res.Key] = nil
		last, ok := r.lastOf(k, c.New, good)
		if !ok {
			r.log.Warn("a resource of the cluster has no effect", "key", res.Key.String(), "reason", oneLine(problems))
			continue
		}
		r.pending[res.Key], r.lastGood[res.Key] = &last, last.Spec
		r.log.Warn("a resource of the cluster cannot be used; its last good version stays", "key", res.Key.String(), "reason", oneLine(problems))
	}
	r.ring()
}

// forget ends what an object stands for, and returns the spec of it that was in
// force, if one was.
func (r *Resources) forget(k mesh.Kind, o *object) json.RawMessage {
	if o == nil || mirrored(o.Labels) {
		return nil
	}
	// The mesh is part of the key: an object of another mesh is another resource.
	key := owned(r.cfg.Zone, k, o.Name, o.Namespace, o.Labels).Key
	good := o.spec
	if len(r.refused[key]) > 0 {
		good = r.lastGood[key]
	}
	delete(r.refused, key)
	delete(r.lastGood, key)
	r.pending[key] = nil
	return good
}

// lastOf makes the resource of an object that cannot be used from a former spec of
// it: one that was in force before, or that its status has from before a restart. A
// mistake that got past the webhook, or an older zone, takes no policy back.
func (r *Resources) lastOf(k mesh.Kind, o *object, good json.RawMessage) (mesh.Resource, bool) {
	if len(good) == 0 && o.status != nil {
		good = o.status.LastGood
	}
	if len(good) == 0 {
		return mesh.Resource{}, false
	}
	former := *o
	former.spec = good
	res, problems := resourceOf(r.cfg.Zone, k, &former)
	return res, len(problems) == 0
}

// flush hands over what is pending. What the engine cannot take now stays.
func (r *Resources) flush(ctx context.Context) {
	r.flushing.Lock()
	defer r.flushing.Unlock()
	r.mu.Lock()
	batch := platform.Batch{Resources: map[mesh.Key]*mesh.Resource{}, Authored: true}
	for k, res := range r.pending {
		if res != nil || r.told[k] {
			batch.Resources[k] = res
		}
	}
	clear(r.pending)
	r.mu.Unlock()
	if batch.Empty() {
		return
	}
	err := r.cfg.Sink.Apply(ctx, batch)
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, res := range batch.Resources {
		if res != nil {
			r.told[k] = true // it may have been taken, even if the answer was lost
		}
		if err == nil && res == nil {
			delete(r.told, k)
		}
		if _, newer := r.pending[k]; err != nil && !newer {
			r.pending[k] = res
		}
	}
	if err != nil && ctx.Err() == nil {
		r.log.Warn("resources of the cluster not taken, retrying", "error", err)
		time.AfterFunc(time.Second, r.ring)
	}
}

func oneLine(p mesh.Problems) string {
	const most = 1024
	text := ""
	for i, x := range p {
		if i > 0 {
			text += "; "
		}
		if x.Field != "" {
			text += x.Field + ": "
		}
		text += x.Reason
	}
	if len(text) > most {
		text = fmt.Sprintf("%.*s…", most, text)
	}
	return text
}
