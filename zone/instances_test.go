package zone

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/disk"
)

// followerStore keeps no keys of its own, as the state of an instance that does
// not lead; it passes on what is committed to the leader's for the test to read.
type followerStore struct{ disk.Store }

func (s followerStore) Commit(u disk.Update) error {
	if len(u.PutAuthorities) > 0 {
		return errors.New("another instance leads")
	}
	return s.Store.Commit(u)
}

// TestInstancesAgree: an instance that follows configures a proxy with the same
// bytes as the one that leads, once it has what that one decided.
func TestInstancesAgree(t *testing.T) {
	leader, follower := newRig(t, "east"), newRig(t, "east")
	follower.e.cfg.disk = followerStore{follower.file}
	const everyone, some = "spiffe://", "spiffe://default.east.mesh.local/workload/web"
	all := `{"kind":"Mesh"}`
	db := sidecar(t, "default", "db-1", "db", "10.0.0.5", tcpInbound)
	history := [][]mesh.Change{
		{identityOf(t, "default"), permission(t, "p", all, everyone)},
		{permission(t, "p", all, some)},
		{permission(t, "p", all, everyone)},
	}
	leader.turn(leader.push(history[0]...), leader.join(db))
	leader.turn(leader.push(history[1]...))
	leader.turn(leader.push(history[2]...))
	// The follower took the second and the third as one.
	follower.turn(follower.push(history[0]...), follower.join(db))
	if len(follower.e.authorities) != 0 {
		t.Fatal("an instance that follows made an authority")
	}
	follower.turn(follower.push(append(history[1], history[2]...)...))

	state, err := leader.file.Load()
	if err != nil {
		t.Fatal(err)
	}
	follower.turn(func(b *batch) {
		follower.e.adopt(b, disk.Update{PutAuthorities: state.Authorities, Counters: state.Counters})
	})
	if n := follower.generation("db-1"); n != 1 {
		t.Errorf("generation %d, the leader has 1", n)
	}
	want := published(leader.out, leader.e.proxies[db.Key])
	if diff := cmp.Diff(want, published(follower.out, follower.e.proxies[db.Key])); diff != "" || len(want) == 0 {
		t.Errorf("the instances differ: %s", diff)
	}
	if _, err := (members{follower.e}).signNow(follower, "db-1"); err != nil {
		t.Errorf("sign with the leader's authority: %v", err)
	}
	// What it counted itself is not taken back.
	follower.turn(follower.push(permission(t, "p", all, some)))
	follower.turn(func(b *batch) { follower.e.adopt(b, disk.Update{Counters: state.Counters}) })
	if n := follower.generation("db-1"); n != 2 {
		t.Errorf("generation %d after one more tightening", n)
	}
}
