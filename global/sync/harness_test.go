package sync_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"strings"
	gosync "sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/tombolo-mesh/tombolo/global/store"
	globalsync "github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
	zonesync "github.com/tombolo-mesh/tombolo/zone/sync"
)

// fleet is global with its zones, in one process, over gRPC: in memory when the
// test runs in a bubble, over TCP otherwise.
type fleet struct {
	t      testing.TB
	bare   bool // the wire is not looked at
	bubble bool
	store  store.Store
	server *globalsync.Server
	lis    net.Listener
	zones  map[string]*zoneProc
	wire   *wire

	// stopGlobal ends the server.
	stopGlobal func()

	// via is how a zone dials, where it is not as all do.
	via func(zone string) []grpc.DialOption

	mu     gosync.Mutex
	tokens map[string]string
}

// wire sees every frame at global's end and may break the stream.
type wire struct {
	mu gosync.Mutex
	// count of frames seen, and at which one the stream breaks; 0 never. The
	// frame is lost, or delivered when after is set.
	count, breakAt int
	after          bool
	// hold, when not nil, blocks sends to the zone until it is closed.
	hold map[string]chan struct{}
	// down and up are the frames that crossed, and their bytes.
	down  []*zonesyncv1.GlobalFrame
	up    []*zonesyncv1.ZoneFrame
	twice bool
	// quiet keeps no frames, only the size of the largest.
	quiet   bool
	largest int
}

var errCut = errors.New("the test cut the stream")

// cut counts a frame and says whether the stream breaks instead.
func (w *wire) cut() bool {
	w.count++
	return w.breakAt != 0 && w.count == w.breakAt
}

func (w *wire) reset(breakAt int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count, w.breakAt, w.down, w.up = 0, breakAt, nil, nil
}

func (w *wire) seen() (down []*zonesyncv1.GlobalFrame, up []*zonesyncv1.ZoneFrame, count int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append(down, w.down...), append(up, w.up...), w.count
}

type tapped struct {
	grpc.ServerStream
	w    *wire
	zone string
	ctx  context.Context
	end  context.CancelFunc
	// again is a frame that is delivered once more.
	again *zonesyncv1.ZoneFrame
}

func (s *tapped) Context() context.Context { return s.ctx }

func (s *tapped) SendMsg(m any) error {
	s.w.mu.Lock()
	hold := s.w.hold[s.zone]
	cut := s.w.cut()
	s.w.largest = max(s.w.largest, proto.Size(m.(proto.Message)))
	if !cut && !s.w.quiet {
		s.w.down = append(s.w.down, proto.Clone(m.(proto.Message)).(*zonesyncv1.GlobalFrame))
	}
	twice := s.w.twice && m.(*zonesyncv1.GlobalFrame).GetWelcome() == nil
	s.w.mu.Unlock()
	if cut {
		if s.w.after {
			_ = s.ServerStream.SendMsg(m)
		}
		s.end()
		return errCut
	}
	if hold != nil {
		select {
		case <-hold:
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
	if twice {
		if err := s.ServerStream.SendMsg(m); err != nil {
			return err
		}
	}
	return s.ServerStream.SendMsg(m)
}

func (s *tapped) RecvMsg(m any) error {
	if s.again != nil {
		proto.Merge(m.(proto.Message), s.again)
		s.again = nil
		return nil
	}
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if s.w.cut() {
		s.end()
		if !s.w.after {
			return errCut
		}
	}
	f := proto.Clone(m.(proto.Message)).(*zonesyncv1.ZoneFrame)
	s.w.up = append(s.w.up, f)
	if s.w.twice && f.GetHello() == nil {
		s.again = f
	}
	return nil
}

func newFleet(t testing.TB, bubble bool, st store.Store) *fleet {
	return newFleetOf(t, bubble, false, st)
}

func newFleetOf(t testing.TB, bubble, bare bool, st store.Store) *fleet {
	f := &fleet{t: t, bubble: bubble, bare: bare, store: st, wire: &wire{hold: map[string]chan struct{}{}}, zones: map[string]*zoneProc{}, tokens: map[string]string{}}
	if bubble {
		f.lis = bufconn.Listen(1 << 16)
	} else {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f.lis = lis
	}
	f.stopGlobal = f.startGlobal(f.lis)
	return f
}

// restart ends global, with all that it has in memory, and begins another on its
// store; the zones come back to that.
func (f *fleet) restart() {
	for _, z := range f.zones {
		z.stop()
	}
	f.stopGlobal()
	f.lis = bufconn.Listen(1 << 16)
	f.stopGlobal = f.startGlobal(f.lis)
	for _, z := range f.zones {
		f.start(z)
	}
}

// startGlobal runs a server on a listener until the test ends, or the returned function is called.
func (f *fleet) startGlobal(lis net.Listener) (stop func()) {
	f.server = globalsync.New(globalsync.Config{Store: f.store, Authorize: f.authorize, Instance: "g", Version: "test", Log: testLog(f.t)})
	options := globalsync.ServerOptions()
	if !f.bare {
		options = append(options, f.tap())
	}
	gs := grpc.NewServer(options...)
	f.server.Register(gs)
	ctx, cancel := context.WithCancel(context.Background())
	var both gosync.WaitGroup
	both.Add(2)
	server := f.server
	go func() { defer both.Done(); _ = server.Run(ctx) }()
	go func() { defer both.Done(); _ = gs.Serve(lis) }()
	stop = gosync.OnceFunc(func() { cancel(); gs.Stop(); both.Wait() })
	f.t.Cleanup(stop)
	return stop
}

// tap lets the wire see the zones' streams of a server.
func (f *fleet) tap() grpc.ServerOption {
	return grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		if info.FullMethod != zonesyncv1.ZoneSync_Sync_FullMethodName {
			return h(srv, ss)
		}
		ctx, end := context.WithCancel(ss.Context())
		defer end()
		md, _ := metadata.FromIncomingContext(ctx)
		zone := strings.TrimPrefix(strings.Join(md.Get("authorization"), ""), "Bearer token-")
		return h(srv, &tapped{ServerStream: ss, w: f.wire, ctx: ctx, end: end, zone: zone})
	})
}

