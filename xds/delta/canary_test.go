package delta

import (
	"context"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// class is proxies of one group that have everything.
type class struct {
	t   *testing.T
	s   *Server
	all []*talk
	now time.Time
}

func newClass(t *testing.T, proxies int, resources ...*Resource) *class {
	t.Helper()
	c := &class{t: t, now: time.Now(), s: New(Config{Authorize: func(context.Context, *corev3.Node) (string, error) { return "", io.EOF }})}
	c.s.Publish("g", 1, false, NewSet(resources))
	c.s.now = func() time.Time { // no two moments are the same
		c.now = c.now.Add(time.Microsecond)
		return c.now
	}
	for i := range proxies {
		k := c.join(fmt.Sprint("node-", i), resources)
		for range 4 { // what they ask for next follows from the answers
			responses, _ := k.hear()
			k.ack(responses...)
		}
		if k.hear(); !c.s.InSync(k.st.node.id) {
			t.Fatal("not in sync")
		}
	}
	return c
}

func (c *class) join(node string, resources []*Resource) *talk {
	c.t.Helper()
	c.s.Assign(node, "g", nil)
	st, err := c.s.attach(node)
	if err != nil {
		c.t.Fatal(err)
	}
	k := &talk{c.t, c.s, st, c.now}
	c.all = append(c.all, k)
	names := map[string][]string{}
	for _, r := range resources {
		names[r.TypeURL] = append(names[r.TypeURL], r.Name)
	}
	k.ask(clusterType)
	k.ask(listenerType)
	for _, typeURL := range []string{endpointType, secretType, routeType, extensionType} {
		if len(names[typeURL]) > 0 {
			k.ask(typeURL, names[typeURL]...)
		}
	}
	return k
}

// heard is what every proxy gets now, by index.
func (c *class) heard() map[int][]*discoveryv3.DeltaDiscoveryResponse {
	out := map[int][]*discoveryv3.DeltaDiscoveryResponse{}
	for i, k := range c.all {
		k.now = c.now
		if responses, _ := k.hear(); len(responses) > 0 {
			out[i] = responses
		}
	}
	return out
}

func (c *class) publish(mark int64, urgent bool, resources ...*Resource) {
	c.s.Publish("g", mark, urgent, NewSet(resources))
}

func TestCanariesTryFirst(t *testing.T) {
	c := newClass(t, 20, res(routeType, "a", "1"), res(routeType, "b", "1"), res(routeType, "c", "1"))
	c.publish(2, false, res(routeType, "a", "2"), res(routeType, "b", "2"), res(routeType, "c", "1"))
	first := c.heard()
	got := map[string]int{}
	for _, responses := range first {
		if len(responses) != 1 {
			t.Errorf("%d responses to a canary", len(responses))
		}
		for _, r := range responses {
			for _, one := range r.Resources {
				got[one.Name]++
			}
		}
	}
	if len(first) != canaries {
		t.Errorf("%d proxies try two versions", len(first))
	}
	if got["a"] != canaries || got["b"] != canaries || len(got) != 2 {
		t.Fatalf("got it at first: %v", got)
	}
	if c.s.Progress("g")[1].Behind != 20 {
		t.Error("who waits is behind")
	}
	for i, responses := range first {
		c.all[i].ack(responses...)
	}
	behind := map[int]int{}
	for i, responses := range c.heard() {
		behind[i] = len(responses)
		c.all[i].ack(responses...)
	}
	for i, n := range behind {
		if _, canary := first[i]; !canary && n != 1 {
			t.Errorf("node %d gets what was accepted in %d responses", i, n)
		}
	}
	if more := c.heard(); len(more) > 0 || len(c.s.trials) > 0 {
		t.Errorf("more: %v; trials: %d", more, len(c.s.trials))
	}
	if p := c.s.Progress("g"); len(p) != 1 || p[0].Done != 20 {
		t.Errorf("progress %+v", p)
	}
}

// A refusal that names nothing is told apart by the canaries that it came from: what
// some Envoy runs stays together, what nobody accepted yet is tried one by one, and
// everybody gets what is accepted.
func TestRefusedInCompany(t *testing.T) {
	c := newClass(t, 20, res(routeType, "a", "1"), res(routeType, "b", "1"), res(routeType, "c", "1"), res(routeType, "d", "1"))
	c.publish(2, false, res(routeType, "a", "2"), res(routeType, "b", "bad"), res(routeType, "c", "1"), res(routeType, "d", "1"))
	c.s.mu.Lock()
	for _, n := range c.s.nodes { // as if asked for anew, so that they travel along
		for _, name := range []string{"c", "d"} {
			n.stream.types[routeType].note(name, unknown)
			n.stream.types[routeType].mark(name, false)
		}
	}
	c.s.mu.Unlock()
	canary := 0
	for i, responses := range c.heard() {
		k := c.all[i]
		if len(responses[0].Resources) == 2 {
			k.ack(responses...)
			continue
		}
		canary++
		k.nack(responses[0], "no")
		if canary == 1 {
			apart := k.expect("apart", "rds a@2", "rds b@bad", "rds c@1", "rds d@1")
			if len(apart) != 3 {
				t.Errorf("in %d responses", len(apart))
			}
			k.ack(apart[0])
			k.nack(apart[1], "no b")
			k.ack(apart[2])
			continue
		}
		apart := k.expect("apart from what the other accepted meanwhile", "rds a@2", "rds c@1", "rds d@1", "rds b@bad")
		if len(apart) != 2 {
			t.Errorf("in %d responses", len(apart))
		}
		k.ack(apart[0])
		k.nack(apart[1], "no b")
	}
	verdicts := c.s.Verdicts()
	if canary != canaries || len(verdicts) == 0 {
		t.Errorf("%d canaries, %d verdicts", canary, len(verdicts))
	}
	for _, v := range verdicts {
		if v.Resource != "b" || v.Reason != "no b" {
			t.Errorf("verdict %+v", v)
		}
	}
	for i, responses := range c.heard() {
		if len(responses) != 1 || len(responses[0].Resources) != 1 || responses[0].Resources[0].Name != "a" {
			t.Errorf("node %d gets %v", i, responses)
		}
	}
}

// What canaries refuse and is replaced, nobody else sees.
func TestOthersNeverSeeWhatCanariesRefuse(t *testing.T) {
	c := newClass(t, 20, res(routeType, "a", "1"))
	c.publish(2, false, res(routeType, "a", "bad"))
	for i, responses := range c.heard() {
		c.all[i].nack(responses[0], "no")
	}
	v := c.s.Verdicts()
	if len(v) == 0 || v[0].Version != "bad" {
		t.Fatalf("verdicts %+v", v)
	}
	c.s.Withhold("g", []Rejection{v[0].Rejection})
	c.publish(2, false, res(routeType, "a", "1"))
	if more := c.heard(); len(more) > 0 {
		t.Errorf("others hear of it: %v", more)
	}
	if len(c.s.trials) > 0 {
		t.Error("a trial is left")
	}
	rejected := 0
	for _, p := range c.s.Progress("g") {
		rejected = max(rejected, p.Rejected)
	}
	if rejected != 20 {
		t.Errorf("%d of 20 count as rejected", rejected)
	}
}

// Canaries that say nothing, or refuse what is not replaced, hold up the others for a
// bounded time, and do not judge alone.
func TestSilentCanaries(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		c := newClass(t, 20, res(routeType, "a", "1"), res(routeType, "b", "1"))
		c.publish(2, false, res(routeType, "a", "2"), res(routeType, "b", "1"))
		tried := map[int]bool{}
		for turn := range maxTurns {
			heard := c.heard()
			for i, responses := range heard {
				if tried[i] {
					t.Error("the same canary twice")
				}
				tried[i] = true
				if refuse {
					c.all[i].nack(responses[0], "no")
				}
			}
			if len(heard) != canaries {
				t.Fatalf("turn %d: %d hear of it", turn, len(heard))
			}
			if more := c.heard(); len(more) > 0 {
				t.Fatalf("turn %d: %d more hear of it", turn, len(more))
			}
			c.now = c.now.Add(trialTime + 10*time.Millisecond)
		}
		if heard := c.heard(); len(heard) != 20-maxTurns*canaries {
			t.Errorf("%d hear of it in the end", len(heard))
		}
		// Who does not answer is no canary of what comes next.
		c.publish(3, false, res(routeType, "a", "2"), res(routeType, "b", "3"))
		heard := c.heard()
		for i := range heard {
			if tried[i] && !refuse {
				t.Error("a silent canary is chosen again")
			}
		}
	}
}

