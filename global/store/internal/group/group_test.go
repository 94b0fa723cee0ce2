package group

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

func TestWaitersShareABatchInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var batches [][]int
		gate := make(chan struct{})
		c := New(3, func(r []int) {
			<-gate
			batches = append(batches, r)
		})
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				if err := c.Do(t.Context(), i); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait() // they arrive one after the other
		}
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if err := c.Do(ctx, 99); !errors.Is(err, context.Canceled) {
				t.Errorf("withdrawn: %v", err)
			}
		})
		synctest.Wait()
		cancel() // while it waits: it must not run
		synctest.Wait()
		close(gate)
		wg.Wait()
		want := [][]int{{0}, {1, 2, 3}, {4, 5}}
		if !slices.EqualFunc(batches, want, slices.Equal[[]int]) {
			t.Errorf("batches %v, want %v", batches, want)
		}
		if err := c.Do(ctx, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled before: %v", err)
		}
	})
}

// Who is cancelled while the batch runs learns how it ended.
func TestCancelledWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		ran := 0
		c := New(8, func(r []int) {
			<-gate
			ran += len(r)
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := c.Do(ctx, 1); err != nil {
				t.Errorf("it ran, and says %v", err)
			}
		})
		synctest.Wait()
		cancel()
		close(gate)
		wg.Wait()
		if ran != 1 {
			t.Errorf("%d ran", ran)
		}
	})
}
