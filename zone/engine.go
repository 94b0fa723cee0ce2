package zone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tombolo-mesh/tombolo/identity/ca"
	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/xds/delta"
	"github.com/tombolo-mesh/tombolo/zone/agents"
	"github.com/tombolo-mesh/tombolo/zone/disk"
	zonesync "github.com/tombolo-mesh/tombolo/zone/sync"
	"github.com/tombolo-mesh/tombolo/zone/world"
)

// Defaults and bounds of the engine.
const (
	// DefaultLease is how long a proxy that is gone is remembered.
	DefaultLease = 5 * time.Minute
	// DefaultGrace is how long proxies known from disk count as connected after a
	// restart of the zone.
	DefaultGrace = 30 * time.Second
	// DefaultDoubt is how long a mass disappearance is not believed.
	DefaultDoubt = 10 * time.Second
	// DefaultRetake is how long a broken stream outweighs an API server that says
	// that the pod is ready: its agent has gone to another instance of the zone
	// then, or is on its way back.
	DefaultRetake = 3 * time.Second

	// queueLength bounds the operations that wait for the engine; who comes when
	// it is full waits in its own goroutine.
	queueLength = 1024
	// batchLength bounds the operations of one batch.
	batchLength = 8192
	// maxRounds bounds how often derived facts may lead to other derived facts.
	maxRounds = 16
)

// errStopped is what operations get after the engine's end.
var errStopped = errors.New("the zone is stopping")

// publisher is what the engine needs of the xDS server; *delta.Server is one.
type publisher interface {
	Publish(group string, mark int64, urgent bool, layers ...*delta.Set)
	Assign(node, group string, own *delta.Set)
	Unassign(node string)
	Retire(group string)
	AppendProgress(list []delta.Progress, group string) []delta.Progress
	InSync(node string) bool
	Rejections() []delta.Rejection
	Verdicts() []delta.Verdict
	LastGood(group string) map[delta.Key]delta.Good
	Withhold(group string, refused []delta.Rejection)
}

// engineConfig of an engine.
type engineConfig struct {
	zone                string
	disk                disk.Store
	delta               publisher
	lease, grace, doubt time.Duration
	// env is mesh.EnvKubernetes or mesh.EnvUniversal, the default.
	env string
	// retake is how long a pod whose stream broke is out of endpoint sets while the
	// API server says that it is ready, default DefaultRetake.
	retake time.Duration
	// vips are the ranges of virtual addresses.
	vips VIPRanges
	// linked reports whether global is connected; nil is never.
	linked func() bool
	// tokensChanged is called, without locks, after the keys of some mesh changed.
	tokensChanged func()
	// left says that nobody waits for a fork any more: it stops compiling. The live
	// engine has none.
	left func() bool
	// workers compile classes at once, default GOMAXPROCS.
	workers    int
	log        *slog.Logger
	registerer prometheus.Registerer
}

