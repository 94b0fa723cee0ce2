package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/bench/load"
	"github.com/tombolo-mesh/tombolo/internal/serverca"
)

// runScenario brings a scenario up, takes its steps and compares with the floor;
// one with a slope once for each size.
func runScenario(ctx context.Context, dir string, s scenario) ([]row, error) {
	if s.Slope == nil {
		got, wires, err := once(ctx, dir, s)
		if err != nil {
			return nil, err
		}
		floors, err := floor(ctx, dir, s, wires)
		if err != nil {
			return nil, err
		}
		var rows []row
		for i, st := range s.Steps {
			more, err := judge(st.Expect, got[i])
			if err != nil {
				return nil, err
			}
			for j := range more {
				if strings.HasPrefix(st.Expect[j].Metric, "last p50") {
					more[j].floor = floors[i]
				}
			}
			rows = append(rows, more...)
		}
		return rows, nil
	}
	var base, got metrics
	var sizes []string
	for i, k := range s.Slope.Times {
		sized := s
		*sized.Topology.field(s.Slope.Of) *= k
		all, _, err := once(ctx, filepath.Join(dir, fmt.Sprint(k)), sized)
		if err != nil {
			return nil, fmt.Errorf("%d times: %w", k, err)
		}
		got = metrics{}
		for j, st := range s.Steps {
			for name, v := range all[j] {
				got[st.Do+": "+name] = v
			}
		}
		if i == 0 {
			base = got
		}
		sizes = append(sizes, fmt.Sprint(*sized.Topology.field(s.Slope.Of)))
		fmt.Fprintf(os.Stderr, "  %s %s: %v\n", sizes[i], s.Slope.Of, got)
	}
	var rows []row
	for _, e := range s.Slope.Expect {
		first, ok := base[e.Metric]
		if !ok {
			return nil, fmt.Errorf("slope: no metric %q", e.Metric)
		}
		rows = append(rows, row{what: fmt.Sprintf("%s, %s %s (from %s to %s)", e.What, strings.Join(sizes, ", "), s.Slope.Of, number(first), number(got[e.Metric])),
			got: got[e.Metric] / first, budget: e.Most, unit: "×"})
	}
	return rows, nil
}

// once takes the steps of a scenario and returns their metrics.
func once(ctx context.Context, dir string, s scenario) ([]metrics, map[int]wire, error) {
	began := time.Now()
	w, err := start(ctx, dir, s)
	if err != nil {
		return nil, nil, err
	}
	defer w.stop()
	fmt.Fprintf(os.Stderr, "  %d zones of %d proxies, and %d streams of others, are up after %.0f s\n", s.Topology.Zones, s.Topology.proxies(), s.Topology.Streams, time.Since(began).Seconds())
	var out []metrics
	for i, st := range s.Steps {
		m, err := steps()[st.Do](w, ctx, i)
		if err != nil {
			return nil, nil, fmt.Errorf("steps[%d], %s: %w", i, st.Do, err)
		}
		fmt.Fprintf(os.Stderr, "  %s: %s\n", st.Do, m)
		out = append(out, m)
	}
	return out, w.wire, nil
}

// String lists metrics by name.
func (m metrics) String() string {
	var parts []string
	for k, v := range m {
		parts = append(parts, k+" "+number(v))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func judge(list []expectation, got metrics) ([]row, error) {
	var rows []row
	for _, e := range list {
		v, ok := got[e.Metric]
		if !ok {
			return nil, fmt.Errorf("%s: no metric %q, there are: %s", e.What, e.Metric, got)
		}
		rows = append(rows, row{what: e.What, got: v, budget: e.Most, unit: e.Unit})
	}
	return rows, nil
}

const (
	floorAddress = floorHost + ":5678"
	floorControl = floorHost + ":5680"
	floorTimes   = 10
)

func authority(dir string) (*serverca.Authority, error) {
	a, err := serverca.New(serverca.Config{Dir: dir, Names: []string{floorHost}})
	if err != nil {
		return nil, err
	}
	return a, a.Load()
}

func serveFloor(ctx context.Context, dir string) error {
	a, err := authority(dir)
	if err != nil {
		return err
	}
	return load.ServeFloor(ctx, floorAddress, floorControl, a.TLS())
}

// floor sends the bytes of a step's change to as many streams, from a server
// that does nothing else, and says how many times as long the step took.
func floor(ctx context.Context, dir string, s scenario, wires map[int]wire) (map[int]float64, error) {
	if len(wires) == 0 {
		return nil, nil
	}
	certs := filepath.Join(dir, "floor")
	a, err := authority(certs)
	if err != nil {
		return nil, err
	}
	roots, err := poolOf(a.CAPEM())
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	server, err := launch(ctx, dir, "floor", self, "-floor", certs)
	if err != nil {
		return nil, err
	}
	defer server.stop()
	if err := server.listens(ctx, floorAddress); err != nil {
		return nil, err
	}
	f := load.New(ctx, load.Config{Address: floorAddress, TLS: &tls.Config{RootCAs: roots, ServerName: floorHost}})
	defer f.Close()
	n := s.Topology.Zones * s.Topology.proxies()
	var specs []load.Spec
	for i := range n {
		specs = append(specs, load.Spec{Name: fmt.Sprint(i), Node: fmt.Sprint(i), Light: s.Topology.Light && i >= s.Topology.Callers})
	}
	if err := f.Add(specs...); err != nil {
		return nil, err
	}
	if err := until(ctx, func() bool { return streams(ctx) == fmt.Sprint(n) }); err != nil {
		return nil, fmt.Errorf("%s of %d reach the floor: %w", streams(ctx), n, err)
	}
	out := map[int]float64{}
	mark := int64(0)
	for i, x := range wires {
		var took []time.Duration
		before := server.usage().cpu
		for range floorTimes {
			w, end := f.WatchMark(mark)
			mark++
			began := time.Now()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s/?bytes=%d", floorControl, x.bytes), nil)
			if err != nil {
				end()
				return nil, err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				end()
				return nil, err
			}
			resp.Body.Close()
			bounded, cancel := context.WithTimeout(ctx, stepTime)
			missing := w.Wait(bounded)
			cancel()
			end()
			if missing > 0 {
				return nil, fmt.Errorf("the floor did not reach %d", missing)
			}
			last := time.Duration(0)
			for _, d := range w.Took(began) {
				last = max(last, d)
			}
			took = append(took, last)
		}
		at := quantile(took, 0.5)
		out[i] = x.p50.Seconds() * 1000 / at
		fmt.Fprintf(os.Stderr, "  floor of %s: %d bytes to %d, %.1f ms, %.1f µs of processor each\n", s.Steps[i].Do, x.bytes, n, at,
			(server.usage().cpu-before).Seconds()*1e6/float64(floorTimes*n))
	}
	return out, nil
}

// streams is how many the floor has.
func streams(ctx context.Context) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+floorControl, nil)
	if err != nil {
		return ""
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64))
	if err != nil {
		return ""
	}
	return string(text)
}
