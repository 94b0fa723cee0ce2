package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tombolo-mesh/tombolo/bench/load"
)

// Where the planes of a scenario listen; a demo may run beside.
const (
	globalHost = "127.88.0.1"
	floorHost  = "127.88.0.2"
)

func zoneName(z int) string { return fmt.Sprintf("zone-%d", z) }

func zoneHost(z int) string { return fmt.Sprintf("127.88.%d.1", z) }

// firstProxies are those that a zone is measured with before the others come.
const firstProxies = 10

// plane is a running program.
type plane struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	// base is its memory while first proxies, the first of them, were all that it had:
	// what a process needs once, whoever connects, is no proxy's.
	base  proc
	first int
}

// world is a global, its zones and their fleets.
type world struct {
	scenario scenario
	dir      string
	api      *api
	global   *plane
	zones    []*plane
	fleets   []*load.Fleet
	streams  []*load.Zone
	tokens   map[string]string
	// turn counts changes, so that each differs from the one before.
	turn int
	// rev is the newest revision that this program knows.
	rev int64
	// wire is what changes were on the wire, for the floor, by step.
	wire map[int]wire

	mu sync.Mutex
	// down are the services whose first instance is not ready.
	down map[int]bool
}

// wire is what one change was for each of the proxies that it reached, how long it took,
// and what each took of the control plane's processor.
type wire struct {
	bytes, proxies int
	p50, cpu       time.Duration
}

// launch starts a program; its output goes to a file.
func launch(ctx context.Context, dir, name, program string, args ...string) (*plane, error) {
	path := filepath.Join(dir, name+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &plane{name: name, log: path, cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(p.done)
	}()
	return p, nil
}

// stop ends a program as an operator would, and after a while as nobody should.
func (p *plane) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// listens waits until a program accepts connections.
func (p *plane) listens(ctx context.Context, address string) error {
	err := until(ctx, func() bool {
		select {
		case <-p.done:
			return true
		default:
		}
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	select {
	case <-p.done:
		return fmt.Errorf("%s ended; its log is %s", p.name, p.log)
	default:
	}
	if err != nil {
		return fmt.Errorf("%s does not listen at %s: %w", p.name, address, err)
	}
	return nil
}

// usage is what a program has used so far.
func (p *plane) usage() proc {
	u, _ := readProc(p.cmd.Process.Pid) // zero once it has ended
	return u
}

// start brings the topology of a scenario up.
func start(ctx context.Context, dir string, s scenario) (*world, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	w := &world{scenario: s, dir: dir, tokens: map[string]string{}, wire: map[int]wire{}, down: map[int]bool{}}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	if err := w.start(ctx); err != nil {
		w.stop()
		return nil, err
	}
	return w, nil
}

func (w *world) start(ctx context.Context) error {
	var err error
	background := context.WithoutCancel(ctx) // ended by stop
	if w.global, err = launch(background, w.dir, "global", "bin/tombolo", "global", "--data-dir", filepath.Join(w.dir, "global"),
		"--api-address", globalHost+":5682", "--zone-address", globalHost+":5685", "--name", globalHost); err != nil {
		return err
	}
	if err := w.global.listens(ctx, globalHost+":5682"); err != nil {
		return err
	}
	if w.api, err = connect(filepath.Join(w.dir, "global"), "https://"+globalHost+":5682"); err != nil {
		return err
	}
	for z := 1; z <= w.scenario.Topology.Zones; z++ {
		if err := w.startZone(ctx, z); err != nil {
			return err
		}
	}
	for i := range w.scenario.Topology.Streams {
		if err := w.joinStream(ctx, fmt.Sprintf("stream-%d", i+1)); err != nil {
			return err
		}
	}
	if err := w.policies(ctx, w.scenario.Topology.Policies); err != nil {
		return err
	}
	for z := 1; z <= w.scenario.Topology.Zones; z++ {
		specs, err := w.specs(ctx, z)
		if err != nil {
			return err
		}
		if at := slices.IndexFunc(w.scenario.Steps, func(s step) bool { return s.Do == "memory" }); at >= 0 {
			first, plane := min(firstProxies, len(specs)), w.zones[z-1]
			if err := w.fleets[z-1].Add(specs[:first]...); err != nil {
				return err
			}
			if err := w.fleets[z-1].Settle(ctx, w.scenario.Steps[at].For); err != nil {
				return err
			}
			plane.base, plane.first, specs = plane.usage(), first, specs[first:]
		}
		// Who is called comes first, as it does in life: else everybody is told of each
		// new service by itself, which is another measurement.
		called := len(specs) - w.scenario.Topology.Callers
		for _, some := range [][]load.Spec{specs[:called], specs[called:]} {
			if err := w.fleets[z-1].Add(some...); err != nil {
				return err
			}
			if err := w.fleets[z-1].Settle(ctx, time.Second); err != nil {
				return err
			}
		}
	}
	return w.settle(ctx)
}

// settle waits until everybody has everything.
func (w *world) settle(ctx context.Context) error {
	for _, f := range w.fleets {
		if err := f.Settle(ctx, time.Second); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) startZone(ctx context.Context, z int) error {
	token, err := w.token(ctx, "zone", map[string]any{"zone": zoneName(z)})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(w.dir, zoneName(z)+".token"), []byte(token), 0o600); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(w.dir, zoneName(z)+".d"), 0o755); err != nil {
		return err
	}
	p, err := w.launchZone(ctx, z)
	if err != nil {
		return err
	}
	w.zones = append(w.zones, p)
	roots, err := pool(filepath.Join(w.dir, zoneName(z), "zone-ca.pem"))
	if err != nil {
		return err
	}
	w.fleets = append(w.fleets, load.New(context.WithoutCancel(ctx), load.Config{Address: zoneHost(z) + ":5678", TLS: &tls.Config{RootCAs: roots, ServerName: zoneHost(z)}}))
	return nil
}

// joinStream adds a zone that is only its stream to global.
func (w *world) joinStream(ctx context.Context, name string) error {
	token, err := w.token(ctx, "zone", map[string]any{"zone": name})
	if err != nil {
		return err
	}
	roots, err := pool(filepath.Join(w.dir, "global", "ca.pem"))
	if err != nil {
		return err
	}
	z, err := load.JoinZone(ctx, load.ZoneConfig{Name: name, Address: globalHost + ":5685", Token: token, Proxies: 1000,
		TLS: &tls.Config{RootCAs: roots, ServerName: globalHost}})
	if err != nil {
		return err
	}
	w.streams = append(w.streams, z)
	return nil
}

func (w *world) launchZone(ctx context.Context, z int) (*plane, error) {
	name := zoneName(z)
	p, err := launch(context.WithoutCancel(ctx), w.dir, name, "bin/tombolo", "zone", "--name", name, "--data-dir", filepath.Join(w.dir, name),
		"--global", globalHost+":5685", "--global-ca", filepath.Join(w.dir, "global", "ca.pem"), "--token-file", filepath.Join(w.dir, name+".token"),
		"--listen", zoneHost(z)+":5678", "--metrics-address", zoneHost(z)+":5680", "--resources", filepath.Join(w.dir, name+".d"))
	if err != nil {
		return nil, err
	}
	return p, p.listens(ctx, zoneHost(z)+":5678")
}

func (w *world) stop() {
	var wg sync.WaitGroup
	for _, f := range w.fleets {
		wg.Go(f.Close)
	}
	for _, z := range w.streams {
		wg.Go(z.Close)
	}
	wg.Wait()
	for _, z := range w.zones {
		wg.Go(z.stop)
	}
	wg.Wait()
	w.global.stop()
}

func pool(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return poolOf(pem)
}

func poolOf(pem []byte) (*x509.CertPool, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("there is no certificate to trust")
	}
	return roots, nil
}

// token asks global for a token, once each.
func (w *world) token(ctx context.Context, use string, claims map[string]any) (string, error) {
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	if t := w.tokens[use+string(body)]; t != "" {
		return t, nil
	}
	resp, err := w.api.do(ctx, "POST", "/tokens/"+use, string(body))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var out struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return "", err
	}
	w.tokens[use+string(body)] = out.Token
	return out.Token, nil
}

