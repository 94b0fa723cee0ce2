package zone

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/agents"
)

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func dataplaneKey(name string) mesh.Key {
	return mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "east", Name: name}
}

// generation of the TCP inbound of a proxy.
func (r *rig) generation(name string) uint64 {
	r.t.Helper()
	p := r.e.proxies[dataplaneKey(name)]
	for _, in := range p.class.proxy.Inbounds {
		if in.Name == "tcp" {
			return in.Generation
		}
	}
	r.t.Fatal("no inbound tcp")
	return 0
}

func permission(t *testing.T, name, target, allow string) mesh.Change {
	return put(resource(t, mesh.KindMeshTrafficPermission, "default", "", name, fmt.Sprintf(
		`{"targetRef":%s,"rules":[{"default":{"allow":[{"spiffeID":{"type":"Prefix","value":%q}}]}}]}`, target, allow)))
}

func TestTighteningCutsTCP(t *testing.T) {
	const everyone, some = "spiffe://", "spiffe://default.east.mesh.local/workload/web"
	r := newRig(t, "east")
	step := func(what string, want uint64) {
		t.Helper()
		if got := r.generation("db-1"); got != want {
			t.Errorf("%s: generation %d, want %d", what, got, want)
		}
	}
	db := sidecar(t, "default", "db-1", "db", "10.0.0.5", tcpInbound)
	all := `{"kind":"Mesh"}`
	r.turn(r.push(identityOf(t, "default"), permission(t, "p", all, everyone)), r.join(db))
	step("first", 0)
	r.turn(r.push(permission(t, "p", all, some)))
	step("tightened", 1)
	r.turn(r.push(permission(t, "p", all, everyone)))
	step("loosened", 1)
	r.restart()
	step("restarted", 1)
	r.turn(r.push(permission(t, "p", all, everyone)))
	step("the same again", 1)

	// A tightening that the zone finds when it starts counts as any other.
	next := permission(t, "p", all, some)
	if err := r.file.Commit(updateOf(next.Resource)); err != nil {
		t.Fatal(err)
	}
	r.restart()
	step("tightened while away", 2)

	// A policy that names the proxy moves it to a class of its own, tightened.
	r.turn(r.push(permission(t, "p", all, everyone)))
	r.turn(r.push(del(next.Resource.Key), permission(t, "q", `{"kind":"Dataplane","labels":{"kuma.io/display-name":"db-1"}}`, some)))
	step("named and tightened", 3)
	r.turn(r.push(permission(t, "p", all, everyone), del(mesh.Key{Kind: mesh.KindMeshTrafficPermission, Mesh: "default", Name: "q"})))
	step("back in its class, loosened", 3)
}

func TestIdentityIsNeverTakenAway(t *testing.T) {
	r := newRig(t, "east")
	id := identityOf(t, "default")
	r.turn(r.push(id, allowAll(t, "default")), r.join(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound)))
	before := jsonOf(t, published(r.out, r.e.proxies[dataplaneKey("web-1")]))
	kept := func(step string) {
		t.Helper()
		if jsonOf(t, published(r.out, r.e.proxies[dataplaneKey("web-1")])) != before {
			t.Error(step, "changed what the proxy has")
		}
		if p := r.e.problems(); len(p) != 1 || p[0].key != id.Resource.Key {
			t.Error(step, "is no problem:", p)
		}
	}
	r.turn(r.push(del(id.Resource.Key)))
	kept("deleting the last identity")
	r.restart()
	kept("restarting")
	r.turn(func(b *batch) {
		b.must.ReplaceResources = true
		r.rev = 50
		r.e.take(b, position(r.rev), r.rev, nil)
	})
	if p := r.e.problems(); len(p) != 1 {
		t.Error("a snapshot without it:", p)
	}
	r.turn(r.push(put(resource(t, mesh.KindMeshIdentity, "default", "", "next", `{"spiffeID":{"path":"/w/{{ .Workload }}"},"provider":{"type":"Bundled"}}`))))
	if p := r.e.problems(); len(p) != 0 || len(r.e.kept) != 0 {
		t.Error("kept although there is another:", p)
	}
	if got := r.e.proxies[dataplaneKey("web-1")].decision.SpiffeID; got != "spiffe://default.east.mesh.local/w/web" {
		t.Error(got)
	}
	broken := resource(t, mesh.KindMeshIdentity, "default", "", "next", `{"provider":"what"}`)
	r.turn(r.push(put(broken)))
	r.restart()
	if d := r.e.proxies[dataplaneKey("web-1")].decision; d == nil {
		t.Error("an identity that cannot be decoded took it away")
	}
}

