package state_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/disk"
	"github.com/tombolo-mesh/tombolo/zone/kube/state"
)

func secrets() schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
}

// cluster is a fake API server that checks versions, and can be away.
type cluster struct {
	*fake.FakeDynamicClient
	away    atomic.Bool
	writes  atomic.Int64
	version atomic.Int64
}

func newCluster() *cluster {
	c := &cluster{FakeDynamicClient: fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{secrets(): "SecretList"})}
	c.PrependReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if c.away.Load() {
			return true, nil, errors.New("connection refused")
		}
		var object runtime.Object
		switch w := a.(type) {
		case clienttesting.UpdateAction: // creates have the same methods
			object = w.GetObject()
		default:
			return false, nil, nil
		}
		c.writes.Add(1)
		m := object.(metav1.Object)
		if a.GetVerb() == "update" {
			old, err := c.Tracker().Get(secrets(), m.GetNamespace(), m.GetName())
			if err == nil && old.(metav1.Object).GetResourceVersion() != m.GetResourceVersion() {
				return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "secrets"}, m.GetName(), errors.New("another version"))
			}
		}
		m.SetResourceVersion(fmt.Sprint(c.version.Add(1)))
		return false, nil, nil
	})
	return c
}

// instance of a zone's control plane.
type instance struct {
	*state.Store
	leads atomic.Bool
	stop  func()

	mu      sync.Mutex
	adopted []disk.Update
}

func open(t *testing.T, c *cluster, leads bool) *instance {
	t.Helper()
	in := &instance{}
	in.leads.Store(leads)
	s, err := state.Open(context.Background(), state.Config{Client: c, Namespace: "tombolo-system", Zone: "east", Leads: in.leads.Load})
	if err != nil {
		t.Fatal(err)
	}
	in.Store = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx, func(u disk.Update) {
			in.mu.Lock()
			defer in.mu.Unlock()
			in.adopted = append(in.adopted, u)
		})
	}()
	in.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(in.stop)
	synctest.Wait()
	return in
}

func (in *instance) commit(t *testing.T, u disk.Update) {
	t.Helper()
	if err := in.Commit(u); err != nil {
		t.Fatal(err)
	}
}

func timeout(n int) mesh.Resource {
	return mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: fmt.Sprintf("t-%d", n)},
		Labels: map[string]string{"tombolo.io/origin": "global"}, Spec: []byte(fmt.Sprintf(`{"n":%d}`, n))}
}

func position(n int64) *disk.Position {
	return &disk.Position{Revision: mesh.Revision(n), Digest: fmt.Sprint("d", n)}
}

func wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func names(s *disk.State) string {
	var out []string
	for _, r := range s.Resources {
		out = append(out, r.Name+string(r.Spec))
	}
	return fmt.Sprint(s.Position.Revision, s.Position.Digest, " ", strings.Join(out, ","), " ", s.Authorities, s.Counters, " ", len(s.SessionKey))
}

func same(t *testing.T, want, got *instance) {
	t.Helper()
	a, err := want.Load()
	if err != nil {
		t.Fatal(err)
	}
	b, err := got.Load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(names(a), names(b)); diff != "" {
		t.Errorf("the state differs: %s", diff)
	}
}

func begun(t *testing.T, c *cluster) *instance {
	leader := open(t, c, true)
	leader.commit(t, disk.Update{SessionKey: []byte("session")})
	leader.commit(t, disk.Update{PutAuthorities: []disk.Authority{{Mesh: "default", TrustDomain: "td", Slots: []byte("key")}}})
	return leader
}

func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		leader := begun(t, c)
		u := disk.Update{Position: position(7), Counters: map[string]uint64{"tighten/x": 3}, Permissions: map[string][]byte{"p": []byte("{}")}}
		for n := range 100 {
			u.PutResources = append(u.PutResources, timeout(n))
		}
		leader.commit(t, u)
		leader.commit(t, disk.Update{Position: position(8), DeleteResources: []mesh.Key{timeout(5).Key}, PutKept: []mesh.Resource{timeout(5)}})
		leader.stop() // writes what is due
		again := open(t, c, true)
		same(t, leader, again)
		if s, _ := again.Load(); len(s.Resources) != 99 || len(s.Kept) != 1 || string(s.Permissions["p"]) != "{}" {
			t.Errorf("%d resources, %d kept", len(s.Resources), len(s.Kept))
		}

		// One change writes its shard and the position; the same again writes nothing.
		before := c.writes.Load()
		again.commit(t, disk.Update{Position: position(9), PutResources: []mesh.Resource{timeout(1000)}})
		wait(time.Second)
		if n := c.writes.Load() - before; n != 2 {
			t.Errorf("one change made %d writes", n)
		}
		before = c.writes.Load()
		again.Lead()
		wait(time.Second)
		if n := c.writes.Load() - before; n != 0 {
			t.Errorf("nothing new made %d writes", n)
		}
		again.commit(t, disk.Update{ReplaceResources: true, Position: position(10), PutResources: []mesh.Resource{timeout(1)}})
		again.stop()
		if s, _ := open(t, c, true).Load(); names(s) != names(mustLoad(t, again)) || len(s.Resources) != 1 || len(s.Kept) != 0 {
			t.Errorf("after a replacement: %s", names(s))
		}
	})
}

