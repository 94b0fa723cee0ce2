package kube

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/client-go/rest"

	"github.com/tombolo-mesh/tombolo/mesh"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
	"github.com/tombolo-mesh/tombolo/zone/agents"
)

// Audience that the token of a pod's agent must be for.
const Audience = "tombolo-zone"

// Bounds of admission.
const (
	reviewTimeout = 5 * time.Second
	// seeTimeout is how long an agent waits until the watch shows its pod.
	seeTimeout = 5 * time.Second
	// A token that was good is not asked about again for so long: an agent that
	// reconnects costs the API server nothing. A pod that is gone is out at once all
	// the same, since the watch says so.
	reviewLasts = time.Minute
	maxReviews  = 20_000
	maxToken    = 16 << 10
)

// Extra fields of a bound service account token.
const (
	extraPodName = "authentication.kubernetes.io/pod-name"
	extraPodUID  = "authentication.kubernetes.io/pod-uid"
)

// podCredential is a pod that a token was good for.
type podCredential struct{ namespace, serviceAccount, name, uid string }

// Admitter lets in the agents of this cluster's pods: it asks the API server whose
// their token is. It implements agents.Admitter.
type Admitter struct {
	platform *Platform
	review   func(ctx context.Context, token string) (*authenticationv1.TokenReviewStatus, error)

	reviews *reviews

	mu   sync.Mutex
	good map[[sha256.Size]byte]goodToken
}

type goodToken struct {
	who   podCredential
	until time.Time
}

var _ agents.Admitter = (*Admitter)(nil)

// Admitter for the agents of the cluster's pods.
func (p *Platform) Admitter() *Admitter {
	return &Admitter{platform: p, review: reviewer(p.cfg.Client.Authentication), reviews: newReviews(), good: map[[sha256.Size]byte]goodToken{}}
}

func reviewer(client rest.Interface) func(context.Context, string) (*authenticationv1.TokenReviewStatus, error) {
	return func(ctx context.Context, token string) (*authenticationv1.TokenReviewStatus, error) {
		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{Audience}}}
		out := &authenticationv1.TokenReview{}
		if err := client.Post().Resource("tokenreviews").Body(review).Do(ctx).Into(out); err != nil {
			return nil, err
		}
		return &out.Status, nil
	}
}

// Authenticate implements agents.Admitter.
func (a *Admitter) Authenticate(ctx context.Context, bearer string) (agents.Credential, error) {
	if bearer == "" || len(bearer) > maxToken {
		return nil, status.Errorf(codes.Unauthenticated, "the token must have 1 to %d bytes", maxToken)
	}
	sum := sha256.Sum256([]byte(bearer))
	now := time.Now()
	a.mu.Lock()
	known, ok := a.good[sum]
	a.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.who, nil
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	end, err := a.reviews.begin(ctx, sum, sourceOf(ctx), now)
	if err != nil {
		return nil, err
	}
	who, err := a.ask(ctx, bearer)
	end(err)
	if err != nil {
		return nil, err
	}
	a.remember(sum, goodToken{who: who, until: now.Add(reviewLasts)}, now)
	return who, nil
}

// ask lets the API server say whose a token is.
func (a *Admitter) ask(ctx context.Context, bearer string) (podCredential, error) {
	review, err := a.review(ctx, bearer)
	if err != nil {
		return podCredential{}, status.Errorf(codes.Unavailable, "the API server did not say whose token this is: %v", err)
	}
	who, err := podFrom(review)
	if err != nil {
		return podCredential{}, status.Error(codes.Unauthenticated, err.Error())
	}
	return who, nil
}

func (a *Admitter) remember(sum [sha256.Size]byte, t goodToken, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.good) >= maxReviews {
		for k, v := range a.good {
			if !now.Before(v.until) {
				delete(a.good, k)
			}
		}
	}
	if len(a.good) < maxReviews {
		a.good[sum] = t
	}
}

// podFrom is the pod that a token is bound to. The API server answers every
// review; that the token is good is only said inside.
func podFrom(s *authenticationv1.TokenReviewStatus) (podCredential, error) {
	var out podCredential
	switch {
	case !s.Authenticated:
		return out, fmt.Errorf("the API server does not accept the token: %s", or(s.Error, "no reason given"))
	case !slices.Contains(s.Audiences, Audience):
		return out, fmt.Errorf("the token is for %s, not for %s", or(strings.Join(s.Audiences, ", "), "no audience"), Audience)
	}
	rest, ok := strings.CutPrefix(s.User.Username, "system:serviceaccount:")
	if ok {
		out.namespace, out.serviceAccount, ok = strings.Cut(rest, ":")
	}
	if !ok || out.namespace == "" || out.serviceAccount == "" {
		return out, fmt.Errorf("the token is of %.200q, not of a service account", s.User.Username)
	}
	for key, to := range map[string]*string{extraPodName: &out.name, extraPodUID: &out.uid} {
		values := s.User.Extra[key]
		if len(values) != 1 || values[0] == "" {
			return out, fmt.Errorf("the token is not bound to a pod: it must be a projected one")
		}
		*to = values[0]
	}
	return out, nil
}

// Admit implements agents.Admitter. Which proxy it is follows from the token alone.
func (a *Admitter) Admit(ctx context.Context, c agents.Credential, r *agentv1.Register) (agents.Proxy, error) {
	who, ok := c.(podCredential)
	if !ok {
		return agents.Proxy{}, status.Error(codes.Unauthenticated, "a service account token is required")
	}
	if len(r.Dataplane) > 0 {
		return agents.Proxy{}, status.Error(codes.InvalidArgument, "dataplane must be empty: a Kubernetes zone knows the pod from the API server")
	}
	ctx, cancel := context.WithTimeout(ctx, seeTimeout)
	defer cancel()
	if err := a.platform.claim(who, r.PodIps); err != nil {
		return agents.Proxy{}, status.Error(codes.InvalidArgument, err.Error())
	}
	pod, err := a.platform.members.wait(ctx, mesh.NamespacedName(who.name, who.namespace), who.uid)
	if err != nil {
		return agents.Proxy{}, status.Errorf(codes.Unavailable, "pod %s/%s (%s) is not in the mesh yet: it has no address, no sidecar, or the events of the pod say why",
			who.namespace, who.name, who.uid)
	}
	if have := pod.Resource.Labels[mesh.LabelServiceAccount]; have != who.serviceAccount {
		return agents.Proxy{}, status.Errorf(codes.PermissionDenied, "the token is of service account %s, the pod's is %s", who.serviceAccount, have)
	}
	return agents.Proxy{Resource: pod.Resource, Spec: pod.Spec, Named: true}, nil
}

// Recheck implements agents.Admitter. Whether the pod is there the watch says, and
// the engine ends the stream of one that is gone.
func (a *Admitter) Recheck(agents.Credential) error { return nil }

func or(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}
