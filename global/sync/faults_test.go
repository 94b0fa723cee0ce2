package sync_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/embedded"
	globalsync "github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
	wireform "github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// TestLyingZone sends what a zone may not say. What is true beside it is taken.
func TestLyingZone(t *testing.T) {
	f := newFleet(t, false, globalsync.NewMemStore())
	f.seeded("west")
	f.zones["west"].facts.put(aTrust(t, "west", "trust", "default.west.mesh.local"), aService("west", "backend", 1))
	f.settled()
	f.token("token-evil", "evil")
	p := f.peer("token-evil")
	p.welcome("evil")
	before := f.told("west")

	relabelled := aService("evil", "relabelled", 1)
	relabelled.Labels = map[string]string{mesh.LabelZone: "west", mesh.LabelOrigin: "global"}
	foreign := aService("evil", "foreign-id", 1)
	foreign.Spec = []byte(strings.ReplaceAll(string(foreign.Spec), "default.evil.", "default.west."))
	prefix := aService("evil", "prefix-id", 1)
	prefix.Spec = []byte(strings.ReplaceAll(string(prefix.Spec), "default.evil.mesh.local/", "default.evil.mesh.localhost/"))
	otherMesh := aService("evil", "no-such-mesh", 1)
	otherMesh.Mesh = "nowhere"
	badName := aService("evil", "Bad_Name", 1)
	huge := aService("evil", "huge", 1)
	huge.Status = fmt.Appendf(nil, `{"x":%q}`, strings.Repeat("x", mesh.MaxFactBytes))
	labels := aService("evil", "labels", 1)
	for i := range mesh.MaxFactLabels + 1 {
		labels.Labels[fmt.Sprint(i)] = "x"
	}
	broken := aService("evil", "broken", 1)
	broken.Spec = []byte(`{"ports":`)
	stolen := aService("west", "backend", 99)
	lies := map[string]mesh.Resource{
		"a resource of another zone":           stolen,
		"a new resource of another zone":       aService("west", "planted", 1),
		"the trust domain of another zone":     aTrust(t, "evil", "t1", "default.west.mesh.local"),
		"a trust domain of nobody":             aTrust(t, "evil", "t2", "example.org"),
		"a private key beside the certificate": aTrust(t, "evil", "t3", "default.evil.mesh.local", aPrivateKey(t)),
		"an identity of another zone":          foreign,
		"an identity that shares a prefix":     prefix,
		"a policy":                             func() mesh.Resource { r := aTimeout("mine", 1); r.Zone = "evil"; return r }(),
		"a mesh":                               func() mesh.Resource { r := aMesh("mine"); r.Zone = "evil"; return r }(),
		"an identity policy":                   func() mesh.Resource { r := anIdentity("default"); r.Zone = "evil"; return r }(),
		"a zone":                               {Key: mesh.Key{Kind: mesh.KindZone, Zone: "evil", Name: "west"}, Spec: []byte(`{"enabled":false}`)},
		"a resource of global":                 {Key: mesh.Key{Kind: mesh.KindMeshTrust, Mesh: "default", Name: "global"}, Spec: aTrust(t, "", "x", "default.evil.mesh.local").Spec},
		"an unknown kind":                      {Key: mesh.Key{Kind: "MeshSurprise", Mesh: "default", Zone: "evil", Name: "x"}, Spec: []byte(`{}`)},
		"a mesh that does not exist":           otherMesh,
		"a bad name":                           badName,
		"a spec that is too large":             huge,
		"too many labels":                      labels,
		"a spec that is not JSON":              broken,
	}
	all := []mesh.Resource{aService("evil", "honest", 1), relabelled}
	for _, r := range lies {
		all = append(all, r)
	}
	p.send(factsOf(1, all...))
	got := p.recv(func(f *zonesyncv1.GlobalFrame) bool { return f.GetFactsAck() != nil }).GetFactsAck()
	for what, lie := range lies {
		i := slices.IndexFunc(got.GetRefused(), func(r *zonesyncv1.Refusal) bool {
			return r.GetKind() == string(lie.Kind) && r.GetName() == lie.Name
		})
		if i < 0 {
			t.Errorf("%s was taken", what)
		} else if got.GetRefused()[i].GetReason() == "" {
			t.Errorf("%s was refused without a reason", what)
		} else {
			t.Logf("%s: %s", what, got.GetRefused()[i].GetReason())
		}
	}
	if len(got.GetRefused()) != len(lies) {
		t.Errorf("%d were refused, want %d", len(got.GetRefused()), len(lies))
	}
	mine := f.told("evil")
	if len(mine) != 2 || !strings.Contains(mine[relabelled.Key], mesh.LabelZone+":evil") || !strings.Contains(mine[relabelled.Key], mesh.LabelOrigin+":zone") {
		t.Errorf("global holds of evil: %v", mine)
	}
	// Nor can it delete what is another's.
	p.send(&zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Facts{Facts: &zonesyncv1.Facts{
		Removed: []*zonesyncv1.Resource{wireform.FromKey(stolen.Key), wireform.FromKey(aTimeout("t", 0).Key)}, To: &zonesyncv1.FactsPosition{Sequence: 2}}}})
	p.recv(func(f *zonesyncv1.GlobalFrame) bool { return f.GetFactsAck().GetTo().GetSequence() == 2 })
	// The refusal of odd words reaches it, whole.
	odd := mesh.Resource{Key: mesh.Key{Kind: mesh.KindName("x" + strings.Repeat("é", 100)), Mesh: "x" + strings.Repeat("é", 2000), Zone: "evil", Name: "x"}}
	p.send(factsOf(3, odd))
	if got := p.recv(func(f *zonesyncv1.GlobalFrame) bool { return f.GetFactsAck().GetTo().GetSequence() == 3 }).GetFactsAck().GetRefused(); len(got) != 1 {
		t.Errorf("odd words: %v", got)
	}
	if after := f.told("west"); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("west's facts changed: %v", after)
	}
	if _, err := f.store.Get(context.Background(), aTimeout("t", 0).Key); err != nil {
		t.Errorf("a policy: %v", err)
	}
}

