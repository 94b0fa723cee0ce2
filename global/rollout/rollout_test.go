package rollout

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
)

func at(minutes int) time.Time {
	return time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC).Add(time.Duration(minutes) * time.Minute)
}

func staged(guards ...string) Rollout {
	r := Rollout{Name: "r", Revision: 7, Spec: Spec{Stages: [][]string{{"east", "south"}, {"west"}}, Pause: mesh.Duration{Duration: 5 * time.Minute}, Author: "user:ann",
		Documents: []Document{{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "t", Spec: json.RawMessage(`{"to":[]}`), Base: 3}}},
		Status: Status{Phase: Running, Since: at(0)}}
	for _, text := range guards {
		g, err := ParseGuard(text)
		if err != nil {
			panic(err)
		}
		r.Spec.AbortOn = append(r.Spec.AbortOn, g)
	}
	return r
}

func TestParseGuard(t *testing.T) {
	for text, want := range map[string]Guard{
		"rejected>0": {Rejected, 0}, " gone > 3": {Gone, 3}, "success<99": {Success, 99}, "success<99.95": {Success, 99.95}, "success<100": {Success, 100},
	} {
		g, err := ParseGuard(text)
		if err != nil || g != want {
			t.Errorf("%q: %+v, %v", text, g, err)
		}
		raw, err := json.Marshal(g)
		var back Guard
		if err != nil || json.Unmarshal(raw, &back) != nil || back != want {
			t.Errorf("%q is written as %s and read as %+v, %v", text, raw, back, err)
		}
	}
	for _, text := range []string{"", ">", "rejected", "rejected<1", "rejected>1.5", "rejected>-1", "rejected>NaN", "gone>1e99", "success>99", "success<0", "success<101", "success<NaN",
		"success<Inf", "success<", "cpu>1", "success<99%", "rejected>0<1"} {
		if g, err := ParseGuard(text); err == nil {
			t.Errorf("%q is taken as %+v", text, g)
		} else if !strings.Contains(err.Error(), "success<P") {
			t.Errorf("%q: the error does not say what is allowed: %v", text, err)
		}
	}
}

func TestBreached(t *testing.T) {
	bad := []Rate{{"east", "backend:80 by web", 19, 19}, {"east", "api:80", 1000, 11}}
	for _, c := range []struct {
		guard string
		o     Observation
		want  string
	}{
		{"rejected>0", Observation{}, ""},
		{"rejected>0", Observation{Rejected: 1, Words: "web-1: no"}, "rejected>0: 1 in stage 1 (east, south): web-1: no"},
		{"rejected>1", Observation{Rejected: 1, Gone: 9, Rates: bad}, ""},
		{"gone>2", Observation{Gone: 2, Rejected: 9}, ""},
		{"gone>2", Observation{Gone: 3}, "gone>2: 3 in stage 1 (east, south)"},
		{"success<98.9", Observation{Rates: bad}, ""},
		{"success<99", Observation{Rates: bad}, "success<99: 98.9% of 1000 calls of api:80 in zone east"},
		{"success<100", Observation{Rates: []Rate{{"west", "s", 20, 0}}}, ""},
		{"success<100", Observation{Rates: []Rate{{"west", "s", 100000, 1}}}, "success<100: 99.9% of 100000 calls of s in zone west"},
		{"success<1", Observation{Rates: []Rate{{"west", "s", MinCalls, MinCalls + 5}}}, "success<1: 0% of 20 calls of s in zone west"},
		{"success<1", Observation{Unknown: "nobody knows"}, ""},
	} {
		if got := staged(c.guard).Breached(c.o); got != c.want {
			t.Errorf("%s of %+v: %q, want %q", c.guard, c.o, got, c.want)
		}
	}
}

