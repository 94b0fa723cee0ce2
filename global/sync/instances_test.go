package sync_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	gosync "sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tombolo-mesh/tombolo/global/peers"
	"github.com/tombolo-mesh/tombolo/global/store"
	globalsync "github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/internal/serverca"
	"github.com/tombolo-mesh/tombolo/mesh"
	peersv1 "github.com/tombolo-mesh/tombolo/proto/peers/v1"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// instances are several globals on one store, in memory, that share a roster.
type instances struct {
	*fleet
	keys   *store.Keyring
	roster *roster
	zoneCA *tls.Certificate

	mu gosync.Mutex
	// at is which instances each zone may dial, the first that lives.
	at   map[string][]string
	live map[string]*instance
	// parted: instances do not reach each other.
	parted bool
	// frozen, until it is closed: nothing passes between instances, and nothing says so.
	frozen chan struct{}
	// older: instances that begin are of an older version.
	older bool
	links []net.Conn
}

// instance is one global.
type instance struct {
	server *globalsync.Server
	peers  *peers.Peers
	lis    *bufconn.Listener
	conns  []net.Conn
	kill   func()
}

// older is what an instance tells that does not beat.
type older struct{ *globalsync.Server }

func (o older) Export(ctx context.Context, send func(*peersv1.Update) error) error {
	return o.Server.Export(ctx, func(u *peersv1.Update) error {
		if len(u.GetMembers()) == 0 && !u.GetCurrent() {
			return nil
		}
		return send(u)
	})
}

// roster is where instances find each other, in memory.
type roster struct {
	mu      gosync.Mutex
	records map[string][]byte
	seen    map[string]time.Time
}

func (r *roster) Register(_ context.Context, id string, record []byte, life time.Duration) (map[string][]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records[id], r.seen[id] = record, time.Now()
	for id, seen := range r.seen {
		if time.Since(seen) > life {
			delete(r.seen, id)
			delete(r.records, id)
		}
	}
	return maps.Clone(r.records), nil
}

func (r *roster) Leave(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.records, id)
	delete(r.seen, id)
	return nil
}

// many runs a test with instances a and b in a bubble.
func many(t *testing.T, run func(t *testing.T, in *instances, a, b *instance)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		st := globalsync.NewMemStore()
		keys, err := store.NewKeyring(bytes.Repeat([]byte{7}, 32))
		if err != nil {
			t.Fatal(err)
		}
		authority, err := serverca.NewAuthority("test", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		f := &fleet{t: t, bubble: true, store: st, wire: &wire{hold: map[string]chan struct{}{}}, zones: map[string]*zoneProc{}, tokens: map[string]string{}}
		in := &instances{fleet: f, keys: keys, zoneCA: authority.TLS(), roster: &roster{records: map[string][]byte{}, seen: map[string]time.Time{}},
			at: map[string][]string{}, live: map[string]*instance{}}
		f.via = in.dialing
		a, b := in.begin("a", keys), in.begin("b", keys)
		f.server = a.server
		run(t, in, a, b)
	})
}

// dialing is how a zone reaches the instances that it may dial.
func (in *instances) dialing(zone string) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			in.mu.Lock()
			at := in.at[zone]
			in.mu.Unlock()
			for _, name := range at {
				if conn, err := in.connect(ctx, name); err == nil {
					return conn, nil
				}
			}
			return nil, errors.New("nobody is there")
		}),
	}
}

func (in *instances) connect(ctx context.Context, name string) (net.Conn, error) {
	name, _, _ = strings.Cut(name, ":")
	in.mu.Lock()
	defer in.mu.Unlock()
	i := in.live[name]
	if i == nil {
		return nil, errors.New("connection refused")
	}
	conn, err := i.lis.DialContext(ctx)
	if err == nil {
		i.conns = append(i.conns, conn)
	}
	return conn, err
}

func (in *instances) place(zone string, at ...string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.at[zone] = at
}

