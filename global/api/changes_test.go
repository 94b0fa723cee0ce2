package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// log reads the whole log by pages, newest first.
func (r *rig) log(size int) []ChangeEntry {
	r.Helper()
	var all []ChangeEntry
	for next := fmt.Sprintf("/changes?size=%d", size); next != ""; {
		var page ChangeList
		r.want(200, "GET", next, r.reader, "").decode(r.T, &page)
		if len(page.Items) > size {
			r.Fatalf("%d items on a page of %d", len(page.Items), size)
		}
		all = append(all, page.Items...)
		if next = ""; page.Next != nil {
			next = *page.Next
		}
	}
	return all
}

func TestChangesNewestFirst(t *testing.T) {
	r := newRig(t)
	r.want(201, "PUT", "/meshes/default/meshtimeouts/a", r.author, timeout("a", "5s"))
	r.want(200, "DELETE", "/meshes/default/meshtimeouts/a", r.admin, "")
	head, err := r.store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 3, int(head.Revision), 1000} {
		all := r.log(size)
		if len(all) != int(head.Revision) {
			t.Fatalf("size %d: %d changes, want %d", size, len(all), head.Revision)
		}
		for i, e := range all {
			if e.Revision != head.Revision-mesh.Revision(i) {
				t.Fatalf("size %d: item %d is revision %d", size, i, e.Revision)
			}
		}
		if all[0].Author != "user:admin" || !all[0].Deleted || all[1].Author != "user:ann" || all[1].Name != "a" {
			t.Errorf("newest are %+v", all[:2])
		}
	}
	r.want(404, "GET", fmt.Sprintf("/changes/%d", head.Revision+1), r.reader, "")
	r.want(400, "GET", "/changes/x", r.reader, "")
	r.want(400, "GET", "/changes/0", r.reader, "")
	// A Secret's content is in no change, for nobody.
	r.want(201, "PUT", "/meshes/default/secrets/s", r.admin, `{"type":"Secret","data":"aHVudGVyMg=="}`)
	a := r.want(200, "GET", fmt.Sprintf("/changes/%d", head.Revision+1), r.admin, "")
	if strings.Contains(string(a.body), "aHVudGVyMg") || !strings.Contains(string(a.body), `"Secret"`) {
		t.Errorf("change of a Secret: %s", a.body)
	}
	if err := r.store.Compact(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{2, 1000} {
		if all := r.log(size); all[len(all)-1].Revision != 6 || len(all) != int(head.Revision+1)-5 {
			t.Errorf("size %d: after compaction the log ends at %d with %d items", size, all[len(all)-1].Revision, len(all))
		}
	}
	r.want(410, "GET", "/changes/3", r.reader, "")
}

func progress(zone string, state sync.ZoneState, affected, done, behind, rejected int) sync.ZoneProgress {
	return sync.ZoneProgress{Zone: zone, State: state, Affected: affected, Done: done, Behind: behind, Rejected: rejected}
}

