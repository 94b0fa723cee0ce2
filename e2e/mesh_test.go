package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
	"github.com/tombolo-mesh/tombolo/internal/pgtest"
)

// fleet is a mesh in the laboratory: global with its database in the zone hub,
// and the zones east and west, each with hosts for its control plane, its
// ingress, a caller (web) and two servers (backend).
type fleet struct {
	t                    *testing.T
	dir, runs            string
	bin, agentBin, envoy string
	net                  *lab.Net
	hub                  *lab.Host
	dsn                  string
	db                   *pgtest.Server
	global               *lab.Process
	zones                map[string]*zone
	procs                map[string]*lab.Process
	// globals is where zones find global.
	globals string
}

// zone of a fleet.
type zone struct {
	name          string
	cp, ingress   *lab.Host
	web, stranger *lab.Host // callers: of mesh default, and for tests to use
	backends      []*lab.Host
	control       *lab.Process
}

// The ports of the control planes.
const (
	apiPort  = "5682"
	syncPort = "5685"
	xdsPort  = "5678"
)

// newFleet lays out the hosts and starts global and the zones' control planes
// and ingresses; services start with the calls below.
func newFleet(t *testing.T) *fleet { return newFleetWith(t, func(*fleet) {}) }

// newFleetWith calls more when global runs and the zones do not yet.
func newFleetWith(t *testing.T, more func(f *fleet)) *fleet {
	t.Helper()
	if os.Getenv("TOMBOLO_E2E") == "" {
		t.Skip("the laboratory: make e2e")
	}
	if os.Getuid() != 0 {
		t.Fatal("the laboratory makes network namespaces: run make e2e as root")
	}
	f := &fleet{t: t, dir: workDir(t), bin: binary(t, "tombolo"), agentBin: binary(t, "tombolo-agent"), envoy: envoyBinary(t),
		zones: map[string]*zone{}, procs: map[string]*lab.Process{}}
	var err error
	f.runs, err = os.MkdirTemp("", "tombolo-e2e-") // short, for Unix sockets
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(f.runs) })
	f.net, err = lab.NewNet()
	must(t, err)
	must(t, f.net.AddZone("hub", 9))
	f.hub, err = f.net.AddHost("hub", "hub", 2)
	must(t, err)
	must(t, f.net.Open(f.hub))
	for i, name := range []string{"east", "west"} {
		f.addZone(name, i+1)
	}
	f.globals = f.hub.IP + ":" + syncPort
	f.startDatabase()
	t.Cleanup(f.end) // before the database ends
	f.startGlobal()
	f.cli("", "config", "set-context", "lab", "--from-data-dir", f.path("global"))
	more(f)
	for _, z := range f.zones {
		f.token(z.name, "zone", "--zone", z.name)
		f.startZone(z)
		f.startGateway(z, "default")
	}
	return f
}

// workDir is where logs stay when a test fails: .e2e/<test>.
func workDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".e2e", strings.ReplaceAll(t.Name(), "/", "_")))
	must(t, err)
	must(t, os.RemoveAll(dir))
	must(t, os.MkdirAll(dir, 0o755))
	return dir
}

func binary(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("TOMBOLO_BIN")
	if dir == "" {
		dir = filepath.Join("..", "bin")
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	must(t, err)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is not built: make e2e builds it", name)
	}
	return path
}

// envoyBinary is TOMBOLO_ENVOY, or on PATH, or what `make` has fetched.
func envoyBinary(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("TOMBOLO_ENVOY"); path != "" {
		return path
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path
	}
	path, err := filepath.Abs(filepath.Join("..", ".cache", "envoy", "envoy"))
	must(t, err)
	if _, err := os.Stat(path); err != nil {
		t.Fatal("there is no Envoy: make e2e gets one")
	}
	return path
}

func (f *fleet) path(parts ...string) string {
	return filepath.Join(append([]string{f.dir}, parts...)...)
}

