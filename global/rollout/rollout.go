package rollout

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Kind under which global's store keeps rollouts. It is none of mesh.Kinds: no
// zone and no manifest has it.
const Kind mesh.KindName = "Rollout"

// Bounds of a rollout.
const (
	// MaxStages of one.
	MaxStages = 100
	// MaxDocuments of one.
	MaxDocuments = 500
	// MaxBytes of its documents, of what a store takes for one resource.
	MaxBytes = 3 << 20
	// MaxRunning at once.
	MaxRunning = 32
	// MaxEnded that are remembered.
	MaxEnded = 50
	// MinWatched is the shortest pause in which a success rate can be told.
	MinWatched = 10 * time.Second
	// MaxCounted is how long calls are counted at most before the first stage: a stage's
	// are judged by their last minute.
	MaxCounted = time.Minute
	// CountedGrace is how much longer zones are waited for that have not told.
	CountedGrace = 15 * time.Second
	// MaxBefore services are remembered that failed before.
	MaxBefore = 500
)

// Phase of a rollout.
type Phase string

const (
	// Running: some zones have the documents, the others what the store holds.
	Running Phase = "running"
	// Done: the documents are in the store, and so everywhere.
	Done Phase = "done"
	// Aborted: every zone has again what the store holds.
	Aborted Phase = "aborted"
)

// Document is a resource that is rolled out.
type Document struct {
	// Kind, Mesh and Name of it. Zones own none of them.
	Kind mesh.KindName `json:"kind"`
	Mesh string        `json:"mesh,omitempty"`
	Name string        `json:"name"`
	// Labels and Spec as they will be; an ended rollout has no Spec any more.
	Labels map[string]string `json:"labels,omitempty"`
	Spec   json.RawMessage   `json:"spec,omitempty"`
	// Base is the revision that it replaces, 0 when it is new.
	Base mesh.Revision `json:"base,omitempty"`
}

// Key of the resource.
func (d Document) Key() mesh.Key { return mesh.Key{Kind: d.Kind, Mesh: d.Mesh, Name: d.Name} }

// Spec is what an author asked for.
type Spec struct {
	// Stages are groups of zones. Zones in none get the documents at the end.
	Stages [][]string `json:"stages"`
	// Pause that a stage lasts at least.
	Pause mesh.Duration `json:"pause"`
	// AbortOn are guards; when one is breached everything is returned.
	AbortOn []Guard `json:"abortOn,omitempty"`
	// Author who applied it.
	Author string `json:"author"`
	// Documents of it.
	Documents []Document `json:"documents"`
}

// Status is how far it came.
type Status struct {
	// Phase it is in.
	Phase Phase `json:"phase"`
	// Stage that it is at, from 0; when it ended, the last that it reached. Before the
	// first it is -1, while calls are counted.
	Stage int `json:"stage"`
	// Since when it is there.
	Since time.Time `json:"since"`
	// Promoted: the pause of this stage is left out.
	Promoted bool `json:"promoted,omitempty"`
	// Reason of the abort.
	Reason string `json:"reason,omitempty"`
	// Revisions are those of earlier steps of it, the current one is the resource's.
	Revisions []mesh.Revision `json:"revisions,omitempty"`
	// Connected proxies of each zone when its stage began.
	Connected map[string]int `json:"connected,omitempty"`
	// Before are services below a guard's limit before the first stage, the worst first.
	Before []Rate `json:"before,omitempty"`
}

// Rollout is a staged change.
type Rollout struct {
	// Name of it.
	Name string
	// Revision of its last step.
	Revision mesh.Revision
	// Created is when it was applied.
	Created time.Time
	// Spec and Status of it.
	Spec   Spec
	Status Status
}

// Decode reads what the store holds.
func Decode(r mesh.Resource) (Rollout, error) {
	out := Rollout{Name: r.Name, Revision: r.Revision, Created: r.Created}
	if err := json.Unmarshal(r.Spec, &out.Spec); err != nil {
		return out, fmt.Errorf("rollout %s: spec: %w", r.Name, err)
	}
	if err := json.Unmarshal(r.Status, &out.Status); err != nil {
		return out, fmt.Errorf("rollout %s: status: %w", r.Name, err)
	}
	return out, nil
}

// Resource is what the store holds of it.
func (r Rollout) Resource() (mesh.Resource, error) {
	spec, err := json.Marshal(r.Spec)
	if err != nil {
		return mesh.Resource{}, fmt.Errorf("rollout %s: spec: %w", r.Name, err)
	}
	status, err := json.Marshal(r.Status)
	if err != nil {
		return mesh.Resource{}, fmt.Errorf("rollout %s: status: %w", r.Name, err)
	}
	return mesh.Resource{Key: Key(r.Name), Spec: spec, Status: status}, nil
}

// Key under which a rollout is stored.
func Key(name string) mesh.Key { return mesh.Key{Kind: Kind, Name: name} }

