package lab

import (
	"testing"
	"time"
)

// TestSettled: what was sent before is waited for, what is sent later is not.
func TestSettled(t *testing.T) {
	free, calls := make(chan struct{}), make(chan int, 1000)
	for n := range 1000 {
		calls <- n
	}
	traffic := Repeat(100, func() Sample {
		s := Sample{Sent: time.Now()}
		if <-calls == 0 {
			<-free // the first takes long
		}
		return s
	})
	defer traffic.Stop()
	wait := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !ok(); <-time.After(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("not within a minute:", what)
			}
		}
	}
	wait("later ones have ended", func() bool { return len(traffic.Since(time.Time{})) >= 3 })
	settled := make(chan time.Time, 1)
	go func() { settled <- traffic.Settled() }()
	select {
	case <-settled:
		t.Error("settled though a call is on its way")
	case <-time.After(50 * time.Millisecond):
	}
	close(free)
	var at time.Time
	wait("it settles", func() bool {
		select {
		case at = <-settled:
			return true
		default:
			return false
		}
	})
	if good, _ := traffic.Count(time.Time{}, at, Answered); good < 4 {
		t.Errorf("%d calls had ended", good)
	}
}