func (f *fleet) addZone(name string, number int) {
	f.t.Helper()
	must(f.t, f.net.AddZone(name, number))
	host := func(role string, last int) *lab.Host {
		h, err := f.net.AddHost(name, name+"-"+role, last)
		must(f.t, err)
		return h
	}
	z := &zone{name: name, cp: host("cp", 2), ingress: host("ingress", 3), web: host("web", 10), stranger: host("stranger", 11),
		backends: []*lab.Host{host("backend-1", 21), host("backend-2", 22)}}
	f.zones[name] = z
	must(f.t, f.net.Open(z.ingress))
}

// startDatabase starts PostgreSQL and makes it reachable on the hub's host.
func (f *fleet) startDatabase() {
	f.t.Helper()
	f.db = pgtest.Start(f.t)
	dsn, err := url.Parse(f.db.DSN)
	must(f.t, err)
	must(f.t, f.hub.Relay("127.0.0.1:5432", dsn.Host))
	dsn.Host = "127.0.0.1:5432"
	f.dsn = dsn.String()
}

func (f *fleet) startGlobal() {
	f.t.Helper()
	var err error
	f.global, err = f.hub.Start(f.dir, "global", nil, f.bin, "global", "--data-dir", f.path("global"), "--postgres", f.dsn,
		"--api-address", f.hub.IP+":"+apiPort, "--zone-address", f.hub.IP+":"+syncPort)
	must(f.t, err)
	f.listens(f.hub, f.global, f.hub.IP+":"+apiPort, f.hub.IP+":"+syncPort)
}

func (f *fleet) startZone(z *zone) {
	f.t.Helper()
	var err error
	z.control, err = z.cp.Start(f.dir, "zone-"+z.name, nil, f.bin, "zone", "--name", z.name, "--data-dir", f.path("zone-"+z.name),
		"--global", f.globals, "--global-ca", f.path("global", "ca.pem"), "--token-file", f.path("token-"+z.name),
		"--listen", z.cp.IP+":"+xdsPort, "--metrics-address", z.cp.IP+":5680")
	must(f.t, err)
	f.listens(z.cp, z.control, z.cp.IP+":"+xdsPort)
}

// startGateway starts the zone's ingress of a mesh.
func (f *fleet) startGateway(z *zone, mesh string) *lab.Process {
	f.t.Helper()
	name, port := "ingress-"+z.name, 10001
	if mesh != "default" {
		name, port = name+"-"+mesh, 10002
	}
	return f.startAgent("gateway", z, z.ingress, mesh, name, "ingress", fmt.Sprintf(`type: Dataplane
mesh: %s
name: %s
labels: {kuma.io/workload: ingress}
networking:
  address: %s
  listeners: [{type: ZoneIngress, name: ingress, port: %d}]
`, mesh, name, z.ingress.IP, port))
}

// startWeb starts the zone's caller in a mesh: on the host web in mesh default,
// else on the host stranger. Port 8081 is backend of the other zone, 8082 backend
// wherever it is (MeshMultiZoneService), 8083 the other zone's backend by TCP.
func (f *fleet) startWeb(z *zone, mesh string) *lab.Process {
	f.t.Helper()
	name, h := "web-"+z.name, z.web
	if mesh != "default" {
		name, h = name+"-"+mesh, z.stranger
	}
	return f.startAgent("sidecar", z, h, mesh, name, "web", webDataplane(z, mesh, name, h.IP))
}

func webDataplane(z *zone, mesh, name, ip string) string {
	other := map[string]string{"east": "west", "west": "east"}[z.name]
	ref := fmt.Sprintf("{kind: MeshService, labels: {kuma.io/display-name: backend, kuma.io/zone: %s}, port: ", other)
	return fmt.Sprintf(`type: Dataplane
mesh: %s
name: %s
labels: {kuma.io/workload: web}
networking:
  address: %s
  outbound:
    - {port: 8081, backendRef: %s8080}}
    - {port: 8082, backendRef: {kind: MeshMultiZoneService, name: backend, port: 8080}}
    - {port: 8083, backendRef: %s9090}}
`, mesh, name, ip, ref, ref)
}

