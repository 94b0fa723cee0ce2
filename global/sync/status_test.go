package sync_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	globalsync "github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
	wireform "github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// TestStatusOfAChange follows one change through every state.
func TestStatusOfAChange(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.seeded("east", "west")
		east := f.zones["east"]
		east.reports.mu.Lock()
		east.reports.behind = true
		east.reports.mu.Unlock()
		rev := f.write(put(aTimeout("t", 9)))
		state := func(want string) {
			t.Helper()
			f.eventually(want, func() error {
				s := f.server.Change(rev)
				got := fmt.Sprintf("complete=%v", s.Complete)
				for _, z := range s.Zones {
					got += fmt.Sprintf(" %s=%s(%d,%d,%d,%d)", z.Zone, z.State, z.Affected, z.Done, z.Behind, z.Rejected)
				}
				if got != want {
					return errors.New(got)
				}
				return nil
			})
		}
		state("complete=false east=behind(1,0,1,0) west=done(1,1,0,0)")
		if z := f.server.Change(rev).Zones[0]; len(z.BehindNames) != 1 || z.BehindNames[0] != "web-1" || z.Settled != 0 {
			t.Errorf("%+v", z)
		}
		if z := f.server.Change(rev).Zones[1]; z.Settled <= 0 {
			t.Errorf("time to settle: %+v", z)
		}
		// Away while behind: offline, whatever it said before.
		east.stop()
		state("complete=false east=offline(1,0,1,0) west=done(1,1,0,0)")
		f.join("east")
		state("complete=false east=behind(1,0,1,0) west=done(1,1,0,0)")
		// Counts alone say nothing: they may be of before the proxies were asked.
		east.reports.set(func(r *zonesyncv1.Report) {
			c := r.Changes[len(r.Changes)-1]
			c.Affected, c.Behind, c.BehindNames = 0, 0, nil
		})
		state("complete=false east=behind(0,0,0,0) west=done(1,1,0,0)")
		east.reports.set(func(r *zonesyncv1.Report) {
			c := r.Changes[len(r.Changes)-1]
			c.Affected, c.Behind, c.Rejected, c.BehindNames, c.SettleMicros = 1, 0, 1, nil, 5
			c.Rejections = []*zonesyncv1.Rejection{{Proxy: "web-1", TypeUrl: "cds", Reason: "no"}}
			r.Settled = r.Applied
			r.Problems = []*zonesyncv1.ResourceProblem{{Kind: "MeshTimeout", Mesh: "default", Name: "t", Reason: "no", Proxies: 1}}
			r.ProxiesConnected, r.ProxiesTotal = 1, 2
		})
		state("complete=true east=rejected(1,0,0,1) west=done(1,1,0,0)")
		if z := f.server.Change(rev).Zones[0]; len(z.Rejections) != 1 || z.Rejections[0].Reason != "no" {
			t.Errorf("%+v", z)
		}
		z := f.server.Zones()[0]
		if !z.Online || z.Connected != 1 || z.Total != 2 || len(z.Problems) != 1 || z.Problems[0].Key != (mesh.Key{Kind: "MeshTimeout", Mesh: "default", Name: "t"}) {
			t.Errorf("%+v", z)
		}
		// Settled zones stay settled when they go.
		west := f.zones["west"]
		west.stop()
		f.eventually("west to be away", func() error {
			if f.server.Zones()[1].Online {
				return errors.New("online")
			}
			return nil
		})
		state("complete=true east=rejected(1,0,0,1) west=done(1,1,0,0)")
		// A change that concerns one zone is done at the other.
		east.facts.put(aService("east", "s", 1))
		var fact mesh.Revision
		f.eventually("the fact", func() error {
			r, err := f.store.Get(context.Background(), aService("east", "s", 1).Key)
			fact = r.Revision
			return err
		})
		rev = fact
		state("complete=false east=done(0,0,0,0) west=offline(0,0,0,0)")
		// A disabled zone is not asked.
		f.write(put(mesh.Resource{Key: mesh.Key{Kind: mesh.KindZone, Name: "west"}, Spec: []byte(`{"enabled":false}`)}))
		state("complete=true east=done(0,0,0,0)")
		// A revision that was not written yet is nowhere.
		rev = 1 << 30
		state("complete=false east=behind(0,0,0,0)")
	})
}

