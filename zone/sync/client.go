package sync

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	gosync "sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/mesh"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// Config of a Client.
type Config struct {
	// Zone is this zone's name. Required.
	Zone string
	// Address of global, host:port; or those of several instances, separated by
	// commas, of which any will do. A name with several addresses means the same. Required.
	Address string
	// Token for this zone, read again at each dial. Required.
	Token func() (string, error)
	// TLS to reach global, default the system's authorities.
	TLS *tls.Config
	// Replica takes what global pushes. Required.
	Replica Replica
	// Facts that this zone tells. Required.
	Facts Facts
	// Reports of progress. Required.
	Reports Reports
	// Inspector answers questions; nil refuses them.
	Inspector Inspector
	// Identities are the MeshIdentity resources of the replica, read once when Run
	// starts; with them the facts of other zones are checked from the first push
	// on. Without, the trust domains of others are not checked until a snapshot.
	Identities func() []mesh.Resource
	// Follower reports whether this instance does not lead its zone; it is asked at
	// each dial. A follower is pushed to and reports, and tells no facts. Nil: it leads.
	Follower func() bool
	// Instance of this process, different for each.
	Instance string
	// Version of the software, for people.
	Version string
	// Log, default discards.
	Log *slog.Logger
	// Registerer of metrics; nil registers none.
	Registerer prometheus.Registerer
	// DialOptions are appended to the client's own, for tests.
	DialOptions []grpc.DialOption
}

// Bounds of the pause between dials.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 2 * time.Second
	// after being turned away for another process of the same zone
	rivalPause = 5 * time.Second
)

// spread makes zones that have the same name of global begin with different ones of its addresses.
const spread = `{"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": true}}]}`

// Status of a Client.
type Status struct {
	// Connected: hello and welcome were exchanged.
	Connected bool
	// Since is when Connected last changed; zero before the first dial.
	Since time.Time
	// Error that ended the last stream or dial; empty while connected.
	Error string
	// Global is its version, and GlobalInstance its instance, as it last said.
	Global, GlobalInstance string
}

// Client is the zone's side of the stream. It is safe for concurrent use.
type Client struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	kick    chan struct{}
	limits  limits
	trusts  *trusts
	facts   *factsState

	mu gosync.Mutex
	// end of the open stream; nil while there is none.
	end    context.CancelCauseFunc
	status Status
	// logged is the reason that was logged since the last connection.
	logged string
}

// limits bound what a session collects before it is applied.
type limits struct {
	// bytes of a snapshot, or of the parts of a push.
	bytes int
}

// New makes a client; Run dials.
func New(cfg Config) *Client {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{
		cfg: cfg, log: cfg.Log, metrics: newMetrics(cfg.Registerer), kick: make(chan struct{}, 1),
		limits: limits{bytes: 1 << 30}, trusts: newTrusts(cfg.Zone), facts: newFactsState(cfg.Zone),
	}
}

// Connected reports whether the stream is up.
func (c *Client) Connected() bool { return c.Status().Connected }

// Status now.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Redial ends a pause between dials at once. It does not touch an open stream.
func (c *Client) Redial() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// Rejoin ends an open stream, and any pause, so that the next one is opened at
// once: after this instance began or ceased to lead.
func (c *Client) Rejoin() {
	c.mu.Lock()
	if c.end != nil {
		c.end(errRejoin)
	}
	c.mu.Unlock()
	c.Redial()
}

var errRejoin = errors.New("joining anew: another instance leads the zone")

// Run dials for ever, until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	if c.cfg.Identities != nil {
		c.trusts.load(c.cfg.Identities())
	}
	pauses := &backoff.ExponentialBackOff{
		InitialInterval: minBackoff, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: maxBackoff,
	}
	pauses.Reset()
	addresses := splitAddresses(c.cfg.Address)
	rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	// from are the addresses from one on.
	from := func(at int) []string {
		return append(slices.Clone(addresses[at%len(addresses):]), addresses[:at%len(addresses)]...)
	}
	// A stream that ends is opened at the next instance at once; there is a pause
	// when all were tried. next is one that was found before the last ended.
	var next *opened
	for at, tried := 0, 0; ; {
		stream, err := next, error(nil)
		if next = nil; stream == nil {
			stream, err = c.reach(ctx, ctx, from(at))
		}
		if err != nil {
			tried = len(addresses)
		} else {
			at = (at + stream.at + 1) % len(addresses)
			tried += stream.at + 1
			after := at
			err = c.serve(stream, func() { tried = 0; pauses.Reset() },
				func(search context.Context) (*opened, error) { return c.reach(ctx, search, from(after)) })
			stream.end()
		}
		if m := (*moved)(nil); errors.As(err, &m) {
			next = m.to
		}
		if c.disconnected(err); ctx.Err() != nil {
			if next != nil {
				next.end()
			}
			return nil
		}
		if next != nil || errors.Is(err, errRejoin) {
			continue
		}
		if tried < len(addresses) && status.Code(err) != codes.Aborted {
			continue
		}
		tried = 0
		wait := min(pauses.NextBackOff(), maxBackoff)
		if status.Code(err) == codes.Aborted {
			// Another process has this zone's name, or global cannot be followed now.
			wait = rivalPause
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-c.kick:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

func splitAddresses(list string) []string {
	addresses := strings.Split(list, ",")
	for i := range addresses {
		addresses[i] = strings.TrimSpace(addresses[i])
	}
	return addresses
}

func (c *Client) connected(w *zonesyncv1.Welcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = Status{Connected: true, Since: time.Now(), Global: clip(w.GetVersion()), GlobalInstance: clip(w.GetInstance())}
	c.logged = ""
	c.metrics.connected.Set(1)
	c.log.Info("connected to global", "version", c.status.Global, "instance", c.status.GlobalInstance, "snapshot", w.GetSnapshot())
}

// disconnected notes and logs why; each reason once, as long as it stays.
func (c *Client) disconnected(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status.Connected || c.status.Since.IsZero() {
		c.status.Since = time.Now()
	}
	c.status.Connected = false
	if err != nil && !errors.Is(err, context.Canceled) {
		c.status.Error = err.Error()
		if c.logged != c.status.Error {
			c.logged = c.status.Error
			c.log.Warn("not connected to global, trying on", "error", err)
		}
	}
	c.metrics.connected.Set(0)
}

func clip(text string) string {
	return shorten(text, 80)
}