func mustLoad(t *testing.T, in *instance) *disk.State {
	s, err := in.Load()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestFollower adopts what the leader decides, writes nothing, and takes over.
func TestFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		leader := begun(t, c)
		follower := open(t, c, false)
		if err := follower.Commit(disk.Update{PutAuthorities: []disk.Authority{{Mesh: "m", TrustDomain: "mine", Slots: []byte("x")}}}); !errors.Is(err, state.ErrFollower) {
			t.Errorf("an authority of a follower: %v", err)
		}
		leader.commit(t, disk.Update{PutAuthorities: []disk.Authority{{Mesh: "m", TrustDomain: "td2", Slots: []byte("key2")}}, Counters: map[string]uint64{"vip/a": 9}})
		wait(2 * time.Second)
		follower.mu.Lock()
		var domains []string
		vip := uint64(0)
		for _, u := range follower.adopted {
			for _, a := range u.PutAuthorities {
				domains = append(domains, a.TrustDomain)
			}
			vip = max(vip, u.Counters["vip/a"])
		}
		follower.mu.Unlock()
		if fmt.Sprint(domains) != "[td2]" || vip != 9 {
			t.Errorf("adopted %v, vip %d", domains, vip)
		}

		// Both get global's changes; only the leader writes.
		before := c.writes.Load()
		follower.commit(t, disk.Update{Position: position(5), PutResources: []mesh.Resource{timeout(1), timeout(2)}})
		wait(2 * time.Second)
		if n := c.writes.Load() - before; n != 0 {
			t.Errorf("the follower made %d writes", n)
		}
		leader.leads.Store(false)
		leader.stop()
		follower.leads.Store(true)
		follower.Lead()
		wait(2 * time.Second)
		same(t, follower, open(t, c, true))
	})
}

// TestAway: changes of policy go on while the API server is away, keys do not.
func TestAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		leader := begun(t, c)
		c.away.Store(true)
		leader.commit(t, disk.Update{Position: position(3), PutResources: []mesh.Resource{timeout(1)}})
		if err := leader.Commit(disk.Update{PutAuthorities: []disk.Authority{{Mesh: "m", TrustDomain: "x", Slots: []byte("k")}}}); err == nil {
			t.Error("an authority that is not durable was accepted")
		}
		wait(time.Minute)
		c.away.Store(false)
		wait(time.Minute)
		same(t, leader, open(t, c, true))
	})
}

// TestTooLarge: what does not fit its Secret keeps its own shard out, and the
// position back, but not what the others hold; and all is written when it is gone.
func TestTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		leader := begun(t, c)
		noise := make([]byte, 2<<20)
		rand.NewChaCha8([32]byte{}).Read(noise)
		large := timeout(1000)
		large.Spec = []byte(fmt.Sprintf("%q", base64.StdEncoding.EncodeToString(noise)))
		u := disk.Update{Position: position(7), PutResources: []mesh.Resource{large}}
		for n := range 100 {
			u.PutResources = append(u.PutResources, timeout(n))
		}
		leader.commit(t, u)
		wait(time.Minute)
		if s := mustLoad(t, open(t, c, true)); len(s.Resources) < 85 || s.Position.Revision == 7 {
			t.Errorf("%d resources are there, at %d", len(s.Resources), s.Position.Revision)
		}
		leader.commit(t, disk.Update{DeleteResources: []mesh.Key{large.Key}})
		wait(time.Minute)
		same(t, leader, open(t, c, true))
	})
}

// TestTwoLeaders for a moment: the key that was written first is not lost.
func TestTwoLeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		a := begun(t, c)
		b := open(t, c, true)
		a.commit(t, disk.Update{PutAuthorities: []disk.Authority{{Mesh: "m", TrustDomain: "new", Slots: []byte("of a")}}})
		if err := b.Commit(disk.Update{PutAuthorities: []disk.Authority{{Mesh: "m", TrustDomain: "new", Slots: []byte("of b")}}}); err == nil {
			t.Error("a second authority of one trust domain was accepted")
		}
		wait(time.Second)
		b.mu.Lock()
		if len(b.adopted) != 1 || string(b.adopted[0].PutAuthorities[0].Slots) != "of a" {
			t.Errorf("the second leader adopted %v", b.adopted)
		}
		b.mu.Unlock()
		b.commit(t, disk.Update{Position: position(4), PutResources: []mesh.Resource{timeout(4)}})
		wait(time.Second)
		s := mustLoad(t, open(t, c, true))
		if got := string(s.Authorities[len(s.Authorities)-1].Slots); got != "of a" || s.Position.Revision != 4 {
			t.Errorf("%s at %d", got, s.Position.Revision)
		}
	})
}

func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		begun(t, c).stop()
		yes := func() bool { return true }
		if _, err := state.Open(context.Background(), state.Config{Client: c, Namespace: "tombolo-system", Zone: "west", Leads: yes}); !errors.Is(err, disk.ErrDamaged) || !strings.Contains(err.Error(), `"east"`) {
			t.Errorf("the state of another zone: %v", err)
		}
		// A follower without anything to start from waits.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		no := func() bool { return false }
		if _, err := state.Open(ctx, state.Config{Client: newCluster(), Namespace: "n", Zone: "east", Leads: no}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a follower alone: %v", err)
		}
	})
}

// TestPositionIsReadFirst: it is written last, so whoever reads while the leader
// writes never has a position that is ahead of its resources.
func TestPositionIsReadFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		begun(t, c).stop()
		c.ClearActions()
		open(t, c, true)
		var read []string
		for _, a := range c.Actions() {
			if get, ok := a.(clienttesting.GetAction); ok && a.GetVerb() == "get" {
				read = append(read, get.GetName())
			}
		}
		if len(read) < 17 || read[0] != state.SecretName {
			t.Errorf("read in this order: %v", read)
		}
	})
}