// TestGlobalRestartRebuildsStatus: status is in memory, and reports bring it back.
func TestGlobalRestartRebuildsStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, true, globalsync.NewMemStore())
		f.seeded("east")
		rev := f.write(put(aTimeout("t", 9)))
		f.settled()
		fresh := globalsync.New(globalsync.Config{Store: f.store, Authorize: f.authorize})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = fresh.Run(ctx) }()
		synctest.Wait()
		if s := fresh.Change(rev); s.Complete || s.Zones[0].State != globalsync.Offline {
			t.Errorf("before the zone is back: %+v", s)
		}
		// What a change concerns is known from the log, whoever wrote it.
		if s := fresh.Change(1); s.Zones[0].State != globalsync.Offline {
			t.Errorf("the mesh: %+v", s)
		}
		zone, err := f.store.Get(ctx, mesh.Key{Kind: mesh.KindZone, Name: "east"})
		if err != nil {
			t.Fatal(err)
		}
		if s := fresh.Change(zone.Revision); !s.Complete {
			t.Errorf("the zone itself: %+v", s)
		}
		cancel()
		<-done
		f.zones["east"].stop()
		f.join("east")
		f.eventually("status", func() error {
			if s := f.server.Change(rev); !s.Complete {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	})
}

func TestWatchChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, true, globalsync.NewMemStore())
		f.seeded("east", "west")
		for _, z := range f.zones {
			z.reports.behind = true
		}
		rev := f.write(put(aTimeout("t", 9)))
		var seen []string
		done := make(chan error, 1)
		go func() {
			done <- f.server.WatchChange(context.Background(), rev, func(s globalsync.ChangeStatus) bool {
				seen = append(seen, fmt.Sprintf("%s %s", s.Zones[0].State, s.Zones[1].State))
				return !s.Complete
			})
		}()
		settle := func(name string) {
			synctest.Wait()
			<-time.After(10 * time.Millisecond)
			f.zones[name].reports.set(func(r *zonesyncv1.Report) {
				c := r.Changes[len(r.Changes)-1]
				c.Behind, c.Done, c.BehindNames, r.Settled = 0, 1, nil, r.Applied
			})
			synctest.Wait()
			<-time.After(200 * time.Millisecond) // states between are told ten times a second
		}
		settle("west")
		settle("east")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if seen[0] != "behind behind" || seen[len(seen)-1] != "done done" || !strings.Contains(strings.Join(seen, ","), "behind done") {
			t.Errorf("%v", seen)
		}
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			done <- f.server.WatchChange(ctx, rev+1000, func(globalsync.ChangeStatus) bool { return true })
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("a watch that was given up: %v", err)
		}
	})
}

// TestWatchAtTenThousandProxies: who waits for a change of 10,000 proxies in 10 zones
// is told a few states of a few kilobytes, however many reports come, and its end at once.
func TestWatchAtTenThousandProxies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const zones, proxies, steps = 10, 1000, 200
		f := newFleet(t, true, globalsync.NewMemStore())
		var names []string
		for i := range zones {
			names = append(names, fmt.Sprintf("zone-%d", i))
		}
		f.seeded(names...)
		for _, z := range f.zones {
			z.reports.behind = true
		}
		rev := f.write(put(aTimeout("t", 9)))
		synctest.Wait()
		<-time.After(time.Second)
		var told []globalsync.ChangeStatus
		var ended time.Time
		done := make(chan error, 1)
		began := time.Now()
		go func() {
			done <- f.server.WatchChange(t.Context(), rev, func(s globalsync.ChangeStatus) bool {
				told, ended = append(told, s), time.Now()
				return !s.Complete
			})
		}()
		reports := 0
		for step := 1; step <= steps; step++ {
			for _, name := range names {
				f.zones[name].reports.set(func(r *zonesyncv1.Report) {
					c := r.Changes[len(r.Changes)-1]
					c.Affected, c.Done = proxies, uint32(proxies*step/steps)
					c.Behind, c.BehindNames = c.Affected-c.Done, nil
					for i := range min(c.Behind, 10) {
						c.BehindNames = append(c.BehindNames, fmt.Sprintf("default.%s-%0200d", name, i))
					}
					if step == steps {
						r.Settled = r.Applied
					}
				})
				reports++
			}
			<-time.After(10 * time.Millisecond)
		}
		last := time.Now()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		end := told[len(told)-1]
		for _, z := range end.Zones {
			if z.Done != proxies || z.State != globalsync.Done {
				t.Errorf("at the end: %+v", z)
			}
		}
		if most := int(ended.Sub(began)/(100*time.Millisecond)) + 2; len(told) > most || len(told) < 5 {
			t.Errorf("%d states were told of %d reports within %s, want 5 to %d", len(told), reports, ended.Sub(began), most)
		}
		if late := ended.Sub(last); late > time.Second {
			t.Errorf("the end was told %s after it was there", late)
		}
		for _, s := range told {
			line, err := json.Marshal(s)
			if err != nil || len(line) > zones*4096 {
				t.Fatalf("a state of %d bytes, %v", len(line), err)
			}
		}
		t.Logf("%d states of %d reports", len(told), reports)
	})
}

