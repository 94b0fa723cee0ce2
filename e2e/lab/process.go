package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Process runs on a host. It dies with the laboratory.
type Process struct {
	// Name, for logs.
	Name string
	// Log is the file with its output.
	Log string

	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start runs a program on the host; its output is appended to <dir>/<name>.log.
func (h *Host) Start(dir, name string, env []string, program string, args ...string) (*Process, error) {
	return h.start(dir, name, env, nil, program, args...)
}

// StartAs is Start for another user: servers that refuse to run as root.
func (h *Host) StartAs(uid, gid uint32, dir, name string, env []string, program string, args ...string) (*Process, error) {
	return h.start(dir, name, env, &syscall.Credential{Uid: uid, Gid: gid}, program, args...)
}

func (h *Host) start(dir, name string, env []string, as *syscall.Credential, program string, args ...string) (*Process, error) {
	p := &Process{Name: name, Log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(program, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// The host's thread lives as long as this process, and with it the promise
	// of the kernel to end the child.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true, Credential: as}
	if err := h.do(p.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", name, h.Name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends it at once and waits.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// Signal is Kill without waiting, for several at once.
func (p *Process) Signal() { p.cmd.Process.Kill() }

// Stop asks it to end and waits; it returns how it ended.
func (p *Process) Stop(patience time.Duration) error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-time.After(patience):
		p.Kill()
		return errors.New(p.Name + " did not end in time")
	}
}

// Pause and Resume stop and continue the process as it is.
func (p *Process) Pause() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume continues a paused process.
func (p *Process) Resume() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

// Alive reports whether it runs.
func (p *Process) Alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// ChildPID finds a child of the process by the name of its program, for example
// the Envoy of an agent.
func (p *Process) ChildPID(program string) (int, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.PID()))
	if err != nil {
		return 0, err
	}
	for _, task := range tasks {
		children, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		for _, child := range strings.Fields(string(children)) {
			exe, err := os.Readlink("/proc/" + child + "/exe")
			if err == nil && filepath.Base(exe) == program {
				var pid int
				_, err := fmt.Sscan(child, &pid)
				return pid, err
			}
		}
	}
	return 0, fmt.Errorf("%s has no child %s", p.Name, program)
}

func setSysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+name, []byte(value), 0o644)
}

// Run runs a program on the host to its end and returns its standard output; of
// one that fails, all that it printed.
func (h *Host) Run(env []string, stdin, program string, args ...string) (string, error) {
	return h.RunContext(context.Background(), env, stdin, program, args...)
}

// RunContext is Run for as long as the context lasts.
func (h *Host) RunContext(ctx context.Context, env []string, stdin, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := h.do(cmd.Start); err != nil {
		return "", fmt.Errorf("run %s on %s: %w", program, h.Name, err)
	}
	if err := cmd.Wait(); err != nil {
		said := out.String() + errs.String()
		return said, fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), strings.Join(args, " "), err, said)
	}
	return out.String(), nil
}
