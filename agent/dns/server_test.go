package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/tombolo-mesh/tombolo/internal/ports"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

// nameserver is a fake one on a port of its own.
type nameserver struct {
	at     netip.AddrPort
	asked  atomic.Int64
	mu     sync.Mutex
	last   *dns.Msg
	answer func(network string, r *dns.Msg) *dns.Msg // nil answer: silence
}

func startNameserver(t testing.TB, answer func(network string, r *dns.Msg) *dns.Msg) *nameserver {
	t.Helper()
	n := &nameserver{answer: answer}
	udp, tcp, err := bind(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	n.at = udp.LocalAddr().(*net.UDPAddr).AddrPort()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		n.asked.Add(1)
		n.mu.Lock()
		n.last = r
		n.mu.Unlock()
		if m := n.answer(w.LocalAddr().Network(), r); m != nil {
			_ = w.WriteMsg(m)
		}
	})
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: handler}, {Listener: tcp, Handler: handler}} {
		done := make(chan struct{})
		go func() { defer close(done); _ = s.ActivateAndServe() }()
		t.Cleanup(func() { _ = udp.Close(); _ = tcp.Close(); <-done })
	}
	return n
}

func address(ttl uint32, a string) func(string, *dns.Msg) *dns.Msg {
	return func(_ string, r *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(r)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: net.ParseIP(a)}}
		return m
	}
}

// start runs a server that gives up on nothing that is only slow.
func start(t testing.TB, cfg Config) *Server {
	t.Helper()
	return startWith(t, cfg, func(s *Server) { s.patience, s.try, s.hedge = time.Minute, time.Minute, time.Minute })
}

func startWith(t testing.TB, cfg Config, change func(*Server)) *Server {
	t.Helper()
	cfg.Port = ports.Free(t)
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = filepath.Join(t.TempDir(), "none")
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	change(s)
	run(t, s)
	return s
}

func run(t testing.TB, s *Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-s.Listening():
	case err := <-done:
		done <- nil
		t.Fatal(err)
	}
}

func names(pairs ...string) *agentv1.Names {
	n := &agentv1.Names{Reset_: true}
	for i := 0; i < len(pairs); i += 2 {
		n.Set = append(n.Set, &agentv1.Name{Name: pairs[i], Addresses: strings.Fields(pairs[i+1]), TtlSeconds: 30})
	}
	return n
}

func ask(t testing.TB, s *Server, network, name string, kind uint16, change ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	for _, c := range change {
		c(q)
	}
	client := &dns.Client{Net: network, Timeout: 60 * time.Second, UDPSize: 4096}
	m, _, err := client.Exchange(q, s.Addresses()[0].String())
	if err != nil {
		t.Fatal(name, err)
	}
	return m
}

func text(m *dns.Msg) string {
	var out []string
	for _, rr := range m.Answer {
		out = append(out, strings.Join(strings.Fields(rr.String()), " "))
	}
	return strings.TrimSpace(dns.RcodeToString[m.Rcode] + " " + strings.Join(out, ", "))
}

