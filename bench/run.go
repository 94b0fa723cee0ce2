package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
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
				switch metric := st.Expect[j].Metric; {
				case strings.HasPrefix(metric, "last p50"):
					more[j].floor = floors[i].time
				case metric == "cpu" || metric == "cpu per proxy":
					more[j].floor = floors[i].cpu
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
		if err := w.rest(ctx); err != nil {
			return nil, nil, err
		}
		collect := collectLater()
		m, err := steps()[st.Do](w, ctx, i)
		collect()
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
