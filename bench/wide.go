package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/bench/load"
)

// wideStep writes a policy that changes every cluster and every route of every proxy, and
// counts what that is: compiles for each class, and bytes beside those that changed.
func (w *world) wideStep(ctx context.Context, at int) (metrics, error) {
	st := w.scenario.Steps[at]
	var last []time.Duration
	var compiles, bytes, changed, same, proxies float64
	before := w.usages()
	for i := range st.Times {
		first, err := w.classCompiles(ctx)
		if err != nil {
			return nil, err
		}
		one, err := w.wideOnce(ctx, i)
		if err != nil {
			return nil, err
		}
		now, err := w.classCompiles(ctx)
		if err != nil {
			return nil, err
		}
		compiles += now - first
		last = append(last, one.last)
		proxies = float64(len(one.all))
		bytes, changed, same = bytes+float64(one.bytes), changed+float64(one.changed), same+float64(one.same)
	}
	n := float64(st.Times)
	t := w.scenario.Topology
	classes := float64(t.Zones * (t.Services + min(t.Callers, max(1, t.Classes))))
	return metrics{
		"last p50": quantile(last, 0.5), "last max": quantile(last, 1), "compiles per class": compiles / n / classes,
		"bytes per proxy": bytes / n / proxies, "changed per proxy": changed / n / proxies, "followed per proxy": same / n / proxies,
		"bytes over changed": (bytes - same) / max(1, changed),
		"cpu per proxy":      w.spent(before).Seconds() * 1e6 / n / proxies,
	}, nil
}

func (w *world) wideOnce(ctx context.Context, i int) (change, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	var watches []*load.Watch
	for _, f := range w.fleets {
		x, end := f.WatchMark(w.rev)
		defer end()
		watches = append(watches, x)
	}
	began := time.Now()
	rev, err := w.api.timeouts(ctx, fmt.Sprintf(`{"connectionTimeout":"%dms","http":{"requestTimeout":"%dms"}}`, 3000+i, 30000+i))
	if err != nil {
		return change{}, err
	}
	if err := w.api.complete(ctx, rev); err != nil {
		return change{}, err
	}
	w.rev = rev
	var out change
	for _, x := range watches {
		if n := x.Wait(ctx); n > 0 {
			return change{}, fmt.Errorf("revision %d: %d proxies have not acknowledged", rev, n)
		}
		all := x.Took(began)
		for _, d := range all {
			out.last = max(out.last, d)
		}
		changed, same := x.Content()
		out.all, out.bytes = append(out.all, all...), out.bytes+x.Bytes()
		out.changed, out.same = out.changed+changed, out.same+same
	}
	return out, nil
}

// classCompiles is how many classes all zones have compiled so far.
func (w *world) classCompiles(ctx context.Context) (float64, error) {
	sum := 0.0
	for z := range w.zones {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+zoneHost(z+1)+":5680/metrics", nil)
		if err != nil {
			return 0, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if value, ok := strings.CutPrefix(lines.Text(), `tombolo_zone_compiles_total{kind="class"} `); ok {
				v, err := strconv.ParseFloat(value, 64)
				if err != nil {
					resp.Body.Close()
					return 0, err
				}
				sum += v
			}
		}
		resp.Body.Close()
	}
	return sum, nil
}