// What failed as often before the first stage is not the rollout's; what fails more
// often now is, once it is no chance.
func TestBreachedAgainstBefore(t *testing.T) {
	for _, c := range []struct {
		name        string
		was, is     Rate
		fires       bool
		nothingSaid bool // of before
	}{
		{"as often", Rate{Calls: 1000, Failed: 20}, Rate{Calls: 1000, Failed: 20}, false, false},
		{"a little more often, by chance", Rate{Calls: 1000, Failed: 20}, Rate{Calls: 1000, Failed: 30}, false, false},
		{"three times as often", Rate{Calls: 1000, Failed: 20}, Rate{Calls: 1000, Failed: 60}, true, false},
		{"seldom called, and half of it fails", Rate{Calls: 1000, Failed: 20}, Rate{Calls: 20, Failed: 10}, true, false},
		{"seldom called, before and after", Rate{Calls: 20, Failed: 1}, Rate{Calls: 20, Failed: 3}, false, false},
		{"less often, and below the limit", Rate{Calls: 100, Failed: 50}, Rate{Calls: 100, Failed: 20}, false, false},
		{"all, and all before", Rate{Calls: 100, Failed: 100}, Rate{Calls: 100, Failed: 100}, false, false},
		{"all, and half before", Rate{Calls: 100, Failed: 50}, Rate{Calls: 100, Failed: 100}, true, false},
		{"more failures than calls", Rate{Calls: 100, Failed: 900}, Rate{Calls: 100, Failed: 700}, false, false},
		{"too few calls before", Rate{Calls: 19, Failed: 19}, Rate{Calls: 100, Failed: 2}, true, true},
		{"well before", Rate{Calls: 1000, Failed: 10}, Rate{Calls: 1000, Failed: 11}, true, true},
		{"of another zone", Rate{Zone: "west", Calls: 1000, Failed: 500}, Rate{Calls: 1000, Failed: 11}, true, true},
		{"of another service", Rate{Service: "api:81", Calls: 1000, Failed: 500}, Rate{Calls: 1000, Failed: 11}, true, true},
	} {
		for _, x := range []*Rate{&c.was, &c.is} {
			x.Zone, x.Service = cmp.Or(x.Zone, "east"), cmp.Or(x.Service, "api:80")
		}
		r := staged("success<99")
		r.Status.Stage = -1
		if why := r.Breached(Observation{Rates: []Rate{c.was}}); why != "" {
			t.Errorf("%s: before the first stage: %s", c.name, why)
		}
		r = r.Counted([]Rate{c.was}).Advanced(at(1), nil)
		why := r.Breached(Observation{Rates: []Rate{c.is}})
		if (why != "") != c.fires || c.fires && strings.Contains(why, "before the first stage") == c.nothingSaid {
			t.Errorf("%s: %q", c.name, why)
		}
	}
	r := staged("success<99").Counted([]Rate{{"east", "api:80", 1000, 20}})
	const want = "success<99: 90% of 100 calls of api:80 in zone east; before the first stage 98% of 1000"
	if why := r.Breached(Observation{Rates: []Rate{{"east", "api:80", 100, 10}}}); why != want {
		t.Errorf("%q, want %q", why, want)
	}
	var many []Rate
	for i := range 2 * MaxBefore {
		many = append(many, Rate{"east", fmt.Sprint(i), 100, 90})
	}
	if n := len(staged("success<99").Counted(many).Status.Before); n != MaxBefore {
		t.Errorf("%d services are remembered", n)
	}
}

