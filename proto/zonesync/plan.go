package zonesync

import (
	"encoding/json"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir/effect"
)

// WhatPlan asks what a change would do; the body is a Plan, the answer a Preview.
const WhatPlan = "plan"

// Plan is a change as it would be pushed to the zone.
type Plan struct {
	// Changes in order.
	Changes []PlannedChange `json:"changes"`
	// Envoy asks for the difference of Envoy's resources too.
	Envoy bool `json:"envoy,omitempty"`
}

// PlannedChange is a mesh.Change that was not made.
type PlannedChange struct {
	Deleted  bool              `json:"deleted,omitempty"`
	Kind     mesh.KindName     `json:"kind"`
	Mesh     string            `json:"mesh,omitempty"`
	Zone     string            `json:"zone,omitempty"`
	Name     string            `json:"name"`
	Labels   map[string]string `json:"labels,omitempty"`
	Spec     json.RawMessage   `json:"spec,omitempty"`
	Status   json.RawMessage   `json:"status,omitempty"`
	Revision mesh.Revision     `json:"revision,omitempty"`
	Created  time.Time         `json:"created,omitzero"`
}

// PlannedOf is a change on its way to a zone.
func PlannedOf(c mesh.Change) PlannedChange {
	r := c.Resource
	out := PlannedChange{Deleted: c.Deleted, Kind: r.Kind, Mesh: r.Mesh, Zone: r.Zone, Name: r.Name}
	if !c.Deleted {
		out.Labels, out.Spec, out.Status, out.Revision, out.Created = r.Labels, r.Spec, r.Status, r.Revision, r.Created
	}
	return out
}

// Change is the change as a zone takes it.
func (p *PlannedChange) Change() mesh.Change {
	return mesh.Change{Revision: p.Revision, Deleted: p.Deleted, Resource: mesh.Resource{
		Key:    mesh.Key{Kind: p.Kind, Mesh: p.Mesh, Zone: p.Zone, Name: p.Name},
		Labels: p.Labels, Spec: p.Spec, Status: p.Status, Revision: p.Revision, Created: p.Created, Modified: p.Created}}
}

// Preview is what a change would do in one zone.
type Preview struct {
	// Zone that answers.
	Zone string `json:"zone"`
	// Revision of global that the zone has taken: what the change is compared with.
	Revision mesh.Revision `json:"revision"`
	// Proxies of the zone, and how many of them the change would reach.
	Proxies  int `json:"proxies"`
	Affected int `json:"affected"`
	// Effects on proxies; those on whom it has the same are together.
	Effects []PlannedEffect `json:"effects,omitempty"`
	// Shared are effects on what all proxies of a mesh have in common: hosts behind
	// names, and the names that applications resolve.
	Shared []SharedEffect `json:"shared,omitempty"`
	// Problems that there would be and are not now.
	Problems []PlannedProblem `json:"problems,omitempty"`
	// Tells are resources that the zone would tell other zones otherwise. What
	// follows there is in no preview.
	Tells []string `json:"tells,omitempty"`
	// Omitted counts effects and problems beyond what an answer may hold.
	Omitted int `json:"omitted,omitempty"`
	// Micros is how long it took, in microseconds.
	Micros int64 `json:"micros"`
}

// PlannedEffect is what a change does to some proxies.
type PlannedEffect struct {
	// Mesh of the proxies.
	Mesh string `json:"mesh"`
	// Role is sidecar or ingress.
	Role string `json:"role"`
	// Proxies that it is about.
	Proxies int `json:"proxies"`
	// Workloads of them, sorted by name.
	Workloads []PlannedWorkload `json:"workloads"`
	// Lines of effect.
	Lines []effect.Line `json:"lines"`
	// Envoy is the difference of the resources that each of these proxies has, if
	// that was asked for.
	Envoy []ResourceDiff `json:"envoy,omitempty"`
}

// PlannedWorkload names the proxies of one workload.
type PlannedWorkload struct {
	// Name of the workload; the class of proxies without one.
	Name string `json:"name"`
	// Proxies of it.
	Proxies int `json:"proxies"`
	// Names of some of them.
	Names []string `json:"names"`
}

// SharedEffect is what a change does to what is common to a mesh.
type SharedEffect struct {
	Mesh  string        `json:"mesh"`
	Lines []effect.Line `json:"lines"`
}

// PlannedProblem is something that could not be honoured.
type PlannedProblem struct {
	// Kind, Mesh and Name of the resource at fault; a zone's own is "<name>.<zone>".
	Kind mesh.KindName `json:"kind"`
	Mesh string        `json:"mesh,omitempty"`
	Name string        `json:"name"`
	// Reason for people.
	Reason string `json:"reason"`
	// Proxies that it concerns; 0: not counted.
	Proxies int `json:"proxies,omitempty"`
}

// ResourceDiff is how one resource of Envoy differs.
type ResourceDiff struct {
	// TypeURL and Name of the resource.
	TypeURL string `json:"typeUrl"`
	Name    string `json:"name"`
	// Sign is + for added, - for removed, ~ for changed.
	Sign effect.Sign `json:"sign"`
	// Diff is the difference of its JSON form, unified.
	Diff string `json:"diff,omitempty"`
}
