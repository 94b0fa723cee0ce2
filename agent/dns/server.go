package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

// DefaultPort is where the redirect brings questions to.
const DefaultPort = 15053

// DefaultSuffix is that of all names of the default generators.
const DefaultSuffix = "mesh.local"

const (
	defaultResolvConf = "/etc/resolv.conf"
	// maxWaiting bounds the questions that wait; one more is refused.
	maxWaiting = 512
	// maxConnections bounds TCP connections, idleTimeout ends those that ask nothing.
	maxConnections = 128
	idleTimeout    = 8 * time.Second
	// firstTable bounds how long a name of the mesh waits for the first table.
	firstTable = 1500 * time.Millisecond
	// answerSize is the UDP size that this server says it can take.
	answerSize = 1232
	// requestSize bounds a question over UDP.
	requestSize = 4096
)

// Config of a Server.
type Config struct {
	// Port on 127.0.0.1 and [::1], default DefaultPort; -1 takes any free one.
	Port int
	// Upstreams are asked in place of the nameservers of ResolvConf.
	Upstreams []netip.AddrPort
	// ResolvConf is read again when it changes, default /etc/resolv.conf.
	ResolvConf string
	// Suffix of names that wait for the first table, without leading dot, default
	// DefaultSuffix. All others are passed on while there is no table.
	Suffix string
	// Log for state changes; default discards.
	Log *slog.Logger
}

// Server answers DNS questions.
type Server struct {
	cfg      Config
	table    *table
	cache    cache
	upstream *upstream
	flights  singleflight.Group
	// waiting are tokens of questions that wait for nameservers or the first table.
	waiting chan struct{}
	// patience, try and hedge are firstTable, tryTimeout and hedgeAfter.
	patience, try, hedge time.Duration

	bound     atomic.Bool
	addresses []netip.AddrPort
	listening chan struct{}
}

// New checks the configuration. It does no I/O.
func New(cfg Config) (*Server, error) {
	if cfg.Port == 0 {
		cfg.Port = DefaultPort
	}
	if cfg.Port < -1 || cfg.Port > 65535 {
		return nil, fmt.Errorf("dns: port must be 1 to 65535, not %d", cfg.Port)
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = defaultResolvConf
	}
	if cfg.Suffix == "" {
		cfg.Suffix = DefaultSuffix
	}
	if _, ok := dns.IsDomainName(cfg.Suffix); !ok {
		return nil, fmt.Errorf("dns: suffix must be a DNS name, not %q", cfg.Suffix)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, table: newTable(), waiting: make(chan struct{}, maxWaiting), patience: firstTable, try: tryTimeout, hedge: hedgeAfter, listening: make(chan struct{})}, nil
}

// Apply takes a part of the table of names, in the order of the stream. The last
// table stays when the zone is away.
func (s *Server) Apply(n *agentv1.Names) { s.table.apply(n) }

// Ready reports whether questions are answered, those for names of the mesh too.
func (s *Server) Ready() bool { return s.bound.Load() && s.table.ready() }

// Listening is closed once the sockets are bound; then Addresses has them.
func (s *Server) Listening() <-chan struct{} { return s.listening }

// Addresses where it listens, for UDP and TCP each.
func (s *Server) Addresses() []netip.AddrPort { return s.addresses }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	var servers []*dns.Server
	closeAll := func() {
		for _, x := range servers {
			if x.PacketConn != nil {
				_ = x.PacketConn.Close()
			}
			if x.Listener != nil {
				_ = x.Listener.Close()
			}
		}
	}
	port := max(s.cfg.Port, 0)
	for _, host := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		udp, tcp, err := bind(ctx, netip.AddrPortFrom(host, uint16(port)))
		if err != nil {
			if host.Is6() && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)) {
				s.cfg.Log.Info("no IPv6 on this host: names are answered over IPv4 alone")
				continue
			}
			closeAll()
			return fmt.Errorf("dns: %w", err)
		}
		at := udp.LocalAddr().(*net.UDPAddr).AddrPort()
		port = int(at.Port())
		s.addresses = append(s.addresses, at)
		handler := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) { s.serve(ctx, w, r) })
		servers = append(servers,
			&dns.Server{PacketConn: udp, Handler: handler, UDPSize: requestSize},
			&dns.Server{Listener: limit(tcp, maxConnections), Handler: handler, ReadTimeout: idleTimeout, WriteTimeout: idleTimeout,
				IdleTimeout: func() time.Duration { return idleTimeout }})
	}
	s.upstream = newUpstream(s.cfg.ResolvConf, s.cfg.Upstreams, s.addresses, s.cfg.Log)
	s.upstream.try, s.upstream.hedge = s.try, s.hedge
	g, live := errgroup.WithContext(ctx)
	for _, x := range servers {
		g.Go(func() error {
			if err := x.ActivateAndServe(); err != nil && live.Err() == nil {
				return fmt.Errorf("dns: %w", err)
			}
			return nil
		})
	}
	g.Go(func() error {
		<-live.Done()
		closeAll() // ends the servers, which then wait for nobody
		return nil
	})
	s.bound.Store(true)
	close(s.listening)
	s.cfg.Log.Info("names are answered", "addresses", fmt.Sprint(s.addresses))
	return g.Wait()
}