// begin starts an instance; kill breaks all its connections at once.
func (in *instances) begin(name string, keys *store.Keyring) *instance {
	in.t.Helper()
	i := &instance{lis: bufconn.Listen(1 << 16)}
	var err error
	i.peers, err = peers.New(peers.Config{Instance: name, Address: name + ":1", Roster: in.roster, Keys: keys, Log: testLog(in.t),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			in.mu.Lock()
			parted := in.parted
			in.mu.Unlock()
			if parted {
				return nil, errors.New("no route to host")
			}
			conn, err := in.connect(ctx, address)
			if err == nil {
				conn, err = in.proxied(conn)
			}
			if err == nil {
				in.mu.Lock()
				i.conns = append(i.conns, conn)
				in.links = append(in.links, conn)
				in.mu.Unlock()
			}
			return conn, err
		})}})
	if err != nil {
		in.t.Fatal(err)
	}
	i.server = globalsync.New(globalsync.Config{Store: in.store, Authorize: in.authorize, Instance: name, Version: "test", Log: testLog(in.t), Ask: i.peers.Ask})
	creds := credentials.NewTLS(i.peers.TLS(&tls.Config{Certificates: []tls.Certificate{*in.zoneCA}}))
	gs := grpc.NewServer(append(globalsync.ServerOptions(), in.tap(), grpc.Creds(creds))...)
	i.server.Register(gs)
	var told peers.Fleet = i.server
	if in.older {
		told = older{i.server}
	}
	i.peers.Register(gs, told)
	ctx, cancel := context.WithCancel(context.Background())
	var all gosync.WaitGroup
	all.Go(func() { _ = i.server.Run(ctx) })
	all.Go(func() { _ = i.peers.Run(ctx, i.server) })
	all.Go(func() { _ = gs.Serve(i.lis) })
	i.kill = gosync.OnceFunc(func() {
		in.mu.Lock()
		delete(in.live, name)
		conns := i.conns
		in.mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
		cancel()
		gs.Stop()
		all.Wait()
	})
	in.t.Cleanup(i.kill)
	in.mu.Lock()
	in.live[name] = i
	in.mu.Unlock()
	return i
}

// part breaks the connections between instances, or lets them connect again.
func (in *instances) part(parted bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.parted = parted
	for _, c := range in.links {
		c.Close()
	}
	in.links = nil
}

// freeze has the connections between instances pass nothing, nor end, or go on.
func (in *instances) freeze(frozen bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if frozen {
		in.frozen = make(chan struct{})
	} else if in.frozen != nil {
		close(in.frozen)
		in.frozen = nil
	}
}

// proxied is a connection whose bytes go through a proxy, which stops as freeze says.
func (in *instances) proxied(server net.Conn) (net.Conn, error) {
	pass := func(to, from net.Conn) {
		defer to.Close()
		defer from.Close()
		for b := make([]byte, 1<<12); ; {
			n, err := from.Read(b)
			in.mu.Lock()
			frozen := in.frozen
			in.mu.Unlock()
			if frozen != nil {
				<-frozen
			}
			if _, failed := to.Write(b[:n]); err != nil || failed != nil {
				return
			}
		}
	}
	l := bufconn.Listen(1 << 16)
	go func() {
		if near, err := l.Accept(); err == nil {
			go pass(server, near)
			pass(near, server)
		}
	}()
	return l.Dial()
}

// alike waits until both instances say the same of the zones and of a change, and returns it.
func (in *instances) alike(rev mesh.Revision, a, b *instance, want string) {
	in.t.Helper()
	in.eventually(want, func() error {
		if diff := cmp.Diff(a.server.Zones(), b.server.Zones()); diff != "" {
			return errors.New("zones differ:\n" + diff)
		}
		if diff := cmp.Diff(a.server.Change(rev), b.server.Change(rev)); diff != "" {
			return errors.New("the change differs:\n" + diff)
		}
		if got := summary(b.server, rev); got != want {
			return errors.New(got)
		}
		return nil
	})
}

// summary is what a server says of zones and of a change.
func summary(s *globalsync.Server, rev mesh.Revision) string {
	var out []string
	for _, z := range s.Zones() {
		out = append(out, fmt.Sprintf("%s@%s online=%v", z.Name, z.Global, z.Online))
	}
	c := s.Change(rev)
	for _, z := range c.Zones {
		out = append(out, fmt.Sprintf("%s %s(%d,%d,%d)", z.Zone, z.State, z.Affected, z.Done, z.Behind))
	}
	return strings.Join(out, "; ")
}