// Calls are counted before the first stage where a guard watches them, and only there.
func TestBegins(t *testing.T) {
	if r := staged("rejected>0").Begun(at(0), map[string]int{"east": 3}); r.Status.Stage != 0 || r.Status.Connected["east"] != 3 {
		t.Errorf("%+v", r.Status)
	}
	r := staged("rejected>0", "success<99").Begun(at(0), map[string]int{"east": 3})
	if r.Status.Stage != -1 || len(r.Zones()) != 0 || r.Reached("east") || r.Staged("east") != nil {
		t.Fatalf("before the first stage %v have it: %+v", r.Zones(), r.Status)
	}
	short := r
	short.Spec.Pause.Duration = 10 * time.Second
	failing := Observation{Settled: true, Rates: []Rate{{"east", "api:80", 100, 90}}}
	unknown := Observation{Settled: true, Unknown: "zone east does not say"}
	for _, c := range []struct {
		name  string
		r     Rollout
		o     Observation
		after time.Duration
		want  Move
		why   string
	}{
		{"counting", r, failing, 20 * time.Second, Stay, "counting calls, 40s left"},
		{"a minute is over", r, failing, time.Minute, Advance, ""},
		{"as short as the pause", short, failing, 9 * time.Second, Stay, "counting calls, 1s left"},
		{"the pause is over", short, failing, 10 * time.Second, Advance, ""},
		{"promoted", r.Skipped(), unknown, time.Second, Advance, ""},
		{"a zone has not told", r, unknown, time.Minute + CountedGrace - time.Second, Stay, "zone east does not say"},
		{"a zone does not tell", r, unknown, time.Minute + CountedGrace, Advance, ""},
	} {
		if move, why := c.r.Next(c.o, at(0).Add(c.after)); move != c.want || why != c.why {
			t.Errorf("%s: %s %q, want %s %q", c.name, move, why, c.want, c.why)
		}
	}
	res, err := r.Counted(failing.Rates).Advanced(at(1), nil).Resource()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(res)
	if was, ok := back.Before("east", "api:80"); err != nil || !ok || was != failing.Rates[0] || back.Status.Stage != 0 {
		t.Errorf("%+v, %v, %v", was, ok, err)
	}
}