func TestOwnNames(t *testing.T) {
	up := startNameserver(t, func(_ string, r *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(r, dns.RcodeNameError) })
	s := start(t, Config{Upstreams: []netip.AddrPort{up.at}})
	s.Apply(names("web.prod.svc.east.mesh.local", "241.1.2.3 fd74:6f6d:626f:6c6f::f101:203", "api.svc.mesh.local", "10.96.0.9"))
	for _, network := range []string{"udp", "tcp"} {
		for _, c := range []struct {
			name string
			kind uint16
			want string
		}{
			{"web.prod.svc.east.mesh.local", dns.TypeA, "NOERROR web.prod.svc.east.mesh.local. 30 IN A 241.1.2.3"},
			{"WEB.prod.SVC.east.mesh.Local", dns.TypeA, "NOERROR WEB.prod.SVC.east.mesh.Local. 30 IN A 241.1.2.3"},
			{"web.prod.svc.east.mesh.local", dns.TypeAAAA, "NOERROR web.prod.svc.east.mesh.local. 30 IN AAAA fd74:6f6d:626f:6c6f::f101:203"},
			{"api.svc.mesh.local", dns.TypeAAAA, "NOERROR"},
			{"api.svc.mesh.local", dns.TypeSRV, "NOERROR"},
			{"3.2.1.241.in-addr.arpa", dns.TypePTR, "NOERROR 3.2.1.241.in-addr.arpa. 30 IN PTR web.prod.svc.east.mesh.local."},
			{"3.0.2.0.1.0.1.f.0.0.0.0.0.0.0.0.f.6.c.6.f.6.2.6.d.6.f.6.4.7.d.f.ip6.arpa", dns.TypePTR,
				"NOERROR 3.0.2.0.1.0.1.f.0.0.0.0.0.0.0.0.f.6.c.6.f.6.2.6.d.6.f.6.4.7.d.f.ip6.arpa. 30 IN PTR web.prod.svc.east.mesh.local."},
			// A ClusterIP is the cluster's to say in reverse.
			{"9.0.96.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN"},
			// What a search list makes of a name, and what is nobody's.
			{"api.svc.mesh.local.prod.svc.cluster.local", dns.TypeA, "NXDOMAIN"},
			{"other.mesh.local", dns.TypeA, "NXDOMAIN"},
		} {
			m := ask(t, s, network, c.name, c.kind)
			if got := text(m); got != c.want {
				t.Errorf("%s %s: got %s, want %s", network, c.name, got, c.want)
			}
			if m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0 && lifeOf(m) != 30*time.Second {
				t.Errorf("%s: nobody can remember that there is none: %v", c.name, m)
			}
			if !m.RecursionAvailable && m.Rcode == dns.RcodeSuccess {
				t.Errorf("%s: without recursion a stub may not believe it", c.name)
			}
		}
	}
	m := ask(t, s, "udp", "api.svc.mesh.local", dns.TypeA, func(q *dns.Msg) { q.SetEdns0(4096, true) })
	if opt := m.IsEdns0(); opt == nil || !opt.Do() {
		t.Error("a question with EDNS, an answer without")
	}
}