// TestInstancesAnswerAlike: zones at different instances are known, watched and
// asked from each.
func TestInstancesAnswerAlike(t *testing.T) {
	many(t, func(t *testing.T, in *instances, a, b *instance) {
		in.place("east", "a")
		in.place("west", "b")
		in.seeded("east", "west")
		west := in.zones["west"].reports
		west.mu.Lock()
		west.behind = true
		west.mu.Unlock()
		rev := in.write(put(aTimeout("t", 2)))
		in.alike(rev, a, b, "east@a online=true; west@b online=true; east done(1,1,0); west behind(1,0,1)")

		// A watch at one instance hears of a zone at the other.
		complete := make(chan globalsync.ChangeStatus, 1)
		go a.server.WatchChange(t.Context(), rev, func(c globalsync.ChangeStatus) bool {
			if c.Complete {
				complete <- c
			}
			return !c.Complete
		})
		west.set(func(r *zonesyncv1.Report) {
			c := r.Changes[len(r.Changes)-1]
			c.Behind, c.Done, c.BehindNames, c.SettleMicros, r.Settled = 0, 1, nil, 1, r.Applied
			r.Problems = []*zonesyncv1.ResourceProblem{{Kind: "MeshTimeout", Mesh: "default", Name: "t", Reason: "no", Proxies: 3}}
		})
		if c := <-complete; c.Zones[1].Settled == 0 {
			t.Errorf("without the time it took: %+v", c)
		}
		in.alike(rev, a, b, "east@a online=true; west@b online=true; east done(1,1,0); west done(1,1,0)")
		if z := a.server.Zones()[1]; len(z.Problems) != 1 || z.Problems[0].Proxies != 3 {
			t.Errorf("problems of a zone at the other instance: %+v", z.Problems)
		}

		// Questions with a large body and answer, and the errors, are as at the zone's own instance.
		body := bytes.Repeat([]byte("question"), 300_000)
		for _, z := range in.zones {
			z.reports.answer = func(_ context.Context, q globalsync.Question, w io.Writer) error {
				if q.What == "bad" {
					return errors.New("there is no such proxy")
				}
				_, err := w.Write(bytes.ToUpper(q.Body))
				return err
			}
		}
		for name, s := range map[string]*globalsync.Server{"a": a.server, "b": b.server} {
			for _, zone := range []string{"east", "west"} {
				var out bytes.Buffer
				if err := s.Inspect(t.Context(), zone, globalsync.Question{What: "plan", Body: body}, &out); err != nil || !bytes.Equal(out.Bytes(), bytes.ToUpper(body)) {
					t.Errorf("%s asked about %s answers %d bytes, err %v", name, zone, out.Len(), err)
				}
				err := s.Inspect(t.Context(), zone, globalsync.Question{What: "bad"}, &out)
				if want := "inspect zone " + zone + ": inspection failed: there is no such proxy"; err == nil || err.Error() != want || !errors.Is(err, globalsync.ErrInspect) {
					t.Errorf("%s: error %v, want %s", name, err, want)
				}
			}
			if err := s.Inspect(t.Context(), "nowhere", globalsync.Question{What: "x"}, io.Discard); !errors.Is(err, globalsync.ErrZoneOffline) {
				t.Errorf("%s: a zone that is nowhere: %v", name, err)
			}
		}
	})
}

// TestInstanceEnds: with an instance its zones are offline at the others at once.
// They come back there with what they had: no resource is sent again, and what
// they reported is still known.
func TestInstanceEnds(t *testing.T) {
	many(t, func(t *testing.T, in *instances, a, b *instance) {
		in.place("east", "a")
		in.place("west", "b")
		in.seeded("east", "west")
		in.zones["east"].facts.put(aService("east", "web", 2))
		in.settled()
		rev := in.write(put(aTimeout("t", 2)))
		in.settled()
		in.alike(rev, a, b, "east@a online=true; west@b online=true; east done(1,1,0); west done(1,1,0)")

		killed := time.Now()
		a.kill()
		in.eventually("offline", func() error {
			if got := summary(b.server, rev); !strings.HasPrefix(got, "east@ online=false") || !strings.Contains(got, "east done(1,1,0)") {
				return errors.New(got)
			}
			return nil
		})
		if took := time.Since(killed); took > 50*time.Millisecond {
			t.Errorf("known after %s; the end of the connection is knowledge", took)
		}
		lost := in.write(put(aTimeout("t", 3)))
		in.eventually("offline in a change while the zone is away", func() error {
			if got := summary(b.server, lost); !strings.Contains(got, "east offline(") {
				return errors.New(got)
			}
			return nil
		})
		in.wire.reset(0)
		in.place("east", "a", "b")
		in.server = b.server
		in.settled()
		if took := time.Since(killed); took > 2*time.Second {
			t.Errorf("the zone is back after %s", took)
		}
		down, up, _ := in.wire.seen()
		for _, f := range down {
			if f.GetSnapshot() != nil || f.GetWelcome().GetSnapshot() || len(f.GetPush().GetChanges()) > 1 {
				t.Errorf("sent again: %v", f)
			}
		}
		for _, f := range up {
			if f.GetFacts() != nil {
				t.Errorf("told again: %v", f)
			}
		}
		in.eventually("history", func() error {
			if got := summary(b.server, rev); got != "east@b online=true; west@b online=true; east done(1,1,0); west done(1,1,0)" {
				return errors.New(got)
			}
			return nil
		})
		// One that comes later hears of everything from before.
		c := in.begin("c", in.keys)
		in.alike(rev, b, c, "east@b online=true; west@b online=true; east done(1,1,0); west done(1,1,0)")
	})
}