// engine is the zone's single writer: one goroutine takes what happened, in
// batches, and leaves behind a world, facts, and configuration published to proxies.
type engine struct {
	cfg     engineConfig
	log     *slog.Logger
	metrics *metrics
	world   *world.World
	session token.SessionKey

	ops     chan *op
	stopped chan struct{}

	// The loop's own.
	dirty       map[world.Unit]bool
	units       map[world.Unit]*unit
	proxies     map[mesh.Key]*proxy
	census      [presences]int // of proxies, by presence
	named       map[string]map[string]bool
	classes     map[string]*class
	faulty      map[string]bool // classes of which a compile could not honour everything
	vacant      map[string]bool // classes that may have no members
	sets        map[string]*set
	layers      map[string]*layer
	bundles     map[string]*bundle
	built       *xds.Cache      // what classes share of their configurations
	memo        *ir.Memo        // and of their compiles
	cold        map[string]bool // nodes that cannot serve though they are configured
	authorities map[authorityKey]ca.Slots
	domains     map[string][]string
	synced      map[mesh.Key]bool
	kept        map[mesh.Key]mesh.Resource
	files       map[mesh.Key]mesh.Resource
	authored    map[mesh.Key]bool          // of files, those that people wrote in a cluster
	hidden      map[mesh.Key]mesh.Resource // what the platform made under the same keys
	changed     map[mesh.Key]span          // when policies were published that changed since the start
	counters    map[string]uint64
	given       map[mesh.Key][]string        // addresses that the platform told
	called      map[string]map[mesh.Key]bool // services with addresses, by mesh
	vips        *vips
	names       map[string]*ir.NameTable // by mesh
	// serviceNames are shown in statuses, by mesh.
	serviceNames map[string]map[mesh.Key]mesh.ServiceNames
	permissions  map[string]ir.Permission
	quarantines  map[string]*quarantine // by class
	// running: the first batch after a start is over.
	running  bool
	unsaved  map[mesh.Key]bool
	mark     mesh.Revision
	liveness liveness

	position atomic.Pointer[zonesync.Position]
	// moved rings when what view shows may be another.
	moved     bell
	verifiers sync.Map // mesh name → *token.Verifier
	members   sync.Map // node id → true
	facts     *facts
	board     *agents.Board // of the names of each mesh
	tracker   *tracker
	asked     []delta.Progress // by progress, each time anew
	// planning holds a token while a plan is worked on.
	planning chan struct{}
	// everyone: pods have a class here whose agents are with other instances.
	everyone bool
}

// op is one thing that happened.
type op struct {
	// run changes the engine's state, in the loop.
	run func(b *batch)
	// done is called when the batch is durable and published.
	done func(err error)
	// looks says that it only reads: it sees the engine between two batches, and
	// alone it makes none.
	looks bool
}

// batch is what happened together.
type batch struct {
	now time.Time
	// changes of resources that global pushed, for the world.
	changes []mesh.Change
	// local changes of what the zone owns, where no unit derives them.
	local []mesh.Change
	// must be durable before anything is published, late may follow after.
	must, late disk.Update
	// saveLate are the proxies to save after all.
	saveLate map[mesh.Key]bool
	// saved run when must is durable.
	saved []func()
	// syncFailed says why must could not be written.
	syncFailed error
	// mark is the newest revision in it; 0 for none. applied is how far it reaches.
	mark, applied mesh.Revision
	// reset says that global's history begins anew at mark.
	reset bool
	// moves of proxies between classes.
	moves map[move]bool
	// resign are the proxies that need another certificate.
	resign map[mesh.Key]bool
	// published are the groups that got something.
	published map[string]bool
	// publish are the groups to publish, the value says urgent.
	publish map[string]bool
	// assign are the proxies whose group or own resources changed.
	assign map[mesh.Key]bool
	// addresses of services, decided in this round of derivation.
	addresses map[mesh.Key][]string
	// after run when all is done, outside of any lock.
	after []func()
	// tokens says that some mesh's keys changed.
	tokens bool
	// factsVersion after it.
	factsVersion uint64
}

type move struct{ from, to string }

// newEngine restores an engine from what the disk holds. It publishes nothing
// before run.
func newEngine(cfg engineConfig) (*engine, error) {
	if cfg.env == "" {
		cfg.env = mesh.EnvUniversal
	}
	if cfg.retake == 0 {
		cfg.retake = DefaultRetake
	}
	state, err := cfg.disk.Load()
	if err != nil {
		return nil, err
	}
	e := &engine{
		cfg: cfg, log: cfg.log, metrics: newMetrics(cfg.registerer), world: world.New(cfg.zone),
		ops: make(chan *op, queueLength), stopped: make(chan struct{}),
		dirty: map[world.Unit]bool{}, units: map[world.Unit]*unit{},
		proxies: map[mesh.Key]*proxy{}, named: map[string]map[string]bool{}, classes: map[string]*class{}, faulty: map[string]bool{}, vacant: map[string]bool{},
		sets: map[string]*set{}, layers: map[string]*layer{}, bundles: map[string]*bundle{},
		authorities: map[authorityKey]ca.Slots{}, domains: map[string][]string{},
		synced: map[mesh.Key]bool{}, kept: map[mesh.Key]mesh.Resource{}, files: map[mesh.Key]mesh.Resource{}, authored: map[mesh.Key]bool{}, hidden: map[mesh.Key]mesh.Resource{}, changed: map[mesh.Key]span{},
		counters: map[string]uint64{}, permissions: map[string]ir.Permission{}, quarantines: map[string]*quarantine{}, unsaved: map[mesh.Key]bool{},
		built: &xds.Cache{}, memo: &ir.Memo{}, cold: map[string]bool{}, facts: newFacts(), tracker: newTracker(), given: map[mesh.Key][]string{}, called: map[string]map[mesh.Key]bool{}, vips: newVIPs(cfg.vips), names: map[string]*ir.NameTable{}, serviceNames: map[string]map[mesh.Key]mesh.ServiceNames{}, board: &agents.Board{},
		planning: make(chan struct{}, 1),
	}
	e.ensure(unitGenerators, stageNamed, (*engine).deriveGenerators)
	if err := e.restore(state); err != nil {
		return nil, err
	}
	return e, nil
}

