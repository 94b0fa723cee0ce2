// Package group lets concurrent writers share a transaction. In flow requests,
// out flow batches of those that wait at the same time; a lone request is not
// delayed.
package group

import (
	"context"
	"slices"
	"sync"
)

// Committer runs requests in batches, one batch at a time, in order of arrival.
// The queue holds one request per waiting caller.
type Committer[R any] struct {
	max  int
	run  func([]R)
	turn chan struct{}

	mu    sync.Mutex
	queue []*entry[R]
}

type entry[R any] struct {
	request R
	done    chan struct{}
}

// New returns a committer; run handles at most max requests at once and must
// leave each one's outcome in the request.
func New[R any](max int, run func([]R)) *Committer[R] {
	return &Committer[R]{max: max, run: run, turn: make(chan struct{}, 1)}
}

// Do returns when the request was run, or with ctx's error if it was not and
// will not be.
func (c *Committer[R]) Do(ctx context.Context, request R) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e := &entry[R]{request: request, done: make(chan struct{})}
	c.mu.Lock()
	c.queue = append(c.queue, e)
	c.mu.Unlock()
	for {
		select {
		case <-e.done:
			return nil
		case c.turn <- struct{}{}:
			c.next()
			<-c.turn
		case <-ctx.Done():
			if c.withdraw(e) {
				return ctx.Err()
			}
			<-e.done
			return nil
		}
	}
}

func (c *Committer[R]) next() {
	c.mu.Lock()
	n := min(len(c.queue), c.max)
	batch := slices.Clone(c.queue[:n])
	c.queue = slices.Delete(c.queue, 0, n)
	c.mu.Unlock()
	if n == 0 {
		return
	}
	requests := make([]R, n)
	for i, e := range batch {
		requests[i] = e.request
	}
	c.run(requests)
	for _, e := range batch {
		close(e.done)
	}
}

func (c *Committer[R]) withdraw(e *entry[R]) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.queue, e)
	if i < 0 {
		return false
	}
	c.queue = slices.Delete(c.queue, i, i+1)
	return true
}