func TestTokens(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.seeded("east", "west")
		for name, c := range map[string]struct {
			token string
			frame *zonesyncv1.ZoneFrame
			want  codes.Code
		}{
			"none":            {"", hello("east", 1), codes.Unauthenticated},
			"unknown":         {"token-nobody", hello("east", 1), codes.Unauthenticated},
			"of another zone": {"token-west", hello("east", 1), codes.PermissionDenied},
			"no zone":         {"token-west", hello("", 1), codes.PermissionDenied},
		} {
			p := f.peer(c.token)
			p.send(c.frame)
			if got := p.ended(); got.Code() != c.want {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
		}
		// Those that were refused did not disturb who is connected.
		for _, z := range f.server.Zones() {
			if !z.Online {
				t.Errorf("zone %s was disconnected", z.Name)
			}
		}
		// A token that is revoked ends the open stream, and the other's goes on.
		f.token("token-east", "")
		f.server.Recheck()
		east := f.zones["east"].client
		f.eventually("east to be refused", func() error {
			if s := east.Status(); s.Connected || !strings.Contains(s.Error, "Unauthenticated") {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
		if !f.zones["west"].client.Connected() {
			t.Error("west was disconnected too")
		}
		// A new token is read at the next dial.
		f.token("token-east", "east")
		east.Redial()
		f.settled()
	})
}

func TestVersionSkew(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.seeded("east")
		f.token("token-skew", "skew")
		old := f.peer("token-skew")
		old.send(hello("skew", 0))
		if got := old.ended(); got.Code() != codes.FailedPrecondition || !strings.Contains(got.Message(), "capability level is 0, at least 1") {
			t.Errorf("capability 0: %v", got)
		}
		p := f.peer("token-skew")
		p.send(hello("skew", 99))
		if w := p.recv(func(f *zonesyncv1.GlobalFrame) bool { return f.GetWelcome() != nil }).GetWelcome(); w.GetCapabilities() != wireform.Capabilities {
			t.Errorf("capability 99: %v", w)
		}
		p.recv(func(f *zonesyncv1.GlobalFrame) bool { return f.GetSnapshot().GetLast() })
		// A frame of a type that global does not know is ignored.
		unknown := &zonesyncv1.ZoneFrame{}
		if err := proto.Unmarshal([]byte{0xfa, 0x06, 0x03, 'n', 'e', 'w'}, unknown); err != nil {
			t.Fatal(err)
		}
		p.send(unknown, factsOf(1, aService("skew", "s", 1)))
		if a := p.recv(func(f *zonesyncv1.GlobalFrame) bool { return f.GetFactsAck() != nil }).GetFactsAck(); len(a.GetRefused()) > 0 {
			t.Errorf("refused: %v", a)
		}
	})
}