// Canaries of many versions are waited for while they answer, though not for ever.
func TestSlowCanaries(t *testing.T) {
	c := newClass(t, 20, res(routeType, "a", "1"), res(routeType, "b", "1"))
	c.publish(2, false, res(routeType, "a", "2"), res(routeType, "b", "2"))
	began := c.now
	for {
		c.now = c.now.Add(trialTime / 2)
		for _, k := range c.all {
			if ty := k.st.types[routeType]; len(ty.flights) > 0 {
				ty.answered = c.now // of something else
			}
		}
		if heard := c.heard(); len(heard) > 2*canaries || c.now.Sub(began) > time.Minute {
			break
		}
	}
	if took := c.now.Sub(began); took < trialLimit || took > (maxTurns+1)*trialLimit {
		t.Errorf("the others waited %s", took)
	}
}

func TestWhatWaitsForNoCanary(t *testing.T) {
	base := []*Resource{res(clusterType, "s", "1"), res(endpointType, "s", "1"), res(endpointType, "t", "1"), res(extensionType, "x", "1"), res(routeType, "r", "1"), res(routeType, "q", "1")}
	c := newClass(t, 10, base...)
	next := slices.Clone(base)
	next[1], next[2] = res(endpointType, "s", "2"), res(endpointType, "t", "2")
	c.publish(2, false, next...)
	heard := c.heard()
	if len(heard) != 10 {
		t.Errorf("%d of 10 hear of changed endpoints", len(heard))
	}
	for i, responses := range heard {
		if len(responses) != 1 {
			t.Errorf("endpoints in %d responses", len(responses))
		}
		c.all[i].ack(responses...)
	}

	next = slices.Clone(next)
	next[3] = res(extensionType, "x", "2")
	c.publish(3, true, next...)
	heard = c.heard()
	if len(heard) != 10 {
		t.Errorf("%d of 10 hear of a permission that was tightened", len(heard))
	}
	for i, responses := range heard {
		c.all[i].ack(responses...)
	}

	// A proxy that starts waits for nobody, and what it accepts the others get; a
	// cluster that a route on trial may still name stays.
	next = slices.Clone(next)
	next[0], next[1], next[4] = res(routeType, "q", "1"), res(endpointType, "t", "2"), res(routeType, "r", "4")
	c.publish(4, false, next...)
	held := c.heard()
	if len(held) != canaries {
		t.Fatalf("%d hear of a route", len(held))
	}
	fresh := c.join("fresh", next)
	for range 3 {
		responses, _ := fresh.hear()
		fresh.ack(responses...)
	}
	for i, responses := range c.heard() {
		for _, r := range responses {
			if len(r.RemovedResources) > 0 {
				t.Errorf("node %d: removed with the route", i)
			}
			if _, canary := held[i]; canary {
				continue
			}
			if len(r.Resources) != 1 || r.Resources[0].Version != "4" {
				t.Errorf("node %d gets %v", i, r)
			}
			c.all[i].ack(r)
		}
	}
	for i, responses := range c.heard() {
		if _, canary := held[i]; !canary && (len(responses) != 1 || !slices.Equal(responses[0].RemovedResources, []string{"s"})) {
			t.Errorf("node %d: then %v", i, responses)
		}
	}
}

