package lease_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tombolo-mesh/tombolo/zone/kube/lease"
)

// cluster is a fake API server that can be away for some.
type cluster struct {
	*fake.FakeDynamicClient
	mu   sync.Mutex
	away bool
}

func newCluster() *cluster {
	c := &cluster{FakeDynamicClient: fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}: "LeaseList"})}
	c.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.away {
			return true, nil, errors.New("connection refused")
		}
		return false, nil, nil
	})
	return c
}

func (c *cluster) setAway(away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = away
}

type instance struct {
	*lease.Elector
	stop func()
	told []bool
}

func start(t *testing.T, c *cluster, name string) *instance {
	t.Helper()
	in := &instance{}
	e, err := lease.New(lease.Config{Client: c, Namespace: "tombolo-system", Name: "tombolo-zone", Identity: name,
		OnChange: func(leads bool) { in.told = append(in.told, leads) }})
	if err != nil {
		t.Fatal(err)
	}
	in.Elector = e
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = e.Run(ctx) }()
	in.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(in.stop)
	<-e.Known()
	synctest.Wait()
	return in
}

func leads(t *testing.T, want bool, in *instance, when string) {
	t.Helper()
	if in.Leads() != want {
		t.Errorf("%s: leads = %v, told %v", when, in.Leads(), in.told)
	}
}

func wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestOneLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		a, b := start(t, c, "a"), start(t, c, "b")
		leads(t, true, a, "first")
		leads(t, false, b, "second")
		wait(5 * time.Minute)
		leads(t, true, a, "after five minutes")
		leads(t, false, b, "after five minutes")

		a.stop() // releases
		wait(lease.DefaultRetry + time.Second)
		leads(t, true, b, "after the release")
		if len(a.told) != 2 || a.told[1] {
			t.Errorf("the former leader was told %v", a.told)
		}
	})
}

// TestLeaderGone: a leader that does not release is followed when its lease is over.
func TestLeaderGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		a := start(t, c, "a")
		leads(t, true, a, "first")
		c.setAway(true)
		a.stop() // cannot release: the API server is away for it
		c.setAway(false)
		b := start(t, c, "b")
		wait(10 * time.Second)
		leads(t, false, b, "while the lease of the dead one runs")
		wait(10 * time.Second)
		leads(t, true, b, "after it")
	})
}

// TestAPIServerAway: nobody can take the lease, so the leader goes on.
func TestAPIServerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		a, b := start(t, c, "a"), start(t, c, "b")
		c.setAway(true)
		wait(10 * time.Minute)
		leads(t, true, a, "while the API server is away")
		leads(t, false, b, "while the API server is away")
		c.setAway(false)
		wait(30 * time.Second)
		if a.Leads() == b.Leads() {
			t.Errorf("after it is back: a leads = %v, b leads = %v", a.Leads(), b.Leads())
		}

		// Cut off alone, it gives up when another one is seen to act.
		holder, other := a, b
		if b.Leads() {
			holder, other = b, a
		}
		c.setAway(true)
		holder.Doubt()
		wait(time.Second)
		leads(t, true, holder, "doubted within its lease")
		wait(lease.DefaultDuration)
		holder.Doubt()
		wait(time.Second)
		leads(t, false, holder, "doubted after its lease")
		leads(t, false, other, "not before it has the lease")
	})
}

func TestConfig(t *testing.T) {
	good := lease.Config{Client: newCluster(), Namespace: "n", Name: "l", Identity: "i"}
	if _, err := lease.New(good); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*lease.Config){
		"no client":    func(c *lease.Config) { c.Client = nil },
		"no identity":  func(c *lease.Config) { c.Identity = "" },
		"slow retries": func(c *lease.Config) { c.Retry = 6 * time.Second },
		"half seconds": func(c *lease.Config) { c.Duration = 15500 * time.Millisecond },
	} {
		bad := good
		change(&bad)
		if _, err := lease.New(bad); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}
