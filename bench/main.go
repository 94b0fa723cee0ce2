// Command bench measures the budgets of docs/bench.md on this machine: it starts
// `tombolo dev`, lets its story end, and times changes, starts and idleness of the
// real binaries and Envoys from outside.
//
// In flow the built binaries, out flows a table on standard output and, with
// -write, in docs/bench.md. It fails when a budget is missed by more than twice.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	write := flag.Bool("write", false, "put the table into docs/bench.md")
	changes := flag.Int("changes", 200, "changes to time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *changes, *write); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, changes int, write bool) error {
	dir, err := filepath.Abs(".bench")
	if err != nil {
		return err
	}
	mesh, err := start(ctx, dir)
	if err != nil {
		return err
	}
	defer mesh.stop()
	client, err := connect(dir)
	if err != nil {
		return err
	}
	var rows []row
	for _, measure := range []func(context.Context, *api, string, int) ([]row, error){idle, propagation, serviceStart} {
		more, err := measure(ctx, client, dir, changes)
		if err != nil {
			return err
		}
		rows = append(rows, more...)
	}
	table := format(rows)
	fmt.Print(table)
	if write {
		if err := record(table); err != nil {
			return err
		}
	}
	return missed(rows)
}

// row is one budget.
type row struct {
	what   string
	got    float64
	budget float64 // 0: for comparison only
	unit   string
}

func format(rows []row) string {
	var b strings.Builder
	b.WriteString("| what | measured | budget |\n|---|---|---|\n")
	for _, r := range rows {
		budget := "for comparison"
		if r.budget > 0 {
			budget = fmt.Sprintf("≤ %g %s", r.budget, r.unit)
		}
		fmt.Fprintf(&b, "| %s | %.3g %s | %s |\n", r.what, r.got, r.unit, budget)
	}
	return b.String()
}

func missed(rows []row) error {
	var err error
	for _, r := range rows {
		if r.budget > 0 && r.got > 2*r.budget {
			err = errors.Join(err, fmt.Errorf("%s: %.3g %s, more than twice the budget of %g", r.what, r.got, r.unit, r.budget))
		}
	}
	return err
}

// record replaces what stands between the markers of docs/bench.md.
func record(table string) error {
	const path, begin, end = "docs/bench.md", "<!-- measured -->\n", "<!-- /measured -->"
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(text), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has lost its markers", path)
	}
	commit, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return fmt.Errorf("git rev-parse: %w", err)
	}
	stamp := fmt.Sprintf("%s, commit %s, %s\n\n", time.Now().UTC().Format("2006-01-02"), strings.TrimSpace(string(commit)), machine())
	return os.WriteFile(path, []byte(head+begin+stamp+table+end+tail), 0o644)
}

// machine is the processor and how many there are.
func machine() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	model, cores := "unknown processor", 0
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model, cores = strings.TrimSpace(value), cores+1
		}
	}
	return fmt.Sprintf("%d cores, %s", cores, model)
}

// running is `tombolo dev`.
type running struct{ cmd *exec.Cmd }

// start runs the demo to the point where it stays up.
func start(ctx context.Context, dir string) (*running, error) {
	cmd := exec.CommandContext(ctx, "bin/tombolo", "dev", "--dir", dir)
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
