package delta

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// talk is a stream whose peer and clock are the test.
type talk struct {
	t   *testing.T
	s   *Server
	st  *stream
	now time.Time
}

func newTalk(t *testing.T, resources ...*Resource) *talk {
	s := New(Config{Authorize: func(context.Context, *corev3.Node) (string, error) { return "", io.EOF }})
	s.Assign("n", "g", nil)
	s.Publish("g", 1, false, NewSet(resources))
	st, err := s.attach("n")
	if err != nil {
		t.Fatal(err)
	}
	return &talk{t, s, st, time.Now()}
}

func (k *talk) ask(typeURL string, names ...string) {
	k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: names})
}

func (k *talk) request(req *discoveryv3.DeltaDiscoveryRequest) {
	k.t.Helper()
	if err := k.s.handle(k.st, req); err != nil {
		k.t.Fatal(err)
	}
}

func (k *talk) ack(responses ...*discoveryv3.DeltaDiscoveryResponse) {
	for _, r := range responses {
		k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce})
	}
}

func (k *talk) nack(r *discoveryv3.DeltaDiscoveryResponse, words string) {
	k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce, ErrorDetail: &statuspb.Status{Message: words}})
}

// hear is what is sent until the server waits, as "type name@version" and "type -name".
func (k *talk) hear() (responses []*discoveryv3.DeltaDiscoveryResponse, said []string) {
	for {
		k.s.mu.Lock()
		r, _ := k.st.next(k.now)
		k.s.mu.Unlock()
		if r == nil {
			return responses, said
		}
		responses = append(responses, r)
		for _, name := range r.RemovedResources {
			said = append(said, short(r.TypeUrl)+" -"+name)
		}
		for _, res := range r.Resources {
			said = append(said, short(r.TypeUrl)+" "+res.Name+"@"+res.Version)
		}
	}
}

func (k *talk) expect(what string, want ...string) []*discoveryv3.DeltaDiscoveryResponse {
	k.t.Helper()
	responses, said := k.hear()
	if diff := cmp.Diff(want, said); diff != "" {
		k.t.Fatalf("%s: %s", what, diff)
	}
	return responses
}

func res(typeURL, name, version string) *Resource {
	r := &Resource{TypeURL: typeURL, Name: name, Version: version}
	if typeURL == clusterType {
		r.Endpoints = name
	}
	return r
}

func TestUrgentOvertakes(t *testing.T) {
	base := []*Resource{res(clusterType, "a", "1"), res(endpointType, "a", "1"), res(endpointType, "b", "1"), res(listenerType, "l", "1"),
		res(routeType, "r", "1"), res(extensionType, "x", "1"), res(secretType, "s", "1")}
	with := func(more ...*Resource) *Set { return NewSet(append(append([]*Resource{}, base...), more...)) }
	k := newTalk(t, base...)
	k.ask(clusterType)
	k.ask(endpointType, "a", "b")
	k.ask(secretType, "s")
	k.ack(k.expect("first", "cds a@1", "eds a@1", "eds b@1", "sds s@1")...)
	k.ask(listenerType)
	k.ask(routeType, "r")
	k.ask(extensionType, "x")
	k.ack(k.expect("then", "lds l@1", "rds r@1", "ecds x@1")...)

	news := []*Resource{res(clusterType, "new", "1"), res(routeType, "r", "2"), res(endpointType, "a", "2"), res(extensionType, "x", "2")}
	k.s.Publish("g", 2, false, with(news...))
	held := k.expect("with a new cluster what may name it waits", "cds new@1", "eds a@2")
	k.s.Publish("g", 3, true, with(append(news, res(extensionType, "x", "3"), res(secretType, "s", "3"), res(endpointType, "b", "3"), res(routeType, "r", "3"))...))
	held = append(held, k.expect("urgent ones do not", "eds b@3", "sds s@3", "ecds x@3")...)
	k.ack(held...)
	k.ack(k.expect("the others follow", "rds r@3")...)
	k.expect("nothing is sent twice")
	if k.expect("nothing more"); !k.s.InSync("n") {
		t.Error("not in sync")
	}

	// Both orders in one queue: the urgent name goes first.
	k.s.Publish("g", 4, false, with(append(news, res(endpointType, "a", "4"), res(endpointType, "b", "3"), res(routeType, "r", "3"), res(extensionType, "x", "3"), res(secretType, "s", "3"))...))
	k.s.Publish("g", 5, true, with(append(news, res(endpointType, "a", "4"), res(endpointType, "b", "5"), res(routeType, "r", "3"), res(extensionType, "x", "3"), res(secretType, "s", "3"))...))
	k.expect("in one queue", "eds b@5", "eds a@4")
}