// startBackend starts server i of a zone: the application and its sidecar.
func (f *fleet) startBackend(z *zone, mesh string, i int) (app, agent *lab.Process) {
	f.t.Helper()
	name := backendName(z, i)
	return f.startApp(z.backends[i], name, z.name), f.startBackendAgent(z, mesh, i)
}

func backendName(z *zone, i int) string { return fmt.Sprintf("backend-%s-%d", z.name, i+1) }

func (f *fleet) startBackendAgent(z *zone, mesh string, i int) *lab.Process {
	f.t.Helper()
	h, name := z.backends[i], backendName(z, i)
	return f.startAgent("sidecar", z, h, mesh, name, "backend", fmt.Sprintf(`type: Dataplane
mesh: %s
name: %s
labels: {kuma.io/workload: backend}
networking:
  address: %s
  inbound:
    - {name: http, port: 8080, servicePort: 18080, protocol: http}
    - {name: tcp, port: 9090, servicePort: 18080, protocol: tcp}
`, mesh, name, h.IP))
}

func (f *fleet) startApp(h *lab.Host, name, zone string) *lab.Process {
	f.t.Helper()
	app, err := h.Start(f.dir, "app-"+name, nil, f.bin, "dev", "service", "--listen", h.IP+":18080", "--name", "backend", "--zone", zone, "--instance", name)
	must(f.t, err)
	f.procs["app-"+name] = app
	f.listens(h, app, h.IP+":18080")
	return app
}

func (f *fleet) startAgent(mode string, z *zone, h *lab.Host, mesh, name, workload, dataplane string) *lab.Process {
	f.t.Helper()
	token := "dataplane-" + mesh + "-" + workload
	if _, err := os.Stat(f.path("token-" + token)); err != nil {
		f.token(token, "dataplane", "--mesh", mesh, "--workload", workload)
	}
	return f.startAgentWith(mode, z, h, name, f.path("token-"+token), dataplane)
}

func (f *fleet) startAgentWith(mode string, z *zone, h *lab.Host, name, token, dataplane string) *lab.Process {
	f.t.Helper()
	if old := f.procs[name]; old != nil {
		old.Kill()
	}
	file := f.path(name + ".yaml")
	must(f.t, os.WriteFile(file, []byte(dataplane), 0o644))
	p, err := h.Start(f.dir, name, nil, f.agentBin, mode, "-d", file, "--token-file", token,
		"--zone-address", z.cp.IP+":"+xdsPort, "--zone-ca", f.path("zone-"+z.name, "zone-ca.pem"),
		"--envoy", f.envoy, "--work-dir", filepath.Join(f.runs, name), "--concurrency", "1")
	must(f.t, err)
	f.procs[name] = p
	return p
}

// token keeps a new token in token-<name>.
func (f *fleet) token(name, kind string, args ...string) {
	f.t.Helper()
	out := f.cli("", append([]string{"token", "create", kind}, args...)...)
	must(f.t, os.WriteFile(f.path("token-"+name), []byte(strings.TrimSpace(out)+"\n"), 0o600))
}

// cli runs the command line on the hub's host; it must succeed.
func (f *fleet) cli(stdin string, args ...string) string {
	f.t.Helper()
	out, err := f.tryCLI(stdin, args...)
	must(f.t, err)
	return out
}

func (f *fleet) tryCLI(stdin string, args ...string) (string, error) {
	return f.hub.Run([]string{"TOMBOLO_CONFIG=" + f.path("config.yaml")}, stdin, f.bin, args...)
}

// newest is the revision of the only change in a list.
func newest(changes string) (string, error) {
	var list struct{ Items []struct{ Revision int64 } }
	if err := json.Unmarshal([]byte(changes), &list); err != nil {
		return "", err
	}
	if len(list.Items) != 1 {
		return "", fmt.Errorf("the newest change: %q", changes)
	}
	return strconv.FormatInt(list.Items[0].Revision, 10), nil
}