func TestStatusOfAWriteIsThatOfAllItsChanges(t *testing.T) {
	r := newRig(t)
	r.fleet.set(sync.ChangeStatus{Revision: 3, Complete: true, Zones: []sync.ZoneProgress{progress("west", sync.Done, 4, 4, 0, 0), progress("north", sync.Rejected, 1, 0, 0, 1)}})
	r.fleet.set(sync.ChangeStatus{Revision: 2, Zones: []sync.ZoneProgress{progress("west", sync.Behind, 9, 7, 2, 0), progress("east", sync.Done, 1, 1, 0, 0)}})
	var got sync.ChangeStatus
	r.want(200, "GET", "/changes/3/status?from=2", r.reader, "").decode(t, &got)
	want := sync.ChangeStatus{Revision: 3, Zones: []sync.ZoneProgress{progress("east", sync.Done, 1, 1, 0, 0),
		progress("north", sync.Rejected, 1, 0, 0, 1), progress("west", sync.Behind, 9, 7, 2, 0)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	r.want(200, "GET", "/changes/3/status", r.reader, "").decode(t, &got)
	if !got.Complete {
		t.Error("the status of one change has what is of another")
	}
	for _, query := range []string{"from=4", "from=0", "watch=maybe", "watch=true&timeout=2h", "watch=true&timeout=-1s"} {
		r.want(400, "GET", "/changes/3/status?"+query, r.reader, "")
	}
}

func TestWatchStreamsUntilComplete(t *testing.T) {
	r := newRig(t)
	state := func(rev mesh.Revision, complete bool, z ...sync.ZoneProgress) {
		r.fleet.set(sync.ChangeStatus{Revision: rev, Complete: complete, Zones: z})
	}
	state(4, false, progress("east", sync.Behind, 2, 0, 2, 0))
	state(3, false, progress("east", sync.Behind, 3, 1, 2, 0))
	req, err := http.NewRequestWithContext(t.Context(), "GET", r.web.URL+"/changes/4/status?from=3&watch=true&timeout=20s", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.reader)
	resp, err := r.web.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if ct := resp.Header.Get("Content-Type"); ct != "application/x-ndjson" {
		t.Errorf("Content-Type %q", ct)
	}
	lines := bufio.NewScanner(resp.Body)
	next := func() (s sync.ChangeStatus) {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("the stream ended: %v", lines.Err())
		}
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := next(); s.Complete || s.Zones[0].Behind != 2 || s.Zones[0].Affected != 3 {
		t.Fatalf("first state %+v", s)
	}
	// The last change is complete, an earlier one of the write is not: go on.
	state(4, true, progress("east", sync.Done, 2, 2, 0, 0))
	state(3, false, progress("east", sync.Behind, 3, 2, 1, 0))
	if s := next(); s.Complete || s.Zones[0].Behind != 1 {
		t.Fatalf("second state %+v", s)
	}
	state(3, true, progress("east", sync.Done, 3, 3, 0, 0))
	var last sync.ChangeStatus
	for !last.Complete {
		last = next()
	}
	if last.Zones[0].State != sync.Done || last.Zones[0].Done != 3 {
		t.Errorf("last state %+v", last)
	}
	if lines.Scan() {
		t.Errorf("the stream goes on after the end: %s", lines.Text())
	}
}

func TestWatchEndsWithItsTimeAndAtShutdown(t *testing.T) {
	r := newRig(t)
	r.fleet.set(sync.ChangeStatus{Revision: 1, Zones: []sync.ZoneProgress{progress("east", sync.Offline, 0, 0, 0, 0)}})
	began := time.Now()
	a := r.want(200, "GET", "/changes/1/status?watch=true&timeout=50ms", r.reader, "")
	if strings.Count(string(a.body), "\n") != 1 || time.Since(began) > time.Minute {
		t.Errorf("after %s: %s", time.Since(began), a.body)
	}
	done := make(chan reply, 1)
	go func() { done <- r.do("GET", "/changes/1/status?watch=true&timeout=1h", r.reader, "") }()
	for len(r.server.watchers) == 0 {
		select {
		case <-t.Context().Done():
			t.Fatal("no watch began")
		case <-time.After(time.Millisecond):
		}
	}
	r.server.Drain()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("a watch holds up a shutdown")
	}
}

func TestInspect(t *testing.T) {
	r := newRig(t)
	r.zoned(mesh.KindDataplane, "east", "web-1", dataplane)
	r.fleet.inspect = func(_ context.Context, zone string, q sync.Question, w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s %s %s %s", zone, q.What, q.Mesh, q.Proxy)
		return err
	}
	const path = "/meshes/default/dataplanes/web-1.east/"
	var asked []string
	for _, i := range inspections() {
		asked = append(asked, i.path)
		a := r.want(200, "GET", path+i.path, r.reader, "")
		if want := "east " + i.what + " default web-1"; string(a.body) != want {
			t.Errorf("%s: asked %q, want %q", i.path, a.body, want)
		}
	}
	if !slices.Equal(asked, []string{"xds", "stats", "clusters", "listeners", "certs", "policies"}) {
		t.Errorf("paths %v", asked)
	}
	r.want(404, "GET", "/meshes/default/dataplanes/web-2.east/xds", r.reader, "")
	r.want(404, "GET", "/meshes/default/dataplanes/web-1/xds", r.reader, "")
	for want, err := range map[int]error{503: sync.ErrZoneOffline, 429: sync.ErrBusy} {
		r.fleet.inspect = func(context.Context, string, sync.Question, io.Writer) error {
			return fmt.Errorf("asked: %w", err)
		}
		r.want(want, "GET", path+"xds", r.reader, "")
	}
	// An answer that breaks off is not taken for a whole one.
	r.fleet.inspect = func(_ context.Context, _ string, _ sync.Question, w io.Writer) error {
		_, _ = w.Write(make([]byte, 100<<10))
		return errors.New("the zone went away")
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", r.web.URL+path+"xds", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.reader)
	resp, err := r.web.Client().Do(req)
	if err == nil {
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if err == nil {
		t.Error("half an answer looks like a whole one")
	}
}

// TestZoneThatHangs: a zone that is connected and does not answer is waited for for a
// while, by what asks about a proxy or a call, and longer once it has begun.
func TestZoneThatHangs(t *testing.T) {
	r := newRig(t)
	r.want(201, "PUT", "/zones/east", r.author, `{"type":"Zone","name":"east"}`)
	r.zoned(mesh.KindDataplane, "east", "web", dataplane)
	synctest.Test(t, func(t *testing.T) {
		begins := false
		r.fleet.inspect = func(ctx context.Context, _ string, _ sync.Question, w io.Writer) error {
			if begins {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return err
				}
				time.Sleep(2 * askTime) // of the bubble's clock
				return ctx.Err()
			}
			<-ctx.Done()
			return fmt.Errorf("inspect: %w", ctx.Err())
		}
		ask := func(handle func(http.ResponseWriter, *request) error) (took time.Duration, err error) {
			req := &request{Request: httptest.NewRequest("GET", "/?source=web.east&destination=web", nil)}
			req.SetPathValue("mesh", "default")
			req.SetPathValue("name", "web.east")
			began := time.Now()
			err = handle(httptest.NewRecorder(), req)
			return time.Since(began), err
		}
		for what, handle := range map[string]func(http.ResponseWriter, *request) error{"inspect": r.server.inspect("stats", "text/plain"), "explain": r.server.explain} {
			took, err := ask(handle)
			var p *Problem
			if !errors.As(err, &p) || p.Status != http.StatusServiceUnavailable || p.Detail != "zone east did not answer within 10s: nothing can be said of web.east" || took != askTime {
				t.Errorf("%s: %v after %s", what, err, took)
			}
		}
		begins = true
		if took, err := ask(r.server.inspect("stats", "text/plain")); err != nil || took != 2*askTime {
			t.Errorf("who has begun to answer: %v after %s", err, took)
		}
	})
}

func TestZonesOverview(t *testing.T) {
	r := newRig(t)
	r.want(201, "PUT", "/zones/east", r.author, `{"type":"Zone","name":"east"}`)
	r.want(201, "PUT", "/zones/west", r.author, `{"type":"Zone","name":"west","enabled":false}`)
	r.fleet.zones = []sync.ZoneStatus{{Name: "east", Online: true, Connected: 2, Total: 3}}
	var got ZoneOverviews
	r.want(200, "GET", "/zones/_overview", r.reader, "").decode(t, &got)
	want := ZoneOverviews{Total: 2, Items: []ZoneOverview{
		{Name: "east", Enabled: true, Status: sync.ZoneStatus{Name: "east", Online: true, Connected: 2, Total: 3}},
		{Name: "west", Status: sync.ZoneStatus{Name: "west"}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestWatchOutlivesTheServersTimes is over HTTP/1.1, where deadlines are those of
// the connection: neither the one of reading nor of writing may end a watch.
func TestWatchOutlivesTheServersTimes(t *testing.T) {
	r := newRig(t)
	watch := func(limit time.Duration) error {
		web := httptest.NewUnstartedServer(r.server.Handler())
		web.Config.ReadTimeout, web.Config.WriteTimeout = limit, limit
		web.Start()
		defer web.Close()
		r.fleet.set(sync.ChangeStatus{Revision: 1, Zones: []sync.ZoneProgress{progress("east", sync.Behind, 1, 0, 1, 0)}})
		timer := time.AfterFunc(4*limit, func() {
			r.fleet.set(sync.ChangeStatus{Revision: 1, Complete: true, Zones: []sync.ZoneProgress{progress("east", sync.Done, 1, 1, 0, 0)}})
		})
		defer timer.Stop()
		req, err := http.NewRequestWithContext(t.Context(), "GET", web.URL+"/changes/1/status?watch=true&timeout=2m", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+r.reader)
		resp, err := web.Client().Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if lines := strings.Split(strings.TrimSpace(string(body)), "\n"); err != nil || len(lines) != 2 || !strings.Contains(lines[1], `"complete":true`) {
			return fmt.Errorf("the watch ended early: %s %v", body, err)
		}
		return nil
	}
	// On a machine that is busy a request may take longer to be read than a short
	// limit allows.
	var err error
	for _, limit := range []time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second} {
		if err = watch(limit); err == nil {
			return
		}
		t.Log(limit, err)
	}
	t.Error(err)
}

// However many zones have stragglers and refusals, an answer names a bounded number
// of them, and counts them all.
func TestStatusIsBounded(t *testing.T) {
	const zones = 200
	r := newRig(t)
	rev := r.put("a", "1s")
	status := sync.ChangeStatus{Revision: rev}
	for i := range zones {
		z := sync.ZoneProgress{Zone: fmt.Sprintf("zone-%03d", i), State: sync.Behind, Affected: 10_000, Behind: 9_000, Rejected: 1_000}
		r.fleet.zones = append(r.fleet.zones, sync.ZoneStatus{Name: z.Zone, Online: true})
		for n := range 10 {
			z.BehindNames = append(z.BehindNames, fmt.Sprintf("%0256d", n))
			z.Rejections = append(z.Rejections, sync.Rejection{Proxy: fmt.Sprintf("%0256d", n), TypeURL: "t", Resource: "r", Reason: strings.Repeat("no ", 1300)})
		}
		status.Zones = append(status.Zones, z)
	}
	r.fleet.changes[rev] = status
	for _, path := range []string{fmt.Sprintf("/changes/%d/status", rev), fmt.Sprintf("/changes/%d/write", rev)} {
		a := r.want(200, "GET", path, r.reader, "")
		var got sync.ChangeStatus
		a.decode(t, &got)
		if len(a.body) > 2<<20 || len(got.Zones) != zones {
			t.Errorf("%s: %d zones in %d bytes", path, len(got.Zones), len(a.body))
		}
		for _, z := range got.Zones {
			if z.Behind != 9_000 || z.Rejected != 1_000 || len(z.BehindNames) == 0 || len(z.Rejections) == 0 {
				t.Fatalf("%s: %d behind, %d rejected, %d and %d of them named", path, z.Behind, z.Rejected, len(z.BehindNames), len(z.Rejections))
			}
		}
	}
}
