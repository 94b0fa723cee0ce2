package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

// processes owns every child. All of them end with this process, however it
// ends: the kernel kills a child when the thread that started it dies, so one
// thread, which lives as long as the process, starts them all.
type processes struct {
	dir   string
	start chan func()

	mu       sync.Mutex
	running  map[string]*process
	stopping bool
	order    []string
}

type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

func newProcesses(dir string) *processes {
	p := &processes{dir: dir, start: make(chan func()), running: map[string]*process{}}
	go func() {
		runtime.LockOSThread()
		for f := range p.start {
			f()
		}
	}()
	return p
}

// launch starts a program whose output goes to <dir>/<name>.log.
func (p *processes) launch(name string, env []string, program string, args ...string) (*process, error) {
	path := filepath.Join(p.dir, name+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), env...)
	// A group of its own: Ctrl-C reaches this process, which ends the others in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	proc := &process{name: name, log: path, cmd: cmd, done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping {
		return nil, errors.New("stopping")
	}
	started := make(chan error, 1)
	p.start <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if p.running[name] == nil {
		p.order = append(p.order, name)
	}
	p.running[name] = proc
	go func() {
		proc.err = cmd.Wait()
		close(proc.done)
	}()
	return proc, nil
}

// all lists the newest process of each name, in the order of their first starts.
func (p *processes) all() []*process {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []*process
	for _, name := range p.order {
		list = append(list, p.running[name])
	}
	return list
}

// kill ends a process at once, as a power cut would.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// ended reports how a process ended, while it should be running.
func (p *process) ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended: %v; its log is %s", p.name, p.err, p.log)
	default:
		return nil
	}
}

// stop ends everything: agents first, so that their Envoys drain, global last.
func (p *processes) stop(patience time.Duration) {
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()
	list := p.all()
	slices.Reverse(list)
	for _, proc := range list {
		proc.cmd.Process.Signal(syscall.SIGTERM)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, proc := range list {
		select {
		case <-proc.done:
		case <-ctx.Done():
			proc.kill()
		}
	}
}
