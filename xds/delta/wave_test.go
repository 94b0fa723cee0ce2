package delta

import (
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// fleet has four proxies that run a cluster with its endpoints, and two routes.
func fleet(t *testing.T) *class {
	return newClass(t, 4, res(clusterType, "a", "1"), res(endpointType, "a", "1"), res(endpointType, "b", "1"), res(routeType, "r", "1"), res(routeType, "s", "1"))
}

// move publishes endpoints of a and b, when they wait for no step.
func (c *class) move(mark int64, a, b string, more ...*Resource) {
	c.now = c.now.Add(maxPace)
	c.publish(mark, false, append(more, res(clusterType, "a", "1"), res(endpointType, "a", a), res(endpointType, "b", b), res(routeType, "r", "1"), res(routeType, "s", "1"))...)
}

func (c *class) settled(mark int64) {
	c.t.Helper()
	for _, k := range c.all {
		if k.expect("nothing more"); !c.s.InSync(k.st.node.id) {
			c.t.Errorf("%s is not in sync: %s", k.st.node.id, c.s.state(k.st.node.id))
		}
	}
	for _, p := range c.s.Progress("g") {
		if p.Settled.IsZero() || p.Mark == mark && p.Done != p.Nodes {
			c.t.Errorf("%+v", p)
		}
	}
}

func TestNeighboursShareAResponse(t *testing.T) {
	c := fleet(t)
	c.move(2, "2", "1")
	var shared *discoveryv3.DeltaDiscoveryResponse
	for _, k := range c.all {
		got := k.expect("what changed", "eds a@2")
		if shared != nil && got[0] != shared {
			t.Error("two responses were made of one change")
		}
		shared = got[0]
		k.ack(got...)
	}
	c.settled(2)

	// Who missed a publication gets both changes at once, in one response for all who did.
	c.move(3, "3", "1")
	c.move(4, "3", "4")
	shared = nil
	for _, k := range c.all {
		got := k.expect("both", "eds a@3", "eds b@4")
		if shared != nil && got[0] != shared {
			t.Error("two responses were made of two changes")
		}
		shared = got[0]
		k.ack(got...)
	}
	c.settled(4)

	// What changed back is not sent.
	c.move(5, "5", "4")
	c.move(6, "3", "6")
	for _, k := range c.all {
		k.ack(k.expect("what differs", "eds b@6")...)
	}
	c.settled(6)
}

func TestWaveIsRefused(t *testing.T) {
	c := fleet(t)
	c.move(2, "2", "2")
	for i, k := range c.all {
		got := k.expect("both", "eds a@2", "eds b@2")
		if i > 0 {
			k.ack(got...)
			continue
		}
		k.nack(got[0], "no")
		apart := k.expect("one by one", "eds a@2", "eds b@2")
		k.ack(apart[0])
		k.nack(apart[1], "no b")
		k.ack(k.expect("an end to waiting", "eds -b")...)
	}
	c.move(3, "2", "3")
	for _, k := range c.all {
		k.ack(k.expect("its successor", "eds b@3")...)
	}
	c.settled(3)
}

func TestWaveAndWhatElseHappens(t *testing.T) {
	c := fleet(t)
	c.move(2, "2", "1")
	for i, k := range c.all {
		got := k.expect("what changed", "eds a@2")
		switch i {
		case 0: // gives up the name before it answers
			k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: endpointType, ResourceNamesUnsubscribe: []string{"a"}})
			k.ack(got...)
			k.expect("nothing")
			k.ask(endpointType, "a")
			k.ack(k.expect("asked anew, answered anew", "eds a@2")...)
		case 1: // asks for another in the answer
			k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: endpointType, ResponseNonce: got[0].Nonce, ResourceNamesSubscribe: []string{"c"}})
			k.ack(k.expect("which is not there", "eds -c")...)
		case 2: // never answers, and comes again
			c.s.detach(k.st)
			st, err := c.s.attach(k.st.node.id)
			if err != nil {
				t.Fatal(err)
			}
			k.st = st
			k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusterType, InitialResourceVersions: map[string]string{"a": "1"}})
			k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: listenerType})
			k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: endpointType, ResourceNamesSubscribe: []string{"a", "b"}, InitialResourceVersions: map[string]string{"a": "1", "b": "1"}})
			k.ack(k.expect("what it lacks", "eds a@2")...)
		case 3: // answers after the next publication
			c.move(3, "3", "1")
			k.ack(got...)
			k.ack(k.expect("the next", "eds a@3")...)
		}
	}
	for _, k := range c.all[:3] {
		k.ack(k.expect("the next", "eds a@3")...)
	}
	c.settled(3)
}