// do hands an operation to the loop and waits until it is durable and published.
func (e *engine) do(cancel <-chan struct{}, run func(b *batch)) error {
	return e.await(cancel, &op{run: run})
}

// await posts an operation and waits for it.
func (e *engine) await(cancel <-chan struct{}, o *op) error {
	result := make(chan error, 1)
	o.done = func(err error) { result <- err }
	if err := e.post(cancel, o); err != nil {
		return err
	}
	select {
	case err := <-result:
		return err
	case <-cancel:
		return context.Canceled
	case <-e.stopped:
		return errStopped
	}
}

func (e *engine) post(cancel <-chan struct{}, o *op) error {
	select {
	case <-e.stopped:
		return errStopped
	default:
	}
	select {
	case e.ops <- o:
		return nil
	case <-cancel:
		return context.Canceled
	case <-e.stopped:
		return errStopped
	}
}

// run is the loop. The first operation is taken at once; what arrives while it
// is worked on is the next batch.
func (e *engine) run(ctx context.Context) error {
	defer close(e.stopped)
	e.process(nil)
	for {
		due, stop := e.liveness.timer()
		var ops []*op
		select {
		case <-ctx.Done():
			stop()
			return nil
		case o := <-e.ops:
			ops = append(ops, o)
		case <-due:
			ops = append(ops, &op{run: e.expire})
		case <-e.tracker.wake:
			if nodes := e.thaw(e.tracker.warm()); nodes != nil {
				ops = append(ops, &op{run: func(*batch) { e.warm(nodes) }})
			}
			if verdicts := e.cfg.delta.Verdicts(); len(verdicts) > 0 {
				ops = append(ops, &op{run: func(b *batch) { e.judge(b, verdicts) }})
			}
			if ops == nil {
				e.progress()
			}
		}
		stop()
		if ops == nil {
			continue
		}
	more:
		for len(ops) < batchLength {
			select {
			case o := <-e.ops:
				ops = append(ops, o)
			default:
				break more
			}
		}
		e.process(ops)
	}
}

// process takes a batch of operations all the way.
func (e *engine) process(ops []*op) {
	looked := 0
	for _, o := range ops {
		if o.looks {
			o.run(nil)
			o.done(nil)
			looked++
		}
	}
	if looked > 0 && looked == len(ops) {
		return
	}
	ops = slices.DeleteFunc(ops, func(o *op) bool { return o.looks })
	b := &batch{now: time.Now(), moves: map[move]bool{}, resign: map[mesh.Key]bool{}, published: map[string]bool{},
		publish: map[string]bool{}, assign: map[mesh.Key]bool{}, saveLate: map[mesh.Key]bool{}}
	for _, o := range ops {
		o.run(b)
	}
	e.save(b)
	if b.reset && b.applied > 0 {
		e.mark = b.mark
		e.tracker.reset()
	}
	e.mark = max(e.mark, b.mark)
	e.facts.update(b.local, e.cfg.zone)
	policies := e.changedPolicies(b)
	e.apply(b, world.Batch{Changes: append(b.changes, b.local...)})
	e.derive(b)
	b.factsVersion = e.facts.version()
	e.compileSets(b)
	publishing := time.Now()
	e.publishUrgent(b)
	e.compileClasses(b)
	e.publishAll(b)
	e.noteChanged(policies, span{publishing, time.Now()})
	e.release(b)
	e.running = true
	e.countProxies()
	e.tracker.begin(b)
	e.progress()
	if b.applied > 0 {
		e.tracker.applied(b)
		e.log.Debug("batch published", "rev", int64(b.applied), "groups", len(b.published), "took", time.Since(b.now))
	}
	e.metrics.batch.Observe(time.Since(b.now).Seconds())
	for _, o := range ops {
		if o.done != nil {
			o.done(b.syncFailed)
		}
	}
	e.finish(b)
}