func TestOnDemandBesideWildcard(t *testing.T) {
	k := newTalk(t, res(clusterType, "a", "1"))
	k.ask(clusterType)
	k.ack(k.expect("all", "cds a@1")...)
	k.ask(clusterType, "od")
	k.ack(k.expect("a name that does not exist", "cds -od")...)
	k.ask(clusterType, "a")
	k.ack(k.expect("a name that it has is answered all the same", "cds a@1")...)
	k.s.Publish("g", 2, false, NewSet([]*Resource{res(clusterType, "a", "1"), res(clusterType, "od", "1"), res(clusterType, "b", "1")}))
	k.ack(k.expect("it comes to exist", "cds b@1", "cds od@1")...)
	k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusterType, ResourceNamesUnsubscribe: []string{"*"}})
	k.s.Publish("g", 3, false, NewSet([]*Resource{res(clusterType, "a", "3"), res(clusterType, "od", "3"), res(clusterType, "b", "3")}))
	k.ack(k.expect("names alone", "cds a@3", "cds od@3")...)
	k.expect("nothing more of these")
	k.ask(clusterType, "*")
	k.ack(k.expect("and all again", "cds b@3")...)
	k.s.Publish("g", 4, false, NewSet([]*Resource{res(clusterType, "a", "3")}))
	k.now = k.now.Add(2 * time.Second) // no listeners are asked for: removals wait for them only so long
	k.expect("not at once")
	k.now = k.now.Add(2 * time.Second)
	k.ack(k.expect("removed", "cds -b", "cds -od")...)
	if k.expect("nothing more"); !k.s.InSync("n") {
		t.Error("not in sync")
	}
}

func TestSubscriptionsOfOldStreamAreToldAgain(t *testing.T) {
	k := newTalk(t, res(clusterType, "a", "2"), res(clusterType, "b", "1"), res(endpointType, "a", "1"), res(routeType, "r", "1"))
	k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusterType, ResourceNamesSubscribe: []string{"*", "od"},
		InitialResourceVersions: map[string]string{"a": "1", "b": "1", "gone": "1"}})
	k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: endpointType, ResourceNamesSubscribe: []string{"a", "b"},
		InitialResourceVersions: map[string]string{"a": "1"}})
	k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: listenerType, InitialResourceVersions: map[string]string{"l": "1"}})
	k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: routeType, ResourceNamesSubscribe: []string{"r"}, InitialResourceVersions: map[string]string{"r": "1"}})
	k.ack(k.expect("what differs, and the endpoints of a changed cluster", "cds -od", "cds a@2", "eds -b", "eds a@1", "lds -l")...)
	k.ack(k.expect("clusters are removed last", "cds -gone")...)
	if k.expect("nothing more"); !k.s.InSync("n") {
		t.Error("not in sync")
	}
}

// TestEndpointsAskedForLater: on a new stream the changed cluster can be on its way
// before the endpoints are asked for.
func TestEndpointsAskedForLater(t *testing.T) {
	k := newTalk(t, res(clusterType, "a", "2"), res(clusterType, "b", "1"), res(endpointType, "a", "1"), res(endpointType, "b", "1"))
	k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusterType, InitialResourceVersions: map[string]string{"a": "1", "b": "1"}})
	clusters := k.expect("changed", "cds a@2")
	k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: endpointType, ResourceNamesSubscribe: []string{"a", "b"},
		InitialResourceVersions: map[string]string{"a": "1", "b": "1"}})
	k.ack(append(k.expect("its endpoints, which did not", "eds a@1"), clusters...)...)
	k.expect("nothing more")
}