func TestOrderOfFrames(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.seeded("east")
		f.token("token-odd", "odd")
		for name, frames := range map[string][]*zonesyncv1.ZoneFrame{
			"ack first":       {ack(1)},
			"two hellos":      {hello("odd", 1), hello("odd", 1)},
			"ack of tomorrow": {hello("odd", 1), ack(1 << 40)},
			"nothing":         {},
		} {
			want := codes.InvalidArgument
			if name == "nothing" {
				if want = codes.DeadlineExceeded; !f.bubble {
					continue
				}
			}
			p := f.peer("token-odd")
			p.send(frames...)
			if got := p.ended().Code(); got != want {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
	})
}

// TestNewerStreamReplacesOlder: what the older still sends has no effect.
func TestNewerStreamReplacesOlder(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.seeded("east")
		f.token("token-twin", "twin")
		first := f.peer("token-twin")
		first.welcome("twin")
		first.send(factsOf(1, aService("twin", "a", 1)))
		first.recv(func(f *zonesyncv1.GlobalFrame) bool { return f.GetFactsAck() != nil })
		second := f.peer("token-twin")
		w := second.welcome("twin")
		if want := mesh.FactsDigest(map[mesh.Key]mesh.Resource{{}: mesh.NormalizeFact("twin", aService("twin", "a", 1))}); w.GetFacts().GetDigest() != want || w.GetFacts().GetSequence() != 1 {
			t.Errorf("facts of the welcome: %v", w.GetFacts())
		}
		if got := first.ended(); got.Code() != codes.Aborted || !strings.Contains(got.Message(), "replaced by a newer stream") {
			t.Errorf("the older ended with %v", got)
		}
		first.send(factsOf(2, aService("twin", "late", 1)))
		second.send(factsOf(3, aService("twin", "b", 1)))
		second.recv(func(f *zonesyncv1.GlobalFrame) bool { return f.GetFactsAck() != nil })
		if _, err := f.store.Get(context.Background(), aService("twin", "late", 1).Key); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a late fact of the older stream: %v", err)
		}
	})
}

// TestRestoredBackup brings global back with an older store while zones live on.
func TestRestoredBackup(t *testing.T) {
	for _, how := range []string{"while connected", "behind a restart"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := globalsync.NewMemStore()
				f := newFleet(t, true, mem)
				f.seeded("east", "west")
				f.zones["west"].facts.put(aService("west", "kept", 1))
				f.settled()
				restore := mem.Backup()
				f.write(put(aTimeout("lost", 1)))
				f.zones["west"].facts.put(aService("west", "new", 1))
				f.settled()
				if how == "while connected" {
					mem.SetDown(true)
					<-time.After(time.Second)
					restore()
					mem.SetDown(false)
				} else {
					for _, z := range f.zones {
						z.stop()
					}
					restore()
					// The history that follows is as long as the lost one, and another.
					f.write(put(aTimeout("x", 1)), put(aTimeout("y", 1)), put(aTimeout("z", 1)))
					mem.SetDown(true)
					<-time.After(time.Second)
					mem.SetDown(false)
					f.join("east")
					f.join("west")
				}
				snapshots := mem.Snapshots.Load()
				f.settled()
				if mem.Snapshots.Load() == snapshots && how != "while connected" {
					t.Error("no snapshot was sent")
				}
				if _, ok := f.zones["east"].replica.texts()[aTimeout("lost", 1).Key]; ok {
					t.Error("a zone keeps what the restored global does not have")
				}
				if _, ok := f.zones["east"].replica.texts()[aService("west", "new", 1).Key]; !ok {
					t.Error("the facts were not sent again")
				}
				rev := f.write(put(aTimeout("after", 1)))
				f.settled()
				f.eventually("the status of a change after the restore", func() error {
					if s := f.server.Change(rev); !s.Complete {
						return fmt.Errorf("%+v", s)
					}
					return nil
				})
			})
		})
	}
}

// TestCompactedLog: a zone that was away too long gets a snapshot.
func TestCompactedLog(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.seeded("east")
		f.zones["east"].stop()
		rev := f.write(put(aTimeout("a", 1)), put(aTimeout("b", 1)), del(aTimeout("t", 1).Key))
		if err := f.store.Compact(context.Background(), rev); err != nil {
			t.Fatal(err)
		}
		f.wire.reset(0)
		f.join("east")
		f.settled()
		down, _, _ := f.wire.seen()
		if !down[0].GetWelcome().GetSnapshot() {
			t.Errorf("welcome: %v", down[0])
		}
	})
}

