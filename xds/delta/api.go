package delta

import (
	"context"
	"log/slog"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/prometheus/client_golang/prometheus"
)

// Resource is one Envoy resource, marshalled once and shared by every stream.
type Resource struct {
	// TypeURL, for example "type.googleapis.com/envoy.config.cluster.v3.Cluster".
	TypeURL string
	// Name, unique in its type.
	Name string
	// Version is a digest of Body: equal versions mean equal bytes.
	Version string
	// Body is the marshalled message that goes into the response's Any.
	Body []byte
	// Endpoints names another resource that must be sent again right behind this one:
	// for an EDS cluster, its ClusterLoadAssignment's name. Envoy does not ask again.
	Endpoints string
}

// Config of a Server.
type Config struct {
	// Authorize maps a new stream to the node id that it may act for, or an error
	// (sent to the peer as is; use gRPC status errors).
	Authorize func(ctx context.Context, node *corev3.Node) (id string, err error)
	// OnProgress is told that a group's progress changed, and whether that is more than
	// a number: something settled, or there are verdicts. It must not block: it
	// marks something dirty. Called without locks held.
	OnProgress func(group string, settled bool)
	// OnConnect tells that the first stream of a node opened or the last one ended.
	OnConnect func(node string, connected bool)
	// OnInSync tells that a new stream of a node has everything for the first time:
	// from then on its Envoy can serve. It must not block.
	OnInSync func(node string)
	// Log for state changes.
	Log *slog.Logger
	// Registerer for metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
	// ClustersTimeout is after how long the clusters of an unanswered CDS response
	// that no Envoy has accepted yet are taken back, and what waits for them goes on;
	// default 1s. A bad cluster can make Envoy answer for none.
	ClustersTimeout time.Duration
	// MaxStreams bounds open streams; default 20000.
	MaxStreams int
}

// Rejection is what a node said of a resource it refused.
type Rejection struct {
	Node string
	// TypeURL and Resource name; Resource is empty when it could not be told apart.
	TypeURL, Resource string
	// Version that was refused.
	Version string
	// Reason in Envoy's own words.
	Reason string
}

// Progress says how far the nodes of a group came with one publication.
type Progress struct {
	// Mark of the publication (see Server.Publish).
	Mark int64
	// Published is when.
	Published time.Time
	// Settled is when the last node was done; zero while it is not.
	Settled time.Time
	// Nodes connected and affected; Done, Behind and Rejected sum up to it.
	Nodes, Done, Behind, Rejected int
	// BehindNodes and Rejections are bounded to 10 each.
	BehindNodes []string
	Rejections  []Rejection
}
