package mesh

import (
	"encoding/json"
	"time"
)

// ClusterStatus is the status of a resource in a Kubernetes cluster: what became
// of it in that cluster's zone, and, of what global wrote, where it is from.
type ClusterStatus struct {
	// ObservedGeneration is the metadata.generation that this status is about.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Mesh that the resource is in.
	Mesh string `json:"mesh,omitempty"`
	// Origin is zone for what was written in this cluster, global for the rest.
	Origin string `json:"origin,omitempty" enum:"zone,global"`
	// Role of a policy: system, producer, consumer or workload-owner.
	Role string `json:"role,omitempty" enum:"system,producer,consumer,workload-owner"`
	// Revision of the change at global; 0 until global knows it.
	Revision int64 `json:"revision,omitempty"`
	// Proxies of this zone, as "done/affected".
	Proxies string `json:"proxies,omitempty"`
	// Affected proxies of this zone.
	Affected int64 `json:"affected"`
	// Done are the affected proxies that have it in force.
	Done int64 `json:"done"`
	// Rejected are the affected proxies that refused what follows from it.
	Rejected int64 `json:"rejected"`
	// Conditions: Accepted, Programmed.
	Conditions []ClusterCondition `json:"conditions,omitempty"`
	// LastGood is the spec that stays in force while the resource's own cannot be
	// used; see the condition Accepted. Zones that start read it back.
	LastGood json.RawMessage `json:"lastGood,omitempty"`
	// Of a service: where the zone's proxies call it.
	ServiceNames
}

// ClusterCondition is one aspect of a resource, as Kubernetes has them.
type ClusterCondition struct {
	// Type is Accepted (the zone can use it) or Programmed (proxies have it in force).
	Type string `json:"type"`
	// Status of the condition.
	Status string `json:"status" enum:"True,False,Unknown"`
	// ObservedGeneration is the metadata.generation that it is about.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// LastTransitionTime is when the status changed last.
	LastTransitionTime time.Time `json:"lastTransitionTime"`
	// Reason is a word in CamelCase.
	Reason string `json:"reason"`
	// Message for people.
	Message string `json:"message"`
}

// Types of conditions.
const (
	// ConditionAccepted: the zone can use the resource.
	ConditionAccepted = "Accepted"
	// ConditionProgrammed: every affected proxy has it in force.
	ConditionProgrammed = "Programmed"
)

// Group and version of our resources in a cluster.
const (
	ClusterGroup   = "tombolo.io"
	ClusterVersion = "v1alpha1"
)