// TestLargeSet syncs 50 MB in chunks. Global keeps about a chunk of it.
func TestLargeSet(t *testing.T) {
	st, err := embedded.Open(embedded.Config{Path: filepath.Join(t.TempDir(), "global.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	f := newFleet(t, false, st)
	f.write(put(aMesh("default")), put(anIdentity("default")))
	padding := strings.Repeat("x", 50<<10)
	const count = 1000
	for i := 0; i < count; {
		var ops []store.Op
		for ; len(ops) < 100; i++ {
			r := aTimeout(fmt.Sprintf("t%04d", i), i)
			r.Labels = map[string]string{"a": "b"}
			r.Spec = fmt.Appendf(nil, `{"x":%q,"n":%d}`, padding, i)
			ops = append(ops, put(r))
		}
		f.write(ops...)
	}
	f.token("token-large", "large")
	p := f.peer("token-large")
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	f.wire.quiet = true
	before, peak := heap(), uint64(0)
	p.send(hello("large", 1))
	chunks, total, largest, resources := 0, 0, 0, 0
	for last := false; !last; {
		c := p.recv(func(f *zonesyncv1.GlobalFrame) bool { return f.GetSnapshot() != nil })
		n := proto.Size(c)
		chunks, total, largest = chunks+1, total+n, max(largest, n)
		resources += len(c.GetSnapshot().GetResources())
		last = c.GetSnapshot().GetLast()
		if chunks%20 == 0 {
			peak = max(peak, heap())
		}
	}
	if resources != count+2 || largest > wireform.MaxFrameBytes || chunks < 50 {
		t.Errorf("%d resources in %d chunks, the largest of %d bytes", resources, chunks, largest)
	}
	if grown := int64(peak) - int64(before); grown > 24<<20 {
		t.Errorf("the heap grew by %d bytes while %d were sent", grown, total)
	} else {
		t.Logf("%d bytes in %d chunks, the heap grew by %d", total, chunks, grown)
	}
	// The zone's own side takes it whole, and goes on from there.
	z := f.join("east")
	f.eventually("the copy", func() error {
		if n := len(z.replica.texts()); n != count+2 {
			return fmt.Errorf("%d resources", n)
		}
		return nil
	})
	// Everything changes: pushes in parts, none larger than a frame.
	f.wire.reset(0)
	var ops []store.Op
	for i := range 200 {
		r := aTimeout(fmt.Sprintf("t%04d", i), i)
		r.Spec = fmt.Appendf(nil, `{"y":%q,"n":%d}`, padding, i)
		ops = append(ops, put(r))
	}
	rev := f.write(ops...)
	f.eventually("the pushes", func() error {
		if at := z.replica.Position().Revision; at < rev {
			return fmt.Errorf("at revision %d of %d", at, rev)
		}
		return nil
	})
	if n := f.wire.largest; n > wireform.MaxFrameBytes {
		t.Errorf("a frame of %d bytes", n)
	}
}

// TestLargeResource: one that is larger than a frame crosses by itself, and the
// expansion of one change into very many crosses in parts that are applied together.
func TestLargeResource(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.seeded("east", "west")
		large := aTimeout("large", 1)
		large.Spec = fmt.Appendf(nil, `{"x":%q}`, strings.Repeat("x", 3<<20))
		f.write(put(large))
		f.settled()
		var services []mesh.Resource
		for i := range 300 {
			s := aService("west", fmt.Sprintf("s%d", i), 1)
			s.Status = fmt.Appendf(nil, `{"x":%q}`, strings.Repeat("x", 8<<10))
			services = append(services, s)
		}
		f.zones["west"].facts.put(services...)
		f.settled()
		west := mesh.Resource{Key: mesh.Key{Kind: mesh.KindZone, Name: "west"}, Spec: []byte(`{"enabled":false}`)}
		f.write(put(west))
		f.settled()
		f.wire.reset(0)
		west.Spec = []byte(`{"enabled":true}`)
		f.write(put(west))
		f.settled()
		down, _, _ := f.wire.seen()
		parts := 0
		for _, d := range down {
			if d.GetPush().GetPartial() {
				parts++
			}
		}
		if parts < 4 {
			t.Errorf("%d parts of a push", parts)
		}
	})
}

// TestSlowReader: a zone that does not read holds up nobody, and costs a bounded
// amount of memory; when it reads again it gets there.
func TestSlowReader(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.seeded("slow", "quick")
		release := make(chan struct{})
		f.wire.mu.Lock()
		f.wire.hold["slow"] = release
		f.wire.mu.Unlock()
		quick := f.zones["quick"]
		for i := range 300 {
			r := aTimeout(fmt.Sprintf("t%d", i%10), i)
			r.Spec = fmt.Appendf(nil, `{"x":%q,"n":%d}`, strings.Repeat("x", 100<<10), i)
			rev := f.write(put(r))
			f.eventually("the quick zone", func() error {
				if at := quick.replica.Position().Revision; at < rev {
					return fmt.Errorf("at revision %d of %d", at, rev)
				}
				return nil
			})
		}
		head, err := f.store.Head(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		f.eventually("the quick zone's report", func() error {
			s := f.server.Change(head.Revision)
			if s.Complete || s.Zones[1].Zone != "slow" || s.Zones[1].State != globalsync.Behind || s.Zones[0].State != globalsync.Done {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
		if n := f.server.Unacked("slow"); n > 6<<20 {
			t.Errorf("%d bytes are on their way to the slow zone", n)
		}
		close(release)
		f.settled()
	})
}

// TestStoreAway: nothing is lost while the database does not answer.
func TestStoreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := globalsync.NewMemStore()
		f := newFleet(t, true, mem)
		f.seeded("east", "west")
		mem.SetDown(true)
		f.zones["west"].facts.put(aService("west", "backend", 1))
		<-time.After(10 * time.Second)
		if !f.zones["west"].client.Connected() {
			t.Error("the zone was disconnected")
		}
		mem.SetDown(false)
		f.settled()
		// A global that starts without its database takes zones once it is there.
		mem.SetDown(true)
		f.zones["east"].stop()
		f.join("east")
		<-time.After(3 * time.Second)
		mem.SetDown(false)
		f.settled()
	})
}

