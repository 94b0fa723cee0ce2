package sync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"reflect"
	"strings"
	gosync "sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// script is global written by hand: what it says, and what it heard.
type script struct {
	ctx  context.Context
	stop context.CancelFunc
	say  chan *zonesyncv1.GlobalFrame
	mu   gosync.Mutex
	said []*zonesyncv1.ZoneFrame
}

func newScript() *script {
	ctx, stop := context.WithCancel(context.Background())
	return &script{ctx: ctx, stop: stop, say: make(chan *zonesyncv1.GlobalFrame)}
}

// opened is the stream as a client gets it.
func (s *script) opened() *opened {
	return &opened{address: "by hand", ctx: s.ctx, fs: s, end: s.stop}
}

func (s *script) Send(f *zonesyncv1.ZoneFrame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = append(s.said, proto.Clone(f).(*zonesyncv1.ZoneFrame))
	return s.ctx.Err()
}

func (s *script) Recv() (*zonesyncv1.GlobalFrame, error) {
	select {
	case f, ok := <-s.say:
		if !ok {
			return nil, io.EOF
		}
		return f, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// heard are the frames since the last call.
func (s *script) heard() []*zonesyncv1.ZoneFrame {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.said
	s.said = nil
	return out
}

// fakes of the zone.
type fakeZone struct {
	mu        gosync.Mutex
	at        Position
	held      map[mesh.Key]mesh.Resource
	fail      error
	facts     map[mesh.Key]mesh.Resource
	told      map[mesh.Key]mesh.Resource
	changed   chan struct{}
	reported  chan struct{}
	confirmed int
	inspect   func(context.Context, io.Writer) error
}

func newFakeZone() *fakeZone {
	return &fakeZone{held: map[mesh.Key]mesh.Resource{}, facts: map[mesh.Key]mesh.Resource{}, changed: make(chan struct{}, 1), reported: make(chan struct{}, 1)}
}

func (z *fakeZone) Position() Position { z.mu.Lock(); defer z.mu.Unlock(); return z.at }
func (z *fakeZone) Replace(to Position, rs []mesh.Resource) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.fail != nil {
		return z.fail
	}
	z.at, z.held = to, map[mesh.Key]mesh.Resource{}
	for _, r := range rs {
		z.held[r.Key] = r
	}
	return nil
}
func (z *fakeZone) Apply(to Position, changes []mesh.Change) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.fail != nil {
		return z.fail
	}
	z.at = to
	for _, c := range changes {
		if c.Deleted {
			delete(z.held, c.Resource.Key)
		} else {
			z.held[c.Resource.Key] = c.Resource
		}
	}
	return nil
}
func (z *fakeZone) Facts() []mesh.Change {
	z.mu.Lock()
	defer z.mu.Unlock()
	var out []mesh.Change
	for k, r := range z.facts {
		if told, is := z.told[k]; !is || !reflect.DeepEqual(told, r) {
			out = append(out, mesh.Change{Resource: r})
		}
	}
	for k, r := range z.told {
		if _, is := z.facts[k]; !is {
			out = append(out, mesh.Change{Resource: r, Deleted: true})
		}
	}
	z.told = maps.Clone(z.facts)
	return out
}
func (z *fakeZone) FactsChanged() <-chan struct{} { return z.changed }
func (z *fakeZone) FactsConfirmed(uint64)         { z.mu.Lock(); z.confirmed++; z.mu.Unlock() }
func (z *fakeZone) Report() *zonesyncv1.Report {
	return &zonesyncv1.Report{Applied: int64(z.Position().Revision)}
}
func (z *fakeZone) ReportChanged() <-chan struct{} { return z.reported }
func (z *fakeZone) Inspect(ctx context.Context, _ zonesync.Question, w io.Writer) error {
	return z.inspect(ctx, w)
}

func (z *fakeZone) fact(name string, n int) {
	r := mesh.Resource{Key: mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "east", Name: name}, Spec: fmt.Appendf(nil, `{"n":%d}`, n)}
	z.mu.Lock()
	z.facts[r.Key] = r
	z.mu.Unlock()
	select {
	case z.changed <- struct{}{}:
	default:
	}
}

