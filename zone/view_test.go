package zone

import (
	"context"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/xds/delta"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

// seen is the state as a platform reads it.
func (r *rig) seen(t *testing.T) platform.State {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out := make(chan platform.State, 1)
	go func() {
		s, err := view{engine: r.e}.State(ctx)
		if err != nil {
			t.Error(err)
		}
		out <- s
	}()
	select {
	case o := <-r.e.ops:
		r.e.process([]*op{o})
	case <-ctx.Done():
		t.Fatal("nobody asks the engine")
	}
	return <-out
}

// unconfirmed says that of every group some proxies are behind with what was
// published in a time.
func (r *rig) unconfirmed(in span, behind int) {
	for group := range r.e.classes {
		r.out.mu.Lock()
		r.out.progress[group] = []delta.Progress{{Mark: int64(r.rev), Published: in.from, Nodes: 2, Behind: behind}}
		r.out.mu.Unlock()
		r.e.tracker.onProgress(group, true)
	}
	r.e.progress()
}

func timeoutOf(t *testing.T, name, target, idle string) mesh.Resource {
	return resource(t, mesh.KindMeshTimeout, "default", "", name,
		`{"targetRef":{"kind":"Dataplane","labels":{"kuma.io/workload":"`+target+`"}},"rules":[{"default":{"idleTimeout":"`+idle+`"}}]}`)
}

// A policy's outcome counts the proxies that it selects, and of those the ones that
// have confirmed it: what else they have not confirmed is no concern of it.
func TestOutcomesOfPolicies(t *testing.T) {
	r := newRig(t, "east")
	if s := r.seen(t); s.Known || len(s.Authored) > 0 {
		t.Errorf("a zone that never had a global knows %+v", s)
	}
	proxy := func(name, workload, address string) mesh.Resource {
		return sidecar(t, "default", name, workload, address, `{"port":8080,"protocol":"http"}`)
	}
	moved := view{engine: r.e}.Changed()
	if err := r.turn(r.push(put(resource(t, mesh.KindMesh, "", "", "default", `{}`))),
		r.join(proxy("web-1", "web", "10.0.0.1")), r.join(proxy("web-2", "web", "10.0.0.2")), r.join(proxy("api-1", "api", "10.0.0.3"))); err != nil {
		t.Fatal(err)
	}
	select {
	case <-moved:
	default:
		t.Error("who looks is not told that something changed")
	}
	first, second, other := timeoutOf(t, "first", "web", "1s"), timeoutOf(t, "second", "web", "2s"), timeoutOf(t, "other", "api", "3s")
	nobody := timeoutOf(t, "nobody", "none", "4s")
	if err := r.turn(r.push(put(first), put(other), put(nobody))); err != nil {
		t.Fatal(err)
	}
	check := func(what string, want map[string][2]int) {
		t.Helper()
		s := r.seen(t)
		if !s.Known || len(s.Authored) != 1+len(want) {
			t.Errorf("%s: %d resources of global", what, len(s.Authored))
		}
		for name, n := range want {
			o := s.Outcomes[mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: name}]
			if o.Affected != n[0] || o.Done != n[1] {
				t.Errorf("%s: %s is done at %d of %d, want %d of %d", what, name, o.Done, o.Affected, n[1], n[0])
			}
		}
	}
	published := r.e.changed[first.Key]
	r.unconfirmed(published, 1)
	check("one of each class has not confirmed", map[string][2]int{"first": {2, 1}, "other": {1, 0}, "nobody": {0, 0}})
	if err := r.turn(r.push(put(second))); err != nil {
		t.Fatal(err)
	}
	later := r.e.changed[second.Key]
	if !later.from.After(published.to) {
		t.Fatal("two batches at one time")
	}
	r.unconfirmed(later, 2)
	check("the second only", map[string][2]int{"first": {2, 2}, "second": {2, 0}, "other": {1, 1}, "nobody": {0, 0}})
	// The same again, as in a snapshot, is no other policy.
	if err := r.turn(r.push(put(first), put(second))); err != nil {
		t.Fatal(err)
	}
	r.unconfirmed(later, 1)
	check("again", map[string][2]int{"first": {2, 2}, "second": {2, 1}, "other": {1, 1}, "nobody": {0, 0}})
	r.unconfirmed(later, 0)
	check("confirmed", map[string][2]int{"first": {2, 2}, "second": {2, 2}, "other": {1, 1}, "nobody": {0, 0}})
	// What cannot be read says why, and what is deleted is nothing.
	bad := second
	bad.Spec = []byte(`{"rules":7}`)
	if err := r.turn(r.push(put(bad), del(first.Key))); err != nil {
		t.Fatal(err)
	}
	s := r.seen(t)
	if o := s.Outcomes[second.Key]; len(o.Problems) != 1 {
		t.Errorf("problems of what cannot be read: %q", o.Problems)
	}
	if o, is := s.Outcomes[first.Key]; is {
		t.Errorf("of what is deleted: %+v", o)
	}
	if _, is := r.e.changed[first.Key]; is {
		t.Error("what is deleted is remembered")
	}
}
