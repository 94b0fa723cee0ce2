// Package driver moves rollouts on: it looks at the zones whose stage has come,
// and writes the next stage, the end or the return. In flow rollouts and how far
// changes came, out flow writes. Any number of instances may run one on a store:
// each step is written under the condition that the rollout did not move meanwhile.
package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tombolo-mesh/tombolo/global/rollout"
	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// every is how often a running rollout is looked at.
const every = time.Second

// Fleet is what is known of zones; *sync.Server implements it.
type Fleet interface {
	Change(rev mesh.Revision) sync.ChangeStatus
	Zones() []sync.ZoneStatus
	Inspect(ctx context.Context, zone string, q sync.Question, w io.Writer) error
}

// Config of a Driver.
type Config struct {
	// Store and Fleet, required.
	Store store.Store
	Fleet Fleet
	// Log, required.
	Log *slog.Logger
	// Now, required.
	Now func() time.Time
	// Registerer of metrics, default none.
	Registerer prometheus.Registerer
}

// Driver moves the rollouts of a store.
type Driver struct {
	cfg     Config
	calls   *calls
	metrics *metrics
}

// New makes a Driver; no I/O.
func New(cfg Config) *Driver {
	return &Driver{cfg: cfg, calls: newCalls(cfg), metrics: newMetrics(cfg.Registerer, cfg.Now)}
}

