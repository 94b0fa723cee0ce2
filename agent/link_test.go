package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"

	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
)

// endedStream ends while the agent sends: of gRPC's stream, only Recv knows why, and
// one goroutine alone may call it.
type endedStream struct {
	agentv1.AgentService_ConnectClient
	t *testing.T
	// frames come before the reason; ended is closed when the stream is.
	frames int
	reason error
	ended  chan struct{}

	mu        sync.Mutex
	receiving bool
	sent      int
}

func (s *endedStream) Send(*agentv1.AgentFrame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sent++; s.sent == 1 { // the registration
		return nil
	}
	close(s.ended)
	return io.EOF
}

func (s *endedStream) Recv() (*agentv1.ZoneFrame, error) {
	s.mu.Lock()
	if s.receiving {
		s.t.Error("two receive at once")
	}
	s.receiving = true
	defer func() { s.receiving = false; s.mu.Unlock() }()
	first := s.frames == 3
	s.frames--
	s.mu.Unlock()
	if !first {
		<-s.ended
	}
	s.mu.Lock()
	switch {
	case first:
		return &agentv1.ZoneFrame{Frame: &agentv1.ZoneFrame_Registered{Registered: &agentv1.Registered{}}}, nil
	case s.frames >= 0:
		return &agentv1.ZoneFrame{}, nil
	}
	return nil, s.reason
}

// A session whose stream ends while it sends ends with the stream's reason.
func TestStreamEndsWhileSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		l := newLink(linkConfig{log: log, renew: newRenewer(log, nil), probes: newProber(log), ads: newADS(log)})
		stream := &endedStream{t: t, frames: 3, reason: errors.New("the zone restarts"), ended: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		var workers sync.WaitGroup
		s := &session{link: l, stream: stream, out: make(chan *agentv1.AgentFrame, 1), workers: &workers}
		done := make(chan error, 1)
		go func() { _, err := s.run(ctx); done <- err }()
		synctest.Wait()
		s.out <- &agentv1.AgentFrame{}
		synctest.Wait()
		select {
		case err := <-done:
			if !errors.Is(err, stream.reason) {
				t.Errorf("%v, want %v", err, stream.reason)
			}
		default:
			t.Error("the session does not end")
		}
		cancel()
		workers.Wait()
	})
}
