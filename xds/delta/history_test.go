package delta

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
)

// moody is a proxy that takes its time to answer, refuses what is bad (or anything,
// when it is hostile), gives names up and asks for them again, and reconnects.
type moody struct {
	*line
	random *rand.Rand

	mu      sync.Mutex
	hostile bool
	calm    bool // from now on it answers at once, accepts all and keeps its names
	has     map[string]map[string]string
	names   map[string]map[string]bool
}

// line is one stream, as the server and the proxy hold it.
type line struct {
	discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	ctx  context.Context
	hang context.CancelFunc
	in   chan *discoveryv3.DeltaDiscoveryRequest
	out  chan *discoveryv3.DeltaDiscoveryResponse
}

func (l *line) Context() context.Context { return l.ctx }

func (l *line) Recv() (*discoveryv3.DeltaDiscoveryRequest, error) {
	select {
	case r := <-l.in:
		return r, nil
	case <-l.ctx.Done():
		return nil, io.EOF
	}
}

func (l *line) SendMsg(m any) error {
	select {
	case l.out <- sent(m):
		return nil
	case <-l.ctx.Done():
		return io.EOF
	}
}

func (l *line) say(req *discoveryv3.DeltaDiscoveryRequest) {
	select {
	case l.in <- req:
	case <-l.ctx.Done():
	}
}

// run is one stream: what it has is told first.
func (m *moody) run(ctx context.Context, s *Server, node string) {
	l := &line{in: make(chan *discoveryv3.DeltaDiscoveryRequest, 64), out: make(chan *discoveryv3.DeltaDiscoveryResponse, 1)}
	l.ctx, l.hang = context.WithCancel(ctx)
	defer l.hang()
	m.line = l
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.DeltaAggregatedResources(l)
		l.hang()
	}()
	for _, typeURL := range historyTypes {
		m.say(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, Node: &corev3.Node{Id: node},
			ResourceNamesSubscribe: slices.Sorted(maps.Keys(m.names[typeURL])), InitialResourceVersions: maps.Clone(m.has[typeURL])})
	}
	for m.ctx.Err() == nil {
		select {
		case resp := <-m.out:
			m.take(resp)
		case <-m.ctx.Done():
		}
	}
	<-done
}

func (m *moody) take(resp *discoveryv3.DeltaDiscoveryResponse) {
	m.mu.Lock()
	calm, hostile := m.calm, m.hostile
	m.mu.Unlock()
	named := resp.TypeUrl != clusterType && resp.TypeUrl != listenerType
	if !calm {
		switch m.random.IntN(20) {
		case 0:
			time.Sleep(time.Duration(m.random.IntN(3000)) * time.Millisecond)
		case 1:
			m.hang()
			return
		default:
			time.Sleep(time.Duration(m.random.IntN(5)) * time.Millisecond)
		}
	}
	answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce}
	bad := func(r *discoveryv3.Resource) bool {
		return named && !calm && (hostile || strings.HasPrefix(r.Version, "bad"))
	}
	has, names := m.has[resp.TypeUrl], m.names[resp.TypeUrl]
	if slices.ContainsFunc(resp.Resources, bad) {
		answer.ErrorDetail = &statuspb.Status{Message: "no"}
	} else {
		for _, r := range resp.Resources {
			if !named || names[r.Name] {
				has[r.Name] = r.Version
			}
		}
		for _, name := range resp.RemovedResources {
			delete(has, name)
		}
	}
	m.say(answer)
	if name := historyNames[m.random.IntN(len(historyNames))]; named && !calm && m.random.IntN(4) == 0 {
		req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl}
		if names[name] {
			delete(names, name)
			delete(has, name)
			req.ResourceNamesUnsubscribe = []string{name}
		} else {
			names[name] = true
			req.ResourceNamesSubscribe = []string{name}
		}
		m.say(req)
	}
}

var (
	historyTypes = []string{clusterType, endpointType, listenerType, routeType, extensionType}
	historyNames = []string{"a", "b", "c", "d", "e"}
)