func newTestClient(z *fakeZone) *Client {
	return New(Config{Zone: "east", Replica: z, Facts: z, Reports: z, Inspector: z})
}

// inSession runs a client against a script in a bubble.
func inSession(t *testing.T, z *fakeZone, run func(t *testing.T, c *Client, g *script, ended func() error)) {
	synctest.Test(t, func(t *testing.T) {
		// Channels must be of the bubble for it to know when all wait.
		z.changed, z.reported = make(chan struct{}, 1), make(chan struct{}, 1)
		c, g := newTestClient(z), newScript()
		done := make(chan error, 1)
		go func() { done <- c.serve(g.opened(), func() {}, nil) }()
		defer synctest.Wait()
		defer g.stop()
		run(t, c, g, func() error {
			g.stop()
			return <-done
		})
	})
}

func welcome(snapshot bool) *zonesyncv1.GlobalFrame {
	return &zonesyncv1.GlobalFrame{Frame: &zonesyncv1.GlobalFrame_Welcome{Welcome: &zonesyncv1.Welcome{
		Capabilities: 1, Snapshot: snapshot, Facts: &zonesyncv1.FactsPosition{Digest: mesh.FactsDigest(nil)}}}}
}

func snapshot(rev int64, last bool, rs ...mesh.Resource) *zonesyncv1.GlobalFrame {
	c := &zonesyncv1.SnapshotChunk{Last: last}
	if last {
		c.To = &zonesyncv1.Position{Revision: rev, Digest: fmt.Sprint("d", rev)}
	}
	for _, r := range rs {
		c.Resources = append(c.Resources, zonesync.FromResource(r))
	}
	return &zonesyncv1.GlobalFrame{Frame: &zonesyncv1.GlobalFrame_Snapshot{Snapshot: c}}
}

func push(from, to int64, partial bool, rs ...mesh.Resource) *zonesyncv1.GlobalFrame {
	p := &zonesyncv1.Push{From: from, To: &zonesyncv1.Position{Revision: to, Digest: fmt.Sprint("d", to)}, Partial: partial}
	for _, r := range rs {
		p.Changes = append(p.Changes, &zonesyncv1.Change{Revision: to, Resource: zonesync.FromResource(r)})
	}
	return &zonesyncv1.GlobalFrame{Frame: &zonesyncv1.GlobalFrame_Push{Push: p}}
}

func timeout(name string) mesh.Resource {
	return mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: name}, Spec: []byte(`{}`)}
}

// kinds names frames, for comparison.
func kinds(frames []*zonesyncv1.ZoneFrame) string {
	var out []string
	for _, f := range frames {
		switch f.GetFrame().(type) {
		case *zonesyncv1.ZoneFrame_Hello:
			out = append(out, fmt.Sprintf("hello:%d", f.GetHello().GetResume().GetRevision()))
		case *zonesyncv1.ZoneFrame_Ack:
			out = append(out, fmt.Sprintf("ack:%d", f.GetAck().GetRevision()))
		case *zonesyncv1.ZoneFrame_Nack:
			out = append(out, fmt.Sprintf("nack:%d", f.GetNack().GetRevision()))
		case *zonesyncv1.ZoneFrame_Facts:
			out = append(out, fmt.Sprintf("facts:%v+%d-%d", f.GetFacts().GetFull(), len(f.GetFacts().GetUpserts()), len(f.GetFacts().GetRemoved())))
		case *zonesyncv1.ZoneFrame_Report:
			// Reports come between; what they say is tested elsewhere.
		case *zonesyncv1.ZoneFrame_Inspect:
			out = append(out, fmt.Sprintf("answer:%d", f.GetInspect().GetId()))
		}
	}
	return strings.Join(out, " ")
}

func wantFrames(t *testing.T, g *script, want string) {
	t.Helper()
	if got := kinds(g.heard()); got != want {
		t.Errorf("the zone said %q, want %q", got, want)
	}
}

