package delta

import (
	"slices"
	"time"
)

// To tell a proxy that an endpoint changed costs a response, and to tell it of five the
// same. So endpoints that change all the time are told in steps: a change goes out at once,
// and those that come in the next while go out together: twice as long as proxies take to
// answer one. A change that is
// alone waits for nothing, nor does what is not an endpoint.

// maxPace bounds the time between two steps, and what is taken for an answer in time.
const maxPace = 100 * time.Millisecond

// gathers says that a publication waits for the group's next step, which wakes its streams.
func (g *group) gathers(keys []Key, now time.Time) bool {
	other := slices.ContainsFunc(keys, func(k Key) bool { return k.TypeURL != endpointType })
	if g.gathering && !other {
		return true
	}
	if wait := g.stepped.Add(min(2*g.server.pace, maxPace)).Sub(now); wait > 0 && !other {
		g.gathering = true
		time.AfterFunc(wait, g.step)
		return true
	}
	g.gathering, g.stepped = false, now
	return false
}

// step has the group's streams look at what was gathered.
func (g *group) step() {
	s := g.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if !g.gathering {
		return
	}
	g.gathering, g.stepped = false, s.now()
	for st := range g.streams {
		st.wakeUp()
	}
}

// paced takes in how long after its step a wave of endpoints was answered. The pace is that
// of the last few dozen answers, whichever group's.
func (g *group) paced(f *flight, now time.Time) {
	began := f.sent
	if g.stepped.Before(began) {
		began = g.stepped
	}
	s := g.server
	s.pace += (min(now.Sub(began), maxPace) - s.pace) / 32
}
