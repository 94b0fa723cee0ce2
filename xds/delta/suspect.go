package delta

import "time"

// Envoy keeps a cluster that failed late (a load balancer that cannot be built)
// among those that warm, and answers for no cluster while any warms, from the next
// one that does. The same content sent again is passed over, and ACKed. Another
// content, or removing it, frees every answer, the NACK included. So a refused
// cluster is taken back, and one that nobody has accepted yet is as well when its
// response stays unanswered.

// fetchTimeout is a bit more than Envoy waits for the endpoints and secrets of a cluster.
const fetchTimeout = 16 * time.Second

// carry notes what a response carries and what the proxy had before.
func (st *stream) carry(t *typeState, f *flight) {
	f.carried = make(map[string]carried, len(f.resources))
	for _, r := range f.resources {
		c := carried{now: r}
		if s, ok := st.spoilt(t, r.Name); ok {
			c.before, c.had = s.before, s.before != nil
		} else {
			c.before, c.had = t.known(r.Name)
		}
		f.carried[r.Name] = c
	}
}

// spoil has a cluster of a response taken back. Where the bytes of what the proxy
// had are not known any more it stays: removing it would cost traffic.
func (st *stream) spoil(name string, f *flight) bool {
	c := f.carried[name]
	if c.now != nil {
		enter(&st.node.doubted, name, c.now.Version)
	}
	if c.now == nil || c.had && c.before == nil {
		return false
	}
	enter(&st.node.spoilt, name, spoil{c.now.Version, c.before})
	return true
}

// suspect has the clusters of a response taken back that no Envoy has accepted
// yet, or all of them.
func (st *stream) suspect(t *typeState, f *flight, all bool) int {
	n := 0
	if st.stuck {
		return 0
	}
	for name, c := range f.carried {
		if t.flying[name] != nil && t.flying[name] != f {
			continue
		}
		if _, proven := st.server.proven[proof{Key{clusterType, name}, c.now.Version}]; proven && !all {
			continue
		}
		if st.spoil(name, f) {
			n++
			delete(t.flying, name)
			t.mark(name, false)
		}
	}
	return n
}

// expire gives up on CDS responses that nobody answered. While endpoints or secrets
// are being answered the clusters have reason to be warming.
func (st *stream) expire(now time.Time) time.Time {
	t := st.types[clusterType]
	var until time.Time
	if t == nil {
		return until
	}
	for _, f := range t.flights {
		if f.expired {
			continue
		}
		if !now.Before(f.deadline) && now.Before(f.sent.Add(fetchTimeout)) && (st.owing(endpointType, now) || st.owing(secretType, now)) {
			f.deadline = now.Add(st.server.cfg.ClustersTimeout)
		}
		if now.Before(f.deadline) {
			until = earlier(until, f.deadline)
			continue
		}
		f.expired = true
		st.stuck = st.stuck || f.releasing
		st.server.cfg.Log.Warn("clusters unanswered, taking back what may be bad", "node", st.node.id,
			"clusters", len(f.items), "taken_back", st.suspect(t, f, false), "mark", st.node.group.mark)
	}
	if len(t.flights) > maxExpired {
		t.land(t.flights[0].nonce)
	}
	return until
}

// owing says that answers of a type are missing, and some came lately: Envoy may
// be waiting for them.
func (st *stream) owing(typeURL string, now time.Time) bool {
	t := st.types[typeURL]
	return t != nil && (len(t.flights) > 0 || len(t.dirty) > 0) && now.Sub(t.answered) < st.server.cfg.ClustersTimeout
}

// unasked serves a proxy that does not ask for clusters though it did on its last
// stream: while one is among those that warm, Envoy asks for none. It takes an
// answer all the same.
func (st *stream) unasked(now time.Time) time.Time {
	if st.types[clusterType] != nil || st.types[listenerType] == nil || len(st.node.spoilt) == 0 {
		return time.Time{}
	}
	if limit := st.opened.Add(st.server.cfg.ClustersTimeout); now.Before(limit) {
		return limit
	}
	t := newTypeState(clusterType)
	t.wildcard, t.unasked = true, true
	for name, s := range st.node.spoilt {
		if s.before != nil {
			t.note(name, s.before.Version)
		}
		t.mark(name, false)
	}
	st.enlist(t)
	return time.Time{}
}

// abandon keeps for the next stream what a proxy has and what it may have failed on.
func (st *stream) abandon() {
	if st.settled != nil {
		st.node.last = st.settled
	}
	st.node.kept = nil
	for _, t := range st.order {
		for _, f := range t.flights {
			for name := range f.items {
				if !t.named {
					enter(&st.node.maybe, Key{t.typeURL, name}, struct{}{})
				}
			}
		}
		for name, r := range t.kept {
			enter(&st.node.kept, Key{t.typeURL, name}, r)
		}
	}
	if t := st.types[clusterType]; t != nil {
		for _, f := range t.flights {
			// While it was not given up on, nothing came that names its new clusters.
			st.suspect(t, f, !f.expired)
		}
	}
}

// recall finds the bytes of a resource that the proxy says it has.
func (st *stream) recall(v *view, k Key, version string) *Resource {
	n := st.node
	if r := n.kept[k]; r != nil && r.Version == version {
		return r
	}
	for _, v := range []*view{v, n.last} {
		if v != nil {
			if r := v.get(k.TypeURL, k.Name); r != nil && r.Version == version {
				return r
			}
		}
	}
	return nil
}

// greetSpoilt compares what is to be taken back with what the proxy says it has.
func (st *stream) greetSpoilt(versions map[string]string) {
	if len(versions) == 0 {
		clear(st.node.spoilt)
		clear(st.node.doubted)
	}
	for name, s := range st.node.spoilt {
		if version, told := versions[name]; told && (version == s.version || s.before == nil || version != s.before.Version) {
			delete(st.node.spoilt, name)
		}
	}
}
