package delta

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// busy has proxies that take so long to answer for what changed last.
func busy(t *testing.T, took time.Duration) *class {
	c := fleet(t)
	c.move(2, "2", "1")
	held := c.heard()
	c.now = c.now.Add(took)
	for i, k := range c.all {
		k.ack(held[i]...)
	}
	c.settled(2)
	c.s.pace = took // as after many answers
	return c
}

// further publishes endpoints of a and b right now, or when they are due.
func (c *class) further(mark int64, a, b string) {
	c.now = c.now.Add(-maxPace)
	c.move(mark, a, b)
}

func TestEndpointsGather(t *testing.T) {
	c := busy(t, 20*time.Millisecond)
	c.further(3, "3", "1")
	c.further(4, "3", "4")
	for _, k := range c.all {
		k.expect("nothing before the step")
	}
	c.s.groups["g"].step()
	for _, k := range c.all {
		k.ack(k.expect("both", "eds a@3", "eds b@4")...)
	}
	c.settled(4)
	c.s.groups["g"].step() // of which nothing is left
	c.settled(4)
}

func TestWhatWaitsForNoStep(t *testing.T) {
	c := busy(t, 20*time.Millisecond)
	c.now = c.now.Add(40 * time.Millisecond)
	c.further(3, "3", "1")
	for _, k := range c.all {
		k.ack(k.expect("a change that is alone", "eds a@3")...)
	}
	c.further(4, "4", "1")
	k := c.join("late", nil)
	c.all = c.all[:len(c.all)-1]
	k.ask(endpointType, "a")
	if _, said := k.hear(); len(said) == 0 || said[len(said)-1] != "eds a@4" {
		t.Errorf("who starts gets %v", said)
	}
	c.s.detach(k.st)
	// What is not an endpoint goes at once, and with it what waits.
	c.publish(5, false, res(clusterType, "a", "1"), res(clusterType, "n", "1"), res(endpointType, "a", "4"), res(endpointType, "b", "1"), res(routeType, "r", "1"), res(routeType, "s", "1"))
	for _, k := range c.all {
		k.ack(k.expect("all of it", "cds n@1", "eds a@4")...)
	}
	c.settled(5)
}

func TestPaceIsHowLongAnswersTake(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{20 * time.Millisecond: 20 * time.Millisecond, time.Hour: maxPace} {
		c := fleet(t)
		for i := range int64(50) {
			c.move(i+2, fmt.Sprint(i), "1")
			held := c.heard()
			c.now = c.now.Add(took)
			for i, k := range c.all {
				k.ack(held[i]...)
			}
		}
		if c.s.pace < want*9/10 || c.s.pace > want*11/10 {
			t.Errorf("a pace of %s where each takes %s", c.s.pace, took)
		}
	}
}

// TestStepsCome: what waits for a step is sent when it comes, and no later.
func TestStepsCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 5, 2)
		c.change(endpointType)
		c.server.mu.Lock()
		c.server.pace = 20 * time.Millisecond
		c.server.mu.Unlock()
		began := time.Now()
		c.change(endpointType)
		if took := time.Since(began); took != 40*time.Millisecond {
			t.Errorf("the next step came after %s", took)
		}
		began = time.Now()
		c.change(routeType)
		if took := time.Since(began); took != 0 {
			t.Errorf("a route waited for %s", took)
		}
		c.stop()
	})
}
