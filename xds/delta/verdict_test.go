package delta

import (
	"context"
	"io"
	"strconv"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// peers are streams of two nodes of one group.
func peers(t *testing.T, resources ...*Resource) (s *Server, a, b *talk) {
	t.Helper()
	s = New(Config{Authorize: func(context.Context, *corev3.Node) (string, error) { return "", io.EOF }})
	s.Publish("g", 1, false, NewSet(resources))
	open := func(node string) *talk {
		s.Assign(node, "g", nil)
		st, err := s.attach(node)
		if err != nil {
			t.Fatal(err)
		}
		k := &talk{t, s, st, time.Now()}
		k.ask(routeType, "r")
		return k
	}
	return s, open("a"), open("b")
}

func route(version string) *Resource {
	return &Resource{TypeURL: routeType, Name: "r", Version: version, Body: []byte(version)}
}

// A refused version is news once, with what was before it; it counts as rejected
// for those who refused it and for those who never saw it.
func TestVerdictsAndWithheldVersions(t *testing.T) {
	s, a, b := peers(t, route("1"))
	a.ack(a.expect("first", "rds r@1")...)
	b.ack(b.expect("first", "rds r@1")...)
	s.Progress("g")
	s.Publish("g", 2, false, NewSet([]*Resource{route("2")}))
	a.nack(a.expect("second", "rds r@2")[0], "no")
	verdicts := s.Verdicts()
	if len(verdicts) != 1 || verdicts[0].Node != "a" || verdicts[0].Version != "2" || verdicts[0].Reason != "no" || verdicts[0].Accepted {
		t.Fatalf("verdicts %+v", verdicts)
	}
	if len(s.Verdicts()) > 0 {
		t.Error("told twice")
	}
	k := Key{routeType, "r"}
	if g, ok := s.LastGood("g")[k]; !ok || g.Resource.Version != "1" || g.Mark != 1 {
		t.Fatalf("the last good one is %+v", g)
	}
	s.Withhold("g", []Rejection{verdicts[0].Rejection})
	s.Publish("g", 2, false, NewSet([]*Resource{route("1")}))
	b.expect("it keeps what it has")
	a.expect("so does who refused")
	for _, r := range []*talk{a, b} {
		r.st.settle(time.Now())
	}
	rejected := 0
	for _, p := range s.Progress("g") {
		rejected = max(rejected, p.Rejected)
	}
	if rejected != 2 {
		t.Errorf("%d of 2 nodes count as rejected", rejected)
	}
}

// What another has accepted is no news when one refuses it, and news when it comes later.
func TestAcceptanceOutweighsRefusal(t *testing.T) {
	s, a, b := peers(t, route("1"))
	a.ack(a.expect("first", "rds r@1")...)
	b.nack(b.expect("first", "rds r@1")[0], "no")
	if v := s.Verdicts(); len(v) > 0 {
		t.Errorf("refused though another runs it: %+v", v)
	}
	s.Publish("g", 2, false, NewSet([]*Resource{route("2")}))
	b.nack(b.expect("second", "rds r@2")[0], "no")
	a.ack(a.expect("second", "rds r@2")...)
	v := s.Verdicts()
	if len(v) != 2 || v[0].Accepted || !v[1].Accepted || v[1].Version != "2" {
		t.Errorf("verdicts %+v", v)
	}
	if len(s.LastGood("g")) > 0 {
		t.Error("what was replaced is kept though the newer one is accepted")
	}
}

// Of too many contested versions those are forgotten first that are settled.
func TestContestedVersionsAreBounded(t *testing.T) {
	s := New(Config{})
	open := proof{Key{routeType, "open"}, "v"}
	s.disagree(open, false)
	for i := range 2 * maxContested {
		s.disagree(proof{Key{routeType, "settled"}, strconv.Itoa(i)}, true)
	}
	if accepted, is := s.contested[open]; !is || accepted || len(s.contested) > maxContested {
		t.Errorf("%d contested; the open one is there: %v, accepted: %v", len(s.contested), is, accepted)
	}
	for i := range 2 * maxContested {
		s.disagree(proof{Key{routeType, "open"}, strconv.Itoa(i)}, false)
	}
	if len(s.contested) > maxContested {
		t.Error(len(s.contested), "contested")
	}
}

// One proxy that refuses a cluster, be it hostile, holds it back from nobody that takes
// it; that Envoy passes over what it refused before, and ACKs it, is no acceptance.
func TestAcceptanceOfClusters(t *testing.T) {
	s := New(Config{Authorize: func(context.Context, *corev3.Node) (string, error) { return "", io.EOF }})
	s.Publish("g", 1, false, NewSet([]*Resource{res(clusterType, "c", "1")}))
	open := func(node string) *talk {
		s.Assign(node, "g", nil)
		st, err := s.attach(node)
		if err != nil {
			t.Fatal(err)
		}
		k := &talk{t, s, st, time.Now()}
		k.ask(clusterType)
		k.ack(k.expect("first", "cds c@1")...)
		return k
	}
	a, b := open("a"), open("b")
	s.Publish("g", 2, false, NewSet([]*Resource{res(clusterType, "c", "2")}))
	k, held := a, b.expect("second", "cds c@2")
	k.nack(k.expect("second", "cds c@2")[0], `Error adding/updating cluster(s) c: no`)
	if v := s.Verdicts(); len(v) != 1 || v[0].Accepted {
		t.Fatalf("verdicts %+v", v)
	}
	k.ack(k.expect("taken back", "cds c@1")...)
	k.ask(clusterType, "c") // asks anew, gets it again, and passes over it
	k.ack(k.expect("again", "cds c@2")...)
	if v := s.Verdicts(); len(v) > 0 {
		t.Errorf("passing over it is an acceptance: %+v", v)
	}
	b.ack(held...)
	if v := s.Verdicts(); len(v) != 1 || !v[0].Accepted || v[0].Resource != "c" || v[0].Version != "2" {
		t.Errorf("the acceptance of another: %+v", v)
	}
}
