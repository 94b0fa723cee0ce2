// Command bench measures the budgets of docs/bench.md on this machine, from
// outside: it starts the real binaries, the demo with real Envoys and the
// scenarios of bench/scenarios with simulated ones, and times what happens. What needs
// hosts or a cluster is measured by tests that make them, which tell it their figures.
//
// In flow the built binaries and the scenarios, out flows a table on standard
// output and, with -write, in docs/bench.md. It fails when a budget is missed by
// more than twice.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	var o options
	flag.BoolVar(&o.write, "write", false, "put the table into docs/bench.md")
	flag.BoolVar(&o.full, "full", false, "run the scenarios that are not quick, in place of those that are")
	flag.StringVar(&o.only, "run", "", "run only these, separated by commas: demo, names of scenarios, or of laboratories")
	flag.IntVar(&o.changes, "changes", 100, "changes to time in the demo")
	floor := flag.String("floor", "", "be the floor: serve with the certificates of this folder (internal)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := error(nil)
	if *floor != "" {
		err = serveFloor(ctx, *floor)
	} else {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		if errors.As(err, new(unknownName)) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

type options struct {
	write, full bool
	only        string
	changes     int
}

// wants reports whether something is to be run.
func (o options) wants(name string, quick bool) bool {
	if o.only == "" {
		return quick != o.full
	}
	for _, n := range strings.Split(o.only, ",") {
		if n == name {
			return true
		}
	}
	return false
}

// unknownName is of something to run that does not exist; the other names do.
type unknownName struct {
	name  string
	known []string
}

func (e unknownName) Error() string {
	return fmt.Sprintf("-run: there is no %q, there are: %s", e.name, strings.Join(e.known, ", "))
}

// check returns an error for the first name that is none of what can be run.
func (o options) check(known []string) error {
	if o.only == "" {
		return nil
	}
	for _, n := range strings.Split(o.only, ",") {
		if !slices.Contains(known, n) {
			return unknownName{name: n, known: known}
		}
	}
	return nil
}

func run(ctx context.Context, o options) error {
	dir, err := filepath.Abs(".bench")
	if err != nil {
		return err
	}
	list, err := scenarios("bench/scenarios")
	if err != nil {
		return err
	}
	known := []string{"demo"}
	for _, l := range laboratories() {
		known = append(known, l.name)
	}
	for _, s := range list {
		known = append(known, s.Name)
	}
	if err := o.check(known); err != nil {
		return err
	}
	var rows []row
	var failed []error // the others are run all the same: what was measured is not lost to one
	if o.wants("demo", true) {
		more, err := timed("demo", func() ([]row, error) { return demo(ctx, filepath.Join(dir, "demo"), o.changes) })
		if err != nil {
			failed = append(failed, fmt.Errorf("demo: %w", err))
		}
		rows = append(rows, more...)
	}
	for _, s := range list {
		if !o.wants(s.Name, s.Quick) || ctx.Err() != nil {
			continue
		}
		more, err := timed(s.Name, func() ([]row, error) { return runScenario(ctx, filepath.Join(dir, s.Name), s) })
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", s.Name, err))
		}
		rows = append(rows, more...)
	}
	for _, l := range laboratories() {
		if !o.wants(l.name, false) || ctx.Err() != nil {
			continue
		}
		more, err := timed(l.name, func() ([]row, error) { return l.measure(ctx, filepath.Join(dir, l.name)) })
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", l.name, err))
		}
		rows = append(rows, more...)
	}
	table := format(rows)
	fmt.Print(table)
	if err := errors.Join(failed...); err != nil {
		return err // printed, but no table of the document: it would lack rows
	}
	if o.write {
		name := "measured"
		if o.full {
			name = "measured in full"
		}
		if err := record(name, table); err != nil {
			return err
		}
	}
	return missed(rows)
}

func timed(name string, fn func() ([]row, error)) ([]row, error) {
	began := time.Now()
	fmt.Fprintf(os.Stderr, "%s …\n", name)
	rows, err := fn()
	fmt.Fprintf(os.Stderr, "%s: %.0f s\n", name, time.Since(began).Seconds())
	return rows, err
}