// TestTakeBack: a cluster that failed late holds up Envoy's answers until it is
// removed or has other content, so what was there before is sent again.
func TestTakeBack(t *testing.T) {
	k := newTalk(t, res(clusterType, "a", "1"), res(endpointType, "a", "1"))
	k.ask(clusterType)
	k.ask(endpointType, "a")
	k.ask(listenerType)
	k.ack(k.expect("first", "cds a@1", "eds a@1")...)
	k.ack(k.expect("no listeners is an answer too")...)
	k.s.Publish("g", 2, false, NewSet([]*Resource{res(clusterType, "a", "bad"), res(clusterType, "b", "bad"), res(endpointType, "a", "1")}))
	r := k.expect("bad", "cds a@bad", "cds b@bad", "eds a@1")
	k.nack(r[0], "Error adding/updating cluster(s) a: no, b: never")
	k.ack(r[1])
	r = k.expect("back", "cds -b", "cds a@1", "eds a@1")
	if rejections := k.s.Rejections(); len(rejections) != 2 || rejections[1].Reason != "never" {
		t.Errorf("%+v", rejections)
	}
	k.nack(r[0], "Error adding/updating cluster(s) a: not that one either")
	k.ack(r[1])
	k.expect("no quarrel")
	if rejections := k.s.Rejections(); len(rejections) != 2 || rejections[0].Version != "bad" {
		t.Errorf("%+v", rejections)
	}
	k.s.Publish("g", 3, false, NewSet([]*Resource{res(clusterType, "a", "3"), res(clusterType, "b", "3"), res(endpointType, "a", "1")}))
	k.ack(k.expect("healed", "cds a@3", "cds b@3", "eds a@1")...)
	if k.expect("nothing more"); len(k.s.Rejections()) > 0 || !k.s.InSync("n") {
		t.Errorf("%+v", k.s.Rejections())
	}

	// Unanswered: what no Envoy has accepted yet is taken back, the rest is not.
	k.s.Publish("g", 4, false, NewSet([]*Resource{res(clusterType, "a", "3"), res(clusterType, "b", "4"), res(clusterType, "c", "4"), res(endpointType, "a", "1")}))
	lost := k.expect("unanswered", "cds b@4", "cds c@4")
	k.s.mu.Lock()
	k.s.prove(Key{clusterType, "c"}, "4") // by another proxy
	k.s.mu.Unlock()
	k.now = k.now.Add(1100 * time.Millisecond)
	r = k.expect("taken back", "cds b@3")
	k.nack(lost[0], "Error adding/updating cluster(s) b: late")
	k.ack(r...)
	k.ack(k.expect("known now; what was good beside it is booked", "cds c@4")...)
	if rejections := k.s.Rejections(); len(rejections) != 1 || rejections[0].Resource != "b" || rejections[0].Version != "4" {
		t.Errorf("%+v", rejections)
	}
	k.s.Publish("g", 5, false, NewSet([]*Resource{res(clusterType, "a", "5"), res(clusterType, "b", "4"), res(clusterType, "c", "4"), res(endpointType, "a", "1")}))
	k.s.mu.Lock()
	k.s.prove(Key{clusterType, "a"}, "5")
	k.s.mu.Unlock()
	slow := k.expect("proven elsewhere", "cds a@5", "eds a@1")
	k.ack(slow[1])
	k.now = k.now.Add(20 * time.Second)
	k.expect("another Envoy accepted it: it is left to warm")
	k.ack(slow[0])
	if k.expect("nothing more"); len(k.s.Rejections()) != 1 {
		t.Errorf("%+v", k.s.Rejections())
	}
}

// A stream that never asks gives its place back.
func TestSilentStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{MaxStreams: 1, Authorize: func(context.Context, *corev3.Node) (string, error) { return "n", nil }})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		silent := &peer{ctx: ctx, in: make(chan *discoveryv3.DeltaDiscoveryRequest)}
		began := time.Now()
		if err := s.DeltaAggregatedResources(silent); status.Code(err) != codes.DeadlineExceeded || time.Since(began) != firstWait {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		if err := s.admit(); err != nil {
			t.Error("its place is not free:", err)
		}
	})
}

// TestAskedAnewWhileOnItsWay: who gave up a name and asks again is owed an answer,
// whatever it says of the one before.
func TestAskedAnewWhileOnItsWay(t *testing.T) {
	k := newTalk(t, res(routeType, "r", "1"))
	k.ask(clusterType)
	k.ask(listenerType)
	k.ask(routeType, "r")
	on := k.expect("first", "rds r@1")
	k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: routeType, ResourceNamesUnsubscribe: []string{"r"}})
	k.ask(routeType, "r")
	k.ack(on...)
	k.ack(k.expect("again", "rds r@1")...)
	if k.expect("nothing more"); !k.s.InSync("n") {
		t.Error("not in sync")
	}
}

// TestAnswerSettles: the last answer settles a publication by itself: the writer of
// the stream need not look.
func TestAnswerSettles(t *testing.T) {
	k := newTalk(t, res(endpointType, "r", "1"))
	k.ask(clusterType)
	k.ask(listenerType)
	k.ask(endpointType, "r")
	k.ack(k.expect("first", "eds r@1")...)
	k.s.Publish("g", 2, false, NewSet([]*Resource{res(endpointType, "r", "2")}))
	on := k.expect("changed", "eds r@2")
	k.st.sending = false // of all that was before
	k.ack(on...)
	if p := k.s.Progress("g"); len(p) == 0 || p[len(p)-1].Mark != 2 || p[len(p)-1].Done != 1 {
		t.Errorf("progress %+v", p)
	}
	if k.st.sending {
		t.Error("the writer is woken for nothing")
	}
}
