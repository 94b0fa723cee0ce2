package state_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
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
	"github.com/tombolo-mesh/tombolo/mesh/ir"
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
	// refused is the beginning of names that cannot be written, if any.
	refused atomic.Pointer[string]
}

func (c *cluster) refuse(prefix string) {
	if c.refused.Store(&prefix); prefix == "" {
		c.refused.Store(nil)
	}
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
		if p := c.refused.Load(); p != nil && strings.HasPrefix(m.GetName(), *p) {
			return true, nil, errors.New("connection refused")
		}
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

// TestSeal: whoever opens the state while shards and position do not belong
// together gets no position, so that nothing is missing for good.
func TestSeal(t *testing.T) {
	resources := func(n int) (u disk.Update) {
		u.Position = position(int64(n))
		for i := range n {
			u.PutResources = append(u.PutResources, timeout(i))
		}
		return u
	}
	authority := disk.Update{PutAuthorities: []disk.Authority{{Mesh: "m", TrustDomain: "td2", Slots: []byte("key2")}}}
	for _, test := range []struct {
		name string
		// torn leaves the cluster in the middle of something, and returns who ends it.
		torn func(t *testing.T, c *cluster, leader *instance) *instance
		// resources that the follower has, at no position; then all, at the position.
		resources, all, at int
	}{
		{"a key is written before the resources", func(t *testing.T, c *cluster, leader *instance) *instance {
			c.refuse("tombolo-state-")
			leader.commit(t, resources(50))
			leader.commit(t, authority)
			return leader
		}, 0, 50, 50},
		{"some shards are written", func(t *testing.T, c *cluster, leader *instance) *instance {
			leader.commit(t, resources(50))
			wait(time.Second)
			c.refuse("tombolo-state-15")
			u := disk.Update{Position: position(60), ReplaceResources: true}
			leader.commit(t, u)
			wait(time.Second)
			return leader
		}, 2, 0, 60},
		{"a new leader is behind the former one", func(t *testing.T, c *cluster, leader *instance) *instance {
			leader.commit(t, resources(50))
			wait(time.Second)
			behind := open(t, c, false)
			leader.commit(t, resources(80))
			wait(time.Second)
			leader.leads.Store(false)
			leader.stop()
			c.refuse("tombolo-state-09")
			behind.leads.Store(true)
			behind.Lead()
			wait(time.Second)
			return behind
		}, 64, 50, 50},
		{"the Secrets changed back and forth", func(t *testing.T, c *cluster, leader *instance) *instance {
			leader.commit(t, resources(50))
			wait(time.Second)
			behind := open(t, c, false)
			leader.commit(t, disk.Update{Position: position(80), ReplaceResources: true})
			wait(time.Second)
			leader.leads.Store(false)
			leader.stop()
			behind.leads.Store(true)
			behind.Lead() // what it has is what it read: it must be written again
			wait(time.Second)
			return behind
		}, 50, 50, 50},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster()
				leader := test.torn(t, c, begun(t, c))
				refused := c.refused.Load() != nil
				follower := open(t, c, false)
				s := mustLoad(t, follower)
				if want := position(0); refused && (s.Position.Revision != want.Revision || s.Position.Digest != "") {
					t.Errorf("with %d resources the follower is at %+v", len(s.Resources), s.Position)
				}
				if len(s.Resources) != test.resources {
					t.Errorf("the follower has %d resources, not %d", len(s.Resources), test.resources)
				}
				c.refuse("")
				wait(time.Minute)
				s = mustLoad(t, open(t, c, false))
				if len(s.Resources) != test.all || int(s.Position.Revision) != test.at {
					t.Errorf("in the end there are %d resources at %d, not %d at %d", len(s.Resources), s.Position.Revision, test.all, test.at)
				}
				same(t, leader, open(t, c, false))
			})
		})
	}
}

// TestSettle: a follower that starts while the leader writes waits for it, and is
// at the leader's position without a snapshot from global.
func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		leader := begun(t, c)
		c.refuse("tombolo-state-07")
		leader.commit(t, disk.Update{Position: position(7), ReplaceResources: true})
		wait(time.Second)
		go func() { <-time.After(time.Second); c.refuse("") }()
		if s := mustLoad(t, open(t, c, false)); s.Position.Revision != 7 {
			t.Errorf("it is at %d", s.Position.Revision)
		}
	})
}

// TestManyCounters: what workloads can make many of, such as virtual addresses,
// keeps no key from being written, nor what may never be taken back.
func TestManyCounters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		leader := begun(t, c)
		counters := map[string]uint64{ir.TightenPrefix + "x": 3}
		for n := range uint64(100_000) {
			sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, n))
			counters[fmt.Sprintf("vip/%x", sum[:16])] = binary.BigEndian.Uint64(sum[16:])
		}
		leader.commit(t, disk.Update{Counters: counters})
		leader.commit(t, disk.Update{PutAuthorities: []disk.Authority{{Mesh: "m", TrustDomain: "late", Slots: []byte("key")}}})
		leader.commit(t, disk.Update{Position: position(90)})
		wait(time.Second)
		s := mustLoad(t, open(t, c, false))
		late := slices.ContainsFunc(s.Authorities, func(a disk.Authority) bool { return a.TrustDomain == "late" })
		if !late || s.Counters[ir.TightenPrefix+"x"] != 3 || s.Position.Revision != 90 {
			t.Errorf("key written: %v, counter %d, position %d", late, s.Counters[ir.TightenPrefix+"x"], s.Position.Revision)
		}
	})
}
