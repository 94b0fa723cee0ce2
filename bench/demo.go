package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	demoURL  = "https://127.77.0.1:5682"
	allZones = "http://127.77.1.10:8081/"
)

// demo measures the topology of `make demo`: two zones, real Envoys.
func demo(ctx context.Context, dir string, changes int) ([]row, error) {
	mesh, err := startDemo(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer mesh.stop()
	client, err := connect(filepath.Join(dir, "global"), demoURL)
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, measure := range []func(context.Context, *api, string, int) ([]row, error){idle, propagation, crossZone, serviceStart} {
		more, err := measure(ctx, client, dir, changes)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// api is global's REST API.
type api struct {
	client     *http.Client
	url, token string
}

// connect reads whom to trust, and the administrator's token, in global's folder.
func connect(dir, url string) (*api, error) {
	roots, err := pool(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(filepath.Join(dir, "admin-token"))
	if err != nil {
		return nil, err
	}
	return &api{url: url, token: strings.TrimSpace(string(token)), client: &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: 4},
	}}, nil
}

func (a *api) do(ctx context.Context, method, path, body string) (*http.Response, error) {
	return a.send(ctx, method, path, "application/json", body)
}

func (a *api) send(ctx context.Context, method, path, form, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("Content-Type", form)
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		resp.Body.Close()
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return resp, nil
}

// change writes a timeout that reaches every sidecar. It returns its revision.
func (a *api) change(ctx context.Context, i int) (int64, error) {
	return a.timeouts(ctx, fmt.Sprintf(`{"http":{"requestTimeout":"%dms"}}`, 20000+i))
}

// timeouts writes the policy that says them for all calls.
func (a *api) timeouts(ctx context.Context, conf string) (int64, error) {
	resp, err := a.do(ctx, http.MethodPut, "/meshes/default/meshtimeouts/bench", timeoutsOf(conf))
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return strconv.ParseInt(resp.Header.Get("Tombolo-Revision"), 10, 64)
}

func timeoutsOf(conf string) string {
	return fmt.Sprintf(`{"type":"MeshTimeout","mesh":"default","name":"bench","spec":{"to":[{"targetRef":{"kind":"Mesh"},"default":%s}]}}`, conf)
}

// complete waits until global says that everybody has a revision.
func (a *api) complete(ctx context.Context, rev int64) error {
	resp, err := a.do(ctx, http.MethodGet, fmt.Sprintf("/changes/%d/status?watch=true&timeout=60s", rev), "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		var status struct{ Complete bool }
		if err := json.Unmarshal(lines.Bytes(), &status); err != nil {
			return err
		}
		if status.Complete {
			return nil
		}
	}
	return fmt.Errorf("revision %d did not complete", rev)
}

// propagation times changes from the write to the last ACK, as the API tells it,
// beside what Envoys took to acknowledge in the same run.
func propagation(ctx context.Context, a *api, _ string, n int) ([]row, error) {
	var took []time.Duration
	for i := range n {
		began := time.Now()
		rev, err := a.change(ctx, i)
		if err != nil {
			return nil, err
		}
		if err := a.complete(ctx, rev); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	rows := []row{
		{what: "policy written → last ACK of two zones, real Envoys, p50", got: quantile(took, 0.5), budget: new(15.0), unit: "ms"},
		{what: "policy written → last ACK of two zones, real Envoys, p99", got: quantile(took, 0.99), budget: new(50.0), unit: "ms"},
	}
	var sum, count float64
	for _, zone := range []string{"127.77.1.1", "127.77.2.1"} {
		s, c, err := ackTimes(ctx, zone)
		if err != nil {
			return nil, err
		}
		sum, count = sum+s, count+c
	}
	if count > 0 {
		rows = append(rows, row{what: "of it Envoy's own: response sent → ACK, mean", got: 1000 * sum / count, unit: "ms"})
	}
	return rows, nil
}

// ackTimes reads a zone's histogram of ACK latency: sum in seconds and count.
func ackTimes(ctx context.Context, zone string) (sum, count float64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+zone+":5680/metrics", nil)
	if err != nil {
		return 0, 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), " ")
		v, err := strconv.ParseFloat(value, 64)
		if !ok || err != nil {
			continue
		}
		metric, _, _ := strings.Cut(name, "{")
		switch metric {
		case "tombolo_xds_ack_seconds_sum":
			sum += v
		case "tombolo_xds_ack_seconds_count":
			count += v
		}
	}
	return sum, count, nil
}

// serviceStart kills an instance's application in west, waits until it is out,
// starts it again and times the first answer that it gives a caller in east.
func serviceStart(ctx context.Context, _ *api, dir string, _ int) ([]row, error) {
	const name, address = "backend-west-1", "127.77.2.20:18080"
	var took []time.Duration
	for range 5 {
		if err := killApp(address); err != nil {
			return nil, err
		}
		// Every zone is to know that it is gone, not only the callers' own detectors.
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(2 * time.Second):
		}
		if answered(ctx, name, 40) {
			return nil, fmt.Errorf("%s answers although it was killed", name)
		}
		log, err := os.OpenFile(filepath.Join(dir, "app-bench.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, err
		}
		cmd := exec.Command("bin/tombolo", "dev", "service", "--listen", address, "--name", "backend", "--zone", "west", "--instance", name)
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		go cmd.Wait()
		began := time.Now()
		if err := until(ctx, func() bool { return answered(ctx, name, 1) }); err != nil {
			return nil, fmt.Errorf("%s answers: %w", name, err)
		}
		took = append(took, time.Since(began))
	}
	return []row{{what: "service started in west → first answer in east, worst of 5", got: quantile(took, 1), budget: new(300.0), unit: "ms"}}, nil
}

