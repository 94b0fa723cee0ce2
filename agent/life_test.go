package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/internal/ports"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

const manifest = `
type: Dataplane
mesh: default
name: web-1
networking:
  address: 127.0.0.1
  inbound: [{name: main, port: 8080}]
`

// buffer is a log that tests read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *buffer) count(s string) int { return strings.Count(b.String(), s) }

// running is an agent under test, in this process.
type running struct {
	zone *fakeZone
	dir  string
	log  *buffer
	stop context.CancelFunc
	done chan error
}

func testConfig(t *testing.T, z *fakeZone) Config {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"dp.yaml": manifest, "token": testToken + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	work, err := os.MkdirTemp("", "agent-test-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(work) })
	envoyLog, err := os.Create(filepath.Join(dir, "envoy.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = envoyLog.Close()
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, "envoy.log"))
			t.Logf("envoy:\n%s", text)
		}
	})
	return Config{Dataplane: filepath.Join(dir, "dp.yaml"), TokenFile: filepath.Join(dir, "token"), ZoneAddress: z.address, ZoneCA: z.caFile,
		Envoy: envoyPath(t), WorkDir: work, Concurrency: 1, DrainTime: time.Second, EnvoyOutput: envoyLog}
}

func startAgent(t *testing.T, z *fakeZone) *running {
	t.Helper()
	return startConfigured(t, z, testConfig(t, z))
}

func startConfigured(t *testing.T, z *fakeZone, cfg Config) *running {
	t.Helper()
	r := &running{zone: z, dir: cfg.WorkDir, log: &buffer{}, done: make(chan error, 1)}
	cfg.Log = slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	over := make(chan struct{})
	go func() {
		defer close(over)
		r.done <- a.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-over
		if t.Failed() {
			select {
			case err := <-r.done:
				t.Log("the agent ended:", err)
			default: // the test has taken it
			}
			t.Logf("agent:\n%s", r.log)
		}
	})
	return r
}