func TestSnapshotIsTakenWhole(t *testing.T) {
	z := newFakeZone()
	inSession(t, z, func(t *testing.T, _ *Client, g *script, _ func() error) {
		wantFrames(t, g, "hello:0")
		g.say <- welcome(true)
		g.say <- snapshot(0, false, timeout("a"))
		wantFrames(t, g, "")
		if len(z.held) != 0 {
			t.Error("a part of a snapshot was applied")
		}
		// A push among the chunks is of before; it is not applied.
		g.say <- push(3, 4, false, timeout("stray"))
		g.say <- snapshot(5, true, timeout("b"))
		wantFrames(t, g, "ack:5")
		if len(z.held) != 2 || z.at.Digest != "d5" {
			t.Errorf("holds %v at %v", z.held, z.at)
		}
		g.say <- push(5, 6, true, timeout("c"))
		wantFrames(t, g, "")
		g.say <- push(5, 6, false, timeout("d"))
		wantFrames(t, g, "ack:6")
		if len(z.held) != 4 {
			t.Errorf("holds %v", z.held)
		}
	})
}

func TestPushOrder(t *testing.T) {
	z := newFakeZone()
	z.at = Position{Revision: 10, Digest: "d10"}
	inSession(t, z, func(t *testing.T, _ *Client, g *script, ended func() error) {
		wantFrames(t, g, "hello:10")
		g.say <- welcome(false)
		g.say <- push(8, 10, false, timeout("old"))
		wantFrames(t, g, "ack:10")
		if len(z.held) != 0 {
			t.Error("a duplicate was applied")
		}
		g.say <- push(9, 11, false, timeout("a"))
		wantFrames(t, g, "ack:11")
		g.say <- push(13, 14, false, timeout("gap"))
		wantFrames(t, g, "nack:14")
		g.say <- push(14, 15, false, timeout("after the gap"))
		wantFrames(t, g, "")
		g.say <- snapshot(15, true, timeout("b"))
		wantFrames(t, g, "ack:15")
		// What cannot be applied is refused, with the reason.
		z.fail = errors.New("disk full")
		g.say <- push(15, 16, false, timeout("c"))
		frames := g.heard()
		if kinds(frames) != "nack:16" || !strings.Contains(frames[len(frames)-1].GetNack().GetReason(), "disk full") {
			t.Errorf("%v", frames)
		}
		g.say <- snapshot(16, true, timeout("c"))
		wantFrames(t, g, "nack:16")
		z.fail = nil
		g.say <- snapshot(16, true, timeout("c"))
		wantFrames(t, g, "ack:16")
		g.say <- push(16, 17, true, timeout("d"))
		g.say <- push(17, 18, false, timeout("d"))
		if err := ended(); err == nil || !strings.Contains(err.Error(), "mixed the parts") {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestGlobalOutOfLine(t *testing.T) {
	for name, c := range map[string]struct {
		frames []*zonesyncv1.GlobalFrame
		want   string
	}{
		"no welcome":        {[]*zonesyncv1.GlobalFrame{push(0, 1, false)}, "the first frame of global is not welcome"},
		"two welcomes":      {[]*zonesyncv1.GlobalFrame{welcome(false), welcome(false)}, "a second welcome"},
		"no capability":     {[]*zonesyncv1.GlobalFrame{{Frame: &zonesyncv1.GlobalFrame_Welcome{Welcome: &zonesyncv1.Welcome{}}}}, "capability level is 0, at least 1"},
		"an endless whole":  {[]*zonesyncv1.GlobalFrame{welcome(true), snapshot(0, false, timeout(strings.Repeat("a", 600))), snapshot(0, false, timeout(strings.Repeat("b", 600)))}, "more than 1000 bytes"},
		"an endless push":   {[]*zonesyncv1.GlobalFrame{welcome(false), push(0, 1, true, timeout(strings.Repeat("a", 600))), push(0, 1, true, timeout(strings.Repeat("b", 600)))}, "more than 1000 bytes"},
		"a later level":     {[]*zonesyncv1.GlobalFrame{{Frame: &zonesyncv1.GlobalFrame_Welcome{Welcome: &zonesyncv1.Welcome{Capabilities: 99}}}}, ""},
		"an unknown frame":  {[]*zonesyncv1.GlobalFrame{welcome(false), {}}, ""},
		"a stray facts ack": {[]*zonesyncv1.GlobalFrame{welcome(false), {Frame: &zonesyncv1.GlobalFrame_FactsAck{FactsAck: &zonesyncv1.FactsAck{}}}}, ""},
		"a stray cancel":    {[]*zonesyncv1.GlobalFrame{welcome(false), {Frame: &zonesyncv1.GlobalFrame_InspectCancel{InspectCancel: &zonesyncv1.InspectCancel{Id: 7}}}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, g := newTestClient(newFakeZone()), newScript()
				client.limits.bytes = 1000
				done := make(chan error, 1)
				go func() { done <- client.serve(g.opened(), func() {}, nil) }()
				var err error
				for _, f := range c.frames {
					select {
					case g.say <- f:
						synctest.Wait()
					case err = <-done:
						t.Fatalf("ended early with %v", err)
					}
				}
				synctest.Wait()
				g.stop()
				err = <-done
				if c.want == "" && !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("ended with %v, want %q", err, c.want)
				}
			})
		})
	}
	t.Run("silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, g := newTestClient(newFakeZone()), newScript()
			start := time.Now()
			if err := c.serve(g.opened(), func() {}, nil); err == nil || !strings.Contains(err.Error(), "no welcome") {
				t.Errorf("ended with %v", err)
			}
			if took := time.Since(start); took != zonesync.HelloTimeout {
				t.Errorf("after %v", took)
			}
		})
	})
}

