package main

import (
	"strings"
	"testing"
)

func TestABudgetOfNothingIsMissedByOne(t *testing.T) {
	rows := []row{{what: "none again", budget: new(0.0)}, {what: "one again", got: 1, budget: new(0.0)}, {what: "compared", got: 9},
		{what: "less than twice", got: 1.9, budget: new(1.0)}, {what: "twice", got: 2.1, budget: new(1.0)}, {what: "elsewhere", missing: "it needs root"}}
	err := missed(rows)
	if err == nil {
		t.Fatal("nothing is missed")
	}
	for _, r := range rows {
		if want := r.what == "one again" || r.what == "twice"; strings.Contains(err.Error(), r.what+":") != want {
			t.Errorf("%s: missed must be %t: %v", r.what, want, err)
		}
	}
	table := format(rows)
	for _, line := range []string{"| none again | 0  | ≤ 0 |  |", "| one again | 1  | ≤ 0, missed |  |", "| compared | 9  | for comparison |  |", "| elsewhere | not measured: it needs root |  |  |"} {
		if !strings.Contains(table, line+"\n") {
			t.Errorf("no line %q in\n%s", line, table)
		}
	}
}

// What the floor itself has not in its budget is judged by the floor.
func TestBudgetsBelowTheFloor(t *testing.T) {
	for _, c := range []struct {
		got, floor float64
		missed     bool
	}{{45, 1.2, false}, {45, 2, false}, {45, 2.1, true}, {39, 3, false}, {45, 3, true}, {45, 0, true}} {
		r := row{what: "a change", got: c.got, budget: new(20.0), floor: c.floor}
		if err := missed([]row{r}); (err != nil) != c.missed {
			t.Errorf("%g, %g times the floor: %v", c.got, c.floor, err)
		}
	}
	if got := format([]row{{what: "a change", got: 45, unit: "ms", budget: new(20.0), floor: 1.2}}); !strings.Contains(got, "| a change | 45 ms | ≤ 20 ms, missed by the floor too | 1.2 |") {
		t.Error(got)
	}
}

func TestNamesToRunAreKnown(t *testing.T) {
	known := []string{"demo", "wide"}
	for _, c := range []struct {
		o  options
		ok bool
	}{
		{options{}, true}, {options{only: "demo"}, true}, {options{only: "wide,demo"}, true}, {options{full: true, write: true}, true},
		{options{only: "wild"}, false}, {options{only: "demo,"}, false}, {options{only: "demo", write: true}, false},
	} {
		if err := c.o.check(known); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
}

func TestScenariosAreRead(t *testing.T) {
	list, err := scenarios("scenarios")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		for _, st := range s.Steps {
			for _, e := range st.Expect {
				if e.Metric == "resent" && (e.Most == nil || *e.Most != 0) {
					t.Errorf("%s: what is sent again has no budget of 0", s.Name)
				}
			}
		}
	}
	if len(list) < 10 {
		t.Errorf("%d scenarios", len(list))
	}
}