// TestRandomHistories: whatever is published and however proxies answer, once they
// calm down each has what its group has within seconds, and all of it is settled.
func TestRandomHistories(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { history(t, seed) })
		})
	}
}

func history(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	s := New(Config{Authorize: func(_ context.Context, n *corev3.Node) (string, error) { return n.GetId(), nil }, OnProgress: func(string, bool) {}})
	mark := int64(0)
	set := map[Key]*Resource{}
	publish := func() {
		mark++
		s.Publish("g", mark, random.IntN(5) == 0, NewSet(slices.Collect(maps.Values(set))))
	}
	change := func(kind string) {
		k := Key{historyTypes[random.IntN(len(historyTypes))], historyNames[random.IntN(len(historyNames))]}
		if random.IntN(6) == 0 {
			delete(set, k)
			return
		}
		set[k] = res(k.TypeURL, k.Name, fmt.Sprint(kind, mark))
	}
	for range 12 {
		change("good")
	}
	publish()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var all []*moody
	for i := range 6 {
		m := &moody{random: rand.New(rand.NewPCG(seed, uint64(i+2))), hostile: i == 0 && seed%2 == 0, has: map[string]map[string]string{}, names: map[string]map[string]bool{}}
		for _, typeURL := range historyTypes {
			m.has[typeURL], m.names[typeURL] = map[string]string{}, map[string]bool{}
			if typeURL != clusterType && typeURL != listenerType {
				for _, name := range historyNames[:3] {
					m.names[typeURL][name] = true
				}
			}
		}
		node := fmt.Sprint("node-", i)
		s.Assign(node, "g", nil)
		all = append(all, m)
		wg.Go(func() {
			for ctx.Err() == nil {
				m.run(ctx, s, node)
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	for range 40 {
		time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
		for range 1 + random.IntN(3) {
			if random.IntN(3) == 0 {
				change("bad")
			} else {
				change("good")
			}
		}
		publish()
	}
	for _, m := range all {
		m.mu.Lock()
		m.calm = true
		m.mu.Unlock()
	}
	for k := range set { // nothing that was ever refused
		set[k] = res(k.TypeURL, k.Name, "last")
	}
	mark++
	s.Publish("g", mark, false, NewSet(slices.Collect(maps.Values(set))))
	time.Sleep(10 * time.Second)
	synctest.Wait()
	for i, m := range all {
		if !s.InSync(fmt.Sprint("node-", i)) {
			t.Errorf("node %d is not in sync: %s", i, s.state(fmt.Sprint("node-", i)))
		}
		for _, typeURL := range historyTypes {
			want := map[string]string{}
			for k := range set {
				if k.TypeURL == typeURL && (typeURL == clusterType || typeURL == listenerType || m.names[typeURL][k.Name]) {
					want[k.Name] = "last"
				}
			}
			if !maps.Equal(want, m.has[typeURL]) {
				t.Errorf("node %d has %s %v, should have %v", i, short(typeURL), m.has[typeURL], want)
			}
		}
	}
	for _, p := range s.Progress("g") {
		if p.Settled.IsZero() || p.Mark == mark && p.Done != p.Nodes {
			t.Errorf("%+v", p)
		}
	}
	if r := s.Rejections(); len(r) > 0 {
		t.Errorf("still refused: %+v", r)
	}
	cancel()
	wg.Wait()
	synctest.Wait()
	if len(s.names.sets) > 0 {
		t.Errorf("%d sets of names are left", len(s.names.sets))
	}
}

// state is what a failed history shows.
func (s *Server) state(node string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.nodes[node].stream
	if st == nil {
		return "no stream"
	}
	out := fmt.Sprintf("seen %d of %d, spoilt %v, rejected %v", st.seen, st.node.group.version, st.node.spoilt, st.node.rejected)
	for _, t := range st.types {
		out += fmt.Sprintf("; %s: over %v dirty %v force %v flights %d greet %v", short(t.typeURL), t.over, t.dirty, t.force, len(t.flights), t.greet)
	}
	return out
}
