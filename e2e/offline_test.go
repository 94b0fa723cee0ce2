package e2e

import (
	"encoding/json"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// answerTime is how long global waits for a zone that is connected and says nothing.
const answerTime = 10 * time.Second

// TestZoneThatCannotAnswer: what a zone cannot answer is said, soon, and with an exit
// code of its own, whether its control plane is killed, cut off, or hangs. The other
// zone answers, nothing that a proxy has moves, and traffic goes on.
func TestZoneThatCannotAnswer(t *testing.T) {
	f := served(t)
	check := f.denied()
	from := time.Now()
	traffic := f.zones["east"].web.Send(remote, 20)
	west := f.zones["west"]
	f.eventually(60*time.Second, "both zones answer", f.allAnswer)
	for _, fault := range []struct {
		what        string
		begin, mend func() error
	}{
		{"is killed", func() error { west.control.Kill(); return nil }, func() error { f.startZone(west); return nil }},
		{"is cut off", func() error { return f.net.Cut("hub", "west") }, func() error { return f.net.Heal("hub", "west") }},
		{"hangs", func() error { return west.control.Pause() }, func() error { return west.control.Resume() }},
	} {
		must(t, fault.begin())
		f.westCannotAnswer(fault.what)
		must(t, fault.mend())
		f.eventually(60*time.Second, "both zones answer again", f.allAnswer)
	}
	if out, err := f.tryCLI("", "get", "meshtimeout", "a-probe"); err == nil {
		t.Errorf("a plan has written:\n%s", out)
	}
	traffic.Stop()
	good, bad := traffic.Count(from, time.Now(), fromZone("west"))
	f.report("east to west throughout", good, bad, 0)
	check()
}

// planOf is what a test needs of a plan.
type planOf struct {
	Zones []struct {
		Zone              string
		Proxies, Affected int
	}
	Unanswered []struct{ Zone, Reason string }
}

func (f *fleet) plan() (p planOf, err error) {
	out, err := f.tryCLI(timeout(50*time.Second), "plan", "-f", "-", "-o", "json")
	if exitCode(err) != 1 {
		return p, err
	}
	return p, json.Unmarshal([]byte(out), &p)
}

// allAnswer: each zone knows what a change would do to its proxies.
func (f *fleet) allAnswer() bool {
	p, err := f.plan()
	return err == nil && len(p.Unanswered) == 0 && len(p.Zones) == 2 && p.Zones[0].Affected > 0 && p.Zones[1].Affected > 0
}

// westCannotAnswer asks everything that west would have to answer, at once and side by
// side: before global knows that west is gone, and after.
func (f *fleet) westCannotAnswer(what string) {
	f.t.Helper()
	// Which of the two it is depends on whether global knows already.
	gone := []string{"zone west is offline", "zone west did not answer within 10s"}
	began := time.Now()
	var all sync.WaitGroup
	for _, ask := range []struct {
		args []string
		code int
		// says are parts of what is printed, each with its alternatives.
		says [][]string
	}{
		{[]string{"plan", "-f", "-"}, 1, [][]string{{"MeshTimeout default/a-probe would be created"}, {"zone east: 2 of 3 proxies"}, {"1 of 2 zones answered"},
			{"zone west: nothing is known, it is offline", "zone west: nothing is known, it did not answer within 10s"}}},
		{[]string{"inspect", "dataplane", "web-west.west", "clusters"}, 5, [][]string{gone, {": nothing can be said of web-west.west"}}},
		{[]string{"inspect", "policy", "mtp/allow-web"}, 4, [][]string{{"reaches 1 proxy, as far as is known"}, {"zone east: 1 proxy"}, gone}},
		{[]string{"explain", "web-west.west", "backend"}, 5, [][]string{gone, {": nothing can be said of web-west.west"}}},
		{[]string{"explain", "web-east.east", "backend.west:8080"}, 1, [][]string{{"UNDECIDED"}, gone}},
	} {
		all.Go(func() {
			out, err := f.tryCLI(timeout(50*time.Second), ask.args...)
			took := time.Since(began)
			f.t.Logf("west's control plane %s: %s answers after %s", what, ask.args[0], took.Round(time.Millisecond))
			if exitCode(err) != ask.code || took > answerTime+5*time.Second {
				f.t.Errorf("west's control plane %s: tombolo %s: %v after %s, want exit code %d", what, strings.Join(ask.args, " "), err, took, ask.code)
			}
			for _, parts := range ask.says {
				if !slices.ContainsFunc(parts, func(s string) bool { return strings.Contains(out, s) }) {
					f.t.Errorf("west's control plane %s: tombolo %s does not say %q:\n%s", what, strings.Join(ask.args, " "), parts, out)
				}
			}
		})
	}
	all.Wait()
	f.eventually(60*time.Second, "the zone is offline", func() bool {
		asked := time.Now()
		p, err := f.plan()
		if err != nil || len(p.Zones) != 1 || p.Zones[0].Zone != "east" || len(p.Unanswered) != 1 || p.Unanswered[0].Zone != "west" {
			f.t.Fatalf("the plan is %+v, %v", p, err)
		}
		return p.Unanswered[0].Reason == "it is offline" && time.Since(asked) < answerTime/2
	})
}

// exitCode of a command that has run.
func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}
