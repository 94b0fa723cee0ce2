package delta

import (
	"maps"
	"slices"
	"time"
)

// Bounds of trials.
const (
	// canaries are the proxies that try a version at once: one that refuses for reasons
	// of its own must not be the only judge.
	canaries = 2
	// trialTime is for how long the others wait for canaries that say nothing,
	// trialLimit for those that answer, but not for this version.
	trialTime  = 100 * time.Millisecond
	trialLimit = time.Second
	// maxTurns is how often canaries are chosen: after them everyone tries.
	maxTurns  = 2
	maxTrials = 1 << 12
	// holdTime is for how long what was accepted waits for what is being tried, to
	// travel with it.
	holdTime = 10 * time.Millisecond
	// trialAge is after how long a trial may be forgotten when there are too many.
	trialAge = 10 * time.Second
)

// trial is a version that nobody has accepted yet, and the proxies that got it before
// the others. Who waits gets all that was accepted in one response, and never sees what
// is refused and replaced.
type trial struct {
	began   time.Time // this turn
	turn    int
	tried   []*stream           // canaries, of all turns
	waiting map[*group]struct{} // groups with streams that wait
}

// awaits says that a stream is to wait for others to try a resource; st.until is
// then when to look again. Proxies that start do not wait, nor does what is urgent,
// nor endpoints.
func (st *stream) awaits(t *typeState, r *Resource, now time.Time) bool {
	if _, urgent := t.urgent[r.Name]; urgent || st.settled == nil || !tried(t.typeURL) {
		return false
	}
	if st.node.own.Get(t.typeURL, r.Name) != nil { // nobody else has it
		return false
	}
	tr := st.node.group.trial(proof{Key{t.typeURL, r.Name}, r.Version}, now)
	if tr == nil || slices.Contains(tr.tried, st) || slices.Contains(st.node.group.scouts, st) {
		return false
	}
	st.until = earlier(st.until, tr.until(t.typeURL))
	return true
}

// tried says that new versions of a type go to canaries first.
func tried(typeURL string) bool {
	return typeURL != clusterType && typeURL != listenerType && typeURL != endpointType
}

// trial is the trial of a version that streams of the group wait for from now on; nil
// when all that can be chosen for it have been.
func (g *group) trial(p proof, now time.Time) *trial {
	s := g.server
	tr := s.trials[p]
	if tr == nil {
		if tr = s.try(p, now); tr == nil {
			return nil
		}
		tr.choose(p.Key, g, now)
	}
	if !now.Before(tr.until(p.TypeURL)) {
		if tr.turn == maxTurns {
			return nil
		}
		tr.choose(p.Key, g, now)
		if !now.Before(tr.until(p.TypeURL)) {
			return nil
		}
	}
	tr.waiting[g] = struct{}{}
	if g.awaiting == nil {
		g.awaiting = map[proof]struct{}{}
	}
	g.awaiting[p] = struct{}{}
	return tr
}

// trying begins the trials of a publication. It says that all that the group's settled
// streams could get waits for them, so that who is no canary need not look before they
// end; an alarm wakes those who sleep for too long.
func (g *group) trying(keys []Key, urgent bool, now time.Time) bool {
	if urgent {
		return false
	}
	v := view{layers: g.layers}
	wait := trialTime
	for _, k := range keys {
		r := v.get(k.TypeURL, k.Name)
		if r == nil || !tried(k.TypeURL) {
			return false
		}
		p := proof{k, r.Version}
		if _, proven := g.server.proven[p]; proven {
			wait = holdTime
		} else if g.trial(p, now) == nil {
			return false
		}
	}
	if len(g.awaiting) == 0 {
		return false
	}
	if g.alarm != nil {
		g.alarm.Stop()
	}
	g.alarm = time.AfterFunc(wait, func() {
		g.server.mu.Lock()
		defer g.server.mu.Unlock()
		for st := range g.streams {
			st.wakeUp()
		}
	})
	return true
}

// holds says that what was accepted is still to wait for what is being tried.
func (st *stream) holds(t *typeState, now time.Time) bool {
	if t.held.IsZero() {
		t.held = now.Add(holdTime)
	}
	if !now.Before(t.held) {
		return false
	}
	st.until = earlier(st.until, t.held)
	return true
}

// isOwed says that a dirty name must not be held back.
func (t *typeState) isOwed(name string) bool {
	_, urgent := t.urgent[name]
	_, forced := t.force[name]
	return urgent || forced || t.over[name] == unknown
}

// try begins a trial; nil when there are too many.
func (s *Server) try(p proof, now time.Time) *trial {
	if len(s.trials) >= maxTrials {
		maps.DeleteFunc(s.trials, func(_ proof, tr *trial) bool { return now.Sub(tr.began) > trialAge })
		if len(s.trials) >= maxTrials {
			return nil
		}
	}
	tr := &trial{waiting: map[*group]struct{}{}}
	s.trials[p] = tr
	return tr
}

// choose begins a turn with canaries of a group, at random: those who have what they
// should and owe no answer.
func (tr *trial) choose(k Key, g *group, now time.Time) {
	tr.began = now
	tr.turn++
	n := 0
	try := func(st *stream) bool {
		if st.settled != nil && st.reason == nil && !st.late(now) && st.node.rejected[k] == nil && !slices.Contains(tr.tried, st) &&
			st.types[k.TypeURL] != nil && st.types[k.TypeURL].subscribed(k.Name) {
			tr.tried = append(tr.tried, st)
			st.wakeUp()
			n++
			return true
		}
		return false
	}
	for _, st := range g.scouts {
		if n < canaries && st.node.group == g {
			try(st)
		}
	}
	for st := range g.streams { // in random order
		if n == canaries {
			break
		}
		if try(st) {
			g.scouts = append(g.scouts, st)
		}
	}
	if n == 0 { // nobody can: the turns are over
		tr.began, tr.turn = time.Time{}, maxTurns
	}
}

// late says that an answer is missing for longer than canaries should need.
func (st *stream) late(now time.Time) bool {
	for _, t := range st.order {
		if len(t.flights) > 0 && now.Sub(t.flights[0].sent) > trialTime/2 {
			return true
		}
	}
	return false
}

// until is when the turn ends: a while after its canaries last said something.
func (tr *trial) until(typeURL string) time.Time {
	last := tr.began
	for _, st := range tr.tried {
		if t := st.types[typeURL]; t != nil && st.reason == nil && t.answered.After(last) {
			last = t.answered
		}
	}
	if limit := tr.began.Add(trialLimit); limit.Before(last.Add(trialTime)) {
		return limit
	}
	return last.Add(trialTime)
}

// untry forgets the trials that only a group that is gone has waited for.
func (s *Server) untry(g *group) {
	maps.DeleteFunc(s.trials, func(_ proof, tr *trial) bool {
		if _, waits := tr.waiting[g]; !waits {
			return false
		}
		delete(tr.waiting, g)
		return len(tr.waiting) == 0
	})
}

// end forgets the trial of a version that was accepted or is replaced. A group's
// streams look again when it waits for no other.
func (s *Server) end(p proof) {
	tr := s.trials[p]
	if tr == nil {
		return
	}
	delete(s.trials, p)
	for g := range tr.waiting {
		delete(g.awaiting, p)
		if len(g.awaiting) == 0 {
			for st := range g.streams {
				st.wakeUp()
			}
		}
	}
}
