package delta

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// peer is a proxy that accepts everything, without a network: what is measured is
// the server's.
type peer struct {
	discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	ctx context.Context
	in  chan *discoveryv3.DeltaDiscoveryRequest
	// stuck answers what it does not take.
	stuck atomic.Bool
}

func (p *peer) Context() context.Context { return p.ctx }

func (p *peer) Recv() (*discoveryv3.DeltaDiscoveryRequest, error) {
	select {
	case r := <-p.in:
		return r, nil
	case <-p.ctx.Done():
		return nil, io.EOF
	}
}

func (p *peer) SendMsg(m any) error {
	resp := sent(m)
	p.in <- &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce}
	if p.stuck.Load() {
		<-p.ctx.Done()
		return io.EOF
	}
	return nil
}

// sent is the response that a message is.
func sent(m any) *discoveryv3.DeltaDiscoveryResponse {
	if r, ok := m.(*printed); ok {
		return r.DeltaDiscoveryResponse
	}
	return m.(*discoveryv3.DeltaDiscoveryResponse)
}

// crowd is a server with many peers of one group that run the same services.
type crowd struct {
	server *Server
	peers  []*peer
	news   chan struct{}
	set    []*Resource
	mark   int64
	stop   func()
}

func newCrowd(tb testing.TB, peers, services int) *crowd {
	c := &crowd{news: make(chan struct{}, 1)}
	c.server = New(Config{
		Authorize: func(_ context.Context, n *corev3.Node) (string, error) { return n.GetId(), nil },
		OnProgress: func(string, bool) {
			select {
			case c.news <- struct{}{}:
			default:
			}
		},
	})
	var names []string
	for i := range services {
		name := fmt.Sprintf("kri_msvc_default_east__service-%04d_http", i)
		names = append(names, name)
		for _, t := range []string{clusterType, endpointType, listenerType, routeType} {
			c.set = append(c.set, &Resource{TypeURL: t, Name: name, Version: "v0", Body: make([]byte, 400)})
		}
	}
	c.server.Publish("g", 0, false, NewSet(c.set))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range peers {
		id := fmt.Sprint("node-", i)
		c.server.Assign(id, "g", nil)
		p := &peer{ctx: ctx, in: make(chan *discoveryv3.DeltaDiscoveryRequest, 4+maxFlights)}
		p.in <- &discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusterType, Node: &corev3.Node{Id: id}}
		p.in <- &discoveryv3.DeltaDiscoveryRequest{TypeUrl: endpointType, ResourceNamesSubscribe: names}
		p.in <- &discoveryv3.DeltaDiscoveryRequest{TypeUrl: listenerType}
		p.in <- &discoveryv3.DeltaDiscoveryRequest{TypeUrl: routeType, ResourceNamesSubscribe: names}
		c.peers = append(c.peers, p)
		wg.Go(func() { c.server.DeltaAggregatedResources(p) })
	}
	c.stop = func() { cancel(); wg.Wait() }
	tb.Cleanup(c.stop)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := 0; i < peers; <-tick.C {
		for i < peers && c.server.InSync(fmt.Sprint("node-", i)) {
			i++
		}
	}
	c.server.Progress("g")
	return c
}

// change publishes one changed resource and waits until every peer accepted it.
func (c *crowd) change(typeURL string) {
	c.mark++
	for i, r := range c.set {
		if r.TypeURL == typeURL {
			next := *r
			next.Version = fmt.Sprint("v", c.mark)
			c.set[i] = &next
			break
		}
	}
	c.server.Publish("g", c.mark, false, NewSet(c.set))
	for {
		for _, p := range c.server.Progress("g") {
			if p.Mark == c.mark && !p.Settled.IsZero() {
				return
			}
		}
		<-c.news
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkChange: one resource changes under many peers.
func BenchmarkChange(outer *testing.B) {
	for _, size := range []struct{ peers, services int }{{1000, 10}, {1000, 100}, {100, 1000}, {1000, 1000}} {
		var c *crowd
		for _, typeURL := range []string{routeType, endpointType, clusterType} {
			outer.Run(fmt.Sprintf("%s/peers=%d/services=%d", short(typeURL), size.peers, size.services), func(b *testing.B) {
				if c == nil {
					c = newCrowd(outer, size.peers, size.services)
				}
				before := cpu()
				for b.Loop() {
					c.change(typeURL)
				}
				b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N*size.peers), "µs-cpu/peer")
			})
		}
		if c != nil {
			c.stop()
		}
	}
}

// BenchmarkStream: memory of one more stream that is in sync, with the test's own
// peer and without what all streams share; stacks are reported apart.
func BenchmarkStream(b *testing.B) {
	for _, services := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			const few, many = 10, 510
			for b.Loop() {
				heap, stacks := newCrowd(b, few, services).inUse()
				moreHeap, moreStacks := newCrowd(b, many, services).inUse()
				b.ReportMetric(float64(moreHeap-heap)/(many-few)/1024, "KB-heap/stream")
				b.ReportMetric(float64(moreStacks-stacks)/(many-few)/1024, "KB-stacks/stream")
			}
		})
	}
}

// inUse are bytes in the heap and in stacks that end with the crowd.
func (c *crowd) inUse() (heap, stacks int64) {
	read := func() runtime.MemStats {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m
	}
	with := read()
	c.stop()
	*c = crowd{}
	without := read()
	return int64(with.HeapAlloc) - int64(without.HeapAlloc), int64(with.StackInuse) - int64(without.StackInuse)
}