// answered reports whether an instance gave one of n answers.
func answered(ctx context.Context, instance string, n int) bool {
	for range n {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, allZones, nil)
		if err != nil {
			return false
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue
		}
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		resp.Body.Close()
		if strings.Contains(string(body), `"`+instance+`"`) {
			return true
		}
	}
	return false
}

// until polls, for 20 seconds unless ctx says how long.
func until(ctx context.Context, ok func() bool) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// killApp ends the sample application that listens at an address.
func killApp(address string) error {
	for _, p := range processes() {
		if strings.Contains(p.command, "dev service --listen "+address) {
			return syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
	return fmt.Errorf("no sample application at %s", address)
}

// idle measures memory and processor time of the control planes while nothing happens.
func idle(ctx context.Context, _ *api, dir string, _ int) ([]row, error) {
	const pause = 20 * time.Second
	before := processes()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(pause):
	}
	after := processes()
	var rows []row
	for _, part := range []struct{ what, command string }{
		{"global", "global --data-dir " + dir}, {"zone east", "zone --name east --data-dir " + dir}, {"zone west", "zone --name west --data-dir " + dir}, {"agent of web-1", "tombolo-agent sidecar -d " + filepath.Join(dir, "web-1.yaml")},
	} {
		a, b := find(before, part.command), find(after, part.command)
		if a == nil || b == nil || a.pid != b.pid {
			return nil, fmt.Errorf("%s is not there", part.what)
		}
		resident := row{what: part.what + ", idle: resident memory", got: float64(b.rss) / (1 << 20), unit: "MiB"}
		own := row{what: part.what + ", idle: its own memory", got: float64(b.own) / (1 << 20), unit: "MiB"}
		if strings.HasPrefix(part.what, "agent") { // many on a machine, which share the file's pages
			own.budget = new(15.0)
		} else {
			resident.budget = new(40.0)
		}
		rows = append(rows, resident, own,
			row{what: part.what + ", idle: processor", got: 100 * (b.cpu - a.cpu).Seconds() / pause.Seconds(), budget: new(0.5), unit: "% of a core"})
	}
	return rows, nil
}

type proc struct {
	pid     int
	command string
	// rss is resident memory in bytes: own, and pages of the program's file, which
	// processes share and the kernel takes back when it needs them.
	rss, own int64
	cpu      time.Duration
}

func find(list []proc, command string) *proc {
	for i := range list {
		if strings.Contains(list[i].command, command) {
			return &list[i]
		}
	}
	return nil
}

// processes reads /proc. Those of other network namespaces, where the same addresses and
// names may be another's, are left out.
func processes() []proc {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return nil
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	var out []proc
	for _, dir := range dirs {
		if network, err := os.Readlink(dir + "/ns/net"); err != nil || network != own {
			continue // ended, of another user, or elsewhere
		}
		pid, _ := strconv.Atoi(filepath.Base(dir)) // digits, by the pattern
		if p, ok := readProc(pid); ok {
			out = append(out, p)
		}
	}
	return out
}

// readProc reads what a process has used; false once it has ended.
func readProc(pid int) (proc, bool) {
	dir := fmt.Sprintf("/proc/%d", pid)
	command, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return proc{}, false
	}
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return proc{}, false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	if len(f) < 22 {
		return proc{}, false
	}
	number := func(i int) int64 { v, _ := strconv.ParseInt(f[i], 10, 64); return v }
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	return proc{pid: pid, command: strings.ReplaceAll(string(command), "\x00", " "),
		rss: number(21) * int64(os.Getpagesize()), own: ownMemory(dir), cpu: time.Duration(number(11)+number(12)) * tick}, true
}

// ownMemory is what is resident and of no file, in bytes; 0 if it is not known.
func ownMemory(dir string) int64 {
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "\nRssAnon:")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0
	}
	kilobytes, _ := strconv.ParseInt(fields[0], 10, 64) // 0 if it is no number
	return kilobytes << 10
}

// quantile in milliseconds, 0 of none.
func quantile(d []time.Duration, q float64) float64 {
	if len(d) == 0 {
		return 0
	}
	s := slices.Clone(d)
	slices.Sort(s)
	i := int(math.Ceil(q*float64(len(s)))) - 1
	return float64(s[max(i, 0)].Microseconds()) / 1000
}

// running is `tombolo dev`.
type running struct{ cmd *exec.Cmd }

// start runs the demo to the point where it stays up.
func startDemo(ctx context.Context, dir string) (*running, error) {
	cmd := exec.CommandContext(ctx, "bin/tombolo", "dev", "--dir", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // it ends what it started
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "stays up until") {
			go func() {
				for lines.Scan() {
				}
			}()
			return &running{cmd: cmd}, nil
		}
	}
	return nil, fmt.Errorf("tombolo dev did not come up: %w", cmd.Wait())
}

func (r *running) stop() {
	r.cmd.Process.Signal(syscall.SIGTERM)
	r.cmd.Wait()
}