// TestFactsOneAtATime: the next delta waits for the answer, and has only what differs.
func TestFactsOneAtATime(t *testing.T) {
	z := newFakeZone()
	z.fact("a", 1)
	inSession(t, z, func(t *testing.T, _ *Client, g *script, _ func() error) {
		g.heard()
		g.say <- welcome(false)
		frames := g.heard()
		if kinds(frames) != "facts:true+1-0" {
			t.Fatalf("%v", frames)
		}
		for i := range 10 {
			z.fact("b", i)
			z.fact("c", i)
			synctest.Wait()
		}
		z.mu.Lock()
		delete(z.facts, mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "east", Name: "a"})
		z.mu.Unlock()
		wantFrames(t, g, "")
		answer := func(refused ...string) {
			ack := &zonesyncv1.FactsAck{}
			for _, f := range frames {
				if to := f.GetFacts().GetTo(); to != nil {
					ack.To = to
				}
			}
			for _, name := range refused {
				ack.Refused = append(ack.Refused, &zonesyncv1.Refusal{Kind: "Dataplane", Mesh: "default", Name: name, Reason: "no"})
			}
			g.say <- &zonesyncv1.GlobalFrame{Frame: &zonesyncv1.GlobalFrame_FactsAck{FactsAck: ack}}
		}
		if z.confirmed != 0 {
			t.Error("confirmed before the answer")
		}
		answer()
		frames = g.heard()
		if kinds(frames) != "facts:false+2-0 facts:false+0-1" {
			t.Fatalf("%v", kinds(frames))
		}
		answer("b")
		wantFrames(t, g, "")
		if z.confirmed != 1 {
			t.Errorf("confirmed %d times", z.confirmed)
		}
		// What was refused is offered again when it changes, or when what judges it does.
		z.fact("c", 99)
		frames = g.heard()
		if kinds(frames) != "facts:false+1-0" || frames[0].GetFacts().GetUpserts()[0].GetName() != "c" {
			t.Fatalf("%v %v", kinds(frames), frames)
		}
		answer()
		g.heard()
		g.say <- push(0, 1, false, timeout("t"))
		wantFrames(t, g, "ack:1")
		g.say <- push(1, 2, false, mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"}, Spec: []byte(`{}`)})
		frames = g.heard()
		if kinds(frames) != "ack:2 facts:false+1-0" {
			t.Fatalf("%v", kinds(frames))
		}
		answer()
		wantFrames(t, g, "")
		// What judges it changes while it is on its way: the refusal is of before.
		z.fact("b", 100)
		frames = g.heard()
		g.say <- push(2, 3, false, mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"}, Spec: []byte(`{}`)})
		wantFrames(t, g, "ack:3")
		answer("b")
		if frames = g.heard(); kinds(frames) != "facts:false+1-0" || frames[0].GetFacts().GetUpserts()[0].GetName() != "b" {
			t.Fatalf("what was refused by an old judgement is not told again: %v", frames)
		}
		answer()
		wantFrames(t, g, "")
	})
}

// TestUnreachableIsLoggedOnce: an hour without global is a line in the log, not thousands.
func TestUnreachableIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newFakeZone()
		var out strings.Builder
		dials := 0
		c := New(Config{Zone: "east", Address: "127.0.0.1:1", Replica: z, Facts: z, Reports: z, Log: slog.New(slog.NewTextHandler(&out, nil)),
			Token: func() (string, error) {
				if dials++; dials > 10 {
					return "", errors.New("another reason")
				}
				return "", errors.New("no token")
			}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(out.String(), "not connected to global"); n != 2 || dials < 1000 {
			t.Errorf("%d lines for 2 reasons in %d dials:\n%.500s", n, dials, out.String())
		}
	})
}

