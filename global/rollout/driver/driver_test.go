package driver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tombolo-mesh/tombolo/global/rollout"
	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/embedded"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
)

// fleet is what is told of zones; the state of every change is that of the zone.
type fleet struct {
	mu     gosync.Mutex
	zones  []sync.ZoneStatus
	states map[string]sync.ZoneState // of enabled zones
	counts map[string]func() (zonesync.SuccessCounts, error)
	asked  int
	before int // of them, for what will be
}

func (f *fleet) Zones() []sync.ZoneStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.zones
}

func (f *fleet) Change(rev mesh.Revision) sync.ChangeStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := sync.ChangeStatus{Revision: rev}
	for _, z := range f.zones {
		if state, enabled := f.states[z.Name]; enabled {
			out.Zones = append(out.Zones, sync.ZoneProgress{Zone: z.Name, State: state})
		}
	}
	return out
}

func (f *fleet) Inspect(_ context.Context, zone string, q sync.Question, w io.Writer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	var body zonesync.Success
	if err := json.Unmarshal(q.Body, &body); err != nil || q.What != zonesync.WhatSuccess || len(body.Documents) != 1 || body.Documents[0].Name != "t" {
		return errors.New("another question: " + string(q.Body))
	}
	if len(body.Before) > 0 {
		if f.before++; string(body.Before[0].Spec) != `{"to":[]}` {
			return errors.New("other documents: " + string(q.Body))
		}
	}
	said, err := f.counts[zone]()
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(said)
}

// counted says that a proxy has counted calls.
func counts(proxy string, calls, failed uint64) zonesync.ProxyCounts {
	return zonesync.ProxyCounts{Proxy: proxy, Services: []zonesync.ServiceCounts{{Service: "api:80", Requests: calls, Failed: failed}}}
}

// world is a store with one rollout of the timeout t, and a driver whose clock and
// looks are the test's.
type world struct {
	*testing.T
	fleet *fleet
	store store.Store
	d     *Driver
	now   time.Time
	reg   *prometheus.Registry
}

