// Package pgtest starts a private PostgreSQL for tests and laboratories: in a
// folder of its own, on loopback, with fsync on, gone when the test is. In flow
// the binaries of the machine, out flows a DSN, and a way to kill it.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/internal/ports"
)

const (
	// minVersion of PostgreSQL.
	minVersion = 15
	user       = "tombolo"
	startLimit = 2 * time.Minute
	stopLimit  = time.Minute
)

// ErrAbsent: the machine has no PostgreSQL of version 15 or later.
var ErrAbsent = errors.New("PostgreSQL 15 or later was not found in PATH or /usr/lib/postgresql/*/bin")

// Server is one private PostgreSQL. Its methods are not for concurrent use.
type Server struct {
	// DSN of the database "tombolo", password included.
	DSN string
	// SocketDSN is the same through a Unix socket, which also reaches it from
	// another network namespace.
	SocketDSN string

	dir, bin, password string
	port               int
	release            func()
	owned              bool
	credential         *syscall.Credential
	run                *process
}

// Start launches a server that lives as long as the test. Without PostgreSQL on
// the machine the test is skipped, or fails if TOMBOLO_REQUIRE_POSTGRES is 1.
func Start(t testing.TB) *Server {
	t.Helper()
	s, err := Launch(t.Context(), "")
	switch {
	case errors.Is(err, ErrAbsent) && os.Getenv("TOMBOLO_REQUIRE_POSTGRES") != "1":
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Launch starts a server in dir, which must be empty or absent and reachable
// for the user that PostgreSQL runs as; empty is a folder that Stop removes.
func Launch(ctx context.Context, dir string) (s *Server, err error) {
	bin, err := binaries(ctx)
	if err != nil {
		return nil, err
	}
	s = &Server{dir: dir, bin: bin, owned: dir == "", password: rand.Text()}
	if s.credential, err = unprivileged(); err != nil {
		return nil, err
	}
	if s.owned {
		if s.dir, err = os.MkdirTemp("", "tombolo-pg-*"); err != nil {
			return nil, fmt.Errorf("start PostgreSQL: %w", err)
		}
	}
	if err := s.initialise(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start PostgreSQL: %w", err), s.remove())
	}
	if s.port, s.release, err = ports.Reserve(); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	if err = s.Restart(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	s.DSN = s.dsn("tombolo")
	socket := url.Values{"host": {s.dir}, "port": {strconv.Itoa(s.port)}, "sslmode": {"disable"}}
	s.SocketDSN = (&url.URL{Scheme: "postgres", User: url.UserPassword(user, s.password), Path: "/tombolo", RawQuery: socket.Encode()}).String()
	if _, err := s.CreateDatabase(ctx, "tombolo"); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Server) dsn(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, s.password), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)),
		Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}

// Database makes a database of its own for a test and returns its DSN.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	dsn, err := s.CreateDatabase(t.Context(), "t"+strings.ToLower(rand.Text()))
	if err != nil {
		t.Fatal(err)
	}
	return dsn
}

// CreateDatabase makes an empty database and returns its DSN.
func (s *Server) CreateDatabase(ctx context.Context, name string) (string, error) {
	cmd := s.command(ctx, "createdb", "-h", "127.0.0.1", "-p", strconv.Itoa(s.port), "-U", user, "-T", "template0", "-E", "UTF8", name)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+s.password)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("create database %s: %w: %s", name, err, out)
	}
	return s.dsn(name), nil
}

// Kill ends the server at once (SIGKILL), as a power cut would; its data stays.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

// Terminate ends the server in immediate mode, telling its clients; its data stays.
func (s *Server) Terminate() error { return s.end(syscall.SIGQUIT) }