func TestNoWave(t *testing.T) {
	c := fleet(t)
	c.s.Assign("node-0", "g", NewSet([]*Resource{res(endpointType, "a", "own")}))
	c.all[0].ack(c.all[0].expect("its own", "eds a@own")...)
	c.move(2, "2", "1")
	c.all[0].expect("its own stays")
	for _, k := range c.all[1:] {
		k.ack(k.expect("what changed", "eds a@2")...)
	}
	c.settled(2)

	// A type more, a removal, a version that nobody accepted: name by name.
	c.move(3, "2", "3", res(clusterType, "n", "1"))
	c.s.mu.Lock()
	for _, k := range c.all {
		if !k.st.even(c.now) || k.st.wave() != nil {
			t.Error("a cluster travels in a wave")
		}
	}
	c.s.mu.Unlock()
	for _, k := range c.all {
		k.ack(k.expect("clusters first", "cds n@1", "eds b@3")...)
	}
	c.settled(3)
	c.publish(4, false, res(clusterType, "a", "1"), res(endpointType, "a", "2"), res(endpointType, "b", "3"), res(routeType, "r", "4"), res(routeType, "s", "1"), res(clusterType, "n", "1"))
	c.s.mu.Lock()
	for _, k := range c.all {
		if w := k.st.wave(); w == nil || w.isAccepted(c.s) {
			t.Error("what nobody accepted is to be tried first")
		}
	}
	c.s.mu.Unlock()
}

// A proxy that moves to another group while a wave is on its way has what it answered for.
func TestWaveAcrossGroups(t *testing.T) {
	c := fleet(t)
	other := []*Resource{res(clusterType, "a", "1"), res(endpointType, "a", "2"), res(endpointType, "b", "9"), res(routeType, "r", "1"), res(routeType, "s", "1")}
	c.s.Publish("h", 1, false, NewSet(other))
	c.move(2, "2", "1")
	k := c.all[0]
	got := k.expect("what changed", "eds a@2")
	c.s.Assign(k.st.node.id, "h", nil)
	k.ack(got...)
	k.ack(k.expect("what differs", "eds b@9")...)
	k.expect("nothing more")
	if !c.s.InSync(k.st.node.id) {
		t.Error("not in sync")
	}
}

func TestWaveIsOvertaken(t *testing.T) {
	c := fleet(t)
	c.move(2, "2", "1")
	held := map[*talk][]*discoveryv3.DeltaDiscoveryResponse{}
	for _, k := range c.all {
		held[k] = k.expect("what changed", "eds a@2")
	}
	c.move(3, "1", "1", res(clusterType, "n", "1")) // back to what it was, and more than a wave
	for _, k := range c.all {
		k.expect("nothing while its answer may come")
		k.now = k.now.Add(answerTime)
		k.ack(append(held[k], k.expect("all of it", "cds n@1", "eds a@1")...)...)
	}
	c.settled(3)

	// Answers that come late leave exceptions, which no wave knows.
	c.move(4, "4", "1")
	for _, k := range c.all {
		held[k] = k.expect("a cluster less", "eds a@4", "cds -n")
	}
	for mark, next := range [][]string{5: {"4", "5", "eds b@5"}, 6: {"6", "5", "eds a@6"}} {
		if next == nil {
			continue
		}
		c.move(int64(mark), next[0], next[1])
		for _, k := range c.all {
			k.ack(held[k]...)
			held[k] = k.expect("the next", next[2])
		}
	}
	c.move(7, "4", "5", res(clusterType, "m", "1"))
	for _, k := range c.all {
		k.ack(held[k]...)
		k.ack(k.expect("back again", "cds m@1", "eds a@4")...)
	}
	c.settled(7)
}

// Who has not answered gets what comes meanwhile in one response, as soon as it answers.
func TestWaveIsAnsweredBeforeTheNext(t *testing.T) {
	c := fleet(t)
	c.move(2, "2", "1")
	held := map[*talk][]*discoveryv3.DeltaDiscoveryResponse{}
	for _, k := range c.all {
		held[k] = k.expect("what changed", "eds a@2")
	}
	c.move(3, "2", "3")
	c.move(4, "4", "3")
	for _, k := range c.all {
		k.expect("nothing yet")
		k.ack(held[k]...)
		k.ack(k.expect("all that came", "eds a@4", "eds b@3")...)
	}
	c.settled(4)
}

func TestWaveIsForThoseWhoAskedForTheSame(t *testing.T) {
	var names []string
	set := func(last string) []*Resource {
		list := []*Resource{res(clusterType, "c", "1"), res(endpointType, "more", last)}
		for i := range 40 {
			name := string(rune('a'+i%26)) + string(rune('a'+i/26))
			list = append(list, res(endpointType, name, last))
			names = append(names, name)
		}
		return list
	}
	c := newClass(t, 3, set("1")...)
	for _, k := range c.all[:2] {
		k.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: endpointType, ResourceNamesUnsubscribe: []string{"more"}})
	}
	c.settled(1)
	next := set("1")
	next[1] = res(endpointType, "more", "2")
	next[2] = res(endpointType, "aa", "2")
	c.publish(2, false, next...)
	for i, k := range c.all {
		if i == 2 {
			k.ack(k.expect("both", "eds aa@2", "eds more@2")...)
		} else {
			k.ack(k.expect("what it asked for", "eds aa@2")...)
		}
	}
	c.settled(2)
}