// Proxies that come and go under ever new names do not fill the zone.
func TestMembersAreBounded(t *testing.T) {
	r := newRig(t, "east")
	known, next := sidecar(t, "default", "web-0", "web", "10.0.0.1", httpInbound), sidecar(t, "default", "one-more", "web", "10.0.0.2", httpInbound)
	r.turn(r.join(known))
	for i := len(r.e.proxies); i < maxMembers; i++ {
		r.e.proxies[dataplaneKey(fmt.Sprint("gone-", i))] = &proxy{}
	}
	if err := r.e.refusal(agents.Proxy{Resource: next, Instance: "i"}); status.Code(err) != codes.ResourceExhausted {
		t.Error("one more joins:", err)
	}
	if err := r.e.refusal(agents.Proxy{Resource: known, Instance: "i"}); err != nil {
		t.Error("one that is known is refused:", err)
	}
}

// A list of revocations that cannot be read makes no revoked token good.
func TestUnreadableRevocations(t *testing.T) {
	key, err := token.GenerateKey(token.KeyID(token.Dataplane, 1))
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.Public().MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := key.Sign(token.Claims{ID: "gone", Use: token.Dataplane, Mesh: "default", Workload: "web", Issued: time.Now(), Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	secret := func(name string, data []byte) mesh.Change {
		return put(resource(t, mesh.KindSecret, "default", "", name, jsonOf(t, mesh.Secret{Data: data})))
	}
	keys, list := secret(token.PublicKeyName(token.Dataplane, 1), public), token.RevocationsName(token.Dataplane)
	check := func(r *rig, want error) {
		t.Helper()
		v := r.e.verifier("default")
		if v == nil {
			t.Fatal("the mesh has no verifier")
		}
		if _, err := v.Verify(raw, token.Dataplane, time.Now()); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	r := newRig(t, "east")
	r.turn(r.push(keys, secret(list, []byte(`[{"id":"gone"}]`))))
	check(r, token.ErrRevoked)
	r.turn(r.push(secret(list, []byte("what"))))
	check(r, token.ErrRevoked)
	r.turn(r.push(secret(list, []byte("[]"))))
	check(r, nil)
	r = newRig(t, "east")
	r.turn(r.push(keys, secret(list, []byte("what"))))
	check(r, token.ErrUnknownKey)
}

func TestResign(t *testing.T) {
	r := newRig(t, "east")
	a := &agent{}
	join := func(b *batch) {
		r.join(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound))(b)
		r.e.proxies[dataplaneKey("web-1")].control = a
	}
	r.turn(join)
	if _, err := (members{r.e}).signNow(r, "web-1"); err == nil || !strings.Contains(err.Error(), "no MeshIdentity") {
		t.Error(err)
	}
	for i, path := range []string{"/a", "/a", "/b"} {
		r.turn(r.push(put(resource(t, mesh.KindMeshIdentity, "default", "", "id", fmt.Sprintf(`{"spiffeID":{"path":%q},"provider":{"type":"Bundled"}}`, path)))))
		if want := []int{1, 1, 2}[i]; a.resigned != want {
			t.Errorf("step %d: asked %d times to sign again, want %d", i, a.resigned, want)
		}
	}
}

// signNow signs with the rig's loop turned by hand.
func (m members) signNow(r *rig, name string) (string, error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = r.e.run(ctx) }()
	svid, err := m.Sign(ctx, dataplaneKey(name), "i-"+name, csr(r.t))
	cancel()
	<-ended
	r.e.stopped = make(chan struct{})
	return svid.SpiffeID, err
}

func TestDiskFailure(t *testing.T) {
	r := newRig(t, "east")
	r.turn(r.push(identityOf(t, "default")))
	if err := r.file.Close(); err != nil {
		t.Fatal(err)
	}
	err := r.turn(r.push(allowAll(t, "default")), r.join(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound)))
	if err == nil {
		t.Error("what could not be saved is acknowledged")
	}
	if got := r.e.position.Load().Revision; got != 1 {
		t.Error("position moved to", got)
	}
	if _, ok := r.e.object(allowAll(t, "default").Resource.Key); ok {
		t.Error("what could not be saved is in force")
	}
	if p := r.e.proxies[dataplaneKey("web-1")]; p == nil || r.out.groups[p.node] == "" || !r.e.unsaved[dataplaneKey("web-1")] {
		t.Error("the proxy is not served, or not remembered to be saved")
	}
}

