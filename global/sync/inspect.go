package sync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	gosync "sync"

	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// Errors of Inspect that callers branch on.
var (
	// ErrZoneOffline: the zone is not connected to any instance.
	ErrZoneOffline = errors.New("zone is offline")
	// ErrZoneUnknown: the zone may be connected to an instance of global that cannot
	// be reached.
	ErrZoneUnknown = errors.New("zone is unknown here")
	// ErrBusy: too many inspections of the zone are open.
	ErrBusy = errors.New("too many inspections are open")
	// ErrInspect: the zone answered with an error.
	ErrInspect = errors.New("inspection failed")
	// ErrOutdated: the zone's version does not know such questions.
	ErrOutdated = errors.New("the zone's version cannot answer this")
	// ErrQuestion: the question is larger than a zone takes.
	ErrQuestion = fmt.Errorf("the question has more than %d bytes", zonesync.MaxQuestionBytes)

	errLarge = fmt.Errorf("%w: the answer is larger than %d bytes", ErrInspect, zonesync.MaxInspectBytes)
)

// inspection collects the answer of a zone: its chunks wait here, at most
// MaxInspectBytes over all, so that a slow asker never holds up the stream.
type inspection struct {
	mu     gosync.Mutex
	chunks [][]byte
	total  int
	done   bool
	err    error
	wake   chan struct{}
}