func TestTrialsAreBounded(t *testing.T) {
	s := New(Config{})
	now := time.Now()
	for i := range 2 * maxTrials {
		if tr := s.try(proof{Key{routeType, fmt.Sprint(i)}, "v"}, now); tr != nil {
			tr.began = now
		}
	}
	if len(s.trials) != maxTrials {
		t.Error(len(s.trials), "trials")
	}
	now = now.Add(2 * trialAge)
	if s.try(proof{Key{routeType, "one more"}, "v"}, now) == nil || len(s.trials) != 1 {
		t.Error(len(s.trials), "trials after a while")
	}
}

// Who tries something gets all of the change at once, what another class tries included.
func TestCanariesGetEverything(t *testing.T) {
	routes := []*Resource{res(routeType, "a", "1"), res(routeType, "b", "1")}
	c := newClass(t, 10, routes...)
	c.s.Publish("h", 1, false, NewSet(routes[1:]))
	for i := range 10 {
		c.s.Assign(c.all[i].st.node.id, "g", nil)
	}
	other := c.join("other", routes[1:])
	c.s.Assign("other", "h", nil)
	for range 3 {
		responses, _ := other.hear()
		other.ack(responses...)
	}
	c.s.Publish("h", 2, false, NewSet([]*Resource{res(routeType, "b", "2")}))
	c.publish(2, false, res(routeType, "a", "2"), res(routeType, "b", "2"))
	heard := c.heard()
	if len(heard) != 1+canaries {
		t.Fatalf("%d hear of it", len(heard))
	}
	for i, responses := range heard {
		if want := 2; i < 10 && (len(responses) != 1 || len(responses[0].Resources) != want) {
			t.Errorf("canary %d gets %v", i, responses)
		}
		c.all[i].ack(responses...)
	}
	for i, responses := range c.heard() {
		if len(responses) != 1 || len(responses[0].Resources) != 2 {
			t.Errorf("node %d gets %v", i, responses)
		}
		c.all[i].ack(responses...)
	}
	if more := c.heard(); len(more) > 0 {
		t.Errorf("more: %v", more)
	}
}
