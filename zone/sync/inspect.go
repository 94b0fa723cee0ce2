package sync

import (
	"bufio"
	"context"
	"errors"

	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// inspect answers a question in a goroutine of its own. A question beyond the
// bound, or one whose id is in use, is answered with an error.
func (s *session) inspect(q *zonesyncv1.InspectRequest) {
	ctx, cancel := context.WithTimeout(s.ctx, zonesync.InspectTimeout)
	var refusal error
	s.mu.Lock()
	switch _, used := s.inspections[q.GetId()]; {
	case s.c.cfg.Inspector == nil:
		refusal = errors.New("this zone answers no questions")
	case used:
		refusal = errors.New("the id is in use")
	case len(s.inspections) >= zonesync.MaxInspections:
		refusal = errors.New("too many inspections are open")
	default:
		s.inspections[q.GetId()] = cancel
	}
	s.mu.Unlock()
	if refusal != nil {
		cancel()
		// Not waited for: the receiver must go on. The asker has a timeout.
		select {
		case s.answers <- &zonesyncv1.InspectResponse{Id: q.GetId(), Last: true, Error: refusal.Error()}:
		default:
		}
		return
	}
	s.inspecting.Add(1)
	go func() {
		defer s.inspecting.Done()
		defer func() {
			s.mu.Lock()
			delete(s.inspections, q.GetId())
			s.mu.Unlock()
			cancel()
		}()
		out := &answerWriter{s: s, ctx: ctx, id: q.GetId()}
		chunked := bufio.NewWriterSize(out, zonesync.InspectChunkBytes)
		err := s.c.cfg.Inspector.Inspect(ctx, q.GetWhat(), q.GetMesh(), q.GetProxy(), chunked)
		if err == nil {
			err = chunked.Flush()
		}
		last := &zonesyncv1.InspectResponse{Id: q.GetId(), Last: true}
		if err != nil {
			last.Error = shorten(err.Error(), 1024)
		}
		// A cancelled question is not answered; the asker is gone.
		_ = out.put(last)
	}()
}

// answerWriter sends what is written in chunks.
type answerWriter struct {
	s    *session
	ctx  context.Context
	id   uint64
	sent int
}

// Write implements io.Writer.
func (w *answerWriter) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n := min(len(rest), zonesync.InspectChunkBytes)
		if w.sent += n; w.sent > zonesync.MaxInspectBytes {
			return 0, errors.New("the answer is too large")
		}
		if err := w.put(&zonesyncv1.InspectResponse{Id: w.id, Chunk: append([]byte(nil), rest[:n]...)}); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(b), nil
}

func (w *answerWriter) put(r *zonesyncv1.InspectResponse) error {
	select {
	case w.s.answers <- r:
		return nil
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
}