func (i *inspection) add(chunk []byte, last bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.done {
		return
	}
	i.total += len(chunk)
	if i.total > zonesync.MaxInspectBytes {
		err = errLarge
	}
	if len(chunk) > 0 {
		i.chunks = append(i.chunks, chunk)
	}
	i.done, i.err = last || err != nil, err
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// take returns what has come since, and whether that was all.
func (i *inspection) take() ([][]byte, bool, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	chunks := i.chunks
	i.chunks = nil
	return chunks, i.done, i.err
}

// Question is what a zone can be asked.
type Question = zonesync.Question

// Inspect asks a zone and copies the answer. The zone is told when ctx ends or w
// fails before the answer is complete. A question about one proxy goes to the
// instances of the zone until one has it; of some questions (zonesync.OfEvery) the
// answers of all instances come one after the other.
func (s *Server) Inspect(ctx context.Context, zone string, q Question, w io.Writer) error {
	if len(q.Body) > zonesync.MaxQuestionBytes {
		return fmt.Errorf("inspect zone %s: %w", zone, ErrQuestion)
	}
	if err := s.inspectAny(ctx, zone, q, w, s.cfg.Ask); err != nil {
		return fmt.Errorf("inspect zone %s: %w", zone, err)
	}
	return nil
}

// InspectHere is Inspect for the other instances of global: only of what is
// connected to this one, and without the words around the error.
func (s *Server) InspectHere(ctx context.Context, zone string, q Question, w io.Writer) error {
	return s.inspectAny(ctx, zone, q, w, nil)
}

// inspectAny asks the instances of a zone, the leader first, until one answers; of what
// every instance answers for itself (zonesync.OfEvery), all of them.
// Those at another instance of global are asked by way of elsewhere, if it is not nil.
func (s *Server) inspectAny(ctx context.Context, zone string, q Question, w io.Writer, elsewhere func(context.Context, string, string, Question, io.Writer) error) error {
	type place struct {
		stream *stream
		peer   string
	}
	var places []place
	s.mu.Lock()
	if z := s.zones[zone]; z != nil {
		for _, m := range z.members() {
			p := place{m.stream, m.peer}
			if m.online() && (p.stream != nil || elsewhere != nil) && !slices.Contains(places, p) {
				places = append(places, p)
			}
		}
	}
	var err error = ErrZoneOffline
	if at := s.mayBeAt(s.zones[zone]); len(at) > 0 && elsewhere != nil {
		err = unknownError{at}
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, zonesync.InspectTimeout)
	defer cancel()
	out := &counted{w: w}
	for _, p := range places {
		if p.stream != nil {
			err = p.stream.inspect(ctx, q, out)
		} else {
			err = elsewhere(ctx, p.peer, zone, q, out)
		}
		if zonesync.OfEvery(q.What) {
			if err != nil {
				return err // a part of the answer would pass for all
			}
			continue
		}
		// The proxy may be another instance's, unless this one has begun to answer.
		if err == nil || out.n > 0 || !errors.Is(err, ErrInspect) {
			return err
		}
	}
	return err
}

// unknownError is ErrZoneUnknown with who may know more.
type unknownError struct{ mayBeAt []string }

// Error says where the zone may be.
func (e unknownError) Error() string { return "it is " + Whereabouts(e.mayBeAt) }

// Unwrap is the error that callers branch on.
func (e unknownError) Unwrap() error { return ErrZoneUnknown }

// inspect asks one instance of a zone.
func (st *stream) inspect(ctx context.Context, q Question, w io.Writer) error {
	if len(q.Body) > 0 && st.capabilities < zonesync.BodyCapabilities {
		return ErrOutdated
	}
	id, in, err := st.openInspection()
	if err != nil {
		return err
	}
	defer st.dropInspection(id, in)
	for _, part := range q.Frames(id) {
		if err := st.enqueue(ctx, &zonesyncv1.GlobalFrame{Frame: &zonesyncv1.GlobalFrame_Inspect{Inspect: part}}); err != nil {
			return err
		}
	}
	return in.copy(ctx, w)
}

// counted counts what is written, and takes no more than an answer may have.
type counted struct {
	w io.Writer
	n int
}

func (c *counted) Write(p []byte) (int, error) {
	if c.n+len(p) > zonesync.MaxInspectBytes {
		return 0, errLarge
	}
	n, err := c.w.Write(p)
	c.n += n
	return n, err
}

func (i *inspection) copy(ctx context.Context, w io.Writer) error {
	for {
		chunks, done, err := i.take()
		for _, c := range chunks {
			if _, err := w.Write(c); err != nil {
				return err
			}
		}
		if done {
			return err
		}
		select {
		case <-i.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (st *stream) openInspection() (uint64, *inspection, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ctx.Err() != nil {
		return 0, nil, ErrZoneOffline
	}
	if len(st.inspections) >= zonesync.MaxInspections {
		return 0, nil, ErrBusy
	}
	st.lastInspect++
	in := &inspection{wake: make(chan struct{}, 1)}
	st.inspections[st.lastInspect] = in
	return st.lastInspect, in, nil
}

// dropInspection forgets an inspection and cancels it in the zone when it was
// not complete. A zone that takes no frames any more is not waited for.
func (st *stream) dropInspection(id uint64, in *inspection) {
	st.mu.Lock()
	delete(st.inspections, id)
	st.mu.Unlock()
	in.mu.Lock()
	complete := in.done && in.total <= zonesync.MaxInspectBytes
	in.mu.Unlock()
	if complete {
		return
	}
	select {
	case st.control <- &zonesyncv1.GlobalFrame{Frame: &zonesyncv1.GlobalFrame_InspectCancel{InspectCancel: &zonesyncv1.InspectCancel{Id: id}}}:
	default:
	}
}

// closeInspections fails those that are open when the stream ends.
func (st *stream) closeInspections() {
	st.mu.Lock()
	defer st.mu.Unlock()
	for id, in := range st.inspections {
		in.add(nil, true, ErrZoneOffline)
		delete(st.inspections, id)
	}
}

func (st *stream) handleInspect(r *zonesyncv1.InspectResponse) {
	st.mu.Lock()
	in := st.inspections[r.GetId()]
	st.mu.Unlock()
	if in == nil {
		return
	}
	var err error
	if r.GetError() != "" {
		err = fmt.Errorf("%w: %s", ErrInspect, shorten(r.GetError(), 1024))
	}
	in.add(r.GetChunk(), r.GetLast(), err)
}
