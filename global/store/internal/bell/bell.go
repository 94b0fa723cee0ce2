// Package bell wakes those who wait for a revision. In flow revisions that are
// known to be committed, out flow wake-ups; it never carries data.
package bell

import (
	"context"
	"errors"
	"sync"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// ErrClosed: the bell was closed and will not ring.
var ErrClosed = errors.New("closed")

// Bell is safe for concurrent use. Use New.
type Bell struct {
	mu     sync.Mutex
	known  mesh.Revision
	rung   chan struct{}
	closed bool
}

// New returns a bell that knows of a revision.
func New(known mesh.Revision) *Bell { return &Bell{known: known, rung: make(chan struct{})} }

// Ring tells that a revision is committed. Older news is ignored.
func (b *Bell) Ring(rev mesh.Revision) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if rev > b.known && !b.closed {
		b.known = rev
		close(b.rung)
		b.rung = make(chan struct{})
	}
}

// Known is the last revision that the bell knows of.
func (b *Bell) Known() mesh.Revision {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.known
}

// Correct tells the last revision as it was read after known was Known. When it
// is older and nothing rang since, the history was replaced, and everyone wakes.
func (b *Bell) Correct(known, rev mesh.Revision) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || rev == b.known || rev < b.known && b.known != known {
		return
	}
	b.known = rev
	close(b.rung)
	b.rung = make(chan struct{})
}

// Wait returns nil once a revision after rev is known, or early, when the last
// revision was set back.
func (b *Bell) Wait(ctx context.Context, rev mesh.Revision) error {
	b.mu.Lock()
	known, rung, closed := b.known, b.rung, b.closed
	b.mu.Unlock()
	switch {
	case closed:
		return ErrClosed
	case known > rev:
		return nil
	}
	select {
	case <-rung:
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.closed {
			return ErrClosed
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends every wait.
func (b *Bell) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		close(b.rung)
	}
}