func bind(ctx context.Context, at netip.AddrPort) (net.PacketConn, net.Listener, error) {
	var lc net.ListenConfig
	const attempts = 20
	for i := 1; ; i++ {
		udp, err := lc.ListenPacket(ctx, "udp", at.String())
		if err != nil {
			return nil, nil, err
		}
		same := udp.LocalAddr().(*net.UDPAddr).AddrPort()
		tcp, err := lc.Listen(ctx, "tcp", same.String())
		if err == nil {
			return udp, tcp, nil
		}
		_ = udp.Close()
		// Any port will do: another one may be free for both.
		if at.Port() != 0 || i == attempts {
			return nil, nil, err
		}
	}
}

// limited is a listener that takes so many connections at once.
type limited struct {
	net.Listener
	tokens chan struct{}
}

func limit(l net.Listener, n int) net.Listener {
	return &limited{Listener: l, tokens: make(chan struct{}, n)}
}

// Accept implements net.Listener; one too many is closed at once, so that it does
// not wait behind those that ask nothing.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.tokens <- struct{}{}:
			return &limitedConn{Conn: c, tokens: l.tokens}, nil
		default:
			_ = c.Close()
		}
	}
}

type limitedConn struct {
	net.Conn
	tokens chan struct{}
	closed atomic.Bool
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		<-c.tokens
	}
	return c.Conn.Close()
}

// serve answers one question.
func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) {
	network := w.LocalAddr().Network()
	answer := s.answer(ctx, network, r)
	if network == "udp" {
		size := dns.MinMsgSize
		if opt := r.IsEdns0(); opt != nil {
			size = max(int(opt.UDPSize()), size)
		}
		answer.Truncate(size)
	} else {
		answer.Compress = true
	}
	_ = w.WriteMsg(answer) // who asked is gone, or asks again
}

func (s *Server) answer(ctx context.Context, network string, r *dns.Msg) *dns.Msg {
	switch {
	case r.Opcode != dns.OpcodeQuery:
		return failure(r, dns.RcodeNotImplemented)
	case len(r.Question) != 1:
		return failure(r, dns.RcodeFormatError)
	}
	q := r.Question[0]
	name := strings.TrimSuffix(lower(q.Name), ".")
	if q.Qclass == dns.ClassINET {
		if a := s.own(r, name); a != nil {
			return a
		}
		if s.waits(name) {
			if !s.wait(ctx) {
				return failure(r, dns.RcodeServerFailure)
			}
			if a := s.own(r, name); a != nil {
				return a
			}
		}
	}
	return s.forward(ctx, network, r)
}

// waits: until the first table is there nobody knows which names are the mesh's.
// Those that look like it wait a moment: a wrong NXDOMAIN would be remembered.
func (s *Server) waits(name string) bool {
	return !s.table.ready() && (name == s.cfg.Suffix || strings.HasSuffix(name, "."+s.cfg.Suffix))
}

