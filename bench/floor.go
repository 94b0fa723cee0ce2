package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/tombolo-mesh/tombolo/bench/load"
	"github.com/tombolo-mesh/tombolo/internal/serverca"
)

const (
	floorAddress = floorHost + ":5678"
	floorControl = floorHost + ":5680"
	floorTimes   = 10
	floorWarm    = 2
)

// times is how many times what the floor took a step took: until its last proxy had
// acknowledged, and of the processor.
type times struct{ time, cpu float64 }

// bare is the floor: a server in a process of its own that sends bytes, and knows nothing.
type bare struct {
	server *plane
	roots  *x509.CertPool
	sent   int64
}

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

// floor sends the bytes of each step's change to as many streams as it reached, from a
// server that does nothing else, and compares.
func floor(ctx context.Context, dir string, s scenario, wires map[int]wire) (map[int]times, error) {
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
	b := &bare{server: server, roots: roots}
	out := map[int]times{}
	for i, x := range wires {
		at, cpu, err := b.measure(ctx, s.Topology, x)
		if err != nil {
			return nil, err
		}
		out[i] = times{time: x.p50.Seconds() / at.Seconds(), cpu: x.cpu.Seconds() / cpu.Seconds()}
		fmt.Fprintf(os.Stderr, "  floor of %s: %d bytes to %d, %.1f ms, %.1f µs of processor each\n", s.Steps[i].Do, x.bytes, x.proxies,
			at.Seconds()*1e3, cpu.Seconds()*1e6)
	}
	return out, nil
}

// measure is the median time until the last of so many streams has the bytes, and the
// processor time of each.
func (b *bare) measure(ctx context.Context, t topology, x wire) (at, cpu time.Duration, err error) {
	f := load.New(ctx, load.Config{Address: floorAddress, TLS: &tls.Config{RootCAs: b.roots, ServerName: floorHost}})
	defer f.Close()
	var specs []load.Spec
	for i := range x.proxies {
		specs = append(specs, load.Spec{Name: fmt.Sprint(i), Node: fmt.Sprint(i), Light: t.Light && i >= t.Zones*t.Callers})
	}
	if err := f.Add(specs...); err != nil {
		return 0, 0, err
	}
	count := ""
	if err := until(ctx, func() bool { count, err = ask(ctx, http.MethodGet, ""); return count == fmt.Sprint(x.proxies) }); err != nil {
		return 0, 0, fmt.Errorf("%s of %d reach the floor: %w", count, x.proxies, err)
	}
	defer collectLater()()
	var took []time.Duration
	var before time.Duration
	for i := range floorWarm + floorTimes {
		if i == floorWarm {
			before = b.server.usage().cpu
		}
		one, err := b.send(ctx, f, x.bytes)
		if err != nil {
			return 0, 0, err
		}
		if i >= floorWarm {
			took = append(took, one)
		}
	}
	cpu = (b.server.usage().cpu - before) / time.Duration(floorTimes*x.proxies)
	return time.Duration(quantile(took, 0.5) * float64(time.Millisecond)), cpu, nil
}

// send sends bytes to every stream, and says when the last had them.
func (b *bare) send(ctx context.Context, f *load.Fleet, bytes int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	w, end := f.WatchMark(b.sent)
	defer end()
	b.sent++
	began := time.Now()
	if _, err := ask(ctx, http.MethodPost, fmt.Sprintf("/?bytes=%d", bytes)); err != nil {
		return 0, err
	}
	if missing := w.Wait(ctx); missing > 0 {
		return 0, fmt.Errorf("the floor did not reach %d", missing)
	}
	last := time.Duration(0)
	for _, d := range w.Took(began) {
		last = max(last, d)
	}
	return last, nil
}

// ask asks the floor: how many streams it has, or to send bytes.
func ask(ctx context.Context, method, query string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+floorControl+query, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("the floor: %s: %s", resp.Status, text)
	}
	return string(text), err
}