// Restart starts the server again on the same port and data; a running one is
// first stopped in immediate mode.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.end(syscall.SIGQUIT); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	// Backends of a killed server may still be about to notice; until then the
	// new one refuses to start.
	for {
		again, err := s.start(ctx)
		if err == nil || !again || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stop ends the server and removes a folder that Launch made.
func (s *Server) Stop() error {
	defer s.release()
	return errors.Join(s.end(syscall.SIGQUIT), s.remove())
}

func (s *Server) remove() error {
	if !s.owned {
		return nil
	}
	// Backends of a killed server may still write statistics.
	var err error
	for deadline := time.Now().Add(stopLimit); time.Now().Before(deadline); <-time.After(50 * time.Millisecond) {
		if err = os.RemoveAll(s.dir); err == nil {
			return nil
		}
	}
	return fmt.Errorf("stop PostgreSQL: %w", err)
}

func (s *Server) end(sig syscall.Signal) error {
	if s.run == nil {
		return nil
	}
	if err := s.run.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	late := time.After(stopLimit)
	select {
	case <-s.run.done:
		s.run = nil
	case <-late:
		return errors.New("stop PostgreSQL: it does not end")
	}
	// A child that it made just before has its listening sockets for a moment.
	for address := net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)); ; {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return nil
		}
		_ = c.Close()
		select {
		case <-time.After(5 * time.Millisecond):
		case <-late:
			return errors.New("stop PostgreSQL: its port does not close")
		}
	}
}

func (s *Server) initialise(ctx context.Context) error {
	data := filepath.Join(s.dir, "data")
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	pw := filepath.Join(s.dir, "password")
	if err := os.WriteFile(pw, []byte(s.password), 0o600); err != nil {
		return err
	}
	defer os.Remove(pw)
	if s.credential != nil {
		for _, p := range []string{s.dir, pw} {
			if err := os.Chown(p, int(s.credential.Uid), int(s.credential.Gid)); err != nil {
				return err
			}
		}
	}
	out, err := s.command(ctx, "initdb", "-D", data, "-U", user, "--pwfile="+pw, "-A", "scram-sha-256",
		"-E", "UTF8", "--locale=C", "--no-sync").CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

// start returns again when it may work after a moment.
func (s *Server) start(ctx context.Context) (again bool, err error) {
	data := filepath.Join(s.dir, "data")
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return false, fmt.Errorf("start PostgreSQL: %w", err)
	}
	defer log.Close()
	// The server outlives the context of its start.
	cmd := s.command(context.WithoutCancel(ctx), "postgres", "-D", data, "-k", s.dir, "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses=127.0.0.1", "-c", "fsync=on", "-c", "shared_buffers=32MB", "-c", "max_connections=60",
		"-c", "autovacuum_naptime=10s")
	cmd.Stdout, cmd.Stderr = log, log
	// Not for commands that are run without launch: it would end them with the
	// thread that happened to start them.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	run, err := launch(cmd)
	if err != nil {
		return false, fmt.Errorf("start PostgreSQL: %w", err)
	}
	s.run = run
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ready(data, cmd.Process.Pid) {
		select {
		case <-tick.C:
		case <-run.done:
			s.run = nil
			return true, fmt.Errorf("start PostgreSQL: it ended: %s", tail(log.Name()))
		case <-ctx.Done():
			return false, errors.Join(fmt.Errorf("start PostgreSQL: %w: %s", ctx.Err(), tail(log.Name())), s.end(syscall.SIGKILL))
		}
	}
	return false, nil
}

// ready reads the status that the server keeps in its pid file.
func ready(data string, pid int) bool {
	b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.Split(string(b), "\n")
	return len(lines) >= 8 && lines[0] == strconv.Itoa(pid) && strings.TrimSpace(lines[7]) == "ready"
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

func (s *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential, Setpgid: true}
	return cmd
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// launch starts a command from a thread that lives as long as it does: the
// signal of Pdeathsig comes when the starting thread ends, not the process.
func launch(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is of no interest, that it did is
		}
	}()
	return p, <-started
}

// binaries finds the folder with the newest suitable version.
func binaries(ctx context.Context) (string, error) {
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", err
	}
	slices.SortFunc(dirs, func(a, b string) int {
		return major(filepath.Base(filepath.Dir(b))) - major(filepath.Base(filepath.Dir(a)))
	})
	if p, err := exec.LookPath("postgres"); err == nil {
		if p, err = filepath.EvalSymlinks(p); err == nil {
			dirs = append([]string{filepath.Dir(p)}, dirs...)
		}
	}
	for _, dir := range dirs {
		out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
		if err != nil {
			continue
		}
		if f := strings.Fields(string(out)); len(f) >= 3 && major(f[2]) >= minVersion {
			return dir, nil
		}
	}
	return "", ErrAbsent
}

func major(version string) int {
	n := 0
	for _, c := range version {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int(c-'0')
	}
	return n
}
