package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// EnvoyExit is the error of Run when Envoy ended on its own.
type EnvoyExit struct {
	// Code is Envoy's exit code, or 128 and the signal's number.
	Code int
	// Signal that killed it, or 0.
	Signal syscall.Signal
}

// Error names Envoy's fate in one line.
func (e *EnvoyExit) Error() string {
	if e.Signal != 0 {
		return fmt.Sprintf("envoy was killed by signal %d (%s)", int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("envoy exited with code %d", e.Code)
}

// process is a running Envoy.
type process struct {
	pid  int
	kill func(os.Signal)
	done chan struct{} // closed when it ended
	exit *EnvoyExit    // valid after done
}

// startEnvoy starts Envoy such that it dies with the agent, whatever kills that.
func startEnvoy(cfg Config, arguments []string) (*process, error) {
	cmd := exec.Command(cfg.Envoy, arguments...)
	cmd.Stdout, cmd.Stderr = cfg.EnvoyOutput, cfg.EnvoyOutput
	// Of its own process group, so that Ctrl-C reaches the agent alone, which drains it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	p := &process{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() { // ends with Envoy
		// The parent that Pdeathsig watches is this thread, not the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		if err := cmd.Start(); err != nil {
			started <- fmt.Errorf("start envoy: %w", err)
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		p.exit = exitOf(cmd.Wait(), cmd.ProcessState)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.kill = func(s os.Signal) { _ = cmd.Process.Signal(s) } // fails only when it is gone
	return p, nil
}

func exitOf(err error, state *os.ProcessState) *EnvoyExit {
	if state == nil {
		return &EnvoyExit{Code: 1}
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return &EnvoyExit{Code: 128 + int(ws.Signal()), Signal: ws.Signal()}
	}
	code := state.ExitCode()
	if err != nil && code == 0 {
		code = 1
	}
	return &EnvoyExit{Code: code}
}

// stop ends Envoy and waits: SIGTERM, and SIGKILL when that does not help.
func (p *process) stop() {
	p.kill(syscall.SIGTERM)
	t := time.NewTimer(5 * time.Second)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
		p.kill(syscall.SIGKILL)
		<-p.done
	}
}

// envoyVersion asks the binary, which also shows that there is one.
func envoyVersion(ctx context.Context, path string) (string, error) {
	// A node that has just begun many pods reads a hundred megabytes for each.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("no envoy on PATH: name the binary with --envoy: %w", err)
	}
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", path, err)
	}
	// "envoy  version: <commit>/<version>/<status>/<type>/<tls>"
	_, rest, _ := strings.Cut(string(out), "version:")
	if parts := strings.Split(strings.TrimSpace(rest), "/"); len(parts) >= 2 {
		return parts[1], nil
	}
	return "", fmt.Errorf("%s --version says %.100q, which is no Envoy", path, out)
}
