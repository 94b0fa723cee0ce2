package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
)

// TestTooManyBadTokens: whoever sends tokens that are none asks the API server
// nothing after a while, and is in no other pod's way.
func TestTooManyBadTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		down := false
		a := &Admitter{good: map[[32]byte]goodToken{}, reviews: newReviews(), review: func(_ context.Context, token string) (*authenticationv1.TokenReviewStatus, error) {
			asked++
			if down {
				return nil, errors.New("it is away")
			}
			if !strings.HasPrefix(token, "good") {
				return &authenticationv1.TokenReviewStatus{Error: "no token"}, nil
			}
			return &authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{Audience}, User: authenticationv1.UserInfo{Username: "system:serviceaccount:shop:web",
				Extra: map[string]authenticationv1.ExtraValue{extraPodName: {"web"}, extraPodUID: {"u"}}}}, nil
		}}
		try := func(from, token string) codes.Code {
			ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(from), Port: 1}})
			_, err := a.Authenticate(ctx, token)
			return status.Code(err)
		}
		want := func(what string, got, want codes.Code) {
			t.Helper()
			if got != want {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
		// Of one bad token the API server is asked once in a while.
		for range 100 {
			want("bad", try("10.0.0.1", "bad"), codes.Unauthenticated)
		}
		if asked != 1 {
			t.Errorf("asked %d times for one token", asked)
		}
		time.Sleep(refusalLasts) // the bubble's time
		want("bad, later", try("10.0.0.1", "bad"), codes.Unauthenticated)
		if asked != 2 {
			t.Error("a refusal is for ever")
		}
		// Other ones it may try until it has tried too many.
		asked = 0
		for i := range 10 * refusedBurst {
			try("10.0.0.1", fmt.Sprint("bad", i))
		}
		if asked > refusedBurst {
			t.Errorf("asked %d times", asked)
		}
		want("one too many", try("10.0.0.1", "worse"), codes.ResourceExhausted)
		want("another's", try("10.0.0.2", "good"), codes.OK)
		want("a good one that is known, from there", try("10.0.0.1", "good"), codes.OK)
		time.Sleep(refusedEvery) // the bubble's time
		want("a new good one, later", try("10.0.0.1", "good2"), codes.OK)
		// Good ones cost nothing, nor does an API server that is away.
		for i := range 10 * refusedBurst {
			want("good", try("10.0.0.3", fmt.Sprint("good", i)), codes.OK)
		}
		down = true
		for i := range 10 * refusedBurst {
			want("away", try("10.0.0.3", fmt.Sprint("later", i)), codes.Unavailable)
		}
		down = false
		want("back", try("10.0.0.3", "later"), codes.Unauthenticated)
		// However many there are, what is kept is bounded.
		for i := range maxSources + 100 {
			try(fmt.Sprintf("10.1.%d.%d", i/256, i%256), fmt.Sprint("many", i))
		}
		if len(a.reviews.sources) > maxSources+1 || len(a.reviews.refused) > maxRefusals {
			t.Error(len(a.reviews.sources), len(a.reviews.refused))
		}
	})
}