// specs are the proxies of a zone.
func (w *world) specs(ctx context.Context, z int) ([]load.Spec, error) {
	t := w.scenario.Topology
	var out []load.Spec
	for s := range t.Services {
		var calls strings.Builder
		for k := range t.Calls {
			fmt.Fprintf(&calls, "    - {address: 127.0.0.1, port: %d, backendRef: {kind: MeshService, name: %s, port: 8080}}\n", 20000+k, service((s+k+1)%t.Services))
		}
		for i := range t.Instances {
			spec, err := w.spec(ctx, z, instance(s, i), service(s), fmt.Sprintf("10.%d.%d.%d", z, s/200+10*i, 1+s%200), outbounds(calls.String()))
			if err != nil {
				return nil, err
			}
			spec.Light = t.Light
			out = append(out, spec)
		}
	}
	for c := range t.Callers {
		spec, err := w.spec(ctx, z, fmt.Sprintf("caller-%d", c), fmt.Sprintf("callers-%d", c%t.Classes), fmt.Sprintf("11.%d.%d.%d", z, c/200, 1+c%200), "  transparentProxying: {}\n")
		if err != nil {
			return nil, err
		}
		spec.Names = true
		out = append(out, spec)
	}
	return out, nil
}

func service(s int) string { return fmt.Sprintf("service-%d", s) }

func instance(s, i int) string { return fmt.Sprintf("service-%d-%d", s, i) }

func outbounds(list string) string {
	if list == "" {
		return ""
	}
	return "  outbound:\n" + list
}

func (w *world) spec(ctx context.Context, z int, name, workload, address, more string) (load.Spec, error) {
	token, err := w.token(ctx, "dataplane", map[string]any{"mesh": "default", "workload": workload})
	if err != nil {
		return load.Spec{}, err
	}
	return load.Spec{Name: name, Node: "default." + name, Token: token, Dataplane: fmt.Sprintf(`type: Dataplane
mesh: default
name: %s
labels:
  tombolo.io/workload: %s
networking:
  address: %s
  inbound:
    - {name: http, port: 8080, servicePort: 18080, protocol: http}
%s`, name, workload, address, more)}, nil
}

// policies writes policies that select no proxy.
func (w *world) policies(ctx context.Context, n int) error {
	const each = 500
	for from := 0; from < n; from += each {
		var b strings.Builder
		for i := from; i < min(n, from+each); i++ {
			fmt.Fprintf(&b, "---\ntype: MeshTimeout\nmesh: default\nname: rest-%d\nspec:\n  targetRef: {kind: Dataplane, labels: {tombolo.io/workload: nobody-%d}}\n"+
				"  to: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 7s}}}]\n", i, i)
		}
		resp, err := w.api.send(ctx, "PUT", "/resources", "application/yaml", b.String())
		if err != nil {
			return err
		}
		resp.Body.Close()
	}
	return nil
}