// Reached says whether the stage of a zone has come, whatever became of it then.
func (r Rollout) Reached(zone string) bool {
	at := slices.IndexFunc(r.Spec.Stages, func(zones []string) bool { return slices.Contains(zones, zone) })
	return at >= 0 && at <= r.Status.Stage
}

// Zones whose stage has come, in order.
func (r Rollout) Zones() []string {
	return slices.Concat(r.Spec.Stages[:min(r.Status.Stage+1, len(r.Spec.Stages))]...)
}

// Staged are the resources that a zone has in place of what the store holds.
func (r Rollout) Staged(zone string) []mesh.Resource {
	if r.Status.Phase != Running || !r.Reached(zone) {
		return nil
	}
	var out []mesh.Resource
	for _, d := range r.Spec.Documents {
		out = append(out, mesh.Resource{Key: d.Key(), Labels: d.Labels, Spec: d.Spec, Revision: r.Revision})
	}
	return out
}

// Move is what becomes of a rollout next.
type Move string

const (
	// Stay where it is.
	Stay Move = "stay"
	// Advance to the next stage.
	Advance Move = "advance"
	// Finish: the documents go into the store.
	Finish Move = "finish"
	// Abort: everything is returned.
	Abort Move = "abort"
)

// Next says what follows from what is known, and why it stays or aborts.
func (r Rollout) Next(o Observation, now time.Time) (Move, string) {
	if r.Status.Stage < 0 {
		return r.first(o, now)
	}
	left := r.Status.Since.Add(r.Spec.Pause.Duration).Sub(now)
	why := r.Breached(o)
	switch {
	case why != "":
		return Abort, why
	case !o.Settled:
		return Stay, o.Waiting
	case r.Status.Promoted: // somebody answers for it, whatever can be told of the calls
	case left > 0:
		return Stay, "pause, " + max(left.Round(time.Second), time.Second).String() + " left"
	case o.Unknown != "":
		return Stay, o.Unknown
	}
	if r.Status.Stage+1 < len(r.Spec.Stages) {
		return Advance, ""
	}
	return Finish, ""
}

// first says when the first stage comes: after calls were counted for as long as those
// of a stage will be, at most. A zone that does not tell is not waited for for long: what
// is not known of before leaves a guard as strict as it reads.
func (r Rollout) first(o Observation, now time.Time) (Move, string) {
	left := r.Status.Since.Add(min(r.Spec.Pause.Duration, MaxCounted)).Sub(now)
	switch {
	case r.Status.Promoted:
	case left > 0:
		return Stay, "counting calls, " + max(left.Round(time.Second), time.Second).String() + " left"
	case o.Unknown != "" && left > -CountedGrace:
		return Stay, o.Unknown
	}
	return Advance, ""
}

// Begun is the rollout at its first step: at its first stage, or before it, where calls
// are counted first.
func (r Rollout) Begun(now time.Time, connected map[string]int) Rollout {
	r.Status = Status{Phase: Running, Stage: -1, Since: now.UTC()}
	if r.Watches(Success) {
		return r
	}
	return r.Advanced(now, connected)
}

// Counted is the rollout that knows how calls went before its first stage. Only what a
// guard would return it for is remembered.
func (r Rollout) Counted(rates []Rate) Rollout {
	r.Status.Before = nil
	for _, x := range rates {
		below := slices.ContainsFunc(r.Spec.AbortOn, func(g Guard) bool { return g.What == Success && x.Percent() < g.Limit })
		if x.Counts() && below && len(r.Status.Before) < MaxBefore {
			r.Status.Before = append(r.Status.Before, x)
		}
	}
	return r
}

// Advanced is the rollout one stage further.
func (r Rollout) Advanced(now time.Time, connected map[string]int) Rollout {
	next := r.stepped()
	next.Status.Stage++
	next.Status.Since, next.Status.Promoted = now.UTC(), false
	next.Status.Connected = map[string]int{}
	for _, from := range []map[string]int{connected, r.Status.Connected} { // what a stage began with stays
		for zone, n := range from {
			if next.Reached(zone) {
				next.Status.Connected[zone] = n
			}
		}
	}
	return next
}

// Skipped is the rollout without the rest of this stage's pause.
func (r Rollout) Skipped() Rollout {
	next := r.stepped()
	next.Status.Promoted = true
	return next
}

// Ended is the rollout at its end.
func (r Rollout) Ended(phase Phase, reason string, now time.Time) Rollout {
	next := r.stepped()
	next.Status.Phase, next.Status.Reason, next.Status.Since = phase, reason, now.UTC()
	next.Spec.Documents = slices.Clone(r.Spec.Documents)
	for i := range next.Spec.Documents {
		next.Spec.Documents[i].Spec = nil
	}
	return next
}

func (r Rollout) stepped() Rollout {
	if r.Revision > 0 {
		r.Status.Revisions = append(slices.Clone(r.Status.Revisions), r.Revision)
	}
	return r
}