func (f *fleet) authorize(_ context.Context, token string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	zone, ok := f.tokens[token]
	if !ok {
		return "", errors.New("unknown, expired or revoked")
	}
	return zone, nil
}

func (f *fleet) token(token, zone string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if zone == "" {
		delete(f.tokens, token)
		return
	}
	f.tokens[token] = zone
}

// zoneProc is a zone: a client, a copy in memory, facts and reports.
type zoneProc struct {
	name    string
	client  *zonesync.Client
	replica *replica
	facts   *facts
	reports *reports
	stop    func()
	// follows makes it an instance that does not lead, asked at each dial.
	follows atomic.Bool
	// instance of its process.
	instance string
}

func (f *fleet) options() []grpc.DialOption {
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if b, ok := f.lis.(*bufconn.Listener); ok {
		options = append(options, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return b.DialContext(ctx) }))
	}
	return options
}

func (f *fleet) address() string {
	if f.bubble {
		return "passthrough:///global"
	}
	return f.lis.Addr().String()
}

// join starts a zone with what it kept from before, if anything.
func (f *fleet) join(name string) *zoneProc {
	z := f.zones[name]
	if z == nil {
		z = newZoneProc(name, name+"-1")
		f.zones[name] = z
		f.token("token-"+name, name)
	}
	f.start(z)
	return z
}

func newZoneProc(name, instance string) *zoneProc {
	z := &zoneProc{name: name, instance: instance, facts: newFacts(), reports: newReports()}
	z.replica = &replica{reports: z.reports, resources: map[mesh.Key]mesh.Resource{}}
	return z
}

// follow starts another instance of a zone that has joined.
func (f *fleet) follow(name, instance string) *zoneProc {
	z := newZoneProc(name, instance)
	z.follows.Store(true)
	f.start(z)
	return z
}

