package universal

import (
	"context"
	"io"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Proxies is what the zone does for agents; package zone implements it. Keys
// are of kind Dataplane and carry the zone's name.
type Proxies interface {
	// Join makes a proxy a member, connected, with the given inbounds not ready.
	// A second instance of the same name replaces the first, if it is of the same
	// workload, or Named. It returns once the
	// proxy may open its xDS stream with a session token of Session.
	Join(ctx context.Context, proxy Proxy) (Joined, error)
	// Health says which inbounds do not answer.
	Health(key mesh.Key, instance string, notReady []string)
	// Drain takes the proxy out of every endpoint set and returns when every
	// connected proxy of the zone ACKed that, and global was told (or after a bound).
	Drain(ctx context.Context, key mesh.Key, instance string) error
	// Leave ends the membership of an instance. Clean is a proper end, or a token
	// that was revoked (the proxy is forgotten); otherwise the stream broke: it is
	// out of endpoint sets at once, and forgotten when its lease runs out.
	Leave(key mesh.Key, instance string, clean bool)
	// Sign issues a certificate for the proxy's key. The SPIFFE ID is the zone's decision.
	Sign(ctx context.Context, key mesh.Key, instance string, csr []byte) (SVID, error)
}

// Proxy that joins.
type Proxy struct {
	// Resource is the Dataplane, validated, with canonical labels and Key.Zone set.
	Resource mesh.Resource
	// Spec is it, decoded.
	Spec *mesh.Dataplane
	// Instance of the agent.
	Instance string
	// Versions for people.
	AgentVersion, EnvoyVersion string
	// NotReady inbounds.
	NotReady []string
	// Named: its token is for this name. Without, it may not take the place of
	// another workload's proxy.
	Named bool
	// Control reaches the agent of this instance.
	Control Control
}

// Control is how the zone reaches an agent.
type Control interface {
	// Resign asks for a new certificate request.
	Resign()
	// Inspect copies the answer of Envoy's admin API for a path.
	Inspect(ctx context.Context, path string, w io.Writer) error
	// Close ends the stream with a reason, for example since another instance came.
	Close(reason error)
}

// Joined is the answer to a proxy.
type Joined struct {
	// NodeID and NodeCluster for Envoy.
	NodeID, NodeCluster string
	// SessionToken that Envoy presents.
	SessionToken string
}

// SVID is a signed certificate.
type SVID struct {
	// SpiffeID in it.
	SpiffeID string
	// Chain is PEM, leaf first.
	Chain []byte
	// NotAfter and RenewAt (half life).
	NotAfter, RenewAt time.Time
}