func TestTables(t *testing.T) {
	s := start(t, Config{})
	has := func(want ...string) {
		t.Helper()
		var got []string
		for name, e := range s.table.names {
			got = append(got, fmt.Sprint(name, " ", slices.Concat(e.four, e.six)))
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	first := names("a.mesh", "241.0.0.1", "b.mesh", "241.0.0.2")
	first.More = true
	s.Apply(first)
	if s.Ready() {
		t.Error("ready with half a table")
	}
	s.Apply(&agentv1.Names{Set: names("c.mesh", "241.0.0.3").Set})
	if !s.Ready() {
		t.Error("not ready with a whole table")
	}
	has("a.mesh [241.0.0.1]", "b.mesh [241.0.0.2]", "c.mesh [241.0.0.3]")
	// A change of two parts counts when both are there.
	s.Apply(&agentv1.Names{Removed: []string{"a.mesh"}, More: true})
	has("a.mesh [241.0.0.1]", "b.mesh [241.0.0.2]", "c.mesh [241.0.0.3]")
	s.Apply(&agentv1.Names{Set: names("b.mesh", "241.0.0.9", "d.mesh", "x 241.0.0.4").Set})
	has("b.mesh [241.0.0.9]", "c.mesh [241.0.0.3]", "d.mesh [241.0.0.4]")
	// The zone came back in the middle of a change: it begins anew.
	s.Apply(&agentv1.Names{Removed: []string{"b.mesh"}, More: true})
	s.Apply(names("e.mesh", "241.0.0.5 fd00::f100:5"))
	has("e.mesh [241.0.0.5 fd00::f100:5]")
	if name, _, _ := s.table.nameOf(netip.MustParseAddr("241.0.0.5")); name != "e.mesh" {
		t.Error(name)
	}
	s.Apply(&agentv1.Names{Removed: []string{"e.mesh"}})
	has()
	if len(s.table.reverse) > 0 {
		t.Error(s.table.reverse)
	}
}

func TestBeforeTheFirstTable(t *testing.T) {
	up := startNameserver(t, address(60, "192.0.2.1"))
	s := startWith(t, Config{Upstreams: []netip.AddrPort{up.at}}, func(s *Server) { s.patience, s.try, s.hedge = 50*time.Millisecond, time.Minute, time.Minute })
	if got := text(ask(t, s, "udp", "example.com", dns.TypeA)); got != "NOERROR example.com. 60 IN A 192.0.2.1" {
		t.Error(got)
	}
	if got := text(ask(t, s, "udp", "web.svc.mesh.local", dns.TypeA)); got != "SERVFAIL" {
		t.Error(got)
	}
	s = start(t, Config{Upstreams: []netip.AddrPort{up.at}})
	answers := make(chan string)
	go func() { answers <- text(ask(t, s, "udp", "web.svc.mesh.local", dns.TypeA)) }()
	for len(s.waiting) == 0 { // until it waits
		select {
		case got := <-answers:
			t.Fatal("did not wait: ", got)
		default:
		}
	}
	s.Apply(names("web.svc.mesh.local", "241.0.0.1"))
	if got := <-answers; got != "NOERROR web.svc.mesh.local. 30 IN A 241.0.0.1" {
		t.Error(got)
	}
}

func TestForwarding(t *testing.T) {
	for name, c := range map[string]struct {
		answer  func(network string, r *dns.Msg) *dns.Msg
		network string
		change  func(*dns.Msg)
		want    string
		asked   int64 // by two questions
	}{
		"kept as long as its TTL says": {answer: address(60, "192.0.2.1"), want: "NOERROR Example.COM. 60 IN A 192.0.2.1", asked: 1},
		"not kept with TTL 0":          {answer: address(0, "192.0.2.1"), want: "NOERROR Example.COM. 0 IN A 192.0.2.1", asked: 2},
		"no such name, with SOA":       {answer: negative(dns.RcodeNameError, 60, 60), want: "NXDOMAIN", asked: 1},
		"no such kind, with SOA":       {answer: negative(dns.RcodeSuccess, 60, 60), want: "NOERROR", asked: 1},
		"SOA that says not to":         {answer: negative(dns.RcodeNameError, 60, 0), want: "NXDOMAIN", asked: 2},
		"no such name, without SOA":    {answer: func(_ string, r *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(r, dns.RcodeNameError) }, want: "NXDOMAIN", asked: 2},
		"TCP by TCP":                   {network: "tcp", answer: address(60, "192.0.2.1"), want: "NOERROR Example.COM. 60 IN A 192.0.2.1", asked: 1},
		"options of EDNS": {answer: address(60, "192.0.2.1"), want: "NOERROR Example.COM. 60 IN A 192.0.2.1", asked: 2,
			change: func(q *dns.Msg) {
				q.SetEdns0(4096, true)
				q.IsEdns0().Option = append(q.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"})
			}},
		"truncated as it is": {answer: func(network string, r *dns.Msg) *dns.Msg {
			m := address(60, "192.0.2.1")(network, r)
			m.Truncated = network == "udp"
			return m
		}, want: "NOERROR Example.COM. 60 IN A 192.0.2.1", asked: 2},
	} {
		t.Run(name, func(t *testing.T) {
			up := startNameserver(t, c.answer)
			s := start(t, Config{Upstreams: []netip.AddrPort{up.at}})
			s.Apply(names())
			network := "udp"
			if c.network != "" {
				network = c.network
			}
			change := c.change
			if change == nil {
				change = func(*dns.Msg) {}
			}
			for i := range 2 {
				m := ask(t, s, network, "Example.COM", dns.TypeA, change)
				if got := text(m); got != c.want {
					t.Errorf("question %d: got %s, want %s", i, got, c.want)
				}
				if m.Question[0].Name != "Example.COM." {
					t.Errorf("asked for Example.COM., answered for %s", m.Question[0].Name)
				}
				if strings.HasPrefix(name, "truncated") != m.Truncated {
					t.Errorf("truncated: %v", m.Truncated)
				}
			}
			if got := up.asked.Load(); got != c.asked {
				t.Errorf("nameserver was asked %d times, want %d", got, c.asked)
			}
			up.mu.Lock()
			defer up.mu.Unlock()
			if opt := up.last.IsEdns0(); (opt != nil) != (c.change != nil) || opt != nil && (len(opt.Option) != 1 || !opt.Do()) {
				t.Errorf("what the nameserver got: %v", up.last)
			}
		})
	}
}

func negative(code int, ttl, minimum uint32) func(string, *dns.Msg) *dns.Msg {
	return func(_ string, r *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetRcode(r, code)
		m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "com.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl}, Ns: "a.", Mbox: "b.", Minttl: minimum}}
		return m
	}
}

func TestLargeAnswerOverUDP(t *testing.T) {
	up := startNameserver(t, func(_ string, r *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(r)
		for i := range 100 {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, byte(i))})
		}
		return m
	})
	s := start(t, Config{Upstreams: []netip.AddrPort{up.at}})
	s.Apply(names())
	if m := ask(t, s, "tcp", "example.com", dns.TypeA); len(m.Answer) != 100 || m.Truncated {
		t.Errorf("%d answers by TCP, truncated %v", len(m.Answer), m.Truncated)
	}
	if m := ask(t, s, "udp", "example.com", dns.TypeA); !m.Truncated || packed(t, m) > 512 {
		t.Errorf("%d octets to who takes 512, truncated %v", packed(t, m), m.Truncated)
	}
}

