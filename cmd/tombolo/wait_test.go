package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/global/sync"
)

func TestVerdict(t *testing.T) {
	rejection := sync.Rejection{Proxy: "web-1", TypeURL: "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", Resource: "r", Reason: "no such cluster\n"}
	for _, c := range []struct {
		name   string
		status sync.ChangeStatus
		code   int
		says   []string
	}{
		{"done", sync.ChangeStatus{Complete: true, Zones: []sync.ZoneProgress{{Zone: "east", State: sync.Done, Affected: 2, Done: 2, Settled: 12 * time.Millisecond},
			{Zone: "west", State: sync.Done, Affected: 1, Done: 1, Settled: 3456 * time.Microsecond}}}, 0, []string{"time to the last proxy: east 12ms, west 3.46ms"}},
		{"no proxy affected", sync.ChangeStatus{Complete: true, Zones: []sync.ZoneProgress{{Zone: "east", State: sync.Done}}}, 0, []string{"in force everywhere after"}},
		{"rejected", sync.ChangeStatus{Complete: true, Zones: []sync.ZoneProgress{{Zone: "east", State: sync.Rejected, Affected: 2, Rejected: 1, Rejections: []sync.Rejection{rejection}}}},
			exitRejected, []string{"zone east: proxy web-1 rejects RouteConfiguration r: no such cluster"}},
		{"rejected and offline", sync.ChangeStatus{Zones: []sync.ZoneProgress{{Zone: "east", State: sync.Rejected, Rejected: 3}, {Zone: "west", State: sync.Offline}}},
			exitRejected, []string{"zone east: 3 proxies reject it", "zone west is offline"}},
		{"behind", sync.ChangeStatus{Zones: []sync.ZoneProgress{{Zone: "east", State: sync.Behind, Affected: 5, Behind: 1, BehindNames: []string{"web-3"}}}},
			exitTimeout, []string{"not everywhere after 1s", "zone east: 1 proxy of 5 behind: web-3"}},
		{"unknown", sync.ChangeStatus{Zones: []sync.ZoneProgress{{Zone: "west", State: sync.Unknown, MayBeAt: []string{"hub-1"}}}}, exitTimeout,
			[]string{"zone west is unknown here: it may be connected to instance hub-1 of global, which cannot be reached"}},
		{"offline", sync.ChangeStatus{Zones: []sync.ZoneProgress{{Zone: "west", State: sync.Offline}}}, exitTimeout, []string{"zone west is offline"}},
		{"no answer", sync.ChangeStatus{}, exitTimeout, []string{"global did not say"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			err := verdict(&out, c.status, time.Second, time.Now())
			code := 0
			var exit *exitError
			if errors.As(err, &exit) {
				code = exit.code
				out.WriteString(exit.text)
			}
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, s := range c.says {
				if !strings.Contains(out.String(), s) {
					t.Errorf("%q is not in %q", s, out.String())
				}
			}
		})
	}
}

// TestFollow reads a stream that breaks off once, and shows each state once.
func TestFollow(t *testing.T) {
	states := [][]sync.ChangeStatus{
		{{Revision: 7, Zones: []sync.ZoneProgress{{Zone: "east", State: sync.Behind, Affected: 3, Behind: 3}, {Zone: "west", State: sync.Offline}}}},
		{{Revision: 7, Zones: []sync.ZoneProgress{{Zone: "east", State: sync.Done, Affected: 3, Done: 3}, {Zone: "west", State: sync.Offline}}},
			{Revision: 7, Complete: true, Zones: []sync.ZoneProgress{{Zone: "east", State: sync.Done, Affected: 3, Done: 3}, {Zone: "west", State: sync.Done}}}},
	}
	calls := 0
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if want := "from=5&timeout=1m0s&watch=true"; r.URL.RawQuery != want || r.URL.Path != "/changes/7/status" {
			t.Errorf("asked %s", r.URL)
		}
		part := states[min(calls, len(states)-1)]
		calls++
		for _, s := range part {
			_ = json.NewEncoder(w).Encode(s)
		}
	}))
	defer web.Close()
	var out bytes.Buffer
	c := &client{server: web.URL, http: web.Client()}
	got, err := follow(context.Background(), c, 5, 7, time.Minute, &lines{w: &out, last: map[string]string{}})
	if err != nil || !got.Complete || calls != 2 {
		t.Fatalf("status %+v, err %v, %d calls", got, err, calls)
	}
	want := "zone east: behind, 0 of 3 proxies\nzone west: offline\nzone east: done, 3 of 3 proxies\nzone west: done, no proxy is affected\n"
	if out.String() != want {
		t.Errorf("shown:\n%s", out.String())
	}
}

// TestBars draws on a buffer as on a terminal: it must end, whatever the state.
func TestBars(t *testing.T) {
	for _, z := range []sync.ZoneProgress{
		{Zone: "east", State: sync.Done, Affected: 3, Done: 3},
		{Zone: "east", State: sync.Behind, Affected: 3, Done: 1, Behind: 2},
		{Zone: "east", State: sync.Rejected, Affected: 3, Done: 2, Rejected: 1},
		{Zone: "east", State: sync.Offline},
	} {
		var out bytes.Buffer
		b := newBars(&out)
		for range 5 {
			b.show(sync.ChangeStatus{Zones: []sync.ZoneProgress{z}})
		}
		ended := make(chan struct{})
		go func() { b.close(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(60 * time.Second):
			t.Fatalf("%s: the bars do not end", z.State)
		}
		if !strings.Contains(out.String(), "east") || !strings.Contains(out.String(), text(z)) {
			t.Errorf("%s: shown %q", z.State, out.String())
		}
	}
}

// TestInterrupted: Ctrl-C says how to go on waiting, and has its own exit code.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}))
	defer server.Close()
	cmd := waitCommand()
	cmd.SetContext(ctx)
	var out bytes.Buffer
	cmd.SetOut(&out)
	_, err := await(cmd, &client{server: server.URL, http: server.Client()}, 5, 7, asTable, time.Minute, time.Time{})
	var exit *exitError
	if !errors.As(err, &exit) || exit.code != exitInterrupted || !strings.Contains(exit.text, "tombolo wait 7 --from 5") {
		t.Errorf("the error is %#v", err)
	}
}