// TestGoodbyeWhileDiskFails: who left is not back after a restart, though the
// disk was full when it went.
func TestGoodbyeWhileDiskFails(t *testing.T) {
	r := newRig(t, "east")
	if err := r.turn(r.push(identityOf(t, "default")), r.join(sidecar(t, "default", "web-1", "web", "10.0.0.1", httpInbound))); err != nil {
		t.Fatal(err)
	}
	key := dataplaneKey("web-1")
	if err := r.file.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.turn(func(b *batch) { r.e.leave(b, key, "i-web-1", true) }); err == nil {
		t.Fatal("the disk did not fail")
	}
	b := &batch{}
	r.e.save(b)
	if len(b.must.DeleteProxies) != 1 || b.must.DeleteProxies[0] != key {
		t.Error("its end is not saved with the next batch:", b.must.DeleteProxies)
	}
}

func TestUrgentGoesFirst(t *testing.T) {
	r := newRig(t, "east")
	r.turn(r.push(identityOf(t, "default"), allowAll(t, "default")),
		r.join(sidecar(t, "default", "a-1", "a", "10.0.0.1", httpInbound)),
		r.join(sidecar(t, "default", "z-1", "z", "10.0.0.2", httpInbound, callAPI)),
		r.join(sidecar(t, "default", "api-1", "api", "10.0.0.3", httpInbound)))
	r.out.log = nil
	r.turn(r.push(put(resource(t, mesh.KindMeshTimeout, "default", "", "t", `{"rules":[{"default":{"http":{"requestTimeout":"9s"}}}]}`))),
		func(b *batch) { r.e.health(b, dataplaneKey("api-1"), "i-api-1", []string{"http"}) })
	if len(r.out.log) < 3 || !strings.HasPrefix(r.out.log[0], "z-") || !strings.HasSuffix(r.out.log[0], "urgent=true") {
		t.Error("the removed endpoint did not go first:", r.out.log)
	}
}

func (r *rig) presences() map[presence]int {
	out := map[presence]int{}
	for _, p := range r.e.proxies {
		out[p.presence]++
	}
	return out
}

// inLoop runs the engine's own loop in a bubble of time.
func (r *rig) inLoop(fn func(look func(what string, want map[presence]int))) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.e.stopped = make(chan struct{})
	r.e.ops = make(chan *op, queueLength)
	r.e.tracker.wake = make(chan struct{}, 1)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = r.e.run(ctx) }()
	fn(func(what string, want map[presence]int) {
		r.t.Helper()
		var got map[presence]int
		if err := r.e.do(nil, func(*batch) { got = r.presences() }); err != nil {
			r.t.Fatal(err)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			r.t.Errorf("%s: present, presumed, lost are %v, want %v", what, got, want)
		}
	})
	cancel()
	<-ended
}

func wait(d time.Duration) { <-time.After(d) }