func newWorld(t *testing.T, guard string) *world {
	st, err := embedded.Open(embedded.Config{Path: filepath.Join(t.TempDir(), "store.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	w := &world{T: t, store: st, now: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC), reg: prometheus.NewRegistry(),
		fleet: &fleet{states: map[string]sync.ZoneState{"east": sync.Done, "west": sync.Done}, counts: map[string]func() (zonesync.SuccessCounts, error){},
			zones: []sync.ZoneStatus{{Name: "east", Online: true, Reported: true, Connected: 5}, {Name: "west", Online: true, Reported: true}}}}
	w.restart()
	w.says("west", 10, 0)
	if _, err := st.Write(t.Context(), "user:ann", []store.Op{{Resource: mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"}, Spec: []byte("{}")}}}); err != nil {
		t.Fatal(err)
	}
	r := rollout.Rollout{Name: "r", Spec: rollout.Spec{Stages: [][]string{{"east"}, {"west"}}, Author: "user:ann",
		Documents: []rollout.Document{{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "t", Spec: []byte(`{"to":[]}`)}}},
		Status: rollout.Status{Phase: rollout.Running, Stage: -1}}
	r.Spec.Pause.Duration = 10 * time.Second
	if guard != "" {
		g, err := rollout.ParseGuard(guard)
		if err != nil {
			t.Fatal(err)
		}
		r.Spec.AbortOn = []rollout.Guard{g}
	}
	if err := Save(t.Context(), st, "user:ann", rollout.Rollout{}, r.Advanced(w.now, Connected(w.fleet.Zones()))); err != nil {
		t.Fatal(err)
	}
	return w
}

// restart is another process on the same store.
func (w *world) restart() {
	w.reg = prometheus.NewRegistry()
	w.d = New(Config{Store: w.store, Fleet: w.fleet, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.now }, Registerer: w.reg})
}

// look lets time pass and the driver look, and waits for what it asked.
func (w *world) look(after time.Duration) rollout.Rollout {
	w.Helper()
	w.now = w.now.Add(after)
	if _, err := w.d.look(w.Context()); err != nil {
		w.Fatal(err)
	}
	w.d.calls.wait()
	return w.rollout()
}

func (w *world) rollout() rollout.Rollout {
	w.Helper()
	res, err := w.store.Get(w.Context(), rollout.Key("r"))
	if err != nil {
		w.Fatal(err)
	}
	r, err := rollout.Decode(res)
	if err != nil {
		w.Fatal(err)
	}
	return r
}

// metric reads one, "name" or "name/label".
func (w *world) metric(name string) float64 {
	w.Helper()
	name, label, _ := strings.Cut(name, "/")
	families, err := w.reg.Gather()
	if err != nil {
		w.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	w.Fatalf("there is no metric %s %s", name, label)
	return 0
}

// is checks where the rollout is.
func (w *world) is(r rollout.Rollout, phase rollout.Phase, stage int, reason string) {
	w.Helper()
	if r.Status.Phase != phase || r.Status.Stage != stage || !strings.Contains(r.Status.Reason, reason) || reason == "" && r.Status.Reason != "" {
		o := w.d.Observe(r)
		_, why := r.Next(o, w.now)
		w.Fatalf("%s at stage %d %q (%s; %+v), want %s at %d %q", r.Status.Phase, r.Status.Stage, r.Status.Reason, why, o, phase, stage, reason)
	}
}

// says lets a zone answer with counters that grow by each question.
func (w *world) says(zone string, calls, failed uint64) {
	n := uint64(0)
	w.fleet.mu.Lock()
	defer w.fleet.mu.Unlock()
	w.fleet.counts[zone] = func() (zonesync.SuccessCounts, error) {
		n++
		return zonesync.SuccessCounts{Reached: 1, Proxies: []zonesync.ProxyCounts{counts("web-1", 1000+n*calls, 500+n*failed)}}, nil
	}
}

func (w *world) fails(zone string, err error) {
	w.fleet.mu.Lock()
	defer w.fleet.mu.Unlock()
	w.fleet.counts[zone] = func() (zonesync.SuccessCounts, error) { return zonesync.SuccessCounts{}, err }
}

func TestSuccessCarriesItThrough(t *testing.T) {
	w := newWorld(t, "success<99")
	w.says("east", 10, 0) // what was before the rollout, half of it failed, does not count
	w.says("west", 10, 0)
	for range 3 {
		w.is(w.look(3*time.Second), rollout.Running, 0, "")
	}
	w.is(w.look(3*time.Second), rollout.Running, 1, "")
	asked := w.fleet.asked
	w.look(time.Second)
	if n := w.fleet.asked - asked; n > 2 {
		t.Errorf("%d questions within a second", n)
	}
	if got := w.metric("tombolo_rollouts_running"); got != 1 {
		t.Errorf("%v run", got)
	}
	for range 4 {
		w.look(3 * time.Second)
	}
	w.is(w.look(3*time.Second), rollout.Done, 1, "")
	w.look(time.Second)
	if done, running := w.metric("tombolo_rollouts_ended_total/done"), w.metric("tombolo_rollouts_running"); done != 1 || running != 0 {
		t.Errorf("%v done, %v running", done, running)
	}
	if len(w.d.calls.places) != 0 {
		t.Error("what is known of ended rollouts is kept")
	}
}

func TestSuccessAborts(t *testing.T) {
	w := newWorld(t, "success<99")
	w.says("east", 10, 1)
	w.is(w.look(3*time.Second), rollout.Running, 0, "")
	w.is(w.look(3*time.Second), rollout.Running, 0, "") // 10 calls are too few
	w.is(w.look(3*time.Second), rollout.Running, 0, "")
	w.is(w.look(3*time.Second), rollout.Aborted, 0, "success<99: 90% of 20 calls of api:80 in zone east")
	w.look(time.Second)
	if aborted := w.metric("tombolo_rollouts_ended_total/aborted"); aborted != 1 {
		t.Errorf("%v aborted", aborted)
	}
}

// begin writes the world's rollout anew, as it is when it is applied.
func (w *world) begin() {
	w.Helper()
	r := w.rollout()
	if err := Save(w.Context(), w.store, "user:ann", r, r.Begun(w.now, Connected(w.fleet.Zones()))); err != nil {
		w.Fatal(err)
	}
}

// A service that failed before the first stage does not return a rollout that did
// nothing to it; one that fails more often then does, also after a restart.
func TestSuccessIsComparedWithBefore(t *testing.T) {
	for name, c := range map[string]struct {
		failed uint64 // of 100 calls, in a stage
		phase  rollout.Phase
		reason string
	}{
		"it did nothing": {10, rollout.Done, ""},
		"it did":         {40, rollout.Aborted, "success<99: 60% of 100 calls of api:80 in zone east; before the first stage 90% of 100"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "success<99")
			w.says("east", 100, 10)
			w.says("west", 100, 10)
			w.begin()
			w.is(w.look(time.Second), rollout.Running, -1, "")
			w.is(w.look(3*time.Second), rollout.Running, -1, "")
			if n := w.fleet.before; n != 2 {
				t.Errorf("%d questions before the first stage, want one of each zone: it compiles for each", n)
			}
			w.is(w.look(8*time.Second), rollout.Running, -1, "") // it is asked, and not waited for
			w.is(w.look(10*time.Second), rollout.Running, 0, "")
			before := w.fleet.before
			w.says("east", 100, c.failed)
			w.restart() // what was before lies in the store
			w.is(w.look(time.Second), rollout.Running, 0, "")
			for range 12 {
				if r := w.look(4 * time.Second); r.Status.Phase != rollout.Running {
					break
				}
			}
			r := w.rollout()
			w.is(r, c.phase, r.Status.Stage, c.reason)
			if w.fleet.before != before {
				t.Error("it is still asked for what will be")
			}
			if len(w.d.calls.places) > 2 {
				t.Errorf("what was counted before is kept: %v", w.d.calls.places)
			}
		})
	}
}

// Zones that do not tell hold up the first stage for a moment, and then the guard is
// as strict as it reads; zones that are not there hold up nothing.
func TestNobodyTellsWhatWasBefore(t *testing.T) {
	w := newWorld(t, "success<99")
	w.fleet.zones[1].Online = false
	w.fails("east", sync.ErrOutdated)
	w.begin()
	w.is(w.look(10*time.Second), rollout.Running, -1, "")
	w.is(w.look(rollout.CountedGrace-time.Second), rollout.Running, -1, "")
	w.is(w.look(time.Second), rollout.Running, 0, "")
	w.says("east", 100, 10)
	for range 4 {
		w.look(3 * time.Second)
	}
	w.is(w.rollout(), rollout.Aborted, 0, "success<99: 90% of 100 calls of api:80 in zone east")
}

// The instances of a zone answer one after the other; a proxy that is with two of them
// counts once.
func TestAnswersOfInstances(t *testing.T) {
	one, two := zonesync.SuccessCounts{Reached: 2, Silent: 1, Proxies: []zonesync.ProxyCounts{counts("a", 1, 0)}},
		zonesync.SuccessCounts{Reached: 3, Proxies: []zonesync.ProxyCounts{counts("a", 1, 0), counts("b", 2, 0)}}
	var text bytes.Buffer
	for _, said := range []zonesync.SuccessCounts{one, two} {
		if err := json.NewEncoder(&text).Encode(said); err != nil {
			t.Fatal(err)
		}
	}
	whole := text.String()
	got, err := together(strings.NewReader(whole))
	if want := (zonesync.SuccessCounts{Reached: 5, Silent: 1, Proxies: []zonesync.ProxyCounts{counts("a", 1, 0), counts("b", 2, 0)}}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := together(strings.NewReader(whole[:len(whole)-5])); err == nil {
		t.Error("half of an answer is taken for all")
	}
}

// Where the calls cannot be told the rollout stays, and says why; a person may
// promote it.
func TestSuccessUnknownStays(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"old zone":    {sync.ErrOutdated, "zone east does not say how calls go: the zone's version cannot answer this"},
		"silent zone": {sync.ErrInspect, "zone east does not say how calls go: inspection failed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "success<99")
			w.fails("east", c.err)
			for range 10 {
				w.is(w.look(5*time.Second), rollout.Running, 0, "")
			}
			r := w.rollout()
			if _, why := r.Next(w.d.Observe(r), w.now); why != c.want {
				t.Errorf("it waits for %q, want %q", why, c.want)
			}
			if err := Save(t.Context(), w.store, "user:ann", r, r.Skipped()); err != nil {
				t.Fatal(err)
			}
			w.is(w.look(time.Second), rollout.Running, 1, "")
		})
	}
}

// What a driver counted dies with it: the next one counts anew before it goes on.
func TestSuccessIsLearnedAnewAfterARestart(t *testing.T) {
	w := newWorld(t, "success<99")
	w.says("east", 10, 0)
	w.look(3 * time.Second)
	w.look(3 * time.Second)
	w.restart()
	w.is(w.look(30*time.Second), rollout.Running, 0, "")
	w.is(w.look(3*time.Second), rollout.Running, 0, "")
	w.is(w.look(3*time.Second), rollout.Running, 1, "")
}

// Calls that went well before the zone had the documents say nothing of them.
func TestSuccessBeforeItIsSettledDoesNotCarry(t *testing.T) {
	w := newWorld(t, "success<99")
	w.says("east", 10, 0)
	w.fleet.states["east"] = sync.Behind
	for range 6 {
		w.is(w.look(3*time.Second), rollout.Running, 0, "")
	}
	w.fleet.states["east"] = sync.Done
	w.is(w.look(3*time.Second), rollout.Running, 0, "")
	w.look(3 * time.Second)
	w.look(3 * time.Second)
	w.is(w.look(3*time.Second), rollout.Running, 1, "")
}

func TestCountersThatBeginAnewAndProxiesThatComeLate(t *testing.T) {
	var k counted
	begin := time.Unix(1000, 0)
	answer := func(after time.Duration, proxies ...zonesync.ProxyCounts) {
		k.take(zonesync.SuccessCounts{Proxies: proxies}, nil, begin.Add(after))
	}
	answer(0, counts("a", 100, 50), zonesync.ProxyCounts{Proxy: "idle"})
	answer(3*time.Second, counts("a", 110, 51), counts("late", 70, 70), counts("idle", 4, 0)) // Envoy tells no counters that are 0
	answer(6*time.Second, counts("a", 8, 2), counts("late", 71, 70))                          // a was restarted
	sum := rate{}
	for _, s := range k.steps {
		sum.calls, sum.failed = sum.calls+s.by["api:80"].calls, sum.failed+s.by["api:80"].failed
	}
	if want := (rate{10 + 4 + 8 + 1, 1 + 2}); sum != want {
		t.Errorf("%+v, want %+v", sum, want)
	}
	answer(64*time.Second, counts("a", 8, 2))
	if n := len(k.steps); n != 1 {
		t.Errorf("%d steps are kept, want the one that is not older than a minute", n)
	}
	k.take(zonesync.SuccessCounts{}, errors.New("no"), begin.Add(65*time.Second))
	if k.problem != "no" || !k.at.Equal(begin.Add(64*time.Second)) {
		t.Errorf("a failed question must leave what is known: %+v", k)
	}
}

// A zone that is deleted or disabled in the middle is left out, and the others are
// waited for as ever.
func TestZonesThatAreNoMoreAreLeftOut(t *testing.T) {
	for _, deleted := range []bool{true, false} {
		w := newWorld(t, "success<99")
		w.says("west", 10, 0)
		delete(w.fleet.states, "east")
		note := "zone east is left out: it is disabled"
		if deleted {
			w.fleet.zones, note = w.fleet.zones[1:], "zone east is left out: it was deleted"
		}
		if o := w.d.Observe(w.rollout()); !o.Settled || len(o.Notes) != 1 || o.Notes[0] != note || o.Gone != 0 {
			t.Errorf("%+v", o)
		}
		w.is(w.look(10*time.Second), rollout.Running, 1, "")
		for range 5 {
			w.look(3 * time.Second)
		}
		w.is(w.rollout(), rollout.Done, 1, "")
	}
	w := newWorld(t, "")
	w.fleet.zones = nil // global has not read the store: nobody was deleted
	if o := w.d.Observe(w.rollout()); o.Settled || len(o.Notes) != 0 {
		t.Errorf("%+v", o)
	}
}

// A mesh that is deleted between two looks, or between a look and the write, takes
// nothing with it into the store.
func TestMeshIsDeletedBeforeTheEnd(t *testing.T) {
	w := newWorld(t, "")
	w.look(10 * time.Second)
	late := w.rollout()
	key := mesh.Key{Kind: mesh.KindMesh, Name: "default"}
	racing := &racer{Store: w.store, before: func() {
		if _, err := w.store.Write(t.Context(), "user:bob", []store.Op{{Delete: true, Resource: mesh.Resource{Key: key}}}); err != nil {
			t.Error(err)
		}
	}}
	w.d.cfg.Store = racing
	if err := w.d.finish(t.Context(), late); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the end was written into a mesh that is deleted: %v", err)
	}
	if err := w.d.finish(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	w.is(w.rollout(), rollout.Aborted, 1, "mesh default was deleted meanwhile")
	if _, err := w.store.Get(t.Context(), late.Spec.Documents[0].Key()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the document: %v", err)
	}
}

// racer lets something happen before the next write.
type racer struct {
	store.Store
	before func()
}

func (r *racer) Write(ctx context.Context, author string, ops []store.Op) (store.Position, error) {
	if before := r.before; before != nil {
		r.before = nil
		before()
	}
	return r.Store.Write(ctx, author, ops)
}

// After a restart of global a zone is back before it tells of its proxies: none of
// them is gone, and none is there to be counted as what a stage began with.
func TestProxiesOfAZoneThatHasNotReportedAreNotGone(t *testing.T) {
	r := rollout.Rollout{Revision: 7, Spec: rollout.Spec{Stages: [][]string{{"east"}}},
		Status: rollout.Status{Phase: rollout.Running, Connected: map[string]int{"east": 5}}}
	for _, c := range []struct {
		zone sync.ZoneStatus
		gone int
		has  bool
	}{
		{sync.ZoneStatus{Name: "east", Online: true}, 0, false},
		{sync.ZoneStatus{Name: "east", Online: true, Reported: true, Connected: 2}, 3, true},
		{sync.ZoneStatus{Name: "east", Reported: true, Connected: 2}, 0, false},
	} {
		f := &fleet{zones: []sync.ZoneStatus{c.zone}, states: map[string]sync.ZoneState{"east": sync.Done}}
		if o := Observe(f, r); o.Gone != c.gone {
			t.Errorf("%+v: %d are gone, want %d", c.zone, o.Gone, c.gone)
		}
		if _, has := Connected(f.Zones())["east"]; has != c.has {
			t.Errorf("%+v: counted %t, want %t", c.zone, has, c.has)
		}
	}
}
