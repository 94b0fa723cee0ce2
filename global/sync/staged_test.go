package sync_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tombolo-mesh/tombolo/global/rollout"
	"github.com/tombolo-mesh/tombolo/global/rollout/driver"
	"github.com/tombolo-mesh/tombolo/global/store"
	globalsync "github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// fleetNow is the fleet of whichever server runs.
type fleetNow struct{ f *fleet }

func (n fleetNow) Change(rev mesh.Revision) globalsync.ChangeStatus { return n.f.server.Change(rev) }
func (n fleetNow) Zones() []globalsync.ZoneStatus                   { return n.f.server.Zones() }
func (n fleetNow) Inspect(ctx context.Context, zone string, q globalsync.Question, w io.Writer) error {
	return n.f.server.Inspect(ctx, zone, q, w)
}

// staging is a fleet with a rollout of the timeout t, from 1s to 9s, and of the
// new timeout n, to east and then west, driven by two instances at once.
func staging(t *testing.T, pause time.Duration, guards ...rollout.Guard) *fleet {
	f := newFleet(t, true, globalsync.NewMemStore())
	f.seeded("east", "west", "north")
	base, err := f.store.Get(t.Context(), aTimeout("t", 1).Key)
	if err != nil {
		t.Fatal(err)
	}
	spec := rollout.Spec{Stages: [][]string{{"east"}, {"west"}}, AbortOn: guards, Author: "user:ann"}
	spec.Pause.Duration = pause
	for _, r := range []mesh.Resource{aTimeout("t", 9), aTimeout("n", 9)} {
		d := rollout.Document{Kind: r.Kind, Mesh: r.Mesh, Name: r.Name, Labels: r.Labels, Spec: r.Spec}
		if r.Name == "t" {
			d.Base = base.Revision
		}
		spec.Documents = append(spec.Documents, d)
	}
	one := rollout.Rollout{Name: "r", Spec: spec, Status: rollout.Status{Phase: rollout.Running, Stage: -1}}
	one = one.Advanced(time.Now(), driver.Connected(f.server.Zones()))
	if err := driver.Save(t.Context(), f.store, "user:ann", rollout.Rollout{}, one); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		d := driver.New(driver.Config{Store: f.store, Fleet: fleetNow{f}, Log: testLog(t), Now: time.Now})
		done := make(chan struct{})
		go func() { defer close(done); _ = d.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-done })
	}
	return f
}

// see waits until zones have t and n as told, "1-" or "99" for example, in the order of
// east, west, north, and the rollout is in a phase.
func (f *fleet) see(want string) {
	f.t.Helper()
	f.eventually(want, func() error {
		var got []string
		for _, zone := range []string{"east", "west", "north"} {
			has := f.zones[zone].replica.texts()
			state := ""
			for _, name := range []string{"t", "n"} {
				text, ok := has[aTimeout(name, 1).Key]
				_, text, _ = strings.Cut(text, `"idleTimeout":"`)
				if text += "-"; ok {
					state += text[:1]
				} else {
					state += "-"
				}
			}
			got = append(got, state)
		}
		res, err := f.store.Get(f.t.Context(), rollout.Key("r"))
		if err != nil {
			return err
		}
		r, err := rollout.Decode(res)
		if err != nil {
			return err
		}
		if s := strings.Join(got, " ") + " " + string(r.Status.Phase); s != want {
			return fmt.Errorf("%s; %s; %+v", s, r.Status.Reason, driver.Observe(f.server, r))
		}
		return nil
	})
}

func TestStagedZoneAfterZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := staging(t, time.Minute)
		began := time.Now()
		f.see("99 1- 1- running")
		// A zone that comes with nothing gets its stage with the snapshot, the others do not.
		for _, zone := range []string{"east", "north"} {
			f.zones[zone].stop()
			delete(f.zones, zone)
			f.join(zone)
		}
		f.see("99 1- 1- running")
		f.restart()
		f.see("99 1- 1- running")
		<-time.After(50 * time.Second)
		f.see("99 1- 1- running")
		<-time.After(30 * time.Second)
		f.see("99 99 1- running")
		f.restart()
		<-time.After(50 * time.Second)
		f.see("99 99 99 done")
		if took := time.Since(began); took < 2*time.Minute {
			t.Errorf("two stages of a minute took %s", took)
		}
		f.settled()
		// The end is one write of its author, once, though two instances drive.
		list, err := f.store.Changes(t.Context(), 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		written := 0
		for _, c := range list {
			if c.Resource.Key == aTimeout("n", 9).Key {
				written++
				if c.Author != "user:ann" {
					t.Errorf("written by %s", c.Author)
				}
			}
		}
		if written != 1 {
			t.Errorf("the end was written %d times", written)
		}
	})
}

func TestStagedReturnsWhenRejected(t *testing.T) {
	for _, forgotten := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := staging(t, time.Minute, rollout.Guard{What: rollout.Rejected})
			f.see("99 1- 1- running")
			if forgotten { // the zone reports no change of long ago, and global was restarted
				<-time.After(5 * time.Second)
				f.restart()
			}
			f.zones["east"].reports.set(func(r *zonesyncv1.Report) {
				r.Changes[len(r.Changes)-1].Rejected, r.Changes[len(r.Changes)-1].Done = 1, 0
				if forgotten {
					r.Changes = nil
					r.Problems = []*zonesyncv1.ResourceProblem{{Kind: "MeshTimeout", Mesh: "default", Name: "t", Reason: "a proxy refuses cluster c: bad", Proxies: 1}}
				}
			})
			f.see("1- 1- 1- aborted")
			f.settled()
			for zone, p := range f.zones {
				if zone == "east" {
					continue
				}
				p.replica.mu.Lock()
				if got := p.replica.resources[aTimeout("t", 1).Key]; got.Revision > 5 {
					t.Errorf("zone %s was touched: %+v", zone, got)
				}
				p.replica.mu.Unlock()
			}
		})
	}
}

func TestStagedReturnsWhenProxiesAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := staging(t, time.Minute, rollout.Guard{What: rollout.Gone, Limit: 1})
		f.see("99 1- 1- running")
		r := f.rollout()
		r.Status.Connected = map[string]int{"east": 3}
		f.eventually("three of three are gone", func() error { // nothing is known of them before a zone reported
			if why := r.Breached(driver.Observe(f.server, r)); !strings.HasPrefix(why, "gone>1: 3 in stage 1 (east)") {
				return fmt.Errorf("breached: %q", why)
			}
			return nil
		})
		r.Status.Connected["east"] = 1
		if why := r.Breached(driver.Observe(f.server, r)); why != "" {
			t.Errorf("one is allowed: %q", why)
		}
	})
}

func (f *fleet) rollout() rollout.Rollout {
	f.t.Helper()
	res, err := f.store.Get(f.t.Context(), rollout.Key("r"))
	if err != nil {
		f.t.Fatal(err)
	}
	r, err := rollout.Decode(res)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// What others wrote meanwhile is not overwritten: the rollout returns.
func TestStagedDoesNotOverwrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := staging(t, time.Second)
		f.write(put(aTimeout("t", 5)))
		f.see("5- 5- 5- aborted")
	})
}

func TestStagedWaitsForAZoneAndIsPromoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := staging(t, time.Hour)
		f.see("99 1- 1- running")
		skip := func() {
			f.eventually("promotion", func() error {
				r := f.rollout()
				err := driver.Save(t.Context(), f.store, "user:ann", r, r.Skipped())
				if errors.Is(err, store.ErrConflict) {
					return err
				}
				return nil
			})
		}
		f.zones["east"].stop()
		skip()
		<-time.After(10 * time.Second)
		f.see("99 1- 1- running")
		f.start(f.zones["east"])
		f.see("99 99 1- running")
		skip()
		f.see("99 99 99 done")
	})
}