func (r *running) envoyPID(t *testing.T) int {
	t.Helper()
	lines := strings.Split(r.log.String(), "\n")
	slices.Reverse(lines)
	for _, line := range lines {
		if _, pid, ok := strings.Cut(line, `msg="envoy started" pid=`); ok {
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("envoy was not started")
	return 0
}

func (r *running) result(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(60 * time.Second):
		t.Fatal("the agent does not end")
		return nil
	}
}

func startApp(t *testing.T, z *fakeZone, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	app := &httptest.Server{Listener: ports.Listen(t), Config: &http.Server{Handler: h}}
	app.Start()
	t.Cleanup(app.Close)
	z.app = app.Listener.Addr().(*net.TCPAddr).Port
	return app
}

func hello(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") }

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestIdentityIsServedAndRotatesWithoutAFailure(t *testing.T) {
	z := newFakeZone(t)
	startApp(t, z, hello)
	z.start()
	r := startAgent(t, z)
	eventually(t, "ready", func() bool { return r.log.count("msg=ready") == 1 })
	long := z.client() // one keep-alive connection for all its calls
	if _, _, err := z.call(t.Context(), long, "/"); err != nil {
		t.Fatal(err)
	}
	serials := map[string]bool{}
	for range 20 {
		s := get(z, func() *fakeStream { return z.agent })
		if err := s.send(&agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Resign{Resign: &agentv1.Resign{}}}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another certificate is served", func() bool {
			if _, _, err := z.call(t.Context(), long, "/"); err != nil {
				t.Fatalf("long connection: %v", err)
			}
			fresh := z.client()
			defer fresh.CloseIdleConnections()
			serial, _, err := z.call(t.Context(), fresh, "/")
			if err != nil {
				t.Fatalf("new connection: %v", err)
			}
			known := serials[serial]
			serials[serial] = true
			return !known
		})
	}
	if n := strings.Count(r.log.String(), "envoy started"); n != 1 {
		t.Errorf("envoy was started %d times", n)
	}
	if info, err := os.Stat(filepath.Join(r.dir, bootstrapFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("bootstrap: %v, %v", info, err)
	}
}

func TestZoneComesLateGoesAndComesBack(t *testing.T) {
	z := newFakeZone(t)
	startApp(t, z, hello)
	r := startAgent(t, z)
	eventually(t, "the zone's absence is logged", func() bool { return r.log.count("zone is away") == 1 })
	z.start()
	eventually(t, "ready", func() bool { return r.log.count("msg=ready") == 1 })
	eventually(t, "the application answers", func() bool {
		return get(z, func() bool { return len(z.health) > 0 && len(z.health[len(z.health)-1]) == 0 })
	})
	if n := r.log.count("zone is away"); n != 1 {
		t.Errorf("the same reason was logged %d times:\n%s", n, r.log)
	}
	first := get(z, func() *agentv1.Register { return z.registers[0] })
	if !slices.Equal(first.NotReady, []string{unknownHealth}) || first.EnvoyVersion == "" || first.Instance == "" {
		t.Errorf("first registration: %v", first)
	}
	if !z.oneConnection() {
		t.Errorf("agent and Envoy have connections of their own: %v", z.peers)
	}
	pid := r.envoyPID(t)

	z.stop()
	eventually(t, "the agent sees it", func() bool { return r.log.count("zone is away") >= 2 })
	if _, _, err := z.call(t.Context(), z.client(), "/"); err != nil {
		t.Errorf("without a zone: %v", err)
	}
	envoys, sent := get(z, func() int { return z.envoys }), get(z, func() int { return z.sent })
	z.start()
	eventually(t, "agent and Envoy are back", func() bool {
		return get(z, func() bool { return len(z.registers) == 2 && z.envoys > envoys })
	})
	again := get(z, func() *agentv1.Register { return z.registers[1] })
	if len(again.NotReady) != 0 || again.Instance != first.Instance {
		t.Errorf("second registration must tell what is known of the same instance: %v", again)
	}
	if _, _, err := z.call(t.Context(), z.client(), "/"); err != nil {
		t.Error(err)
	}
	if r.envoyPID(t) != pid || !alive(pid) {
		t.Error("envoy did not live through it")
	}
	if now := get(z, func() int { return z.sent }); now != sent || !z.oneConnection() {
		t.Errorf("%d responses before, %d after; by one connection: %t", sent, now, z.oneConnection())
	}
}

// TestAnotherSessionKeepsEnvoy: a zone that lost what it knew of its sessions gives the
// agent another token, and Envoy comes along.
func TestAnotherSessionKeepsEnvoy(t *testing.T) {
	z := newFakeZone(t)
	startApp(t, z, hello)
	z.start()
	r := startAgent(t, z)
	eventually(t, "ready", func() bool { return r.log.count("msg=ready") == 1 })
	pid := r.envoyPID(t)
	client := z.client()
	serial, _, err := z.call(t.Context(), client, "/")
	if err != nil {
		t.Fatal(err)
	}
	z.stop()
	z.mu.Lock()
	z.session = "session-2"
	envoys := z.envoys
	z.mu.Unlock()
	z.start()
	eventually(t, "Envoy is back", func() bool { return get(z, func() bool { return z.envoys > envoys }) })
	if r.envoyPID(t) != pid || !alive(pid) {
		t.Error("envoy was started again")
	}
	if again, closing, err := z.call(t.Context(), client, "/"); err != nil || again != serial || closing {
		t.Errorf("the connection did not survive: %q, then %q (closing %v), %v", serial, again, closing, err)
	}
}

// TestEndedSessionEndsEnvoysStream: the zone ends the agent's stream and nothing else.
func TestEndedSessionEndsEnvoysStream(t *testing.T) {
	z := newFakeZone(t)
	startApp(t, z, hello)
	z.start()
	r := startAgent(t, z)
	eventually(t, "ready", func() bool { return r.log.count("msg=ready") == 1 })
	pid, envoys, sent := r.envoyPID(t), get(z, func() int { return z.envoys }), get(z, func() int { return z.sent })
	first := get(z, func() string { return z.peers["agent"] })
	close(get(z, func() chan struct{} { return z.agent.kick }))
	eventually(t, "agent and Envoy are back", func() bool {
		return get(z, func() bool { return len(z.registers) == 2 && z.envoys == envoys+1 })
	})
	eventually(t, "both by a new connection", func() bool { return z.oneConnection() && get(z, func() bool { return z.peers["agent"] != first }) })
	if now := get(z, func() int { return z.sent }); now != sent || r.envoyPID(t) != pid {
		t.Errorf("%d responses before, %d after; Envoy %d, then %d", sent, now, pid, r.envoyPID(t))
	}
}

func TestAnotherNodeRestartsEnvoy(t *testing.T) {
	z := newFakeZone(t)
	startApp(t, z, hello)
	z.start()
	r := startAgent(t, z)
	eventually(t, "ready", func() bool { return r.log.count("msg=ready") == 1 })
	pid := r.envoyPID(t)
	z.stop()
	z.mu.Lock()
	z.cluster = "shop"
	z.mu.Unlock()
	z.start()
	eventually(t, "ready again", func() bool { return r.log.count("msg=ready") == 2 })
	if r.envoyPID(t) == pid || alive(pid) {
		t.Error("the old envoy is still there")
	}
	if _, _, err := z.call(t.Context(), z.client(), "/"); err != nil {
		t.Error(err)
	}
}

func TestDrainInOrderFailsNoRequest(t *testing.T) {
	z := newFakeZone(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	startApp(t, z, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(arrived)
			<-release
		}
		hello(w, r)
	})
	closing := false
	z.onDrain = func() { // the zone is asked first, while Envoy still takes traffic as ever
		var err error
		if _, closing, err = z.call(context.Background(), z.client(), "/"); err != nil {
			t.Errorf("while the zone takes the proxy out: %v", err)
		}
	}
	z.start()
	r := startAgent(t, z)
	eventually(t, "ready", func() bool { return r.log.count("msg=ready") == 1 })
	pid := r.envoyPID(t)
	slow := make(chan error, 1)
	go func() {
		_, _, err := z.call(context.Background(), z.client(), "/slow")
		slow <- err
	}()
	<-arrived
	keep := z.client()
	if _, _, err := z.call(t.Context(), keep, "/"); err != nil {
		t.Fatal(err)
	}
	r.stop()
	eventually(t, "envoy asks to go", func() bool {
		_, closing, err := z.call(t.Context(), keep, "/")
		if err != nil {
			t.Errorf("while draining: %v", err)
		}
		return closing || err != nil
	})
	// Longer than the drain time: the request still gets its answer.
	select {
	case err := <-r.done:
		t.Fatalf("ended with a request in flight: %v", err)
	case <-time.After(2 * time.Second):
	}
	if !alive(pid) {
		t.Fatal("envoy ended with a request in flight")
	}
	free()
	if err := <-slow; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	if err := r.result(t); err != nil {
		t.Errorf("result: %v", err)
	}
	if alive(pid) {
		t.Error("envoy is still there")
	}
	if closing {
		t.Error("envoy was draining before the zone had answered")
	}
	eventually(t, "the zone sees a proper end", func() bool {
		return get(z, func() bool { return len(z.ends) == 1 && errors.Is(z.ends[0], io.EOF) })
	})
}

