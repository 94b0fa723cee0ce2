package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of questions to nameservers.
const (
	// tryTimeout bounds one try, hedgeAfter is when the next server is asked beside
	// the one that has not answered yet.
	tryTimeout = 2 * time.Second
	hedgeAfter = 300 * time.Millisecond
	maxTries   = 3
	// avoidFor is how long a server that failed is asked last.
	avoidFor = 10 * time.Second
	// maxServers and maxResolvConf bound what resolv.conf says.
	maxServers    = 8
	maxResolvConf = 64 << 10
	// checkEvery is how often at most resolv.conf is looked at.
	checkEvery = time.Second
)

var errNoUpstream = errors.New("no nameserver is known")

// upstream asks the nameservers of the host.
type upstream struct {
	file string
	own  []netip.AddrPort // where this server itself listens
	log  *slog.Logger
	// try and hedge are tryTimeout and hedgeAfter.
	try, hedge time.Duration

	mu       sync.Mutex
	servers  []netip.AddrPort
	fixed    bool
	checked  time.Time
	modified time.Time
	size     int64
	avoid    map[netip.AddrPort]time.Time
	// asking are the questions under way: one that comes in from outside with the
	// same id is our own, come back.
	asking map[asked]int
}

type asked struct {
	id   uint16
	name string
	kind uint16
}

func newUpstream(file string, fixed []netip.AddrPort, own []netip.AddrPort, log *slog.Logger) *upstream {
	u := &upstream{file: file, own: own, log: log, try: tryTimeout, hedge: hedgeAfter, avoid: map[netip.AddrPort]time.Time{}, asking: map[asked]int{}}
	if len(fixed) > 0 {
		u.fixed = true
		u.servers = u.others(fixed)
	}
	return u
}

// others are the servers that are not this one.
func (u *upstream) others(servers []netip.AddrPort) []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(servers), func(s netip.AddrPort) bool {
		if slices.Contains(u.own, s) {
			u.log.Error("nameserver is this server itself; it is not asked", "server", s.String())
			return true
		}
		return false
	})
}

// order is the servers to ask, those that failed lately last.
func (u *upstream) order(now time.Time) []netip.AddrPort {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.fixed && now.Sub(u.checked) >= checkEvery {
		u.checked = now
		u.read()
	}
	var good, bad []netip.AddrPort
	for _, s := range u.servers {
		if now.Before(u.avoid[s]) {
			bad = append(bad, s)
		} else {
			good = append(good, s)
		}
	}
	return append(good, bad...)
}

// read takes resolv.conf if it changed; one that cannot be read changes nothing.
func (u *upstream) read() {
	info, err := os.Stat(u.file)
	if err != nil || info.ModTime().Equal(u.modified) && info.Size() == u.size {
		return
	}
	f, err := os.Open(u.file)
	if err != nil {
		return
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxResolvConf))
	if err != nil {
		return
	}
	u.modified, u.size = info.ModTime(), info.Size()
	servers := u.others(parseResolvConf(string(text)))
	if !slices.Equal(servers, u.servers) {
		u.log.Info("nameservers", "file", u.file, "servers", fmt.Sprint(servers))
		u.servers = servers
		clear(u.avoid)
	}
}

// parseResolvConf returns the nameservers of a resolv.conf, see resolv.conf(5).
func parseResolvConf(text string) []netip.AddrPort {
	var out []netip.AddrPort
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil && len(out) < maxServers {
			out = append(out, netip.AddrPortFrom(a.Unmap(), 53))
		}
	}
	return out
}

func (u *upstream) failed(s netip.AddrPort, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !now.Before(u.avoid[s]) {
		u.log.Debug("nameserver does not answer", "server", s.String())
	}
	u.avoid[s] = now.Add(avoidFor)
}

func (u *upstream) works(s netip.AddrPort) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.avoid, s)
}

// loops reports whether a request is one of our own questions that came back.
func (u *upstream) loops(r *dns.Msg) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	q := r.Question[0]
	return u.asking[asked{r.Id, lower(q.Name), q.Qtype}] > 0
}

func (u *upstream) track(a asked, n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.asking[a] += n; u.asking[a] <= 0 {
		delete(u.asking, a)
	}
}

// exchange asks server after server until one gives an answer that is one. A
// refusal, or a failure that a server tells of, is the answer when none has another.
func (u *upstream) exchange(ctx context.Context, network string, request *dns.Msg) (*dns.Msg, error) {
	servers := u.order(time.Now())
	if len(servers) == 0 {
		return nil, errNoUpstream
	}
	for i := 0; len(servers) < maxTries; i++ { // the only server gets another chance: a packet may be lost
		servers = append(servers, servers[i])
	}
	servers = servers[:maxTries]
	ctx, cancel := context.WithTimeout(ctx, u.try+time.Duration(maxTries-1)*u.hedge)
	defer cancel()
	type result struct {
		server netip.AddrPort
		answer *dns.Msg
		err    error
	}
	results := make(chan result, maxTries)
	started, running := 0, 0
	start := func() {
		s := servers[started]
		started++
		running++
		go func() { // ends with its own timeout, or when ctx ends
			answer, err := u.ask(ctx, network, s, request)
			results <- result{s, answer, err}
		}()
	}
	start()
	hedge := time.NewTicker(u.hedge)
	defer hedge.Stop()
	var last result
	for running > 0 {
		select {
		case r := <-results:
			running--
			if r.err == nil && (r.answer.Rcode == dns.RcodeSuccess || r.answer.Rcode == dns.RcodeNameError) {
				u.works(r.server)
				return r.answer, nil
			}
			if r.err != nil && ctx.Err() == nil {
				u.failed(r.server, time.Now())
			}
			if last.answer == nil {
				last = r
			}
			if started < len(servers) {
				start()
			}
		case <-hedge.C:
			if started < len(servers) {
				start()
			}
		}
	}
	return last.answer, last.err
}

// ask asks one server, from a port of its own and with an id of its own.
func (u *upstream) ask(ctx context.Context, network string, server netip.AddrPort, request *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, u.try)
	defer cancel()
	q := request.Copy()
	q.Id = dns.Id()
	question := q.Question[0]
	a := asked{q.Id, lower(question.Name), question.Qtype}
	u.track(a, 1)
	defer u.track(a, -1)
	text, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	var d net.Dialer
	raw, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn := &dns.Conn{Conn: raw, UDPSize: dns.MaxMsgSize}
	if _, err := conn.Write(text); err != nil {
		return nil, err
	}
	for {
		answer, err := conn.ReadMsg()
		if err != nil {
			if answer == nil || ctx.Err() != nil {
				return nil, err
			}
			continue // garbage, perhaps another's: the true answer may follow
		}
		if answer.Id == q.Id && answer.Response && len(answer.Question) == 1 && answer.Question[0].Qtype == question.Qtype &&
			answer.Question[0].Qclass == question.Qclass && lower(answer.Question[0].Name) == lower(question.Name) {
			return answer, nil
		}
		if network == "tcp" {
			return nil, errors.New("the answer is to another question")
		}
	}
}
