package sync

import (
	"bufio"
	"context"
	"errors"
	"fmt"

	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// ask takes a frame of a question. Those of one that has a body are collected
// until the last; a body beyond the bounds is refused with it.
func (s *session) ask(f *zonesyncv1.InspectRequest) {
	q, begun := s.asked[f.GetId()]
	if !begun {
		if q = new(zonesync.Question); f.GetMore() && len(s.asked) >= zonesync.MaxInspections {
			s.unanswered(f.GetId(), errors.New("too many inspections are open"))
			return
		}
		q.What, q.Mesh, q.Proxy = f.GetWhat(), f.GetMesh(), f.GetProxy()
	}
	q.Body = append(q.Body, f.GetBody()...)
	switch {
	case len(q.Body) > zonesync.MaxQuestionBytes:
		delete(s.asked, f.GetId())
		s.unanswered(f.GetId(), fmt.Errorf("the question has more than %d bytes", zonesync.MaxQuestionBytes))
	case f.GetMore():
		s.asked[f.GetId()] = q
	default:
		delete(s.asked, f.GetId())
		s.inspect(f.GetId(), *q)
	}
}

// unanswered answers with an error. It is not waited for: the receiver must go on,
// and the asker has a timeout.
func (s *session) unanswered(id uint64, err error) {
	select {
	case s.answers <- &zonesyncv1.InspectResponse{Id: id, Last: true, Error: err.Error()}:
	default:
	}
}

// inspect answers a question in a goroutine of its own. A question beyond the
// bound, or one whose id is in use, is answered with an error.
func (s *session) inspect(id uint64, q zonesync.Question) {
	ctx, cancel := context.WithTimeout(s.ctx, zonesync.InspectTimeout)
	var refusal error
	s.mu.Lock()
	switch _, used := s.inspections[id]; {
	case s.c.cfg.Inspector == nil:
		refusal = errors.New("this zone answers no questions")
	case used:
		refusal = errors.New("the id is in use")
	case len(s.inspections) >= zonesync.MaxInspections:
		refusal = errors.New("too many inspections are open")
	default:
		s.inspections[id] = cancel
	}
	s.mu.Unlock()
	if refusal != nil {
		cancel()
		s.unanswered(id, refusal)
		return
	}
	s.inspecting.Add(1)
	go func() {
		defer s.inspecting.Done()
		defer func() {
			s.mu.Lock()
			delete(s.inspections, id)
			s.mu.Unlock()
			cancel()
		}()
		out := &answerWriter{s: s, ctx: ctx, id: id}
		chunked := bufio.NewWriterSize(out, zonesync.InspectChunkBytes)
		err := s.c.cfg.Inspector.Inspect(ctx, q, chunked)
		if err == nil {
			err = chunked.Flush()
		}
		last := &zonesyncv1.InspectResponse{Id: id, Last: true}
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
