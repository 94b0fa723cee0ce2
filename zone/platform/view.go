package platform

import (
	"context"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// View is what a platform reads back, to show it to people. Package zone
// implements it.
type View interface {
	// State of the zone now.
	State(ctx context.Context) (State, error)
	// Changed returns a channel that is closed when the state changes next.
	Changed() <-chan struct{}
}

// State of a zone.
type State struct {
	// Known is set once the zone has, or had, everything of global. Before that
	// Authored is not all there is.
	Known bool
	// Authored are the resources that global authored and the zone holds.
	Authored []mesh.Resource
	// Outcomes of policies that concern proxies of the zone, and of resources that
	// something is wrong with.
	Outcomes map[mesh.Key]Outcome
	// Names of the services that are the zone's or global's, as its proxies have
	// them; what is called nowhere is missing.
	Names map[mesh.Key]mesh.ServiceNames
}

// Outcome is how the zone's proxies are with a resource.
type Outcome struct {
	// Affected are the connected proxies that it selects. Done of them have it in
	// force, Rejected refused what follows from it.
	Affected, Done, Rejected int
	// Problems in words, at most 10.
	Problems []string
	// Hides says that it is in force instead of one of its name that the platform
	// made, such as the MeshService of a Service.
	Hides bool
}
