package sync_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tombolo-mesh/tombolo/global/store"
	globalsync "github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/internal/raced"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// seeded is a fleet with a mesh and the zones given, connected.
func (f *fleet) seeded(zones ...string) *fleet {
	f.t.Helper()
	f.write(put(aMesh("default")), put(anIdentity("default")), put(aTimeout("t", 1)))
	for _, z := range zones {
		f.join(z)
	}
	f.settled()
	return f
}

func TestIntentGoesDownAndFactsGoAcross(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.seeded("east", "west")
		f.write(put(aTimeout("t", 2)), put(aTimeout("u", 3)))
		f.settled()
		f.zones["west"].facts.put(aService("west", "backend", 2), aDataplane("west", "backend-1"))
		f.settled()
		if _, ok := f.zones["east"].replica.texts()[aService("west", "backend", 2).Key]; !ok {
			t.Fatal("east does not know west's service")
		}
		f.write(del(aTimeout("t", 0).Key))
		f.zones["west"].facts.drop(aService("west", "backend", 2).Key)
		f.settled()
		if n := len(f.zones["east"].replica.texts()); n != 3 {
			t.Fatalf("east holds %d resources, want mesh, identity and one timeout", n)
		}
	})
}

func TestZoneIsMadeAtFirstHello(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.seeded("east")
		r, err := f.store.Get(context.Background(), mesh.Key{Kind: mesh.KindZone, Name: "east"})
		if err != nil || string(r.Spec) != `{"enabled":true}` {
			t.Fatalf("zone: %s, %v", r.Spec, err)
		}
		changes, err := f.store.Changes(context.Background(), r.Revision-1, 1)
		if err != nil || changes[0].Author != "zone:east" {
			t.Fatalf("author: %v, %v", changes, err)
		}
	})
}

func TestWithheld(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.seeded("east", "west")
		hidden := aTimeout("hidden", 1)
		f.zones["west"].facts.put(aService("west", "backend", 1))
		secret := mesh.Resource{Key: mesh.Key{Kind: mesh.KindSecret, Mesh: "default", Name: "s"}, Spec: []byte(`{"data":"AAAA"}`)}
		f.write(put(hidden), put(secret))
		f.settled()
		// The label takes away, and gives back.
		hidden.Labels = map[string]string{mesh.LabelSync: "disabled"}
		f.write(put(hidden))
		f.settled()
		if _, ok := f.zones["east"].replica.texts()[hidden.Key]; ok {
			t.Fatal("a resource with the label kds-sync=disabled stays in the zone")
		}
		// So does disabling a zone, for what that zone owns.
		west := mesh.Resource{Key: mesh.Key{Kind: mesh.KindZone, Name: "west"}, Spec: []byte(`{"enabled":false}`)}
		f.write(put(west))
		f.settled()
		backend := aService("west", "backend", 1).Key
		if _, ok := f.zones["east"].replica.texts()[backend]; ok {
			t.Fatal("the service of a disabled zone stays in the others")
		}
		f.zones["west"].facts.put(aService("west", "backend", 7))
		f.settled()
		west.Spec = []byte(`{"enabled":true}`)
		f.write(put(west))
		f.settled()
		if _, ok := f.zones["east"].replica.texts()[backend]; !ok {
			t.Fatal("the service of a zone that is enabled again is missing")
		}
	})
}

// TestReconnectUnchanged measures what crosses when nothing changed meanwhile.
func TestReconnectUnchanged(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.seeded("east", "west")
		for i := range 200 {
			f.write(put(aTimeout(fmt.Sprintf("t%d", i), i)))
			f.zones["east"].facts.put(aService("east", fmt.Sprintf("s%d", i), i))
		}
		f.settled()
		east := f.zones["east"]
		received := east.replica.received
		east.stop()
		f.eventually("east to be offline", func() error {
			if f.server.Zones()[0].Online {
				return fmt.Errorf("online")
			}
			return nil
		})
		f.wire.reset(0)
		f.join("east")
		f.settled()
		down, up, _ := f.wire.seen()
		bytes := 0
		for _, d := range down {
			bytes += proto.Size(d)
			if d.GetSnapshot() != nil || len(d.GetPush().GetChanges()) > 0 {
				t.Errorf("global sent resources: %v", d)
			}
		}
		for _, u := range up {
			bytes += proto.Size(u)
			if u.GetFacts() != nil {
				t.Errorf("the zone sent facts: %v", u)
			}
		}
		if bytes > 1024 {
			t.Errorf("%d bytes crossed, want at most 1024", bytes)
		}
		if got := east.replica.received; got != received {
			t.Errorf("the zone received %d resources", got-received)
		}
		t.Logf("%d bytes in %d frames", bytes, len(down)+len(up))
	})
}