func TestLivesOfProxies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "east")
		r.turn(r.push(identityOf(t, "default")))
		for i := range 10 {
			r.turn(r.join(sidecar(t, "default", fmt.Sprint("web-", i), "web", fmt.Sprint("10.0.0.", i+1), httpInbound)))
		}
		r.inLoop(func(look func(string, map[presence]int)) {
			m := members{r.e}
			m.Leave(dataplaneKey("web-0"), "i-web-0", false)
			look("one breaks", map[presence]int{present: 9, lost: 1})
			wait(time.Minute)
			for i := 1; i < 10; i++ {
				m.Leave(dataplaneKey(fmt.Sprint("web-", i)), fmt.Sprint("i-web-", i), false)
			}
			look("all the others at once", map[presence]int{presumed: 5, lost: 5})
			wait(DefaultDoubt / 2)
			if err := r.e.do(nil, r.join(sidecar(t, "default", "web-9", "web", "10.0.0.10", httpInbound))); err != nil {
				t.Fatal(err)
			}
			look("one comes back", map[presence]int{present: 1, presumed: 4, lost: 5})
			wait(DefaultDoubt/2 + time.Second)
			look("the doubt is over", map[presence]int{present: 1, lost: 9})
			wait(DefaultLease - time.Minute)
			look("the first lease is over", map[presence]int{present: 1, lost: 8})
			wait(time.Minute)
			look("all leases are over", map[presence]int{present: 1})
		})
		r.restart()
		r.inLoop(func(look func(string, map[presence]int)) {
			look("after a restart", map[presence]int{presumed: 1})
			wait(DefaultGrace + time.Second)
			look("the grace is over", map[presence]int{lost: 1})
			wait(DefaultLease)
			look("forgotten", map[presence]int{})
		})
		r.restart()
		if len(r.e.proxies) > 0 {
			t.Error("the disk still has", sortedKeys(r.e.proxies))
		}
	})
}

func TestStoppedEngineRefuses(t *testing.T) {
	r := newRig(t, "east")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.e.run(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.e.do(nil, func(*batch) {}); !errors.Is(err, errStopped) {
		t.Error(err)
	}
	members{r.e}.Leave(dataplaneKey("x"), "i", false)
}

// A loss that was believed stays believed, however often it is told.
func TestWhatIsLostStaysLost(t *testing.T) {
	r := newRig(t, "east")
	var keys []mesh.Key
	leave := func(b *batch) {
		for _, k := range keys {
			r.e.proxies[k].streams = 1
			r.e.leave(b, k, "i-"+k.Name, false)
		}
	}
	for i := range 6 {
		dp := sidecar(t, "default", fmt.Sprint("web-", i), "web", fmt.Sprint("10.0.0.", i+1), httpInbound)
		keys = append(keys, dp.Key)
		if err := r.turn(r.join(dp)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.turn(leave); err != nil {
		t.Fatal(err)
	}
	before := r.presences()
	if before[lost] == 0 {
		t.Fatal("nobody is lost:", before)
	}
	if err := r.turn(leave); err != nil {
		t.Fatal(err)
	}
	if after := r.presences(); after[lost] < before[lost] {
		t.Error("presences", before, "became", after)
	}
}

// What could not be read, so that its last good version stayed, goes when it is deleted.
func TestDeletedAfterItCouldNotBeRead(t *testing.T) {
	r := newRig(t, "east")
	spec := `{"rules":[{"default":{"allow":[{"spiffeID":{"type":"Exact","value":"spiffe://default.east.mesh.local/workload/web"}}]}}]}`
	allow := resource(t, mesh.KindMeshTrafficPermission, "default", "", "allow", spec)
	unread := allow
	unread.Spec = []byte(`{"rules":"nonsense"}`)
	for _, restart := range []bool{false, true} {
		r.turn(r.push(put(allow)))
		r.turn(r.push(put(unread)))
		if o, ok := r.e.object(allow.Key); !ok || len(r.e.kept) != 1 || string(o.Spec) != spec {
			t.Fatalf("the last good version is not kept: %v", r.e.kept)
		}
		if restart {
			r.restart()
		}
		r.turn(r.push(del(allow.Key)))
		if _, ok := r.e.object(allow.Key); ok || len(r.e.kept) > 0 {
			t.Error("it is in force though it was deleted")
		}
		if p := r.e.problems(); len(p) > 0 {
			t.Error(p)
		}
		r.restart()
		if _, ok := r.e.object(allow.Key); ok || len(r.e.kept) > 0 {
			t.Error("it is back after a restart")
		}
	}
}
