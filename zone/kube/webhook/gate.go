package webhook

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// Bounds of those who ask. Anybody in the cluster reaches the port, and an API
// server cannot be told from others: so nobody may take what the API servers need.
const (
	// perSource bounds the connections of one address, and the requests that it is
	// sending at a time; an API server needs one connection.
	perSource = 64
	// bodyBudget bounds the time that a request's body takes. API servers send the
	// whole at once.
	bodyBudget = 3 * time.Second
)

// gate lets a number of each source pass at a time. What it knows of a source it
// forgets with its last one.
type gate struct {
	most int

	mu      sync.Mutex
	sources map[string]*source
}

type source struct {
	slots chan struct{}
	users int // in it, or waiting
}

func newGate(most int) *gate { return &gate{most: most, sources: map[string]*source{}} }

// enter waits for a place until ctx ends. Leave must be called if it is true.
func (g *gate) enter(ctx context.Context, from string) (leave func(), ok bool) {
	s := g.use(from)
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots; g.release(from, s) }, true
	case <-ctx.Done():
		g.release(from, s)
		return nil, false
	}
}

// try is enter without waiting.
func (g *gate) try(from string) (leave func(), ok bool) {
	s := g.use(from)
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots; g.release(from, s) }, true
	default:
		g.release(from, s)
		return nil, false
	}
}

func (g *gate) use(from string) *source {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.sources[from]
	if s == nil {
		s = &source{slots: make(chan struct{}, g.most)}
		g.sources[from] = s
	}
	s.users++
	return s
}

func (g *gate) release(from string, s *source) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(g.sources, from)
	}
}

// host is the address without its port; what is none is one source.
func host(address string) string {
	h, _, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return h
}

// gated is a listener that closes connections of a source that has enough.
type gated struct {
	net.Listener
	gate *gate
}

// Accept implements net.Listener.
func (l gated) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		leave, ok := l.gate.try(host(c.RemoteAddr().String()))
		if ok {
			return &gatedConn{Conn: c, leave: sync.OnceFunc(leave)}, nil
		}
		_ = c.Close()
	}
}

type gatedConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *gatedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// hurry bounds how long the body of a request takes from now on.
func hurry(w http.ResponseWriter, budget time.Duration) {
	// What has no deadlines, such as a test's recorder, has no slow bodies.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(budget))
}