func packed(t *testing.T, m *dns.Msg) int {
	t.Helper()
	m.Compress = true
	out, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return len(out)
}

// One question at a time goes out for all who ask the same.
func TestOneQuestionForMany(t *testing.T) {
	release := make(chan struct{})
	up := startNameserver(t, func(n string, r *dns.Msg) *dns.Msg {
		<-release
		return address(60, "192.0.2.1")(n, r)
	})
	s := start(t, Config{Upstreams: []netip.AddrPort{up.at}})
	s.Apply(names())
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if got := text(ask(t, s, "udp", "example.com", dns.TypeA)); got != "NOERROR example.com. 60 IN A 192.0.2.1" {
				t.Error(got)
			}
		})
	}
	deadline := time.After(60 * time.Second)
	for up.asked.Load() == 0 {
		select {
		case <-deadline:
			t.Fatal("nobody asked")
		default:
		}
	}
	<-time.After(200 * time.Millisecond) // for those that should not
	close(release)
	all.Wait()
	// One that came just as the answer did may have asked again.
	if got := up.asked.Load(); got > 10 {
		t.Errorf("asked %d times for 20 questions", got)
	}
}

func TestFailover(t *testing.T) {
	silent := startNameserver(t, func(string, *dns.Msg) *dns.Msg { return nil })
	refusing := startNameserver(t, func(_ string, r *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(r, dns.RcodeServerFailure) })
	good := startNameserver(t, address(0, "192.0.2.1"))
	closed := netip.MustParseAddrPort("127.0.0.1:1")
	const soon, never = 50 * time.Millisecond, time.Hour
	for name, c := range map[string]struct {
		servers    []netip.AddrPort
		try, hedge time.Duration
		want       string
	}{
		"silent":       {[]netip.AddrPort{silent.at, good.at}, never, soon, "NOERROR example.com. 0 IN A 192.0.2.1"},
		"failing":      {[]netip.AddrPort{refusing.at, good.at}, never, never, "NOERROR example.com. 0 IN A 192.0.2.1"},
		"closed":       {[]netip.AddrPort{closed, closed, good.at}, never, never, "NOERROR example.com. 0 IN A 192.0.2.1"},
		"none":         {nil, never, never, "SERVFAIL"},
		"none is well": {[]netip.AddrPort{refusing.at, closed}, never, never, "SERVFAIL"},
		"all silent":   {[]netip.AddrPort{silent.at}, soon, soon, "SERVFAIL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startWith(t, Config{Upstreams: c.servers}, func(s *Server) { s.try, s.hedge = c.try, c.hedge })
			s.Apply(names())
			if got := text(ask(t, s, "udp", "example.com", dns.TypeA)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestFailedServersAreAskedLast(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("192.0.2.2:53")
	u := newUpstream("", []netip.AddrPort{a, b}, nil, start(t, Config{}).cfg.Log)
	now := time.Now()
	u.failed(a, now)
	if got := u.order(now); !slices.Equal(got, []netip.AddrPort{b, a}) {
		t.Error(got)
	}
	if got := u.order(now.Add(avoidFor)); !slices.Equal(got, []netip.AddrPort{a, b}) {
		t.Error("it is not tried again:", got)
	}
	u.works(a)
	if got := u.order(now); !slices.Equal(got, []netip.AddrPort{a, b}) {
		t.Error(got)
	}
}

func TestResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	own := netip.MustParseAddrPort("127.0.0.1:53")
	u := newUpstream(path, nil, []netip.AddrPort{own}, start(t, Config{}).cfg.Log)
	now := time.Now()
	if got := u.order(now); len(got) > 0 {
		t.Error(got)
	}
	write("# comment\nsearch prod.svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::a # second\nnameserver nonsense\nnameserver 127.0.0.1\noptions ndots:5\n")
	want := []netip.AddrPort{netip.MustParseAddrPort("10.96.0.10:53"), netip.MustParseAddrPort("[fd00::a]:53")}
	if got := u.order(now.Add(time.Minute)); !slices.Equal(got, want) {
		t.Error(got)
	}
	write("nameserver 10.0.0.1\n")
	if got := u.order(now.Add(2 * time.Minute)); len(got) != 1 || got[0].String() != "10.0.0.1:53" {
		t.Error(got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := u.order(now.Add(3 * time.Minute)); len(got) != 1 {
		t.Error("a file that is gone for a moment takes the nameservers away")
	}
}

// A question that comes back is not asked again and again.
func TestLoop(t *testing.T) {
	var of atomic.Pointer[Server]
	// The redirect brings our own packets back to us as they are.
	back := startNameserver(t, func(_ string, r *dns.Msg) *dns.Msg {
		m, _, err := (&dns.Client{Timeout: 30 * time.Second}).Exchange(r, of.Load().Addresses()[0].String())
		if err != nil {
			t.Error(err)
			return nil
		}
		return m
	})
	s := start(t, Config{Upstreams: []netip.AddrPort{back.at}})
	of.Store(s)
	s.Apply(names())
	if got := text(ask(t, s, "udp", "example.com", dns.TypeA)); got != "SERVFAIL" {
		t.Error(got)
	}
	if n := back.asked.Load(); n > maxTries {
		t.Errorf("asked %d times", n)
	}
}

func TestCache(t *testing.T) {
	var c cache
	now := time.Now()
	question := func(name string) (*dns.Msg, key) {
		q := new(dns.Msg).SetQuestion(name, dns.TypeA)
		k, ok := cacheable(q)
		if !ok {
			t.Fatal(name, "is not cacheable")
		}
		return q, k
	}
	q, k := question("a.example.")
	c.put(k, address(60, "192.0.2.1")("udp", q), now)
	if m := c.get(k, now.Add(20*time.Second)); m == nil || m.Answer[0].Header().Ttl != 40 {
		t.Error(m)
	}
	if m := c.get(k, now.Add(60*time.Second)); m != nil {
		t.Error("kept longer than it says")
	}
	for i := range 2 * maxCached {
		q, k := question(fmt.Sprintf("n%d.example.", i))
		c.put(k, address(60, "192.0.2.1")("udp", q), now)
	}
	if len(c.answers) != maxCached {
		t.Errorf("%d answers are kept, at most %d may be", len(c.answers), maxCached)
	}
	// Bits that change an answer have answers of their own.
	seen := map[key]bool{}
	for _, change := range []func(*dns.Msg){func(*dns.Msg) {}, func(q *dns.Msg) { q.CheckingDisabled = true }, func(q *dns.Msg) { q.AuthenticatedData = true },
		func(q *dns.Msg) { q.SetEdns0(1232, false) }, func(q *dns.Msg) { q.SetEdns0(1232, true) }, func(q *dns.Msg) { q.RecursionDesired = false }} {
		q, _ := question("a.example.")
		change(q)
		k, ok := cacheable(q)
		if !ok || seen[k] {
			t.Error(q)
		}
		seen[k] = true
	}
}

// Whatever comes in: an answer to it, or silence, and no panic.
func FuzzPacket(f *testing.F) {
	for _, q := range []*dns.Msg{
		new(dns.Msg).SetQuestion("web.svc.mesh.local.", dns.TypeA), new(dns.Msg).SetQuestion("3.2.1.241.in-addr.arpa.", dns.TypePTR),
		new(dns.Msg).SetQuestion(strings.Repeat("f.", 32)+"ip6.arpa.", dns.TypePTR), new(dns.Msg).SetEdns0(1, true).SetQuestion(".", dns.TypeANY),
		new(dns.Msg).SetUpdate("mesh.local."), new(dns.Msg).SetAxfr("mesh.local."),
	} {
		text, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("x"))
	s, err := New(Config{Port: -1})
	if err != nil {
		f.Fatal(err)
	}
	s.upstream = newUpstream(filepath.Join(f.TempDir(), "none"), nil, nil, s.cfg.Log)
	s.Apply(names("web.svc.mesh.local", "241.1.2.3 fd00::f101:203"))
	f.Fuzz(func(t *testing.T, packet []byte) {
		r := new(dns.Msg)
		if r.Unpack(packet) != nil {
			return
		}
		m := s.answer(t.Context(), "udp", r)
		if m.Id != r.Id || !m.Response {
			t.Fatalf("%v answers %v", m, r)
		}
		m.Truncate(512)
		if _, err := m.Pack(); err != nil && len(r.Question) == 1 {
			if _, also := r.Pack(); also == nil {
				t.Fatalf("the answer to %v cannot be sent: %v", r, err)
			}
		}
	})
}

// Garbage on the sockets does not end the server.
func TestGarbage(t *testing.T) {
	s := start(t, Config{})
	s.Apply(names("web.svc.mesh.local", "241.1.2.3"))
	for _, network := range []string{"udp", "tcp"} {
		for _, packet := range []string{"", "x", "\x00\x00", "\xff\xff\xff\xff", strings.Repeat("\x00", 12), strings.Repeat("\xc0\x0c", 300)} {
			c, err := net.Dial(network, s.Addresses()[0].String())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte(packet)); err != nil {
				t.Log(err)
			}
			_ = c.Close()
		}
	}
	// Who holds connections without a word does not lock others out of UDP.
	for range maxConnections + 10 {
		c, err := net.Dial("tcp", s.Addresses()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if got := text(ask(t, s, "udp", "web.svc.mesh.local", dns.TypeA)); got != "NOERROR web.svc.mesh.local. 30 IN A 241.1.2.3" {
		t.Error(got)
	}
}

func BenchmarkOwnName(b *testing.B) {
	s := start(b, Config{})
	s.Apply(names("web.svc.mesh.local", "241.1.2.3"))
	benchmark(b, s, "web.svc.mesh.local.")
}

func BenchmarkCached(b *testing.B) {
	up := startNameserver(b, address(3600, "192.0.2.1"))
	s := start(b, Config{Upstreams: []netip.AddrPort{up.at}})
	s.Apply(names())
	benchmark(b, s, "example.com.")
}

// benchmark asks over UDP, 16 questions at a time.
func benchmark(b *testing.B, s *Server, name string) {
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		c, err := dns.Dial("udp", s.Addresses()[0].String())
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		q := new(dns.Msg).SetQuestion(name, dns.TypeA)
		for pb.Next() {
			if err := c.WriteMsg(q); err != nil {
				b.Error(err)
				return
			}
			_ = c.SetReadDeadline(time.Now().Add(60 * time.Second))
			if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
				b.Error(m, err)
				return
			}
		}
	})
}