// Run drives until ctx ends. Where no rollout runs it waits for a change.
func (d *Driver) Run(ctx context.Context) error {
	defer d.calls.wait()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		head, err := d.cfg.Store.Head(ctx)
		running := 0
		if err == nil {
			running, err = d.look(ctx)
		}
		if err != nil && ctx.Err() == nil {
			d.cfg.Log.Warn("rollouts cannot be looked at, retrying", "err", err)
		} else if running == 0 && ctx.Err() == nil {
			if err := d.cfg.Store.Wait(ctx, head.Revision); err != nil && ctx.Err() == nil {
				d.cfg.Log.Warn("waiting for rollouts", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look takes each running rollout as far as it can go now.
func (d *Driver) look(ctx context.Context) (running int, err error) {
	page, err := d.cfg.Store.List(ctx, store.Query{Kind: rollout.Kind})
	if err != nil {
		return 0, fmt.Errorf("list rollouts: %w", err)
	}
	var all []rollout.Rollout
	for _, res := range page.Items {
		r, bad := rollout.Decode(res)
		if bad != nil {
			d.cfg.Log.Error("a rollout cannot be read", "err", bad)
			continue
		}
		all = append(all, r)
	}
	all = d.metrics.saw(all)
	d.calls.forget(all)
	for _, r := range all {
		if e := d.step(ctx, r); e != nil && !errors.Is(e, store.ErrConflict) {
			err = errors.Join(err, fmt.Errorf("rollout %s: %w", r.Name, e)) // the others go on
		}
	}
	return len(all), err
}

func (d *Driver) step(ctx context.Context, r rollout.Rollout) error {
	o := d.Observe(r)
	now := d.cfg.Now()
	if r.Watches(rollout.Success) {
		d.calls.ask(ctx, r, d.counting(r, o), o.Settled)
	}
	switch move, why := r.Next(o, now); move {
	case rollout.Abort:
		d.cfg.Log.Warn("rollout aborted", "rollout", r.Name, "stage", r.Status.Stage+1, "reason", why)
		return Save(ctx, d.cfg.Store, "rollout:"+r.Name, r, r.Ended(rollout.Aborted, why, now))
	case rollout.Advance:
		d.cfg.Log.Info("rollout goes on", "rollout", r.Name, "stage", r.Status.Stage+2)
		next := r
		if r.Status.Stage < 0 {
			next = r.Counted(o.Rates)
		}
		return Save(ctx, d.cfg.Store, "rollout:"+r.Name, r, next.Advanced(now, Connected(d.cfg.Fleet.Zones())))
	case rollout.Finish:
		return d.finish(ctx, r)
	}
	return nil
}

// finish puts the documents into the store, with the end of the rollout, as one
// write of its author. What others changed meanwhile is not overwritten.
func (d *Driver) finish(ctx context.Context, r rollout.Rollout) error {
	abort := func(format string, args ...any) error {
		why := fmt.Sprintf(format, args...)
		d.cfg.Log.Warn("rollout aborted", "rollout", r.Name, "reason", why)
		return Save(ctx, d.cfg.Store, "rollout:"+r.Name, r, r.Ended(rollout.Aborted, why, d.cfg.Now()))
	}
	var ops []store.Op
	stays := map[string]bool{} // meshes that must not be deleted meanwhile
	for _, doc := range r.Spec.Documents {
		if doc.Mesh != "" && !stays[doc.Mesh] {
			stays[doc.Mesh] = true
			held, err := d.cfg.Store.Get(ctx, mesh.Key{Kind: mesh.KindMesh, Name: doc.Mesh})
			if errors.Is(err, store.ErrNotFound) {
				return abort("mesh %s was deleted meanwhile", doc.Mesh)
			}
			if err != nil {
				return err
			}
			ops = append(ops, store.Op{Resource: held, IfRevision: &held.Revision})
		}
		old, err := d.cfg.Store.Get(ctx, doc.Key())
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if old.Revision != doc.Base {
			return abort("%s was changed meanwhile, at revision %d", doc.Key(), old.Revision)
		}
		base := doc.Base
		ops = append(ops, store.Op{Resource: mesh.Resource{Key: doc.Key(), Labels: doc.Labels, Spec: doc.Spec, Status: old.Status}, IfRevision: &base})
	}
	d.cfg.Log.Info("rollout done", "rollout", r.Name)
	return Save(ctx, d.cfg.Store, r.Spec.Author, r, r.Ended(rollout.Done, "", d.cfg.Now()), ops...)
}

// Save writes a step of a rollout, with what belongs to it, if the rollout is
// still as it was; else it is a store.ErrConflict.
func Save(ctx context.Context, st store.Store, author string, was, next rollout.Rollout, with ...store.Op) error {
	res, err := next.Resource()
	if err != nil {
		return err
	}
	rev := was.Revision
	_, err = st.Write(ctx, author, append(slices.Clip(with), store.Op{Resource: res, IfRevision: &rev}))
	return err
}

// Connected proxies of each zone now.
func Connected(zones []sync.ZoneStatus) map[string]int {
	out := map[string]int{}
	for _, z := range zones {
		if z.Online && z.Reported {
			out[z.Name] = z.Connected
		}
	}
	return out
}

// Observe looks at the zones whose stage has come, and at how calls go there.
func (d *Driver) Observe(r rollout.Rollout) rollout.Observation {
	o := Observe(d.cfg.Fleet, r)
	if r.Watches(rollout.Success) {
		o.Rates, o.Unknown = d.calls.rates(r, d.counting(r, o))
	}
	return o
}

// counting are the zones of which calls are counted: before the first stage all that
// are there.
func (d *Driver) counting(r rollout.Rollout, o rollout.Observation) []string {
	if r.Status.Stage >= 0 {
		return o.Zones
	}
	var out []string
	all := slices.Concat(r.Spec.Stages...)
	for _, z := range d.cfg.Fleet.Zones() {
		if z.Online && slices.Contains(all, z.Name) {
			out = append(out, z.Name)
		}
	}
	return out
}

// Observe looks at the zones whose stage has come, as they report.
func Observe(f Fleet, r rollout.Rollout) rollout.Observation {
	o := rollout.Observation{}
	now := f.Change(r.Revision)
	revs := append([]mesh.Revision{r.Revision}, r.Status.Revisions...)
	states := map[string]sync.ZoneStatus{}
	for _, z := range f.Zones() {
		states[z.Name] = z
	}
	var waiting []string
	for _, zone := range r.Zones() {
		i := slices.IndexFunc(now.Zones, func(p sync.ZoneProgress) bool { return p.Zone == zone })
		settled := false
		_, known := states[zone]
		switch {
		case len(states) == 0:
			waiting = append(waiting, "the store was not read yet")
			continue
		case !known:
			o.Notes = append(o.Notes, "zone "+zone+" is left out: it was deleted")
			continue
		case i < 0:
			o.Notes = append(o.Notes, "zone "+zone+" is left out: it is disabled")
			continue
		case now.Zones[i].State == sync.Unknown:
			waiting = append(waiting, "zone "+zone+" is "+sync.Whereabouts(now.Zones[i].MayBeAt))
		case now.Zones[i].State == sync.Offline || now.Zones[i].State == sync.Behind:
			waiting = append(waiting, "zone "+zone+" is "+string(now.Zones[i].State))
		default:
			settled = true
		}
		o.Zones = append(o.Zones, zone)
		rejected := 0
		for _, rev := range revs {
			for _, p := range f.Change(rev).Zones {
				if p.Zone == zone && p.Rejected > rejected {
					rejected = p.Rejected
					if len(p.Rejections) > 0 {
						o.Words = p.Rejections[0].Proxy + ": " + p.Rejections[0].Reason
					}
				}
			}
		}
		z := states[zone]
		if settled { // what it says of resources is of the documents, also when it reports no change of long ago
			for _, p := range z.Problems {
				key := mesh.Key{Kind: mesh.KindName(p.Kind), Mesh: p.Mesh, Zone: p.Zone, Name: p.Name}
				mine := slices.ContainsFunc(r.Spec.Documents, func(doc rollout.Document) bool { return doc.Key() == key })
				if mine && p.Refused() && p.Proxies > rejected {
					rejected, o.Words = p.Proxies, p.Reason
				}
			}
		}
		o.Rejected += rejected
		if had, ok := r.Status.Connected[zone]; ok && z.Online && z.Reported { // until then nothing is known of its proxies
			o.Gone += max(0, had-z.Connected)
		}
	}
	o.Waiting, o.Settled = strings.Join(waiting, ", "), len(waiting) == 0
	return o
}
