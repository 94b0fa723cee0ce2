package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// row is one line of the table.
type row struct {
	what string
	got  float64
	// budget is the most it may be, 0 too; nil: for comparison only.
	budget *float64
	unit   string
	// floor is how many times what the floor took; 0: not compared.
	floor float64
	// missing is why it was not measured; empty: it was.
	missing string
}

// tolerance is how many times its budget, or the floor where that is above the budget, a figure may be.
const tolerance = 2

func format(rows []row) string {
	var b strings.Builder
	b.WriteString("| what | measured | budget | × floor |\n|---|---|---|---|\n")
	for _, r := range rows {
		if r.missing != "" {
			fmt.Fprintf(&b, "| %s | not measured: %s |  |  |\n", r.what, r.missing)
			continue
		}
		budget, floor := "for comparison", ""
		if r.budget != nil {
			budget = strings.TrimSpace(fmt.Sprintf("≤ %g %s", *r.budget, r.unit))
			if r.got > *r.budget {
				budget += ", missed"
				if r.floor > 0 && r.got > *r.budget*r.floor {
					budget += " by the floor too"
				}
			}
		}
		if r.floor > 0 {
			floor = fmt.Sprintf("%.1f", r.floor)
		}
		fmt.Fprintf(&b, "| %s | %s %s | %s | %s |\n", r.what, number(r.got), r.unit, budget, floor)
	}
	return b.String()
}

// number with three digits that count, never in powers of ten.
func number(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// missed are the budgets that were missed by more than twice. Where the machine's floor
// is above the budget, the floor is the budget.
func missed(rows []row) error {
	var err error
	for _, r := range rows {
		if r.budget == nil || r.got <= tolerance**r.budget {
			continue
		}
		if r.floor > 0 && r.got > *r.budget*r.floor {
			if r.floor > tolerance {
				err = errors.Join(err, fmt.Errorf("%s: %.3g %s, %.3g times the floor, which is above the budget of %g itself", r.what, r.got, r.unit, r.floor, *r.budget))
			}
		} else {
			err = errors.Join(err, fmt.Errorf("%s: %.3g %s, more than twice the budget of %g", r.what, r.got, r.unit, *r.budget))
		}
	}
	return err
}

// The tables of docs/bench.md.
const (
	document = "docs/bench.md"
	quick    = "measured"
	inFull   = "measured in full"
)

// cut divides docs/bench.md into what stands between the markers of a table, and what
// stands before and after it, markers included.
func cut(name string) (head, table, tail string, err error) {
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
	text, err := os.ReadFile(document)
	if err != nil {
		return "", "", "", err
	}
	head, rest, ok := strings.Cut(string(text), begin)
	table, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return "", "", "", fmt.Errorf("%s has lost its markers of %q", document, name)
	}
	return head + begin, table, end + tail, nil
}

// recorded is a table of docs/bench.md, with its date and machine.
func recorded(name string) (string, error) {
	_, table, _, err := cut(name)
	return table, err
}

// record replaces a table of docs/bench.md.
func record(name, table string) error {
	head, _, tail, err := cut(name)
	if err != nil {
		return err
	}
	commit, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return fmt.Errorf("git rev-parse: %w", err)
	}
	stamp := fmt.Sprintf("%s, commit %s, %s\n\n", time.Now().UTC().Format("2006-01-02"), strings.TrimSpace(string(commit)), machine())
	return os.WriteFile(document, []byte(head+stamp+table+tail), 0o644)
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
