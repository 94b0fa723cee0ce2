package load

import (
	"context"
	"crypto/tls"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// What agents and the bootstrap of their Envoys set.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Second
	window     = 256 << 10 // of a stream, as agents have it
)

// Proxy is one simulated Envoy.
type Proxy struct {
	// Node id.
	Node  string
	fleet *Fleet
	agent *agent

	held    atomic.Pointer[chan struct{}] // it does not read until it is closed
	rate    atomic.Int64                  // it reads so many bytes a second; 0: as fast as it can
	streams atomic.Int64                  // open now: 0 or 1
	aside   atomic.Bool                   // watches do not wait for it
	resent  atomic.Int64                  // resources received since the stream opened
	last    atomic.Int64                  // when the last response came, Unix nanoseconds
	mute    atomic.Bool                   // answers nothing
	refuse  atomic.Bool                   // refuses everything
	refused atomic.Int64                  // responses

	mu   sync.Mutex
	have map[string]map[unique.Handle[string]]unique.Handle[string]
	refs map[key][]key
	subs map[key]int // how many resources refer to one
	// looked is the response after which it was looked whether it is whole.
	looked int64
	whole  bool
}

// received is a response as watches look at it.
type received struct {
	typeURL string
	mark    int64
	size    int
	names   map[string]bool
	// changed and same are the bytes of resources whose version it lacked, and of others.
	changed, same int
}

// types in the order of Envoy's subscriptions.
func types() []string {
	return []string{ClusterType, EndpointType, SecretType, ListenerType, RouteType, ExtensionType}
}

func wildcard(typeURL string) bool { return typeURL == ClusterType || typeURL == ListenerType }

// run keeps a stream open until ctx ends.
func (p *Proxy) run(ctx context.Context) {
	wait := firstRetry
	for ctx.Err() == nil {
		began := time.Now()
		err := p.connect(ctx)
		if ctx.Err() != nil {
			return
		}
		p.fleet.failed(p.Node, err)
		if time.Since(began) > lastRetry {
			wait = firstRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(p.fleet.jitter(wait)):
		}
		wait = min(2*wait, lastRetry)
	}
}

func (p *Proxy) connect(ctx context.Context) error {
	member, token, err := p.agent.session(ctx) // before it takes a place that its agent may need
	if err != nil {
		return err
	}
	if err := p.fleet.turn(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(member, "authorization", "Bearer "+token))
	defer cancel()
	s, err := discoveryv3.NewAggregatedDiscoveryServiceClient(p.agent.conn).DeltaAggregatedResources(ctx)
	p.fleet.took()
	if err != nil {
		return err
	}
	return p.stream(s)
}

// stream serves one stream until it breaks.
func (p *Proxy) stream(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient) error {
	p.resent.Store(0)
	for i, q := range p.greetings() {
		if i == 0 {
			q.Node = &corev3.Node{Id: p.Node, Cluster: "load", UserAgentName: "envoy"}
		}
		if err := s.Send(q); err != nil {
			return err
		}
	}
	p.streams.Add(1)
	defer p.streams.Add(-1)
	asked := map[string]bool{ClusterType: true}
	for {
		resp, err := s.Recv()
		if err != nil {
			return err
		}
		if err := p.linger(s.Context(), resp); err != nil {
			return err
		}
		now := time.Now()
		p.last.Store(now.UnixNano())
		p.resent.Add(int64(len(resp.Resources)))
		answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce}
		r := receivedOf(resp)
		var more []*discoveryv3.DeltaDiscoveryRequest
		if p.refuse.Load() {
			p.refused.Add(1)
			answer.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: "refused, as everything is"}
		} else {
			r.changed, r.same = p.compare(resp)
			more = p.take(resp)
		}
		if p.mute.Load() {
			continue
		}
		if err := s.Send(answer); err != nil {
			return err
		}
		if answer.ErrorDetail == nil {
			p.fleet.watches.answered(p, r, time.Now())
		}
		for _, q := range more {
			if err := s.Send(q); err != nil {
				return err
			}
		}
		// Listeners come after clusters, as Envoy asks for them.
		if !asked[ListenerType] && resp.TypeUrl == ClusterType {
			asked[ListenerType] = true
			if q := p.greeting(ListenerType); p.fresh(ListenerType) {
				if err := s.Send(q); err != nil {
					return err
				}
			}
		}
	}
}

func (p *Proxy) fresh(typeURL string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.have[typeURL] == nil
}

// greetings are the first requests of a stream: clusters, and after a reconnect
// everything that the proxy had, with versions.
func (p *Proxy) greetings() []*discoveryv3.DeltaDiscoveryRequest {
	out := []*discoveryv3.DeltaDiscoveryRequest{p.greeting(ClusterType)}
	for _, t := range types()[1:] {
		if q := p.greeting(t); len(q.InitialResourceVersions)+len(q.ResourceNamesSubscribe) > 0 {
			out = append(out, q)
		}
	}
	return out
}

func (p *Proxy) greeting(typeURL string) *discoveryv3.DeltaDiscoveryRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL}
	for name, v := range p.have[typeURL] {
		if q.InitialResourceVersions == nil {
			q.InitialResourceVersions = map[string]string{}
		}
		q.InitialResourceVersions[name.Value()] = v.Value()
	}
	if !wildcard(typeURL) {
		for k := range p.subs {
			if k.typeURL == typeURL {
				q.ResourceNamesSubscribe = append(q.ResourceNamesSubscribe, k.name)
			}
		}
	}
	return q
}

