package rollout

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// What a guard watches in the zones whose stage has come.
const (
	// Rejected proxies.
	Rejected = "rejected"
	// Gone are proxies that were connected when the stage of their zone began.
	Gone = "gone"
	// Success is the rate of calls that succeed, in percent, of each service that the
	// documents have a say in.
	Success = "success"
)

// MinCalls is how many calls a service must have had for its rate to count: one
// that fails of two says nothing.
const MinCalls = 20

// Guard aborts a rollout when what it watches is beyond a number: "rejected>0",
// "success<99.5".
type Guard struct {
	// What is Rejected, Gone or Success.
	What string
	// Limit is what Rejected and Gone may not be above, and Success not below.
	Limit float64
}

// ParseGuard reads the text form.
func ParseGuard(text string) (Guard, error) {
	plain := strings.ReplaceAll(text, " ", "")
	at := strings.IndexAny(plain, "<>")
	if at >= 0 {
		g := Guard{What: plain[:at]}
		limit, err := strconv.ParseFloat(plain[at+1:], 64)
		g.Limit = limit
		counts := (g.What == Rejected || g.What == Gone) && limit == math.Trunc(limit) && limit <= 1e9
		if err == nil && limit >= 0 && g.String() == plain[:at+1]+strconv.FormatFloat(limit, 'f', -1, 64) &&
			(counts || g.What == Success && limit > 0 && limit <= 100) {
			return g, nil
		}
	}
	return Guard{}, fmt.Errorf("must be rejected>N, gone>N with a whole number from 0, or success<P with a percentage above 0 and at most 100, not %.64q", text)
}

// String is the text form.
func (g Guard) String() string {
	sign := ">"
	if g.What == Success {
		sign = "<"
	}
	return g.What + sign + strconv.FormatFloat(g.Limit, 'f', -1, 64)
}

// MarshalJSON writes the text form.
func (g Guard) MarshalJSON() ([]byte, error) { return json.Marshal(g.String()) }

// UnmarshalJSON reads the text form.
func (g *Guard) UnmarshalJSON(b []byte) error {
	var text string
	err := json.Unmarshal(b, &text)
	if err == nil {
		*g, err = ParseGuard(text)
	}
	return err
}

// Watches says whether a guard watches this.
func (r Rollout) Watches(what string) bool {
	return slices.ContainsFunc(r.Spec.AbortOn, func(g Guard) bool { return g.What == what })
}

// Rate is how the calls of a service went lately, in one zone.
type Rate struct {
	// Zone that counted.
	Zone string `json:"zone"`
	// Service and who called it: "backend.west:8080 by web"; "backend:8080" where its
	// own proxies count.
	Service string `json:"service"`
	// Calls in the last minute, and those that failed.
	Calls  uint64 `json:"calls"`
	Failed uint64 `json:"failed"`
}

// Percent of the calls that succeeded; 100 without any.
func (r Rate) Percent() float64 {
	if r.Calls == 0 {
		return 100
	}
	return 100 * float64(r.Calls-min(r.Failed, r.Calls)) / float64(r.Calls)
}

// worse says that calls fail more than before, and more than by chance: by three standard
// errors of the difference of two shares. Near to what was before a share swings.
func (r Rate) worse(before Rate) bool {
	n, m := float64(r.Calls), float64(before.Calls)
	now, was := 1-r.Percent()/100, 1-before.Percent()/100
	all := (n*now + m*was) / (n + m)
	return now-was > 3*math.Sqrt(all*(1-all)*(1/n+1/m))
}

// Before is how the calls of a service went before the first stage, if it failed so
// often already that a guard would have been breached.
func (r Rollout) Before(zone, service string) (Rate, bool) {
	i := slices.IndexFunc(r.Status.Before, func(x Rate) bool { return x.Zone == zone && x.Service == service })
	if i < 0 {
		return Rate{}, false
	}
	return r.Status.Before[i], true
}

// Counts says whether there were enough calls for a judgement.
func (r Rate) Counts() bool { return r.Calls >= MinCalls }

// Observation is what is known of the zones whose stage has come.
type Observation struct {
	// Settled: every one of them has the documents, on all its proxies.
	Settled bool
	// Waiting names what it waits for, when not settled.
	Waiting string
	// Rejected and Gone proxies.
	Rejected, Gone int
	// Words of a proxy that rejects.
	Words string
	// Rates of services, the worst first; only where a guard watches Success. Before the
	// first stage those that documents will have a say in, in all zones of all stages.
	Rates []Rate
	// Unknown says why the rates cannot be told, where a guard wants them. A rollout
	// does not go on by itself then.
	Unknown string
	// Zones whose stage has come, without those that are left out.
	Zones []string
	// Notes for people: zones that are left out.
	Notes []string
}

// Breached says which guard is, and why; empty when none is. What failed as often
// before the first stage is not the rollout's.
func (r Rollout) Breached(o Observation) string {
	if r.Status.Stage < 0 {
		return ""
	}
	for _, g := range r.Spec.AbortOn {
		if g.What == Success {
			for _, x := range o.Rates {
				if !x.Counts() || x.Percent() >= g.Limit {
					continue
				}
				text := fmt.Sprintf("%s: %s%% of %d calls of %s in zone %s", g, percent(x.Percent()), x.Calls, x.Service, x.Zone)
				if was, ok := r.Before(x.Zone, x.Service); ok {
					if !x.worse(was) {
						continue
					}
					text += fmt.Sprintf("; before the first stage %s%% of %d", percent(was.Percent()), was.Calls)
				}
				return text
			}
			continue
		}
		have := map[string]int{Rejected: o.Rejected, Gone: o.Gone}[g.What]
		if float64(have) <= g.Limit {
			continue
		}
		text := fmt.Sprintf("%s: %d in stage %d (%s)", g, have, r.Status.Stage+1, strings.Join(r.Zones(), ", "))
		if g.What == Rejected && o.Words != "" {
			text += ": " + o.Words
		}
		return text
	}
	return ""
}

// percent is rounded down, so that 99.99 is not shown as 100.
func percent(p float64) string { return strconv.FormatFloat(math.Floor(p*10)/10, 'f', -1, 64) }

// SortRates puts the worst of those that count first.
func SortRates(list []Rate) {
	counts := func(r Rate) int {
		if r.Counts() {
			return 0
		}
		return 1
	}
	slices.SortFunc(list, func(a, b Rate) int {
		return cmp.Or(counts(a)-counts(b), cmp.Compare(a.Percent(), b.Percent()), cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Service, b.Service))
	})
}
