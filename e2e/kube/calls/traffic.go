package calls

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

const (
	// maxSamples of one name are kept: an hour at 20 a second.
	maxSamples = 72_000
	// maxOpen calls of one name; more are counted as errors.
	maxOpen = 1000
	// maxBad samples are shown in full by a report.
	maxBad = 10
)

// Traffic is all that this pod sends.
type Traffic struct {
	mu    sync.Mutex
	flows map[string]*flow
}

// flow is calls at a steady rate, whatever happens to the earlier ones.
type flow struct {
	stop context.CancelFunc
	wait sync.WaitGroup

	mu      sync.Mutex
	samples []Sample
}

// Report counts the calls sent in [since, until).
type Report struct {
	// Total of them.
	Total int
	// Outcomes: how many ended how.
	Outcomes map[string]int
	// From counts answers by "service/zone/instance".
	From map[string]int
	// Last is when the last call was sent that an instance answered.
	Last map[string]time.Time
	// Callers counts the SPIFFE IDs that the servers' proxies saw.
	Callers map[string]int
	// Slowest answer.
	Slowest time.Duration
	// First and last time that a call was sent that ended in something else than 200.
	FirstBad, LastBad time.Time
	// Bad are the first of those.
	Bad []Sample
}

// NewTraffic sends nothing yet.
func NewTraffic() *Traffic { return &Traffic{flows: map[string]*flow{}} }

// Handler takes the orders send, report and stop.
func (t *Traffic) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /send", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		rate := 20
		if s := q.Get("rate"); s != "" {
			var err error
			if rate, err = strconv.Atoi(s); err != nil || rate < 1 || rate > 1000 {
				http.Error(w, "rate: 1 to 1000 a second", http.StatusBadRequest)
				return
			}
		}
		t.send(q.Get("name"), q.Get("url"), rate)
	})
	mux.HandleFunc("POST /stop", func(_ http.ResponseWriter, r *http.Request) { t.end(r.URL.Query().Get("name")) })
	mux.HandleFunc("POST /report", func(w http.ResponseWriter, r *http.Request) {
		t.mu.Lock()
		f := t.flows[r.URL.Query().Get("name")]
		t.mu.Unlock()
		if f == nil {
			http.Error(w, "no such traffic", http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(f.report(at(r.URL.Query(), "since"), at(r.URL.Query(), "until"))); err != nil {
			return // the asker has gone
		}
	})
	return mux
}

func at(q url.Values, name string) time.Time {
	n, err := strconv.ParseInt(q.Get(name), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// send begins anew under a name that is in use.
func (t *Traffic) send(name, target string, rate int) {
	t.end(name)
	ctx, cancel := context.WithCancel(context.Background())
	f := &flow{stop: cancel}
	t.mu.Lock()
	t.flows[name] = f
	t.mu.Unlock()
	f.wait.Add(1)
	go f.run(ctx, target, rate)
}

// end stops a flow and waits for its calls; its counts stay.
func (t *Traffic) end(name string) {
	t.mu.Lock()
	f := t.flows[name]
	t.mu.Unlock()
	if f != nil {
		f.stop()
		f.wait.Wait()
	}
}

func (f *flow) run(ctx context.Context, target string, rate int) {
	defer f.wait.Done()
	c := NewCaller()
	slots := make(chan struct{}, maxOpen)
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case slots <- struct{}{}:
			f.wait.Add(1)
			go func() {
				defer f.wait.Done()
				// Not ctx: a call that has begun ends by itself.
				f.add(c.Call(context.Background(), target))
				<-slots
			}()
		default:
			f.add(Sample{Sent: time.Now(), Outcome: "error", Err: fmt.Sprintf("%d calls are open", maxOpen)})
		}
	}
}

func (f *flow) add(s Sample) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.samples) == maxSamples {
		f.samples = append(f.samples[:0], f.samples[maxSamples/2:]...)
	}
	f.samples = append(f.samples, s)
}

func (f *flow) report(since, until time.Time) Report {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := Report{Outcomes: map[string]int{}, From: map[string]int{}, Last: map[string]time.Time{}, Callers: map[string]int{}}
	for _, s := range f.samples {
		if s.Sent.Before(since) || !until.IsZero() && !s.Sent.Before(until) {
			continue
		}
		r.Total++
		r.Outcomes[s.Outcome]++
		if s.Outcome == "200" {
			r.Slowest = max(r.Slowest, s.Took)
			r.From[s.Reply.Service+"/"+s.Reply.Zone+"/"+s.Reply.Instance]++
			if s.Sent.After(r.Last[s.Reply.Instance]) {
				r.Last[s.Reply.Instance] = s.Sent
			}
			r.Callers[s.Reply.Caller]++
			continue
		}
		if r.FirstBad.IsZero() || s.Sent.Before(r.FirstBad) {
			r.FirstBad = s.Sent
		}
		if s.Sent.After(r.LastBad) {
			r.LastBad = s.Sent
		}
		if len(r.Bad) < maxBad {
			r.Bad = append(r.Bad, s)
		}
	}
	return r
}
