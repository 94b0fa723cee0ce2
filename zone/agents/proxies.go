package agents

import (
	"context"
	"io"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

// Admitter decides who may join; each platform has one. Its errors are gRPC
// statuses and reach the agent.
type Admitter interface {
	// Authenticate looks at what an agent presents as its bearer token, before
	// anything else of it is read.
	Authenticate(ctx context.Context, bearer string) (Credential, error)
	// Admit says which proxy a registration is of, and that the credential is for
	// it: Resource, Spec, Probes and Named of a Proxy. The rest is the server's.
	Admit(ctx context.Context, c Credential, r *agentv1.Register) (Proxy, error)
	// Recheck says why a credential that was good is not any more; nil while it
	// is, or while nothing is known. That it expired meanwhile is no reason: who
	// is in stays in. It must not block.
	Recheck(c Credential) error
}

// Credential is what an Admitter knows of an agent that it authenticated. It is
// the Admitter's own; the server only carries it.
type Credential any

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
	// Probes are the ports that the agent shall watch, see ProbesOf. Health is
	// heard of these alone; none where the platform itself knows what is ready.
	Probes []*agentv1.Probe
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
	// Terminating tells that the workload is about to end.
	Terminating()
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