// wait for the first table, a while.
func (s *Server) wait(ctx context.Context) bool {
	select {
	case s.waiting <- struct{}{}:
		defer func() { <-s.waiting }()
	default:
		return false
	}
	t := time.NewTimer(s.patience)
	defer t.Stop()
	select {
	case <-s.table.first:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// own answers a name of the mesh; nil if it is none.
func (s *Server) own(r *dns.Msg, name string) *dns.Msg {
	q := r.Question[0]
	if q.Qtype == dns.TypePTR {
		return s.ownPTR(r, name)
	}
	e, ok := s.table.find(name)
	if !ok {
		return nil
	}
	m := reply(r)
	header := func(kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: q.Name, Rrtype: kind, Class: dns.ClassINET, Ttl: e.ttl}
	}
	if q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY {
		for _, a := range e.four {
			m.Answer = append(m.Answer, &dns.A{Hdr: header(dns.TypeA), A: a.AsSlice()})
		}
	}
	if q.Qtype == dns.TypeAAAA || q.Qtype == dns.TypeANY {
		for _, a := range e.six {
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(dns.TypeAAAA), AAAA: a.AsSlice()})
		}
	}
	if len(m.Answer) == 0 { // the name is there, what was asked for is not: so long that may be remembered
		m.Ns = []dns.RR{&dns.SOA{Hdr: header(dns.TypeSOA), Ns: "ns.tombolo.invalid.", Mbox: "hostmaster.tombolo.invalid.",
			Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: e.ttl}}
	}
	return m
}

// ownPTR answers in reverse for virtual addresses.
func (s *Server) ownPTR(r *dns.Msg, name string) *dns.Msg {
	a, ok := reversed(name)
	if !ok {
		return nil
	}
	of, ttl, ok := s.table.nameOf(a)
	if !ok {
		return nil
	}
	m := reply(r)
	m.Answer = []dns.RR{&dns.PTR{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: ttl}, Ptr: of + "."}}
	return m
}

// reversed is the address that a name below in-addr.arpa or ip6.arpa is of.
func reversed(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		p := strings.Split(rest, ".")
		if len(p) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(p[3] + "." + p[2] + "." + p[1] + "." + p[0])
		return a, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var text strings.Builder
	for i := len(rest) - 1; i >= 0; i -= 2 {
		if i > 0 && rest[i-1] != '.' {
			return netip.Addr{}, false
		}
		text.WriteByte(rest[i])
		if n := (len(rest)-1-i)/2 + 1; n%4 == 0 && n < 32 {
			text.WriteByte(':')
		}
	}
	a, err := netip.ParseAddr(text.String())
	return a, err == nil
}

// forward passes a question on.
func (s *Server) forward(ctx context.Context, network string, r *dns.Msg) *dns.Msg {
	k, shared := cacheable(r)
	if shared {
		if m := s.cache.get(k, time.Now()); m != nil {
			return asAnswerTo(r, m)
		}
	}
	if s.upstream.loops(r) {
		s.cfg.Log.Error("a question of this server came back to it: questions to nameservers are redirected to it; the agent must run as its own user, and so must a resolver on this host that it asks be left alone by the redirect",
			"name", r.Question[0].Name)
		return failure(r, dns.RcodeServerFailure)
	}
	ask := func() (any, error) {
		select {
		case s.waiting <- struct{}{}:
			defer func() { <-s.waiting }()
		default:
			return nil, errors.New("too many questions are under way")
		}
		m, err := s.upstream.exchange(ctx, network, r)
		if err == nil && shared {
			s.cache.put(k, m, time.Now())
		}
		return m, err
	}
	var got any
	var err error
	if shared {
		got, err, _ = s.flights.Do(fmt.Sprint(network, k), ask)
	} else {
		got, err = ask()
	}
	m, ok := got.(*dns.Msg)
	if err != nil || !ok || m == nil {
		s.cfg.Log.Debug("question not answered", "name", r.Question[0].Name, "error", err)
		return failure(r, dns.RcodeServerFailure)
	}
	return asAnswerTo(r, m.Copy())
}

// asAnswerTo gives an answer the id of the request, and its question in the
// letters in which it was asked.
func asAnswerTo(r, m *dns.Msg) *dns.Msg {
	m.Id = r.Id
	m.Question = r.Question
	return m
}

func reply(r *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(r)
	m.RecursionAvailable = true
	if opt := r.IsEdns0(); opt != nil {
		m.SetEdns0(answerSize, opt.Do())
		if opt.Version() != 0 {
			m.Rcode = dns.RcodeBadVers
		}
	}
	return m
}

func failure(r *dns.Msg, code int) *dns.Msg {
	m := reply(r)
	m.Rcode = code
	return m
}