func TestDrainWithoutZone(t *testing.T) {
	z := newFakeZone(t)
	startApp(t, z, hello)
	z.start()
	r := startAgent(t, z)
	eventually(t, "ready", func() bool { return r.log.count("msg=ready") == 1 })
	pid := r.envoyPID(t)
	z.stop()
	eventually(t, "the agent sees it", func() bool { return r.log.count("zone is away") == 1 })
	begin := time.Now()
	r.stop()
	if err := r.result(t); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 9*time.Second || alive(pid) {
		t.Errorf("took %s, envoy alive: %t", took, alive(pid))
	}
}

func TestEnvoyKilled(t *testing.T) {
	z := newFakeZone(t)
	startApp(t, z, hello)
	z.start()
	r := startAgent(t, z)
	eventually(t, "ready", func() bool { return r.log.count("msg=ready") == 1 })
	if err := syscall.Kill(r.envoyPID(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	err := r.result(t)
	var exit *EnvoyExit
	if !errors.As(err, &exit) || exit.Signal != syscall.SIGKILL || exit.Code != 137 || err.Error() != "envoy was killed by signal 9 (killed)" {
		t.Errorf("got %v", err)
	}
	eventually(t, "the zone sees a broken stream", func() bool {
		return get(z, func() bool { return len(z.ends) == 1 && !errors.Is(z.ends[0], io.EOF) })
	})
}

// TestAgentProcess is the agent of TestAgentKilled, in a process of its own.
func TestAgentProcess(t *testing.T) {
	dir := os.Getenv("TOMBOLO_TEST_AGENT")
	if dir == "" {
		t.Skip("part of TestAgentKilled")
	}
	a, err := New(Config{Dataplane: filepath.Join(dir, "dp.yaml"), TokenFile: filepath.Join(dir, "token"), ZoneAddress: os.Getenv("ZONE"),
		ZoneCA: os.Getenv("ZONE_CA"), Envoy: os.Getenv("ENVOY"), Concurrency: 1, Log: slog.New(slog.NewTextHandler(os.Stdout, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Fatal(a.Run(t.Context()))
}

func TestAgentKilledTakesEnvoyAlong(t *testing.T) {
	z := newFakeZone(t)
	startApp(t, z, hello)
	z.start()
	cfg := testConfig(t, z)
	cmd := exec.Command(os.Args[0], "-test.run=^TestAgentProcess$", "-test.v")
	cmd.Env = append(os.Environ(), "TOMBOLO_TEST_AGENT="+filepath.Dir(cfg.Dataplane), "ZONE="+z.address, "ZONE_CA="+z.caFile, "ENVOY="+cfg.Envoy,
		"TMPDIR="+cfg.WorkDir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	defer func() {
		if !killed {
			_ = cmd.Process.Kill()
		}
		_ = cmd.Wait()
	}()
	pid := 0
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "msg=ready") {
		if _, text, ok := strings.Cut(lines.Text(), `msg="envoy started" pid=`); ok {
			if pid, err = strconv.Atoi(text); err != nil {
				t.Fatal(err)
			}
		}
	}
	if pid == 0 || !alive(pid) {
		t.Fatal("envoy is not running")
	}
	killed = true
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "envoy dies with its agent", func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(text), ") Z ") // a zombie waits for whoever inherited it
	})
}

func TestHealthOfTheApplication(t *testing.T) {
	z := newFakeZone(t)
	app := startApp(t, z, hello)
	z.start()
	r := startAgent(t, z)
	last := func() []string {
		return get(z, func() []string {
			if len(z.health) == 0 {
				return []string{"?"}
			}
			return z.health[len(z.health)-1]
		})
	}
	eventually(t, "the application is ready", func() bool { return len(last()) == 0 })
	app.CloseClientConnections()
	app.Listener.Close()
	eventually(t, "the application is down", func() bool { return slices.Equal(last(), []string{"main"}) })
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", z.app))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	eventually(t, "the application is back", func() bool { return len(last()) == 0 })
	if n := get(z, func() int { return len(z.health) }); n != 3 {
		t.Errorf("%d reports for 3 changes", n)
	}
	_ = r
}

func TestRefusedManifestEndsTheAgent(t *testing.T) {
	z := newFakeZone(t)
	z.refuse = status.Error(codes.InvalidArgument, "dataplane: networking.address: is required")
	z.start()
	r := startAgent(t, z)
	if err := r.result(t); err == nil || !strings.Contains(err.Error(), "networking.address: is required") {
		t.Errorf("got %v", err)
	}
}

func TestReplacedAgentStaysAway(t *testing.T) {
	z := newFakeZone(t)
	startApp(t, z, hello)
	z.refuse = status.Error(codes.Aborted, "another instance came")
	z.start()
	r := startAgent(t, z)
	eventually(t, "it is logged", func() bool { return r.log.count("another instance came") == 1 })
	<-time.After(1500 * time.Millisecond) // three attempts at the usual pace
	if n := get(z, func() int { return len(z.registers) }); n != 1 {
		t.Errorf("%d registrations", n)
	}
}

func TestRefusedTokenIsTriedAgain(t *testing.T) {
	z := newFakeZone(t)
	startApp(t, z, hello)
	z.refuse = status.Error(codes.Unauthenticated, "token has expired")
	z.start()
	r := startAgent(t, z)
	eventually(t, "several attempts", func() bool { return get(z, func() bool { return len(z.registers) >= 3 }) })
	if n := r.log.count("token has expired"); n != 1 {
		t.Errorf("the reason is logged %d times", n)
	}
	z.mu.Lock()
	z.refuse = nil
	z.mu.Unlock()
	eventually(t, "ready", func() bool { return r.log.count("msg=ready") == 1 })
}

func TestInspect(t *testing.T) {
	z := newFakeZone(t)
	startApp(t, z, hello)
	z.start()
	r := startAgent(t, z)
	eventually(t, "ready", func() bool { return r.log.count("msg=ready") == 1 })
	ask := func(id uint64, path string) (string, string) {
		s := get(z, func() *fakeStream { return z.agent })
		if err := s.send(&agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Inspect{Inspect: &agentv1.InspectRequest{Id: id, Path: path}}}); err != nil {
			t.Fatal(err)
		}
		var body strings.Builder
		for {
			select {
			case m := <-s.in:
				body.Write(m.Chunk)
				if m.Id != id {
					t.Errorf("answer to %d has id %d", id, m.Id)
				}
				if m.Last {
					return body.String(), m.Error
				}
			case <-time.After(60 * time.Second):
				t.Fatal("no answer")
			}
		}
	}
	dump, reason := ask(1, "/config_dump")
	if reason != "" || !strings.Contains(dump, `"agent_sds"`) || strings.Contains(dump, "BEGIN PRIVATE KEY") {
		t.Errorf("config dump of %d bytes, error %q", len(dump), reason)
	}
	if strings.Contains(dump, "Bearer") || strings.Contains(dump, get(z, func() string { return z.session })) {
		t.Error("Envoy knows the session token")
	}
	for i, path := range []string{"/quitquitquit", "/healthcheck/fail", "", "/stats/../quitquitquit", "config_dump"} {
		if body, reason := ask(uint64(10+i), path); reason == "" {
			t.Errorf("%q is answered: %.100s", path, body)
		}
	}
	if !alive(r.envoyPID(t)) {
		t.Error("envoy was ended by an inspection")
	}
}

func TestBootstrapIsValid(t *testing.T) {
	cfg, err := Config{Dataplane: "x", TokenFile: "x", ZoneAddress: "127.0.0.1:5678", ZoneCA: "x", Envoy: envoyPath(t)}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	text, err := bootstrap{node: node{id: "default.no", cluster: "y", zone: "no"}, sockets: sockets{admin: "/tmp/a.sock", sds: "/tmp/s.sock", ads: "/tmp/x.sock"}}.json()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(cfg.Envoy, append(envoyArguments(cfg, file), "--mode", "validate")...).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("[warning]")) {
		t.Errorf("%v:\n%s", err, out)
	}
}
