package dns

import (
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of the cache.
const (
	maxCached      = 4096
	maxCachedBytes = 4 << 10 // of one answer
	maxCachedTime  = time.Hour
	// evictions is how many answers are looked at to find the one that makes room.
	evictions = 8
)

// key is a question, as far as its answer depends on it.
type key struct {
	name           string // lower case
	kind, class    uint16
	edns, do       bool
	checking, auth bool // bits CD and AD
	recurse        bool
}

// cacheable is the key of a request whose answer may serve others, too.
func cacheable(r *dns.Msg) (key, bool) {
	q := r.Question[0]
	k := key{name: lower(q.Name), kind: q.Qtype, class: q.Qclass, checking: r.CheckingDisabled, auth: r.AuthenticatedData, recurse: r.RecursionDesired}
	if len(r.Answer)+len(r.Ns) > 0 {
		return k, false
	}
	opt := r.IsEdns0()
	if opt == nil {
		return k, len(r.Extra) == 0
	}
	k.edns, k.do = true, opt.Do()
	return k, len(r.Extra) == 1 && len(opt.Option) == 0 && opt.Version() == 0
}

type cached struct {
	answer  *dns.Msg
	at, end time.Time
}

// cache keeps answers as long as they say.
type cache struct {
	mu      sync.Mutex
	answers map[key]cached
}

// get returns a copy with what is left of each TTL.
func (c *cache) get(k key, now time.Time) *dns.Msg {
	c.mu.Lock()
	x, ok := c.answers[k]
	if ok && !now.Before(x.end) {
		delete(c.answers, k)
		ok = false
	}
	c.mu.Unlock()
	if !ok {
		return nil
	}
	out := x.answer.Copy()
	age := uint32(now.Sub(x.at) / time.Second)
	for _, section := range [][]dns.RR{out.Answer, out.Ns, out.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				h.Ttl -= min(age, h.Ttl)
			}
		}
	}
	return out
}

func (c *cache) put(k key, answer *dns.Msg, now time.Time) {
	life := lifeOf(answer)
	if life <= 0 || answer.Len() > maxCachedBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answers == nil {
		c.answers = map[key]cached{}
	}
	if _, ok := c.answers[k]; !ok && len(c.answers) >= maxCached {
		var victim key
		var end time.Time
		seen := 0
		for other, x := range c.answers { // the order of a map is random enough
			if seen == 0 || x.end.Before(end) {
				victim, end = other, x.end
			}
			if seen++; seen == evictions {
				break
			}
		}
		delete(c.answers, victim)
	}
	c.answers[k] = cached{answer: answer.Copy(), at: now, end: now.Add(life)}
}

// lifeOf is how long an answer may be kept: its smallest TTL, or what the SOA of
// a negative answer says (RFC 2308, section 5); 0 for not at all.
func lifeOf(m *dns.Msg) time.Duration {
	if m.Truncated || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	life := uint32(maxCachedTime / time.Second)
	positive := m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0
	bounded := positive
	for _, rr := range m.Answer {
		life = min(life, rr.Header().Ttl)
	}
	for _, rr := range m.Ns {
		if positive {
			life = min(life, rr.Header().Ttl)
		} else if soa, ok := rr.(*dns.SOA); ok {
			life, bounded = min(life, soa.Hdr.Ttl, soa.Minttl), true
		}
	}
	if !bounded {
		return 0
	}
	return time.Duration(life) * time.Second
}

// lower folds ASCII, which is all that is folded in DNS.
func lower(s string) string {
	for i := range len(s) {
		if s[i] >= 'A' && s[i] <= 'Z' {
			b := []byte(s)
			for j := range b {
				if b[j] >= 'A' && b[j] <= 'Z' {
					b[j] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
