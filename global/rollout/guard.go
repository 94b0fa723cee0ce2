package rollout

import (
	"encoding/json"
	"fmt"
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
)

// Guard aborts a rollout when what it watches is above a number: "rejected>0".
type Guard struct {
	// What is Rejected or Gone.
	What string
	// Above this number it is breached.
	Above int
}

// ParseGuard reads the text form.
func ParseGuard(text string) (Guard, error) {
	what, number, ok := strings.Cut(strings.ReplaceAll(text, " ", ""), ">")
	n, err := strconv.Atoi(number)
	if !ok || !slices.Contains([]string{Rejected, Gone}, what) || err != nil || n < 0 {
		return Guard{}, fmt.Errorf("must be rejected>N or gone>N with a number from 0, not %.64q", text)
	}
	return Guard{what, n}, nil
}

// String is the text form.
func (g Guard) String() string { return g.What + ">" + strconv.Itoa(g.Above) }

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
}

// Breached says which guard is, and why; empty when none is.
func (r Rollout) Breached(o Observation) string {
	for _, g := range r.Spec.AbortOn {
		have := map[string]int{Rejected: o.Rejected, Gone: o.Gone}[g.What]
		if have <= g.Above {
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