// TestLiesOfOthers: what arrives in the name of another zone is checked again.
func TestLiesOfOthers(t *testing.T) {
	identity := mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshIdentity, Mesh: "default", Name: "i"}, Spec: []byte(`{"provider":{"type":"Bundled"}}`)}
	trust := func(zone, domain string) mesh.Resource {
		return mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTrust, Mesh: "default", Zone: zone, Name: "t-" + strings.ReplaceAll(domain, ".", "-")}, Spec: fmt.Appendf(nil, `{"trustDomain":%q}`, domain)}
	}
	service := func(zone, id string) mesh.Resource {
		return mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: zone, Name: "s-" + zone},
			Spec: fmt.Appendf(nil, `{"identities":[{"type":"SpiffeID","value":%q}],"new":1}`, id)}
	}
	policy := func(name, ns, to string, role ...string) mesh.Resource {
		r := mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Zone: "west", Name: name},
			Labels: map[string]string{mesh.LabelEnv: "kubernetes", mesh.LabelNamespace: ns, mesh.LabelPolicyRole: "producer"},
			Spec:   fmt.Appendf(nil, `{"new":1,"to":[{"targetRef":%s,"default":{"idleTimeout":"1s"}}]}`, to)}
		if len(role) > 0 {
			r.Labels[mesh.LabelPolicyRole] = role[0]
		}
		return r
	}
	const own = `{"kind":"MeshService","labels":{"kuma.io/display-name":"web"}}`
	honest := []mesh.Resource{policy("p.shop", "shop", own), identity, timeout("t"), trust("west", "default.west.mesh.local"), service("west", "spiffe://default.west.mesh.local/workload/x"),
		trust("", "default.east.mesh.local"), {Key: mesh.Key{Kind: "MeshTomorrow", Mesh: "default", Zone: "west", Name: "x"}, Spec: []byte(`{}`)}}
	lies := []mesh.Resource{trust("west", "default.east.mesh.local"), trust("west", "default.north.mesh.local"), trust("east", "default.east.mesh.local"),
		service("north", "spiffe://default.west.mesh.local/workload/x"), service("south", "spiffe://default.south.mesh.local.evil/x"),
		{Key: mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "west", Name: "x"}, Spec: []byte(`{}`)},
		{Key: mesh.Key{Kind: mesh.KindMeshTrafficPermission, Mesh: "default", Zone: "west", Name: "x"}, Spec: []byte(`{}`)},
		policy("consumer.shop", "shop", `{"kind":"Mesh"}`, "consumer"),
		policy("says-producer.shop", "shop", `{"kind":"Mesh"}`),
		policy("of-another-namespace.shop", "shop", `{"kind":"MeshService","labels":{"kuma.io/display-name":"web","k8s.kuma.io/namespace":"bank"}}`),
		policy("not-in-the-namespace", "shop", own),
		policy("system.tombolo-system", "tombolo-system", own, "system"),
		policy("unreadable.shop", "shop", `7`)}
	for _, how := range []string{"snapshot", "push", "push after a restart"} {
		t.Run(how, func(t *testing.T) {
			z := newFakeZone()
			inSession(t, z, func(t *testing.T, c *Client, g *script, _ func() error) {
				all := append(append([]mesh.Resource{}, lies...), honest...)
				switch how {
				case "snapshot":
					g.say <- welcome(true)
					g.say <- snapshot(1, true, all...)
				case "push":
					g.say <- welcome(true)
					g.say <- snapshot(1, true)
					g.say <- push(1, 2, false, all...)
				default:
					c.trusts.load([]mesh.Resource{identity})
					g.say <- welcome(false)
					g.say <- push(0, 2, false, all...)
				}
				g.heard()
				for _, r := range honest {
					if _, ok := z.held[r.Key]; !ok {
						t.Errorf("%s is missing", r.Key)
					}
				}
				for _, r := range lies {
					if _, ok := z.held[r.Key]; ok {
						t.Errorf("%s was believed: %s", r.Key, r.Spec)
					}
				}
			})
		})
	}
}