// compare counts the bytes of resources that the proxy lacks in their version, and of those
// that it has: endpoints sent again behind their cluster.
func (p *Proxy) compare(resp *discoveryv3.DeltaDiscoveryResponse) (changed, same int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range resp.Resources {
		if p.have[resp.TypeUrl][unique.Make(r.Name)] == unique.Make(r.Version) {
			same += proto.Size(r)
		} else {
			changed += proto.Size(r)
		}
	}
	return changed, same
}

// take applies a response and returns the subscriptions that follow from it.
func (p *Proxy) take(resp *discoveryv3.DeltaDiscoveryResponse) []*discoveryv3.DeltaDiscoveryRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looked = 0 // whoever looked since the response came saw what was before it
	have := p.have[resp.TypeUrl]
	if have == nil {
		have = map[unique.Handle[string]]unique.Handle[string]{}
		p.have[resp.TypeUrl] = have
	}
	add, end := map[string][]string{}, map[string][]string{}
	refer := func(from key, to []key) {
		old := p.refs[from]
		if slices.Equal(old, to) {
			return
		}
		for _, k := range to {
			if p.subs[k]++; p.subs[k] == 1 {
				add[k.typeURL] = append(add[k.typeURL], k.name)
			}
		}
		for _, k := range old {
			if p.subs[k]--; p.subs[k] == 0 {
				delete(p.subs, k)
				delete(p.have[k.typeURL], unique.Make(k.name))
				end[k.typeURL] = append(end[k.typeURL], k.name)
			}
		}
		if p.refs[from] = to; len(to) == 0 {
			delete(p.refs, from)
		}
	}
	for _, r := range resp.Resources {
		have[unique.Make(r.Name)] = unique.Make(r.Version)
		if wildcard(resp.TypeUrl) {
			refer(key{resp.TypeUrl, r.Name}, p.fleet.refs.of(r))
		}
	}
	for _, name := range resp.RemovedResources {
		delete(have, unique.Make(name))
		if wildcard(resp.TypeUrl) {
			refer(key{resp.TypeUrl, name}, nil)
		}
	}
	var out []*discoveryv3.DeltaDiscoveryRequest
	for _, t := range types() {
		if len(add[t])+len(end[t]) > 0 {
			out = append(out, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t, ResourceNamesSubscribe: add[t], ResourceNamesUnsubscribe: end[t]})
		}
	}
	return out
}

func receivedOf(resp *discoveryv3.DeltaDiscoveryResponse) *received {
	r := &received{typeURL: resp.TypeUrl, size: proto.Size(resp), names: make(map[string]bool, len(resp.Resources))}
	r.mark, _ = strconv.ParseInt(resp.SystemVersionInfo, 10, 64) // 0 where it is no number
	for _, x := range resp.Resources {
		r.names[x.Name] = true
	}
	return r
}

// Has reports whether the proxy holds a resource.
func (p *Proxy) Has(typeURL, name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.have[typeURL][unique.Make(name)]
	return ok
}

// Counts are the resources that it holds, by type.
func (p *Proxy) Counts() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]int{}
	for t, m := range p.have {
		out[t] = len(m)
	}
	return out
}

// complete reports whether it holds everything that it subscribed to. It looks
// again only when something came.
func (p *Proxy) complete() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := p.last.Load(); last != p.looked {
		p.looked, p.whole = last, p.isComplete()
	}
	return p.whole
}

func (p *Proxy) isComplete() bool {
	for k := range p.subs {
		if _, ok := p.have[k.typeURL][unique.Make(k.name)]; !ok {
			return false
		}
	}
	return p.have[ListenerType] != nil
}

// Stall makes it stop reading its stream, until resume is called. Its agent reads on.
func (p *Proxy) Stall() (resume func()) {
	hold := make(chan struct{})
	p.held.Store(&hold)
	return sync.OnceFunc(func() { p.held.Store(nil); close(hold) })
}

// Resent is how many resources came on its present stream.
func (p *Proxy) Resent() int { return int(p.resent.Load()) }

// Aside takes it out of what watches wait for, or back.
func (p *Proxy) Aside(is bool) { p.aside.Store(is) }

// Mute makes it answer nothing, or again.
func (p *Proxy) Mute(is bool) { p.mute.Store(is) }

// Refuse makes it refuse every response, or accept them again.
func (p *Proxy) Refuse(is bool) { p.refuse.Store(is) }

// Refused is how many responses it has refused so far.
func (p *Proxy) Refused() int { return int(p.refused.Load()) }

// Slow bounds how fast it reads, in bytes a second; 0: as fast as it can.
func (p *Proxy) Slow(rate int) { p.rate.Store(int64(rate)) }

// linger takes as long over a response as a proxy that is stalled or slow.
func (p *Proxy) linger(ctx context.Context, resp *discoveryv3.DeltaDiscoveryResponse) error {
	if hold := p.held.Load(); hold != nil {
		select {
		case <-*hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	rate := p.rate.Load()
	if rate == 0 {
		return nil
	}
	pause := time.NewTimer(time.Duration(proto.Size(resp)) * time.Second / time.Duration(rate))
	defer pause.Stop()
	select {
	case <-pause.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *Fleet) dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(f.cfg.TLS)),
		grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(2 * window),
		grpc.WithReadBufferSize(16 << 10), grpc.WithWriteBufferSize(4 << 10),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: firstRetry, Multiplier: 1.6, Jitter: 0.2, MaxDelay: lastRetry}, MinConnectTimeout: 20 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20)),
	}
}

// clientTLS is how Envoy speaks: no key exchange that costs more than it needs.
func clientTLS(cfg *tls.Config) *tls.Config {
	out := cfg.Clone()
	out.CurvePreferences = []tls.CurveID{tls.X25519}
	return out
}
