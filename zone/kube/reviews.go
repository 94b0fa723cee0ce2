package kube

import (
	"context"
	"crypto/sha256"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Bounds of what the API server is asked about tokens. Anybody in the cluster can
// send one, and its answer is work for the whole cluster.
const (
	// maxReviewing bounds the questions under way.
	maxReviewing = 64
	// A source may have so many tokens refused in a row, and one more each
	// refusedEvery; its tokens that are good do not count.
	refusedBurst = 20
	refusedEvery = 2 * time.Second
	// A token that was refused is so for a while, unless it is another one.
	refusalLasts = 10 * time.Second
	maxRefusals  = 10_000
	// maxSources bounds those that had tokens refused lately; all others together
	// count as one when there are more.
	maxSources = 4096
)

// reviews is what keeps strangers from asking the API server too much. It is safe
// for concurrent use.
type reviews struct {
	slots chan struct{}

	mu      sync.Mutex
	refused map[[sha256.Size]byte]refusal
	sources map[string]*allowance
}

type refusal struct {
	err   error
	until time.Time
}

// allowance is how many tokens of a source may still be refused.
type allowance struct {
	left float64
	at   time.Time
}

func (a *allowance) fill(now time.Time) {
	a.left = min(refusedBurst, a.left+float64(now.Sub(a.at))/float64(refusedEvery))
	a.at = now
}

func newReviews() *reviews {
	return &reviews{slots: make(chan struct{}, maxReviewing), refused: map[[sha256.Size]byte]refusal{}, sources: map[string]*allowance{}}
}

// begin asks for leave to review a token of a source. The caller must call end with
// what came of it.
func (r *reviews) begin(ctx context.Context, sum [sha256.Size]byte, from string, now time.Time) (end func(err error), err error) {
	r.mu.Lock()
	if known, ok := r.refused[sum]; ok && now.Before(known.until) {
		r.mu.Unlock()
		return nil, known.err
	}
	// It is taken before the answer is known: else many questions at once cost one.
	a := r.source(from, now)
	if a.left < 1 {
		r.mu.Unlock()
		return nil, status.Errorf(codes.ResourceExhausted, "the API server refused %d tokens from %s lately: one more may be tried in %s", refusedBurst, orUnknown(from), refusedEvery)
	}
	a.left--
	r.mu.Unlock()
	giveBack := func() { a.left = min(refusedBurst, a.left+1) }
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		r.mu.Lock()
		giveBack()
		r.mu.Unlock()
		return nil, status.Errorf(codes.Unavailable, "%d tokens are under review, the most allowed", maxReviewing)
	}
	return func(err error) {
		<-r.slots
		r.mu.Lock()
		defer r.mu.Unlock()
		if status.Code(err) != codes.Unauthenticated { // good, or the API server's own trouble
			giveBack()
			return
		}
		if len(r.refused) >= maxRefusals {
			for k, v := range r.refused {
				if !now.Before(v.until) {
					delete(r.refused, k)
				}
			}
		}
		if len(r.refused) < maxRefusals {
			r.refused[sum] = refusal{err: err, until: now.Add(refusalLasts)}
		}
	}, nil
}

// source finds the allowance of a source. Those that have all of it are forgotten
// when there are too many.
func (r *reviews) source(from string, now time.Time) *allowance {
	a := r.sources[from]
	if a == nil {
		if len(r.sources) >= maxSources {
			for k, v := range r.sources {
				if v.fill(now); v.left >= refusedBurst {
					delete(r.sources, k)
				}
			}
		}
		if len(r.sources) >= maxSources {
			from = "" // the one for all others
			a = r.sources[from]
		}
		if a == nil {
			a = &allowance{left: refusedBurst, at: now}
			r.sources[from] = a
		}
	}
	a.fill(now)
	return a
}

// sourceOf is the address of who calls; "" if it is not known.
func sourceOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return ""
	}
	return host
}

func orUnknown(from string) string { return or(from, "unknown addresses") }