// TestBeats: global beats for zones that know it, whatever its store does.
func TestBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := globalsync.NewMemStore()
		f := newFleet(t, true, mem)
		f.seeded("east")
		beats := func(level uint32) int {
			name := fmt.Sprint("level-", level)
			f.token("token-"+name, name)
			p := f.peer("token-" + name)
			p.send(hello(name, level))
			to := p.recv(func(f *zonesyncv1.GlobalFrame) bool { return f.GetSnapshot().GetLast() }).GetSnapshot().GetTo()
			p.send(ack(to.GetRevision()))
			mem.SetDown(true)
			defer mem.SetDown(false)
			var n atomic.Int64
			go func() {
				for {
					frame, err := p.stream.Recv()
					if err != nil {
						return
					}
					if frame.GetBeat() != nil {
						n.Add(1)
					}
				}
			}()
			<-time.After(10*wireform.Beat + wireform.Beat/2)
			return int(n.Load())
		}
		if got := beats(wireform.BeatCapabilities); got < 10 || got > 11 {
			t.Errorf("%d beats in the time of ten", got)
		}
		if got := beats(wireform.BeatCapabilities - 1); got != 0 {
			t.Errorf("%d beats to a zone of before there were any", got)
		}
	})
}

// TestTwoProcessesOfOneZone: the one that was replaced does not fight back at once.
func TestTwoProcessesOfOneZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, true, globalsync.NewMemStore())
		f.seeded("east")
		f.wire.reset(0)
		delete(f.zones, "east")
		f.join("east")
		<-time.After(60 * time.Second)
		down, _, _ := f.wire.seen()
		welcomes := 0
		for _, d := range down {
			if d.GetWelcome() != nil {
				welcomes++
			}
		}
		if welcomes < 2 || welcomes > 14 {
			t.Errorf("%d streams in a minute", welcomes)
		}
	})
}

// TestFactsDeletedAtGlobal: a mesh is deleted with all that is in it, and made
// again. What the zones own in it comes back.
func TestFactsDeletedAtGlobal(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.seeded("east", "west")
		service, proxy := aService("west", "backend", 1), aDataplane("west", "backend-1")
		f.zones["west"].facts.put(service, proxy)
		f.settled()
		gone := f.write(del(service.Key), del(proxy.Key), del(anIdentity("default").Key), del(aTimeout("t", 0).Key), del(aMesh("default").Key))
		f.eventually("the mesh to be gone in the zones", func() error {
			for _, z := range f.zones {
				if n := len(z.replica.texts()); n != 0 || z.replica.Position().Revision < gone || !z.client.Connected() {
					return fmt.Errorf("zone %s holds %d resources", z.name, n)
				}
			}
			if n := len(f.told("west")); n != 0 {
				return fmt.Errorf("global holds %d facts", n)
			}
			return nil
		})
		f.write(put(aMesh("default")), put(anIdentity("default")))
		f.settled()
		if n := len(f.told("west")); n != 2 {
			t.Errorf("global holds %d facts of west", n)
		}
	})
}
