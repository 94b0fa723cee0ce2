package load

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

// agent registers one proxy and keeps its stream. Its connection carries the Envoy's
// stream too, for as long.
type agent struct {
	fleet *Fleet
	spec  Spec
	conn  *grpc.ClientConn

	mu       sync.Mutex
	token    string
	member   context.Context // ends with the membership
	joined   chan struct{}   // closed while it is a member
	stream   agentv1.AgentService_ConnectClient
	notReady []string
}

// run keeps the proxy a member until ctx ends.
func (a *agent) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := a.connect(ctx)
		a.mu.Lock()
		a.stream = nil
		select {
		case <-a.joined:
			a.joined = make(chan struct{})
		default:
		}
		a.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		a.fleet.failed("agent of "+a.spec.Name, err)
		select {
		case <-ctx.Done():
		case <-time.After(a.fleet.jitter(firstRetry)):
		}
	}
}

func (a *agent) connect(ctx context.Context) error {
	if err := a.fleet.turn(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := agentv1.NewAgentServiceClient(a.conn).Connect(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+a.spec.Token))
	a.fleet.took()
	if err != nil {
		return err
	}
	a.mu.Lock()
	register := &agentv1.Register{Dataplane: []byte(a.spec.Dataplane), Instance: "i-" + a.spec.Name, AgentVersion: "load", EnvoyVersion: "load",
		Capabilities: 1, NotReady: a.notReady, Names: a.spec.Names}
	a.mu.Unlock()
	if err := s.Send(&agentv1.AgentFrame{Frame: &agentv1.AgentFrame_Register{Register: register}}); err != nil {
		return err
	}
	for {
		f, err := s.Recv()
		if err != nil {
			return err
		}
		if r := f.GetRegistered(); r != nil {
			a.mu.Lock()
			a.token, a.member, a.stream = r.SessionToken, ctx, s
			close(a.joined)
			a.mu.Unlock()
		}
	}
}

// session waits until the proxy is a member, and returns what its Envoy presents and
// what ends with the membership.
func (a *agent) session(ctx context.Context) (member context.Context, token string, err error) {
	if a.spec.Dataplane == "" {
		return ctx, "", nil // the floor knows no members
	}
	a.mu.Lock()
	joined := a.joined
	a.mu.Unlock()
	select {
	case <-joined:
	case <-ctx.Done():
		return nil, "", ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.member, a.token, nil
}

// health tells which inbounds do not answer.
func (a *agent) health(notReady []string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.notReady = notReady
	if a.stream == nil {
		return fmt.Errorf("the agent of %s is not connected", a.spec.Name)
	}
	return a.stream.Send(&agentv1.AgentFrame{Frame: &agentv1.AgentFrame_Health{Health: &agentv1.Health{NotReady: notReady}}})
}