// TestReportsCoalesce: a burst of progress is a few frames, the last one complete, and
// nothing of it is written to the store.
func TestReportsCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := globalsync.NewMemStore()
		f := newFleet(t, true, st)
		f.seeded("east")
		<-time.After(time.Second)
		f.wire.reset(0)
		written := st.Writes.Load()
		for i := range 1000 {
			f.zones["east"].reports.set(func(r *zonesyncv1.Report) { r.ProxiesConnected = uint32(i + 1) })
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		<-time.After(time.Second)
		_, up, _ := f.wire.seen()
		if len(up) == 0 || len(up) > 5 {
			t.Errorf("%d frames", len(up))
		}
		if got := f.server.Zones()[0].Connected; got != 1000 {
			t.Errorf("connected: %d", got)
		}
		if n := st.Writes.Load() - written; n != 0 {
			t.Errorf("%d writes", n)
		}
	})
}

// TestReportsAreBounded: a zone cannot report beyond what it was sent, nor without bound.
func TestReportsAreBounded(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.seeded("east")
		f.token("token-liar", "liar")
		p := f.peer("token-liar")
		p.welcome("liar")
		report := &zonesyncv1.Report{Applied: 1 << 40, Settled: 1 << 40, Changes: []*zonesyncv1.ChangeProgress{{Revision: 1 << 40, Done: 1}, {Revision: -1}}}
		p.send(&zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Report{Report: report}})
		f.eventually("the report", func() error {
			if f.server.Zones()[1].Applied == 0 {
				return errors.New("not taken")
			}
			return nil
		})
		rev := f.write(put(aTimeout("t", 2)))
		p.recv(func(f *zonesyncv1.GlobalFrame) bool { return f.GetPush().GetTo().GetRevision() >= int64(rev) })
		if s := f.server.Change(rev); s.Complete || s.Zones[1].State != globalsync.Behind {
			t.Errorf("%+v", s)
		}
		report = &zonesyncv1.Report{}
		for range wireform.MaxReportItems + 1 {
			report.Changes = append(report.Changes, &zonesyncv1.ChangeProgress{Revision: 1})
		}
		p.send(&zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Report{Report: report}})
		if got := p.ended().Message(); !strings.Contains(got, "a report of more than") {
			t.Errorf("ended with %q", got)
		}
	})
}

