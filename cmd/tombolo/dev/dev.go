package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Config of a run.
type Config struct {
	// Dir is where logs and state go; it is emptied at start.
	Dir string
	// Tombolo and Agent are the binaries; Envoy is Envoy's.
	Tombolo, Agent, Envoy string
	// Once exits after the story, instead of staying up.
	Once bool
	// Out gets the story.
	Out io.Writer
}

// Run starts the mesh, plays the story and, unless Once, stays up until ctx ends.
// Whatever happens, nothing of it survives.
func Run(ctx context.Context, cfg Config) error {
	if err := prepare(&cfg); err != nil {
		return err
	}
	m := &mesh{cfg: cfg, procs: newProcesses(cfg.Dir), began: time.Now()}
	defer m.procs.stop(5 * time.Second)
	if err := m.play(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // Ctrl-C in the middle of the story
		}
		return err
	}
	if cfg.Once {
		return nil
	}
	m.invite()
	return m.stay(ctx)
}

func prepare(cfg *Config) error {
	var err error
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return err
	}
	if cfg.Envoy == "" {
		if cfg.Envoy, err = exec.LookPath("envoy"); err != nil {
			return errors.New("no envoy on PATH: give one with --envoy, or run `make demo`, which gets one")
		}
	}
	l, err := net.Listen("tcp", address(globalHost, apiPort))
	if err != nil {
		return fmt.Errorf("is another one running? %w", err)
	}
	if err := l.Close(); err != nil {
		return err
	}
	// A marker keeps a mistyped --dir from being emptied.
	marker := filepath.Join(cfg.Dir, ".tombolo-dev")
	if entries, err := os.ReadDir(cfg.Dir); err == nil && len(entries) > 0 {
		if _, err := os.Stat(marker); err != nil {
			return fmt.Errorf("%s is not empty and not of an earlier run: choose another --dir", cfg.Dir)
		}
		if err := os.RemoveAll(cfg.Dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(marker, nil, 0o644)
}

// mesh is the running whole.
type mesh struct {
	cfg     Config
	procs   *processes
	began   time.Time
	traffic *traffic
}

func (m *mesh) say(format string, args ...any) { fmt.Fprintf(m.cfg.Out, format+"\n", args...) }

// stay waits for Ctrl-C, and says when a process ends meanwhile: to kill one and
// watch is part of playing.
func (m *mesh) stay(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	said := map[*process]bool{}
	for {
		select {
		case <-ctx.Done():
			m.say("\nstopping")
			return nil
		case <-tick.C:
			for _, p := range m.procs.all() {
				if err := p.ended(); err != nil && !said[p] {
					said[p] = true
					m.say("%v", err)
				}
			}
		}
	}
}

func (m *mesh) invite() {
	m.say(`
The mesh stays up until Ctrl-C. Logs: %[1]s/*.log. Try, in another terminal:

  curl http://%[2]s/                                   # call backend of zone west as web, in zone east
  export TOMBOLO_CONFIG=%[1]s/config.yaml
  %[3]s get changes                               # what was changed, and how far it came
  %[3]s inspect dataplane web-1 clusters --zone east
`, m.cfg.Dir, toRemote, m.cfg.Tombolo)
}

// errNone stands in messages where the status alone is wrong.
var errNone = errors.New("no other error")
