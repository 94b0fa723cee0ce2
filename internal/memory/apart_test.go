package memory_test

import (
	"errors"
	"runtime"
	"runtime/metrics"
	"sync"
	"testing"

	"github.com/tombolo-mesh/tombolo/internal/memory"
)

func TestApartReturnsTheError(t *testing.T) {
	want := errors.New("no")
	if err := memory.Apart(func() error { return want }); err != want {
		t.Errorf("Apart returned %v, want %v", err, want)
	}
	if err := memory.Apart(func() error { return nil }); err != nil {
		t.Errorf("Apart returned %v, want nil", err)
	}
}

// What works apart leaves its waiters' stacks as small as they were.
func TestWaitersStaySmall(t *testing.T) {
	const waiters = 500
	direct := stacks(t, waiters, func() { deep(40) })
	apart := stacks(t, waiters, func() {
		if err := memory.Apart(func() error { deep(40); return nil }); err != nil {
			t.Error(err)
		}
	})
	if apart > direct*3/4 {
		t.Errorf("%d waiters hold %d bytes of stacks having worked apart, and %d having worked by themselves", waiters, apart, direct)
	}
}

// stacks is what waiters hold that wait deep within something, and worked there once.
func stacks(t *testing.T, waiters int, work func()) uint64 {
	t.Helper()
	before := inStacks()
	release := make(chan struct{})
	var worked, all sync.WaitGroup
	for range waiters {
		worked.Add(1)
		all.Go(func() { within(func() { work(); worked.Done() }, release) })
	}
	worked.Wait()
	held := inStacks() - before
	close(release)
	all.Wait()
	return held
}

// inStacks is measured when what can be given back has been: a stack halves a cycle.
func inStacks() uint64 {
	for range 4 {
		runtime.GC()
	}
	s := []metrics.Sample{{Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

//go:noinline
func within(work func(), release chan struct{}) byte {
	var frame [1500]byte
	work()
	<-release
	return frame[len(frame)-1]
}

//go:noinline
func deep(n int) byte {
	var frame [200]byte
	if n > 0 {
		frame[n] = deep(n - 1)
	}
	return frame[n]
}