// apply applies manifests and waits until every proxy has them.
func (f *fleet) apply(manifests ...string) {
	f.t.Helper()
	f.cli(strings.Join(manifests, "---\n"), "apply", "-f", "-", "--wait=60s", "--yes")
}

// listens waits until a process accepts connections.
func (f *fleet) listens(from *lab.Host, p *lab.Process, addresses ...string) {
	f.t.Helper()
	for _, a := range addresses {
		f.eventually(60*time.Second, p.Name+" listens at "+a, func() bool {
			if !p.Alive() {
				f.t.Fatalf("%s ended; its log:\n%s", p.Name, tail(p.Log))
			}
			conn, err := from.Dial(f.t.Context(), "tcp", a)
			if err != nil {
				return false
			}
			conn.Close()
			return true
		})
	}
}

// eventually polls until ok, and returns how long it took.
func (f *fleet) eventually(patience time.Duration, what string, ok func() bool) time.Duration {
	f.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			f.t.Fatalf("%s: not within %s; logs are in %s", what, patience, f.dir)
		case <-tick.C:
		}
	}
	return time.Since(began)
}

// answers waits until a URL answers with a status from a host.
func (f *fleet) answers(from *lab.Host, url string, status int) lab.Sample {
	f.t.Helper()
	var s lab.Sample
	client := from.Client(5 * time.Second)
	f.eventually(60*time.Second, fmt.Sprintf("GET %s from %s answers %d", url, from.Name, status), func() bool {
		s = lab.Get(client, url)
		return lab.Status(status)(s)
	})
	return s
}

// end stops every process; logs stay when the test failed.
func (f *fleet) end() {
	for _, p := range f.procs {
		p.Kill()
	}
	for _, z := range f.zones {
		if z.control != nil {
			z.control.Kill()
		}
	}
	if f.global != nil {
		f.global.Kill()
	}
	if f.t.Failed() {
		logs, _ := filepath.Glob(f.path("*.log"))
		for _, log := range logs {
			f.t.Logf("%s:\n%s", filepath.Base(log), tail(log))
		}
	}
}

func contains(r io.Reader, text string) bool {
	body, err := io.ReadAll(io.LimitReader(r, 16<<20))
	return err == nil && strings.Contains(string(body), text)
}

// envoyProgram is the name that Envoy's binary has in the end.
func envoyProgram(t *testing.T, path string) string {
	t.Helper()
	real, err := filepath.EvalSymlinks(path)
	must(t, err)
	return filepath.Base(real)
}

// tail is the last lines of a log.
func tail(path string) string {
	out, err := exec.Command("tail", "-n", "25", path).CombinedOutput()
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// reply is what the sample application answers.
type reply struct{ Service, Zone, Instance, Caller, Self string }

func replyOf(s lab.Sample) reply {
	var r reply
	if json.Unmarshal([]byte(s.Body), &r) != nil {
		return reply{}
	}
	return r
}

// fromZone accepts answers of a zone.
func fromZone(zone string) func(lab.Sample) bool {
	return func(s lab.Sample) bool { return lab.Status(http.StatusOK)(s) && replyOf(s).Zone == zone }
}

// report prints what was counted in a line and fails the test when something
// that had to pass did not.
func (f *fleet) report(what string, good int, bad []lab.Sample, allowed int) {
	f.t.Helper()
	f.t.Logf("%s: %d as they should be, %d not", what, good, len(bad))
	if good == 0 || len(bad) > allowed {
		for i, s := range bad {
			if i == 5 {
				break
			}
			f.t.Logf("  at %s: status %d after %s, %v %.80q", s.Sent.Format("15:04:05.000"), s.Status, s.Took.Round(time.Millisecond), s.Err, s.Body)
		}
		f.t.Errorf("%s: %d of %d failed, %d are allowed", what, len(bad), good+len(bad), allowed)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
