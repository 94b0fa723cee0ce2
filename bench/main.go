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
		if errors.As(err, new(misuse)) {
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

// misuse is what is wrong with the flags.
type misuse string

func (m misuse) Error() string { return string(m) }

// check compares the flags with what can be run.
func (o options) check(known []string) error {
	if o.only == "" {
		return nil
	}
	if o.write || o.full {
		return misuse("-run: cannot be with -write or -full: a table has all rows of its set")
	}
	for _, n := range strings.Split(o.only, ",") {
		if !slices.Contains(known, n) {
			return misuse(fmt.Sprintf("-run: there is no %q, there are: %s", n, strings.Join(known, ", ")))
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
	take := func(name string, measure func() ([]row, error)) {
		more, err := timed(name, measure)
		rows = append(rows, more...)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
			rows = append(rows, row{what: name, missing: "it failed"})
		}
	}
	if o.wants("demo", true) {
		take("demo", func() ([]row, error) { return demo(ctx, filepath.Join(dir, "demo"), o.changes) })
	}
	for _, s := range list {
		if !o.wants(s.Name, s.Quick) || ctx.Err() != nil {
			continue
		}
		take(s.Name, func() ([]row, error) { return runScenario(ctx, filepath.Join(dir, s.Name), s) })
	}
	for _, l := range laboratories() {
		if !o.wants(l.name, false) || ctx.Err() != nil {
			continue
		}
		take(l.name, func() ([]row, error) { return l.measure(ctx, filepath.Join(dir, l.name)) })
	}
	table := format(rows)
	fmt.Print(table)
	if ctx.Err() != nil {
		return errors.Join(append(failed, ctx.Err())...)
	}
	if o.only == "" && !o.full {
		// The other budgets, which take longer than this may.
		last, err := recorded(inFull)
		if err != nil {
			return err
		}
		fmt.Printf("\nAs `make bench-full` last measured the others: %s", last)
	}
	if o.write {
		name := quick
		if o.full {
			name = inFull
		}
		if err := record(name, table); err != nil {
			return err
		}
	}
	return errors.Join(append(failed, missed(rows))...)
}

func timed(name string, fn func() ([]row, error)) ([]row, error) {
	began := time.Now()
	fmt.Fprintf(os.Stderr, "%s …\n", name)
	rows, err := fn()
	fmt.Fprintf(os.Stderr, "%s: %.0f s\n", name, time.Since(began).Seconds())
	return rows, err
}