// TestCutAtEveryFrame breaks the stream at each frame of a scripted session, in
// either direction, and wants the same end.
func TestCutAtEveryFrame(t *testing.T) {
	script := func(f *fleet) {
		f.write(put(aMesh("default")), put(anIdentity("default")), put(aTimeout("a", 1)))
		f.join("east")
		f.zones["east"].facts.put(aService("east", "s1", 1), aDataplane("east", "d1"))
		f.settled()
		for i := range 3 {
			f.write(put(aTimeout("a", 10+i)), put(aTimeout(fmt.Sprintf("b%d", i), i)))
			f.zones["east"].facts.put(aService("east", "s2", i))
			f.settled()
		}
		f.write(del(aTimeout("b0", 0).Key))
		f.zones["east"].facts.drop(aService("east", "s1", 1).Key)
		f.settled()
	}
	frames := 0
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, true, globalsync.NewMemStore())
		script(f)
		_, _, frames = f.wire.seen()
	})
	if frames < 15 {
		t.Fatalf("the script has %d frames only", frames)
	}
	play := func(t *testing.T, f *fleet, cut int, after bool) {
		f.wire.reset(cut)
		f.wire.after = after
		script(f)
		if _, _, n := f.wire.seen(); n <= cut {
			t.Fatalf("%d frames, the cut was to be at %d", n, cut)
		}
	}
	for cut := 1; cut <= frames; cut++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("memory/%d/%v", cut, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { play(t, newFleet(t, true, globalsync.NewMemStore()), cut, after) })
			})
			if !testing.Short() {
				t.Run(fmt.Sprintf("tcp/%d/%v", cut, after), func(t *testing.T) {
					t.Parallel()
					play(t, newFleet(t, false, globalsync.NewMemStore()), cut, after)
				})
			}
		}
	}
}

func TestDuplicatedFrames(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.wire.twice = true
		f.seeded("east", "west")
		for i := range 20 {
			f.write(put(aTimeout("a", i)), put(aTimeout(fmt.Sprintf("b%d", i%5), i)))
			f.zones["west"].facts.put(aService("west", fmt.Sprintf("s%d", i%3), i))
			if i%7 == 0 {
				f.zones["west"].facts.drop(aService("west", "s1", 0).Key)
			}
		}
		f.settled()
	})
}

// TestFederationRandom changes everything at random, cuts streams, restarts
// zones and compares with what the filter says.
func TestFederationRandom(t *testing.T) {
	rounds := raced.Size(8, 30)
	if testing.Short() {
		rounds = 5
	}
	for seed := range uint64(rounds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 1))
				mem := globalsync.NewMemStore()
				f := newFleet(t, true, mem)
				names := []string{"east", "west", "north"}
				f.seeded(names...)
				for step := range 120 {
					f.step(rng, mem, names)
					if step%20 == 19 {
						f.heal(mem, names)
						f.settled()
					}
				}
			})
		})
	}
}

func (f *fleet) heal(mem *globalsync.MemStore, names []string) {
	mem.SetDown(false)
	f.wire.mu.Lock()
	f.wire.breakAt = 0
	f.wire.mu.Unlock()
	for _, n := range names {
		f.zones[n].client.Redial()
	}
}

// step is one random event.
func (f *fleet) step(rng *rand.Rand, mem *globalsync.MemStore, names []string) {
	name := names[rng.IntN(len(names))]
	z := f.zones[name]
	var ops []store.Op
	switch rng.IntN(12) {
	case 0, 1:
		ops = append(ops, put(aTimeout(fmt.Sprintf("t%d", rng.IntN(8)), rng.IntN(100))))
	case 2:
		ops = append(ops, del(aTimeout(fmt.Sprintf("t%d", rng.IntN(8)), 0).Key))
	case 3:
		r := aTimeout(fmt.Sprintf("t%d", rng.IntN(8)), rng.IntN(100))
		r.Labels = map[string]string{mesh.LabelSync: "disabled"}
		ops = append(ops, put(r))
	case 4:
		spec := `{"enabled":true}`
		if rng.IntN(2) == 0 {
			spec = `{"enabled":false}`
		}
		ops = append(ops, put(mesh.Resource{Key: mesh.Key{Kind: mesh.KindZone, Name: name}, Spec: []byte(spec)}))
	case 5, 6:
		z.facts.put(aService(name, fmt.Sprintf("s%d", rng.IntN(6)), rng.IntN(100)), aDataplane(name, fmt.Sprintf("d%d", rng.IntN(6))))
	case 7:
		z.facts.drop(aService(name, fmt.Sprintf("s%d", rng.IntN(6)), 0).Key)
	case 8:
		f.wire.mu.Lock()
		f.wire.breakAt = f.wire.count + 1 + rng.IntN(8)
		f.wire.mu.Unlock()
	case 9:
		z.stop()
		f.join(name)
	case 10:
		if rng.IntN(3) == 0 {
			mem.SetDown(rng.IntN(2) == 0)
		}
	default:
		if rng.IntN(2) == 0 {
			synctest.Wait()
		} else {
			<-time.After(time.Duration(rng.IntN(300)) * time.Millisecond)
		}
	}
	if len(ops) > 0 {
		// An unavailable store is part of the game.
		_, _ = f.store.Write(context.Background(), "user:admin", ops)
	}
	if rng.IntN(40) == 0 {
		if head, err := mem.Head(context.Background()); err == nil {
			_ = mem.Compact(context.Background(), head.Revision)
		}
	}
}
