// Package platform is what a platform tells the zone's engine: its proxies, its
// services and what was authored in it.
//
// In flow batches from whoever watches the platform, for example package
// zone/kube; the engine implements Sink and takes them.
package platform

import (
	"context"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Sink takes what a platform tells. Package zone implements it.
type Sink interface {
	// Apply takes a batch and returns when it is published to the zone's own
	// proxies. Batches of one source come one after the other; those of several
	// sources may come at once. It fails when ctx ends or the zone stops.
	Apply(ctx context.Context, b Batch) error
	// Recall is what Batch.Remember said last, before a restart too.
	Recall(ctx context.Context) (map[string]uint64, error)
}

// Batch is what changed together. Keys carry the zone's name.
type Batch struct {
	// Pods by the key of their Dataplane; nil ends one.
	Pods map[mesh.Key]*Pod
	// Resources that the zone owns, with computed labels: services, addresses of
	// ingresses, policies that were authored in the zone. Nil ends one. Specs of
	// MeshService are completed by the engine: identities, state and status.
	Resources map[mesh.Key]*mesh.Resource
	// Authored says that people wrote the Resources themselves. Where they and the
	// platform have one of the same key, theirs counts, whichever came first, and
	// the platform's stands again when theirs ends.
	Authored bool
	// Addresses at which the zone's proxies call a service by itself, in canonical
	// form, IPv4 first; an empty list forgets.
	Addresses map[mesh.Key][]string
	// Remember these numbers on disk; see Sink.Recall. 0 forgets.
	Remember map[string]uint64
}

// Empty reports whether a batch says nothing.
func (b *Batch) Empty() bool {
	return len(b.Pods)+len(b.Resources)+len(b.Addresses)+len(b.Remember) == 0
}

// Pod is a proxy that the platform knows by itself: it is a member of the zone
// whether or not its agent is connected to this instance of it.
type Pod struct {
	// Resource is the Dataplane with computed labels, Spec is it, decoded.
	Resource mesh.Resource
	Spec     *mesh.Dataplane
	// UID tells a pod from a former one of the same name.
	UID string
	// Ready says that the platform believes that the proxy serves. It counts
	// while the agent is not connected to this instance.
	Ready bool
	// Draining proxies finish what they have: they are in no endpoint set.
	Draining bool
	// NotReady are the inbounds that take no traffic, sorted.
	NotReady []string
}
