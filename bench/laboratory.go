package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tombolo-mesh/tombolo/internal/budget"
)

// laboratory is a test that measures budgets, in hosts or a cluster that it makes.
type laboratory struct {
	name string
	// what its budgets are, for the table when they cannot be measured here.
	what []string
	// needs says what is missing here; empty: nothing.
	needs func() string
	// command and environment of the test.
	command     []string
	environment []string
}

// Where kubelab/build.sh leaves the cluster's programs.
const kubelab = ".cache/kubelab"

func laboratories() []laboratory {
	hosts := func() string {
		if os.Geteuid() != 0 {
			return "it needs root"
		}
		return ""
	}
	test := func(name, room string) []string {
		return []string{"go", "test", "-trimpath", "-timeout", "15m", "-count=1", "-v", "-run", "^" + name + "$", room}
	}
	return []laboratory{
		{name: "failover", needs: hosts, command: test("TestFailover", "./e2e"), environment: []string{"TOMBOLO_E2E=1"},
			what: []string{"server killed under 100 calls a second: all in the other zone", "host cut off: all in the other zone"}},
		{name: "globals", needs: hosts, command: test("TestTwoGlobals", "./e2e"), environment: []string{"TOMBOLO_E2E=1"},
			what: []string{"a global dies: its zones are back at another"}},
		{name: "instances", needs: hosts, command: test("TestTwoInstancesAreOne", "./global"), environment: []string{"TOMBOLO_REQUIRE_POSTGRES=1"},
			what: []string{"policy answered by one global: a zone at the other has it"}},
		{name: "kubernetes", command: []string{"e2e/kube/scale.sh", kubelab},
			what: []string{"Kubernetes zone of 1,000 services of ten pods: start", "the same: 100 pod changes a second"},
			needs: func() string {
				if why := hosts(); why != "" {
					return why
				}
				if _, err := os.Stat(filepath.Join(kubelab, "bin", "kube")); err != nil {
					return "make e2e-kube builds its programs"
				}
				return ""
			}},
	}
}

// measure runs the test and returns its rows, with what it failed on.
func (l laboratory) measure(ctx context.Context, dir string) ([]row, error) {
	if why := l.needs(); why != "" {
		var out []row
		for _, what := range l.what {
			out = append(out, row{what: what, missing: why})
		}
		return out, nil
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return nil, err
	}
	rows, logs := filepath.Join(dir, "rows.jsonl"), filepath.Join(dir, "log")
	log, err := os.Create(logs)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, l.command[0], l.command[1:]...)
	cmd.Env = append(append(os.Environ(), l.environment...), budget.Variable+"="+rows)
	cmd.Stdout, cmd.Stderr = log, log
	// The test tidies up what it made on the machine.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	failed := cmd.Run()
	told, err := budget.Read(rows)
	if err != nil {
		return nil, err
	}
	var out []row
	for _, r := range told {
		out = append(out, row{what: r.What, got: r.Got, budget: r.Most, unit: r.Unit})
	}
	if failed != nil {
		return out, fmt.Errorf("%w; its log is %s", failed, logs)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("nothing was measured; the log is %s", logs)
	}
	return out, nil
}