// save makes durable what must be before it counts. When that fails what global
// pushed is not taken; the proxies of the batch are served all the same, and
// saved with the next one.
func (e *engine) save(b *batch) {
	for k := range e.unsaved {
		if p := e.proxies[k]; p != nil {
			if p.pod == nil { // pods are known from the API server
				b.must.PutProxies = append(b.must.PutProxies, p.record())
			}
		} else {
			b.must.DeleteProxies = append(b.must.DeleteProxies, k)
		}
	}
	if b.must.Empty() {
		return
	}
	start := time.Now()
	if err := e.cfg.disk.Commit(b.must); err != nil {
		e.metrics.diskErrors.Inc()
		e.log.Error("state not saved", "rev", int64(b.applied), "error", err)
		b.syncFailed, b.changes, b.mark, b.applied = err, nil, 0, 0
		return
	}
	clear(e.unsaved)
	for _, fn := range b.saved {
		fn()
	}
	e.metrics.commit.Observe(time.Since(start).Seconds())
}

// finish does what may come after everything is published.
func (e *engine) finish(b *batch) {
	for k := range b.saveLate {
		if p := e.proxies[k]; p != nil && p.pod == nil {
			b.late.PutProxies = append(b.late.PutProxies, p.record())
		}
	}
	if !b.late.Empty() {
		if err := e.cfg.disk.Commit(b.late); err != nil {
			e.metrics.diskErrors.Inc()
			e.log.Error("state not saved", "error", err)
		}
	}
	for _, k := range sortedKeys(b.resign) {
		if p := e.proxies[k]; p != nil && p.control != nil {
			p.control.Resign()
		}
	}
	for _, fn := range b.after {
		fn()
	}
	if b.tokens && e.cfg.tokensChanged != nil {
		e.cfg.tokensChanged()
	}
}

// apply changes the world and notes what became dirty.
func (e *engine) apply(b *batch, changes world.Batch) {
	if len(changes.Changes)+len(changes.Counters)+len(changes.Addresses) == 0 {
		return
	}
	for _, c := range changes.Changes {
		e.discover(c.Resource.Key)
	}
	res := e.world.Apply(changes)
	for _, u := range res.Dirty {
		e.dirty[u] = true
	}
	for _, k := range res.Broken {
		e.log.Warn("resource cannot be decoded; the last good version stays", "resource", k.String(), "rev", int64(b.mark))
	}
}

// derive brings every derived fact up to date: those of proxies first, then what
// follows from them, until nothing changes any more.
func (e *engine) derive(b *batch) {
	for range maxRounds {
		var due []*unit
		for u := range e.dirty {
			if x := e.units[u]; x != nil && x.derive != nil {
				due = append(due, x)
			}
		}
		if len(due) == 0 {
			return
		}
		slices.SortFunc(due, compareUnits)
		stage := due[0].stage
		var changes, ends []mesh.Change
		for _, u := range due {
			if u.stage != stage {
				break
			}
			delete(e.dirty, u.id)
			for _, c := range e.runUnit(b, u) {
				if c.Deleted {
					ends = append(ends, c)
				} else {
					changes = append(changes, c)
				}
			}
		}
		// Ends first: what one unit ceases to stand for another may begin to.
		changes = append(ends, changes...)
		e.facts.update(changes, e.cfg.zone)
		e.apply(b, world.Batch{Changes: changes, Addresses: e.takeAddresses(b)})
	}
	e.log.Error("derived facts do not settle", "units", fmt.Sprint(len(e.dirty)))
}