// TestInstancesThatDoNotReachEachOther: while another instance lives and cannot be
// reached, the zones that it may have are unknown, and not offline.
func TestInstancesThatDoNotReachEachOther(t *testing.T) {
	many(t, func(t *testing.T, in *instances, a, b *instance) {
		in.place("east", "a")
		in.place("west", "b")
		in.seeded("east", "west")
		rev := in.write(put(aTimeout("t", 2)))
		in.settled()
		in.eventually("known", func() error {
			if got := states(b.server, rev); got != "east@a online=true; west@b online=true; east done; west done" {
				return errors.New(got)
			}
			return nil
		})
		in.part(true)
		next := in.write(put(aTimeout("t", 3)))
		says := func(want string, mayBeAt []string, inspection error) {
			t.Helper()
			in.eventually(want, func() error {
				if got := states(b.server, next); got != want {
					return errors.New(got)
				}
				if got := b.server.Zones()[0].MayBeAt; !slices.Equal(got, mayBeAt) {
					return fmt.Errorf("may be at %v", got)
				}
				if got := b.server.Change(next).Zones[0].MayBeAt; !slices.Equal(got, mayBeAt) {
					return fmt.Errorf("the change may be at %v", got)
				}
				if err := b.server.Inspect(t.Context(), "east", globalsync.Question{What: "x"}, io.Discard); inspection != nil && !errors.Is(err, inspection) {
					return fmt.Errorf("inspection: %v", err)
				}
				return nil
			})
		}
		says("east@ online=false; west@b online=true; east unknown; west done", []string{"a"}, globalsync.ErrZoneUnknown)
		in.part(false)
		says("east@a online=true; west@b online=true; east done; west done", nil, nil)
		a.kill()
		after := in.write(put(aTimeout("t", 4)))
		in.eventually("offline", func() error {
			if got := states(b.server, after); got != "east@ online=false; west@b online=true; east offline; west done" {
				return errors.New(got)
			}
			return nil
		})
	})
}

// TestInstanceThatHangs: the other side of a connection that passes nothing any more,
// and does not end, is noticed soon. What it was asked fails with its name, and what is
// asked from then on at once.
func TestInstanceThatHangs(t *testing.T) {
	many(t, func(t *testing.T, in *instances, a, b *instance) {
		in.place("east", "a")
		in.place("west", "b")
		in.seeded("east", "west")
		rev := in.write(put(aTimeout("t", 2)))
		in.settled()
		in.alike(rev, a, b, "east@a online=true; west@b online=true; east done(1,1,0); west done(1,1,0)")
		time.Sleep(time.Minute) // of the bubble's clock
		if got := b.peers.Instances()[0]; time.Since(got.Since) < time.Minute {
			t.Errorf("the connection did not last: %+v", got)
		}

		in.freeze(true)
		defer in.freeze(false)
		began := time.Now()
		ask := func(body int) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			return b.server.Inspect(ctx, "east", globalsync.Question{What: "plan", Body: bytes.Repeat([]byte("q"), body)}, io.Discard)
		}
		asked := make(chan error, 2)
		for _, body := range []int{0, 4 << 20} { // one more than the connection takes before it is answered
			go func() { asked <- ask(body) }()
		}
		for range cap(asked) {
			err := <-asked
			if took := time.Since(began); took < 2*time.Second || took > 4*time.Second {
				t.Errorf("answered after %s: %v", took, err)
			}
			if !errors.Is(err, globalsync.ErrZoneUnknown) || !strings.Contains(err.Error(), "inspect zone east: instance a of global, which the zone is connected to, does not answer") || !strings.Contains(err.Error(), "it was silent for 3.5s") {
				t.Errorf("inspection: %v", err)
			}
		}
		in.eventually("unknown", func() error {
			if got := states(b.server, rev); got != "east@ online=false; west@b online=true; east done; west done" {
				return errors.New(got)
			}
			return nil
		})
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("unknown after %s", took)
		}
		again := time.Now()
		if err := ask(0); !errors.Is(err, globalsync.ErrZoneUnknown) || !strings.Contains(err.Error(), "instance a of global") || time.Since(again) > 0 {
			t.Errorf("asked once more: %v after %s", err, time.Since(again))
		}

		in.freeze(false)
		in.eventually("known again", func() error {
			if got := states(b.server, rev); got != "east@a online=true; west@b online=true; east done; west done" {
				return errors.New(got)
			}
			return nil
		})
		if err := ask(0); err != nil {
			t.Error(err)
		}
	})
}