func (f *fleet) start(z *zoneProc) {
	name := z.name
	options := f.options
	if f.via != nil {
		options = func() []grpc.DialOption { return f.via(name) }
	}
	z.client = zonesync.New(zonesync.Config{
		Zone: name, Address: f.address(), Token: func() (string, error) { return "token-" + name, nil },
		Replica: z.replica, Facts: z.facts, Reports: z.reports, Inspector: z.reports, Identities: z.replica.identities,
		Instance: z.instance, Follower: z.follows.Load, Version: "test", Log: testLog(f.t), DialOptions: options(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	client := z.client
	go func() { defer close(done); _ = client.Run(ctx) }()
	z.stop = gosync.OnceFunc(func() { cancel(); <-done })
	f.t.Cleanup(z.stop)
}

// eventually waits until ok is nil.
func (f *fleet) eventually(what string, ok func() error) {
	f.t.Helper()
	var err error
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); {
		if f.bubble {
			synctest.Wait()
		}
		if err = ok(); err == nil {
			return
		}
		<-time.After(5 * time.Millisecond)
	}
	f.t.Fatalf("%s: %v", what, err)
}

// write authors at global and returns the revision.
func (f *fleet) write(ops ...store.Op) mesh.Revision {
	f.t.Helper()
	at, err := f.store.Write(context.Background(), "user:admin", ops)
	if err != nil {
		f.t.Fatal(err)
	}
	return at.Revision
}

// wanted is what a zone must hold, said independently of the server's code.
func (f *fleet) wanted(zone string) map[mesh.Key]string {
	_, all, err := f.store.Snapshot(context.Background())
	if err != nil {
		f.t.Fatal(err)
	}
	var resources []mesh.Resource
	disabled := map[string]bool{}
	known := map[string]bool{}
	for r, err := range all {
		if err != nil {
			f.t.Fatal(err)
		}
		resources = append(resources, r)
		if r.Kind == mesh.KindZone {
			known[r.Name] = true
			disabled[r.Name] = strings.Contains(string(r.Spec), "false")
		}
	}
	want := map[mesh.Key]string{}
	for _, r := range resources {
		if r.Labels["tombolo.io/kds-sync"] == "disabled" {
			continue
		}
		switch r.Kind {
		case "Zone", "Dataplane", "Workload", "Rollout":
		case "MeshService", "MeshZoneAddress":
			if r.Zone != zone && known[r.Zone] && !disabled[r.Zone] {
				want[r.Key] = text(r)
			}
		case "MeshTrust":
			if r.Zone == "" || r.Zone != zone && known[r.Zone] && !disabled[r.Zone] {
				want[r.Key] = text(r)
			}
		default:
			r.Status = nil
			want[r.Key] = text(r)
		}
	}
	return want
}

func text(r mesh.Resource) string { return fmt.Sprintf("%v %s %s", r.Labels, r.Spec, r.Status) }

// told is what global must hold of a zone, for the kinds that it may tell.
func (f *fleet) told(zone string) map[mesh.Key]string {
	got := map[mesh.Key]string{}
	for _, kind := range []mesh.KindName{"Dataplane", "Workload", "MeshService", "MeshZoneAddress", "MeshTrust"} {
		page, err := f.store.List(context.Background(), store.Query{Kind: kind, Zone: &zone})
		if err != nil {
			f.t.Fatal(err)
		}
		for _, r := range page.Items {
			got[r.Key] = text(r)
		}
	}
	return got
}

// converged says what is not as it must be: at every zone, and at global of their facts.
func (f *fleet) converged() error {
	for name, z := range f.zones {
		if !z.client.Connected() {
			return fmt.Errorf("zone %s is not connected: %s", name, z.client.Status().Error)
		}
		if diff := cmp.Diff(z.facts.texts(name), f.told(name)); diff != "" {
			return fmt.Errorf("facts of zone %s (-want +got):\n%s", name, diff)
		}
	}
	// What was told is now part of what the others must hold.
	for name, z := range f.zones {
		if diff := cmp.Diff(f.wanted(name), z.replica.texts()); diff != "" {
			return fmt.Errorf("zone %s (-want +got):\n%s", name, diff)
		}
	}
	return nil
}

// replica is a copy in memory.
type replica struct {
	mu        gosync.Mutex
	at        zonesync.Position
	resources map[mesh.Key]mesh.Resource
	reports   *reports
	fail      error
	writes    int
	received  int
}

func (r *replica) Position() zonesync.Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at
}

func (r *replica) Replace(to zonesync.Position, resources []mesh.Resource) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	r.at, r.resources = to, map[mesh.Key]mesh.Resource{}
	for _, x := range resources {
		r.resources[x.Key] = x
	}
	r.writes, r.received = r.writes+1, r.received+len(resources)
	r.reports.applied(to.Revision, nil)
	return nil
}

func (r *replica) Apply(to zonesync.Position, changes []mesh.Change) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	for _, c := range changes {
		if c.Revision <= r.at.Revision || c.Revision > to.Revision {
			return fmt.Errorf("change %d is not in (%d, %d]", c.Revision, r.at.Revision, to.Revision)
		}
		if c.Deleted {
			delete(r.resources, c.Resource.Key)
		} else {
			r.resources[c.Resource.Key] = c.Resource
		}
	}
	r.at = to
	r.writes, r.received = r.writes+1, r.received+len(changes)
	r.reports.applied(to.Revision, changes)
	return nil
}

func (r *replica) identities() []mesh.Resource {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []mesh.Resource
	for _, x := range r.resources {
		if x.Kind == mesh.KindMeshIdentity {
			out = append(out, x)
		}
	}
	return out
}

