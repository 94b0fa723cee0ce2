package calls

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestOutcomes(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/denied" {
			w.WriteHeader(http.StatusForbidden)
		}
		fmt.Fprint(w, `{"Service":"a","Zone":"east"}`)
	}))
	defer web.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // refuses: takes connections and ends them
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	c := NewCaller()
	for url, want := range map[string]string{
		web.URL: "200", web.URL + "/denied": "403", "tcp://" + l.Addr().String(): "error", "grpc://" + l.Addr().String(): "error",
		"http://nobody.invalid": "error", "ftp://x": "error",
	} {
		s := c.Call(t.Context(), url)
		if s.Outcome != want || (s.Err == "") != (want == "200") || want == "200" && s.Reply.Zone != "east" {
			t.Errorf("%s: %+v, not %s", url, s, want)
		}
	}
}

// TestTraffic: what is sent is counted by how it ended and when it was sent.
func TestTraffic(t *testing.T) {
	denied := make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-denied:
			w.WriteHeader(http.StatusForbidden)
		default:
		}
		fmt.Fprint(w, `{"Service":"a","Zone":"east","Instance":"1","Caller":"me"}`)
	}))
	defer web.Close()
	traffic := NewTraffic()
	traffic.send("x", web.URL, 200)
	defer traffic.end("x")
	f := traffic.flows["x"]
	count := func(n int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for f.report(time.Time{}, time.Time{}).Total < n {
			select {
			case <-ctx.Done():
				t.Fatalf("not %d calls in 10 s", n)
			case <-tick.C:
			}
		}
	}
	count(20)
	close(denied)
	turned := time.Now()
	count(50)
	traffic.end("x")
	all := f.report(time.Time{}, time.Time{})
	if all.Outcomes["200"] < 15 || all.Outcomes["403"] < 15 || all.From["a/east/1"] != all.Outcomes["200"] || all.Callers["me"] == 0 || all.Last["1"].IsZero() || all.Last["1"].After(all.LastBad) || len(all.Bad) != maxBad {
		t.Errorf("all of it: %+v", all)
	}
	if late := f.report(turned, time.Time{}); late.Outcomes["200"] != 0 || late.Total == 0 {
		t.Errorf("since it is denied: %+v", late)
	}
	if early := f.report(time.Time{}, all.FirstBad); early.Outcomes["403"] != 0 || early.Total == 0 {
		t.Errorf("before it was denied: %+v", early)
	}
}

func TestOrders(t *testing.T) {
	s := httptest.NewServer(NewTraffic().Handler())
	defer s.Close()
	for path, want := range map[string]int{"/send?name=x&url=http://x&rate=0": 400, "/report?name=nobody": 404, "/stop?name=nobody": 200} {
		resp, err := http.Post(s.URL+path, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != want {
			t.Errorf("%s: %d %s %v, not %d", path, resp.StatusCode, strings.TrimSpace(string(body)), err, want)
		}
	}
}
