package bell

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// waiting starts a Wait and returns a way to ask how it ended, if it did.
func waiting(t *testing.T, b *Bell, rev mesh.Revision) func() (bool, error) {
	done := make(chan error, 1)
	go func() { done <- b.Wait(t.Context(), rev) }()
	synctest.Wait()
	return func() (bool, error) {
		synctest.Wait()
		select {
		case err := <-done:
			return true, err
		default:
			return false, nil
		}
	}
}

func TestBell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(5)
		if err := b.Wait(t.Context(), 4); err != nil {
			t.Errorf("what is known: %v", err)
		}
		ended := waiting(t, b, 5)
		b.Ring(5)
		b.Ring(3)
		b.Correct(4, 2) // read before 5 was known
		if done, err := ended(); done {
			t.Fatalf("old news woke it: %v", err)
		}
		b.Ring(6)
		if done, err := ended(); !done || err != nil {
			t.Fatalf("a ring did not wake it: %v", err)
		}
		// The history was set back: everyone looks again.
		ended = waiting(t, b, 6)
		b.Correct(b.Known(), 2)
		if done, err := ended(); !done || err != nil || b.Known() != 2 {
			t.Fatalf("a correction did not wake it: %v", err)
		}
		ended = waiting(t, b, 2)
		b.Correct(0, 3) // newer is newer, whatever was known
		if done, err := ended(); !done || err != nil {
			t.Fatalf("a correction upwards did not wake it: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.Wait(ctx, 9); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		ended = waiting(t, b, 9)
		b.Close()
		b.Close()
		b.Ring(99)
		if done, err := ended(); !done || !errors.Is(err, ErrClosed) {
			t.Errorf("closed: %v", err)
		}
		if err := b.Wait(t.Context(), 0); !errors.Is(err, ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}