func (r *replica) texts() map[mesh.Key]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[mesh.Key]string{}
	for k, x := range r.resources {
		out[k] = text(x)
	}
	return out
}

// facts of a zone.
type facts struct {
	mu        gosync.Mutex
	now       map[mesh.Key]mesh.Resource
	gone      map[mesh.Key]bool
	changed   chan struct{}
	confirmed chan struct{}
}

func newFacts() *facts {
	return &facts{now: map[mesh.Key]mesh.Resource{}, gone: map[mesh.Key]bool{}, changed: make(chan struct{}, 1), confirmed: make(chan struct{}, 1)}
}

// Facts says more than it has to: everything, for a client that may be another than
// the one before.
func (f *facts) Facts() []mesh.Change {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []mesh.Change
	for _, r := range f.now {
		out = append(out, mesh.Change{Resource: r})
	}
	for k := range f.gone {
		out = append(out, mesh.Change{Resource: mesh.Resource{Key: k}, Deleted: true})
	}
	return out
}

func (f *facts) whole() map[mesh.Key]mesh.Resource {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.now)
}
func (f *facts) FactsChanged() <-chan struct{} { return f.changed }
func (f *facts) FactsConfirmed(uint64) {
	select {
	case f.confirmed <- struct{}{}:
	default:
	}
}

func (f *facts) put(rs ...mesh.Resource) {
	f.mu.Lock()
	for _, r := range rs {
		f.now[r.Key] = r
		delete(f.gone, r.Key)
	}
	f.mu.Unlock()
	poke(f.changed)
}

func (f *facts) drop(keys ...mesh.Key) {
	f.mu.Lock()
	for _, k := range keys {
		delete(f.now, k)
		f.gone[k] = true
	}
	f.mu.Unlock()
	poke(f.changed)
}

func (f *facts) texts(zone string) map[mesh.Key]string {
	out := map[mesh.Key]string{}
	for k, r := range f.whole() {
		out[k] = text(mesh.NormalizeFact(zone, r))
	}
	return out
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// reports of a zone: by default all is settled at once, with one proxy.
type reports struct {
	mu      gosync.Mutex
	report  *zonesyncv1.Report
	behind  bool
	changed chan struct{}
	asked   chan string
	answer  func(ctx context.Context, q globalsync.Question, w io.Writer) error
}

func newReports() *reports {
	return &reports{report: &zonesyncv1.Report{}, changed: make(chan struct{}, 1), asked: make(chan string, 16)}
}

func (r *reports) applied(rev mesh.Revision, changes []mesh.Change) {
	r.mu.Lock()
	report := proto.Clone(r.report).(*zonesyncv1.Report)
	report.Applied = int64(rev)
	if !r.behind {
		report.Settled, report.Changes = int64(rev), nil
	}
	if len(changes) > 0 {
		p := &zonesyncv1.ChangeProgress{Revision: int64(rev), Affected: 1, Done: 1, SettleMicros: 1}
		if r.behind {
			p.SettleMicros, p.Done, p.Behind, p.BehindNames = 0, 0, 1, []string{"web-1"}
		}
		report.Changes = append(report.Changes, p)
		if n := len(report.Changes); n > 256 {
			report.Changes = report.Changes[n-256:]
		}
	}
	r.report = report
	r.mu.Unlock()
	poke(r.changed)
}

func (r *reports) set(change func(*zonesyncv1.Report)) {
	r.mu.Lock()
	report := proto.Clone(r.report).(*zonesyncv1.Report)
	change(report)
	r.report = report
	r.mu.Unlock()
	poke(r.changed)
}

func (r *reports) Report() *zonesyncv1.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.report
}
func (r *reports) ReportChanged() <-chan struct{} { return r.changed }

func (r *reports) Inspect(ctx context.Context, q globalsync.Question, w io.Writer) error {
	if r.answer == nil {
		_, err := io.WriteString(w, "answer to "+q.What)
		return err
	}
	return r.answer(ctx, q, w)
}

func testLog(t testing.TB) *slog.Logger {
	if os.Getenv("TOMBOLO_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// both runs a test in a bubble, in memory, and on real connections.
func both(t *testing.T, run func(t *testing.T, f *fleet)) {
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { run(t, newFleet(t, true, globalsync.NewMemStore())) })
	})
	t.Run("tcp", func(t *testing.T) { run(t, newFleet(t, false, globalsync.NewMemStore())) })
}

// settled waits until every zone has everything.
func (f *fleet) settled() {
	f.t.Helper()
	f.eventually("convergence", f.converged)
}