func TestSortRates(t *testing.T) {
	list := []Rate{{"a", "good", 100, 0}, {"a", "few", 3, 3}, {"b", "bad", 100, 50}, {"a", "bad", 100, 50}, {"a", "worst", 20, 19}}
	SortRates(list)
	var names []string
	for _, r := range list {
		names = append(names, r.Zone+r.Service)
	}
	if want := []string{"aworst", "abad", "bbad", "agood", "afew"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
}

func TestNext(t *testing.T) {
	settled := Observation{Settled: true}
	last := staged("rejected>0", "success<99")
	last.Status.Stage = 1
	promoted := staged("rejected>0", "success<99").Skipped()
	unknown := Observation{Settled: true, Unknown: "zone east does not say"}
	for _, c := range []struct {
		name string
		r    Rollout
		o    Observation
		now  time.Time
		want Move
		why  string
	}{
		{"pause", staged(), settled, at(4), Stay, "pause, 1m0s left"},
		{"pause nearly over", staged(), settled, at(5).Add(-time.Millisecond), Stay, "pause, 1s left"},
		{"pause over", staged(), settled, at(5), Advance, ""},
		{"behind after the pause", staged(), Observation{Waiting: "zone east is behind"}, at(9), Stay, "zone east is behind"},
		{"behind and promoted", promoted, Observation{Waiting: "zone east is behind"}, at(9), Stay, "zone east is behind"},
		{"promoted", promoted, settled, at(1), Advance, ""},
		{"last stage", last, settled, at(5), Finish, ""},
		{"breached in the pause", last, Observation{Settled: true, Rejected: 1}, at(1), Abort, "rejected>0: 1 in stage 2 (east, south, west)"},
		{"breached while behind", staged("gone>0"), Observation{Gone: 1, Waiting: "zone east is behind"}, at(9), Abort, "gone>0: 1 in stage 1 (east, south)"},
		{"breached though promoted", promoted, Observation{Settled: true, Rejected: 1}, at(9), Abort, "rejected>0: 1 in stage 1 (east, south)"},
		{"success is unknown", last, unknown, at(9), Stay, "zone east does not say"},
		{"success is unknown in the pause", last, unknown, at(1), Stay, "pause, 4m0s left"},
		{"unknown, and somebody answers for it", promoted, unknown, at(1), Advance, ""},
	} {
		if move, why := c.r.Next(c.o, c.now); move != c.want || why != c.why {
			t.Errorf("%s: %s %q, want %s %q", c.name, move, why, c.want, c.why)
		}
	}
}

func TestZonesAndWhatTheySee(t *testing.T) {
	r := staged()
	see := func() string {
		var out []string
		for _, zone := range []string{"east", "south", "west", "north"} {
			for _, res := range r.Staged(zone) {
				if res.Revision != r.Revision || string(res.Spec) != `{"to":[]}` || res.Key != r.Spec.Documents[0].Key() {
					t.Errorf("%+v", res)
				}
				out = append(out, zone)
			}
		}
		return strings.Join(out, " ")
	}
	steps := []struct {
		step func()
		want string
	}{
		{func() {}, "east south"},
		{func() { r = r.Skipped() }, "east south"},
		{func() { r = r.Advanced(at(1), nil) }, "east south west"},
		{func() { r = r.Ended(Aborted, "why", at(2)) }, ""},
	}
	for i, s := range steps {
		if s.step(); see() != s.want {
			t.Errorf("after step %d: %q have it, want %q", i, see(), s.want)
		}
	}
	if r.Spec.Documents[0].Spec != nil || r.Status.Reason != "why" || !r.Status.Since.Equal(at(2)) {
		t.Errorf("at the end: %+v", r)
	}
	if !r.Reached("west") || r.Reached("north") {
		t.Error("an ended rollout must say whom it reached: they get back what they had")
	}
}

// Each step leaves what was before as it was: two instances of global take steps
// of the same rollout.
func TestStepsChangeNothingBefore(t *testing.T) {
	r := staged("gone>0")
	r.Status.Revisions = make([]mesh.Revision, 1, 10)
	r.Status.Connected = map[string]int{"east": 3}
	before, err := r.Resource()
	if err != nil {
		t.Fatal(err)
	}
	a, b := r.Advanced(at(1), map[string]int{"east": 1, "west": 2, "north": 5}), r.Ended(Done, "", at(2))
	_ = r.Skipped()
	if a.Status.Revisions[1] != 7 || b.Status.Revisions[1] != 7 {
		t.Errorf("earlier steps: %v, %v", a.Status.Revisions, b.Status.Revisions)
	}
	if want := map[string]int{"east": 3, "west": 2}; !reflect.DeepEqual(a.Status.Connected, want) { // what a stage began with stays
		t.Errorf("connected %v, want %v", a.Status.Connected, want)
	}
	if a.Status.Promoted || a.Status.Stage != 1 || !a.Status.Since.Equal(at(1)) {
		t.Errorf("%+v", a.Status)
	}
	after, err := r.Resource()
	if err != nil || string(after.Spec) != string(before.Spec) || string(after.Status) != string(before.Status) {
		t.Errorf("a step changed what was before: %v\n%s\n%s", err, before.Status, after.Status)
	}
}

// Where a rollout is lies in the store: what is read after a restart goes on alike.
func TestResumes(t *testing.T) {
	r := staged("rejected>0", "success<99.5").Skipped().Advanced(at(3), map[string]int{"west": 4})
	r.Created = at(-1)
	res, err := r.Resource()
	if err != nil {
		t.Fatal(err)
	}
	res.Revision, res.Created = 9, r.Created
	back, err := Decode(res)
	if err != nil {
		t.Fatal(err)
	}
	r.Revision = 9
	if !reflect.DeepEqual(back, r) {
		t.Errorf("%+v\nis read as\n%+v", r, back)
	}
	for _, o := range []Observation{{Settled: true}, {Rejected: 1}, {Waiting: "x"}, {Settled: true, Unknown: "x"}} {
		for _, now := range []time.Time{at(3), at(9)} {
			m1, w1 := r.Next(o, now)
			if m2, w2 := back.Next(o, now); m1 != m2 || w1 != w2 {
				t.Errorf("%+v: %s %q, and after a restart %s %q", o, m1, w1, m2, w2)
			}
		}
	}
	for _, broken := range []mesh.Resource{{Spec: json.RawMessage(`[]`), Status: json.RawMessage(`{}`)}, {Spec: json.RawMessage(`{}`), Status: json.RawMessage(`x`)},
		{Spec: json.RawMessage(`{"abortOn":["cpu>1"]}`), Status: json.RawMessage(`{}`)}} {
		if _, err := Decode(broken); err == nil {
			t.Errorf("%s %s is read", broken.Spec, broken.Status)
		}
	}
}
