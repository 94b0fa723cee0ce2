package agents

import (
	"testing"
	"time"
)

func TestBucket(t *testing.T) {
	b := bucket{burst: 3, every: time.Second}
	now := time.Unix(1000, 0)
	took := func(n int) (got int) {
		for range n {
			if b.take(now) {
				got++
			}
		}
		return got
	}
	if got := took(5); got != 3 {
		t.Error("burst:", got)
	}
	now = now.Add(2500 * time.Millisecond)
	if got := took(5); got != 2 {
		t.Error("after 2.5 s:", got)
	}
	now = now.Add(500 * time.Millisecond)
	if got := took(5); got != 1 {
		t.Error("after another half:", got)
	}
	now = now.Add(time.Hour)
	if got := took(10); got != 3 {
		t.Error("after an hour:", got)
	}
}