// TestOlderInstance: one that does not beat is not taken for one that hangs.
func TestOlderInstance(t *testing.T) {
	many(t, func(t *testing.T, in *instances, a, b *instance) {
		b.kill()
		in.older = true
		in.begin("c", in.keys)
		in.eventually("connected", func() error {
			if all := a.peers.Instances(); len(all) != 2 || !all[1].Connected {
				return fmt.Errorf("%+v", all)
			}
			return nil
		})
		time.Sleep(time.Minute) // of the bubble's clock
		if got := a.peers.Instances()[1]; !got.Connected || time.Since(got.Since) < time.Minute {
			t.Errorf("the connection did not last: %+v", got)
		}
	})
}

// states is summary without the counts of proxies.
func states(s *globalsync.Server, rev mesh.Revision) string {
	return regexp.MustCompile(`\([0-9,]*\)`).ReplaceAllString(summary(s, rev), "")
}

// TestOneWriterOfFacts: a stream that is left over at one instance writes nothing
// once the zone has another elsewhere, and ends. That holds without a word between
// the instances, and with it the stream ends by itself.
func TestOneWriterOfFacts(t *testing.T) {
	for _, connected := range []bool{false, true} {
		t.Run(fmt.Sprintf("connected=%v", connected), func(t *testing.T) {
			many(t, func(t *testing.T, in *instances, a, b *instance) {
				if !connected {
					b.kill()
					other, err := store.NewKeyring(bytes.Repeat([]byte{8}, 32))
					if err != nil {
						t.Fatal(err)
					}
					in.begin("b", other) // does not know the others, nor they it
				}
				in.write(put(aMesh("default")), put(anIdentity("default")))
				in.token("token-east", "east")
				in.place("east", "a")
				old := in.peerVia("token-east", in.dialing("east"))
				old.welcome("east")
				old.send(factsOf(1, aService("east", "web", 1)))
				old.recv(func(f *zonesyncv1.GlobalFrame) bool { return f.GetFactsAck() != nil })

				in.place("east", "b")
				now := in.peerVia("token-east", in.dialing("east"))
				now.welcome("east")
				if !connected {
					old.send(factsOf(2, aService("east", "late", 1)))
				}
				late := time.AfterFunc(time.Minute, old.cancel)
				if st := old.ended(); st.Code() != codes.Aborted {
					t.Errorf("the stream that is left over ends with %v", st)
				}
				late.Stop()
				now.send(factsOf(2, aService("east", "web", 3)))
				now.recv(func(f *zonesyncv1.GlobalFrame) bool { return f.GetFactsAck().GetTo().GetSequence() == 2 })
				want := map[mesh.Key]string{}
				r := mesh.NormalizeFact("east", aService("east", "web", 3))
				want[r.Key] = text(r)
				if diff := cmp.Diff(want, in.told("east")); diff != "" {
					t.Errorf("facts (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestRevokedEverywhere: a token that is revoked at one instance ends the streams
// at all of them at once.
func TestRevokedEverywhere(t *testing.T) {
	many(t, func(t *testing.T, in *instances, a, b *instance) {
		in.place("east", "a")
		in.place("west", "b")
		in.seeded("east", "west")
		in.token("token-west", "")
		in.token("token-east", "")
		revoked := time.Now()
		in.write(put(mesh.Resource{Key: mesh.Key{Kind: mesh.KindSecret, Name: "zone-token-revocations"}, Spec: []byte(`{}`)}))
		in.eventually("both are cut off", func() error {
			for name, z := range in.zones {
				if z.client.Connected() {
					return errors.New(name)
				}
			}
			return nil
		})
		if took := time.Since(revoked); took > time.Second {
			t.Errorf("cut off after %s", took)
		}
	})
}

// TestStrangersAreNoInstances: who has no record of ours, or comes as zones do,
// learns nothing.
func TestStrangersAreNoInstances(t *testing.T) {
	many(t, func(t *testing.T, in *instances, a, b *instance) {
		in.place("east", "a")
		in.seeded("east")
		other, err := store.NewKeyring(bytes.Repeat([]byte{8}, 32))
		if err != nil {
			t.Fatal(err)
		}
		thief := in.begin("thief", other)
		in.eventually("it is on the roster", func() error {
			if len(thief.peers.Instances()) != 1 || len(a.peers.Instances()) != 2 {
				return fmt.Errorf("%v, %v", thief.peers.Instances(), a.peers.Instances())
			}
			return nil
		})
		conn, err := grpc.NewClient("passthrough:///a", in.dialing("east")...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		stream, err := peersv1.NewPeersClient(conn).Watch(t.Context(), &peersv1.WatchRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if err == nil || !strings.Contains(err.Error(), "only for other instances") {
			t.Errorf("a zone watches: %v", err)
		}
		// Nor is one let in that asks as instances do, with a key that has no record.
		conn2, err := grpc.NewClient("passthrough:///a", append(in.dialing("east"), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			ServerName: "instance.global.tombolo.internal", InsecureSkipVerify: true, Certificates: []tls.Certificate{*in.zoneCA}})))...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn2.Close()
		if stream, err = peersv1.NewPeersClient(conn2).Watch(t.Context(), &peersv1.WatchRequest{}); err == nil {
			_, err = stream.Recv()
		}
		if err == nil || !strings.Contains(err.Error(), "bad certificate") {
			t.Errorf("a key without a record: %v", err)
		}
	})
}

// TestInstancesOfAZoneApart: the leader of a zone at one global and a follower at
// the other are one zone, counted and asked together at both; and when the leader
// is gone with its global, the follower leads where it is.
func TestInstancesOfAZoneApart(t *testing.T) {
	many(t, func(t *testing.T, in *instances, a, b *instance) {
		in.place("east", "a")
		in.seeded("east")
		in.place("east", "b")
		second := in.follow("east", "east-2")
		in.eventually("both are known at both", func() error {
			for _, s := range []*globalsync.Server{a.server, b.server} {
				if z := s.Zones()[0]; z.Instances != 2 || z.Global != "a" {
					return fmt.Errorf("%+v", z)
				}
			}
			return nil
		})
		second.reports.mu.Lock()
		second.reports.behind = true
		second.reports.mu.Unlock()
		rev := in.write(put(aTimeout("t", 2)))
		in.alike(rev, a, b, "east@a online=true; east behind(2,1,1)")

		// Only the follower, which is elsewhere, has the proxy.
		in.zones["east"].reports.answer = func(context.Context, globalsync.Question, io.Writer) error { return errors.New("no such proxy") }
		for name, s := range map[string]*globalsync.Server{"a": a.server, "b": b.server} {
			var out bytes.Buffer
			if err := s.Inspect(t.Context(), "east", globalsync.Question{What: "clusters"}, &out); err != nil || out.String() != "answer to clusters" {
				t.Errorf("%s: %q, %v", name, out.String(), err)
			}
		}

		in.zones["east"].stop()
		a.kill()
		second.facts.put(aService("east", "web", 2))
		second.follows.Store(false)
		second.client.Rejoin()
		in.eventually("the follower leads", func() error {
			if z := b.server.Zones()[0]; !z.Online || z.Global != "b" || z.Instances != 1 {
				return fmt.Errorf("%+v", z)
			}
			if diff := cmp.Diff(second.facts.texts("east"), in.told("east")); diff != "" {
				return errors.New(diff)
			}
			return nil
		})
	})
}

// TestReportTextsAreBounded: what a zone says is cut on arrival, so that all that is kept
// of it fits into what instances tell each other.
func TestReportTextsAreBounded(t *testing.T) {
	many(t, func(t *testing.T, in *instances, a, b *instance) {
		in.place("east", "a")
		in.seeded("east")
		long := strings.Repeat("x", 900<<10)
		in.zones["east"].reports.set(func(r *zonesyncv1.Report) {
			r.ProxiesTotal = 9
			r.Problems = []*zonesyncv1.ResourceProblem{{Kind: "MeshTimeout", Name: "t", Reason: long}}
		})
		in.eventually("the report at the other instance", func() error {
			z := b.server.Zones()[0]
			if z.Total != 9 || len(z.Problems) != 1 || len(z.Problems[0].Reason) > 5000 {
				return fmt.Errorf("%d proxies, %d problems", z.Total, len(z.Problems))
			}
			return nil
		})
	})
}