func TestInspect(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.seeded("east")
		east := f.zones["east"]
		var out bytes.Buffer
		if err := f.server.Inspect(context.Background(), "east", globalsync.Question{What: "proxies", Mesh: "", Proxy: ""}, &out); err != nil || out.String() != "answer to proxies" {
			t.Errorf("%q, %v", out.String(), err)
		}
		if err := f.server.Inspect(context.Background(), "nowhere", globalsync.Question{What: "proxies", Mesh: "", Proxy: ""}, io.Discard); !errors.Is(err, globalsync.ErrZoneOffline) {
			t.Errorf("an unknown zone: %v", err)
		}
		// Large answers come in chunks, beside everything else.
		block := strings.Repeat("0123456789abcdef", 1<<16)
		east.reports.answer = func(_ context.Context, _ globalsync.Question, w io.Writer) error {
			for range 20 {
				if _, err := io.WriteString(w, block); err != nil {
					return err
				}
			}
			return nil
		}
		out.Reset()
		if err := f.server.Inspect(context.Background(), "east", globalsync.Question{What: "config_dump", Mesh: "default", Proxy: "web-1"}, &out); err != nil || out.Len() != 20<<20 {
			t.Errorf("%d bytes, %v", out.Len(), err)
		}
		// Large questions come in chunks too, and one that is too large is not sent.
		east.reports.answer = func(_ context.Context, q globalsync.Question, w io.Writer) error {
			_, err := w.Write(q.Body[len(q.Body)-5:])
			return err
		}
		out.Reset()
		long := globalsync.Question{What: "plan", Body: []byte(strings.Repeat(block, 3) + "xend.")}
		if err := f.server.Inspect(context.Background(), "east", long, &out); err != nil || out.String() != "xend." {
			t.Errorf("a question of %d bytes: %.20q, %v", len(long.Body), out.String(), err)
		}
		long.Body = make([]byte, wireform.MaxQuestionBytes+1)
		if err := f.server.Inspect(context.Background(), "east", long, io.Discard); !errors.Is(err, globalsync.ErrQuestion) {
			t.Errorf("too large a question: %v", err)
		}
		// Too large an answer is refused, and the stream lives on.
		east.reports.answer = func(_ context.Context, _ globalsync.Question, w io.Writer) error {
			for {
				if _, err := io.WriteString(w, block); err != nil {
					return err
				}
			}
		}
		if err := f.server.Inspect(context.Background(), "east", globalsync.Question{What: "config_dump", Mesh: "default", Proxy: "web-1"}, io.Discard); !errors.Is(err, globalsync.ErrInspect) {
			t.Errorf("an endless answer: %v", err)
		}
		east.reports.answer = func(context.Context, globalsync.Question, io.Writer) error { return errors.New("no such proxy") }
		if err := f.server.Inspect(context.Background(), "east", globalsync.Question{What: "certs", Mesh: "", Proxy: "x"}, io.Discard); !errors.Is(err, globalsync.ErrInspect) || !strings.Contains(err.Error(), "no such proxy") {
			t.Errorf("an error: %v", err)
		}
		// An agent's words are cut at a character; half of one would end the stream.
		east.reports.answer = func(context.Context, globalsync.Question, io.Writer) error {
			return errors.New("x" + strings.Repeat("é", 4000))
		}
		if err := f.server.Inspect(context.Background(), "east", globalsync.Question{What: "certs", Mesh: "", Proxy: "x"}, io.Discard); !errors.Is(err, globalsync.ErrInspect) || !strings.Contains(err.Error(), "éé") {
			t.Errorf("a long error: %v", err)
		}
		// Who asks may give up; the zone is told.
		started, ended := make(chan struct{}), make(chan struct{})
		east.reports.answer = func(ctx context.Context, _ globalsync.Question, _ io.Writer) error {
			close(started)
			<-ctx.Done()
			close(ended)
			return ctx.Err()
		}
		ctx, cancel := context.WithCancel(context.Background())
		errs := make(chan error, 1)
		go func() {
			errs <- f.server.Inspect(ctx, "east", globalsync.Question{What: "stats", Mesh: "", Proxy: "x"}, io.Discard)
		}()
		<-started
		cancel()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		<-ended
		// Open questions are bounded, and end with the stream.
		var open int
		asked := make(chan struct{}, wireform.MaxInspections)
		east.reports.answer = func(ctx context.Context, _ globalsync.Question, _ io.Writer) error {
			asked <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
		many := make(chan error, wireform.MaxInspections)
		for ; open < wireform.MaxInspections; open++ {
			go func() {
				many <- f.server.Inspect(context.Background(), "east", globalsync.Question{What: "stats", Mesh: "", Proxy: "x"}, io.Discard)
			}()
			<-asked
		}
		if err := f.server.Inspect(context.Background(), "east", globalsync.Question{What: "stats", Mesh: "", Proxy: "x"}, io.Discard); !errors.Is(err, globalsync.ErrBusy) {
			t.Errorf("one too many: %v", err)
		}
		east.stop()
		for range open {
			if err := <-many; !errors.Is(err, globalsync.ErrZoneOffline) && !errors.Is(err, globalsync.ErrInspect) {
				t.Errorf("the zone went away: %v", err)
			}
		}
	})
}