// TestReportIsBounded: what is too much for a frame is cut, the newest is kept.
func TestReportIsBounded(t *testing.T) {
	r := &zonesyncv1.Report{Applied: 7}
	long := strings.Repeat("x", 4096)
	for i := range 400 {
		c := &zonesyncv1.ChangeProgress{Revision: int64(i)}
		for range 12 {
			c.BehindNames = append(c.BehindNames, "p")
			c.Rejections = append(c.Rejections, &zonesyncv1.Rejection{Reason: long})
		}
		r.Changes = append(r.Changes, c)
		r.Problems = append(r.Problems, &zonesyncv1.ResourceProblem{Reason: long})
	}
	got := bounded(r)
	last := got.GetChanges()[len(got.GetChanges())-1]
	if n := proto.Size(got); n > zonesync.MaxFrameBytes+1024 || len(got.GetChanges()) != zonesync.MaxReportItems || last.GetRevision() != 399 || got.GetApplied() != 7 {
		t.Errorf("%d bytes, %d changes, the last is %d", n, len(got.GetChanges()), last.GetRevision())
	}
	if len(r.GetChanges()) != 400 || len(r.GetChanges()[0].GetRejections()) != 12 {
		t.Error("the zone's own report was changed")
	}
	small := &zonesyncv1.Report{Applied: 1}
	if bounded(small) != small {
		t.Error("a small report was copied")
	}
}

// FuzzZone feeds frames of any kind to the zone's side: it must not panic, must
// end when told, and must collect no more than its bound.
func FuzzZone(f *testing.F) {
	for _, frames := range [][]*zonesyncv1.GlobalFrame{
		{welcome(true), snapshot(0, false, timeout("a")), snapshot(3, true, timeout("b")), push(3, 4, true, timeout("c")), push(3, 4, false)},
		{welcome(false), push(0, 2, false, timeout("a")), push(9, 10, false), snapshot(10, true)},
		{welcome(false), {Frame: &zonesyncv1.GlobalFrame_Inspect{Inspect: &zonesyncv1.InspectRequest{Id: 1}}}, {Frame: &zonesyncv1.GlobalFrame_InspectCancel{InspectCancel: &zonesyncv1.InspectCancel{Id: 1}}}},
		{welcome(false), {Frame: &zonesyncv1.GlobalFrame_FactsAck{FactsAck: &zonesyncv1.FactsAck{To: &zonesyncv1.FactsPosition{Sequence: 1}}}}, {}},
	} {
		var seed []byte
		for _, frame := range frames {
			b, err := proto.Marshal(frame)
			if err != nil {
				f.Fatal(err)
			}
			seed = append(append(seed, byte(len(b)>>8), byte(len(b))), b...)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		z := newFakeZone()
		z.fact("a", 1)
		z.inspect = func(ctx context.Context, w io.Writer) error { _, err := w.Write([]byte("x")); return err }
		c, g := newTestClient(z), newScript()
		c.limits.bytes = 1 << 16
		done := make(chan error, 1)
		go func() { done <- c.serve(g.opened(), func() {}, nil) }()
		ended := false
		for len(data) >= 2 && !ended {
			n := min(int(data[0])<<8|int(data[1]), len(data)-2)
			frame := &zonesyncv1.GlobalFrame{}
			err := proto.Unmarshal(data[2:2+n], frame)
			data = data[2+n:]
			if err != nil {
				continue
			}
			select {
			case g.say <- frame:
			case <-done:
				ended = true
			}
		}
		g.stop()
		if !ended {
			<-done
		}
	})
}
