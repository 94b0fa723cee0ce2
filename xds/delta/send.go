package delta

import (
	"strconv"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// Bounds of what is sent.
const (
	maxResponse = 1 << 20 // bytes of resources in a response, unless one is larger
	maxFlights  = 32      // unanswered responses of a type without names in its NACKs
	maxExpired  = 64      // unanswered CDS responses that are remembered
	// perCluster is added to the timeout of a CDS response for each cluster: warming takes its time.
	perCluster = 2 * time.Millisecond
	// answerTime is for how long the next response waits for the answer to a wave: a proxy
	// that is busy gets all that came meanwhile in one, and one that is not answers at once.
	answerTime = 250 * time.Millisecond
	// lackingTime is for how long what leads to a refused cluster waits for a verdict.
	lackingTime = 250 * time.Millisecond
)

// next decides what is sent now, or until when to wait (zero: until woken).
func (st *stream) next(now time.Time) (*discoveryv3.DeltaDiscoveryResponse, time.Time) {
	if g := st.node.group; !g.published || g.gathering && (st.riding != nil && !st.pending() || st.even(now)) {
		return nil, time.Time{}
	}
	if resp, wait := st.ride(now); resp != nil || !wait.IsZero() {
		return resp, wait
	}
	if st.riding != nil && !st.pending() {
		if st.seen == st.node.group.version {
			return nil, time.Time{}
		}
		if limit := st.riding.flights[0].sent.Add(answerTime); now.Before(limit) {
			return nil, limit
		}
	}
	st.book()
	st.catchUp()
	st.until = time.Time{}
	until := earlier(st.expire(now), st.unasked(now))
	t, f := st.choose(now, &until)
	if f == nil {
		st.settle(now)
		return nil, earlier(until, st.until)
	}
	return st.launch(t, f, now), time.Time{}
}

// catchUp marks what was published since the stream last looked.
func (st *stream) catchUp() {
	g := st.node.group
	if !g.since(st.seen, func(k Key, urgent bool) { st.mark(k, urgent) }) {
		st.rescan()
	}
	st.seen = g.version
}

// choose picks the first response in the order make-before-break. Clusters come
// first and with them their endpoints; what names clusters waits until the new
// ones are ACKed; what is gone goes last, clusters after everything that named them.
func (st *stream) choose(now time.Time, until *time.Time) (*typeState, *flight) {
	if !st.pending() {
		st.holding = time.Time{}
		return nil, nil
	}
	for _, typeURL := range []string{endpointType, secretType, extensionType} {
		if t := st.types[typeURL]; t != nil && len(t.urgent) > 0 && t.live() < maxFlights {
			if f := st.collect(t, now, func(name string, a action) bool { _, ok := t.urgent[name]; return ok && a == add }); f != nil {
				return t, f
			}
		}
	}
	if t, f := st.clusters(now); f != nil {
		return t, f
	}
	makes := func(_ string, a action) bool { return a == add || a == deny }
	for _, typeURL := range []string{endpointType, secretType} {
		if t := st.types[typeURL]; t != nil && t.live() < maxFlights {
			if f := st.collect(t, now, makes); f != nil {
				return t, f
			}
		}
	}
	// What leads to a cluster that was just refused, and that the proxy never had, would
	// cost requests: the next publication may hold it (see Verdicts).
	if limit := st.node.lacking.Add(lackingTime); now.Before(limit) && st.node.lackingIn == st.node.group.version {
		*until = earlier(*until, limit)
		return nil, nil
	}
	if wait, closed := st.clustersPending(now); closed {
		*until = earlier(*until, wait)
	} else if t, f := st.referrers(now, makes); f != nil {
		return t, f
	}
	return st.removals(now, until)
}

// pending says that there may be something to send.
func (st *stream) pending() bool {
	for _, t := range st.order {
		if len(t.dirty) > 0 || t.greet {
			return true
		}
	}
	return false
}

// clusters are sent one response at a time: what takes suspects back, then additions.
func (st *stream) clusters(now time.Time) (*typeState, *flight) {
	t := st.types[clusterType]
	if t == nil || t.live() > 0 {
		return nil, nil
	}
	if len(st.node.spoilt) > 0 {
		taken := func(name string, _ action) bool { _, ok := st.spoilt(t, name); return ok }
		if f := st.collect(t, now, taken); f != nil {
			f.releasing = true
			return t, f
		}
	}
	f := st.collect(t, now, func(_ string, a action) bool { return a == add || a == deny })
	if f == nil && t.greet {
		f = newFlight()
	}
	return t, f
}

// clustersPending says whether new clusters are on their way, and until when to
// wait for them at most.
func (st *stream) clustersPending(now time.Time) (time.Time, bool) {
	t := st.types[clusterType]
	if t == nil {
		limit := st.opened.Add(st.server.cfg.ClustersTimeout)
		return limit, len(st.node.spoilt) > 0 && now.Before(limit)
	}
	for _, f := range t.flights {
		if !f.expired && now.Before(f.deadline) {
			if f.fresh || f.releasing {
				return f.deadline, true
			}
			for _, name := range t.marks() {
				if a, _ := st.assess(t, name); a == add && t.flying[name] == nil && t.has(name) == "" {
					return f.deadline, true
				}
			}
		}
	}
	return time.Time{}, false
}

func (st *stream) allowance(clusters int) time.Duration {
	return st.server.cfg.ClustersTimeout + time.Duration(clusters)*perCluster
}

// referrers are the types whose resources name clusters, and every other type.
func (st *stream) referrers(now time.Time, makes func(string, action) bool) (*typeState, *flight) {
	if t := st.types[listenerType]; t != nil && t.live() == 0 {
		// Envoy removes before it adds: an address can move in one response.
		if f := st.collect(t, now, func(string, action) bool { return true }); f != nil {
			return t, f
		}
		if t.greet {
			return t, newFlight()
		}
	}
	for _, t := range st.order {
		if t.named && t.live() < maxFlights {
			if f := st.collect(t, now, makes); f != nil {
				return t, f
			}
			if t.greet {
				return t, &flight{items: map[string]string{}}
			}
		}
	}
	return nil, nil
}

// removals of clusters wait until nothing that may have named them is unanswered,
// for the timeout at most; those of named types, which Envoy gives up by itself
// when nothing refers to them, come after.
func (st *stream) removals(now time.Time, until *time.Time) (*typeState, *flight) {
	gone := func(_ string, a action) bool { return a == remove }
	if t := st.types[clusterType]; t != nil && len(t.dirty) > 0 {
		// On a new stream listeners are asked for after clusters.
		busy := st.types[listenerType] == nil
		// Who refused a change still runs what was before it, which may need what is
		// removed: it is given some time to come back (see Verdicts).
		busy = busy || now.Before(st.node.refusedAt.Add(st.server.cfg.ClustersTimeout))
		for _, other := range st.order {
			switch other.typeURL {
			case listenerType, routeType, extensionType:
				busy = busy || st.making(other)
			}
		}
		if busy && st.holding.IsZero() {
			st.holding = now
		}
		if limit := st.holding.Add(st.server.cfg.ClustersTimeout); busy && now.Before(limit) {
			*until = earlier(*until, limit)
			return nil, nil
		}
		if t.live() > 0 {
			return nil, nil
		}
		if f := st.collect(t, now, gone); f != nil {
			st.holding = time.Time{}
			return t, f
		}
	}
	st.holding = time.Time{}
	for _, typeURL := range []string{clusterType, listenerType} {
		if t := st.types[typeURL]; t != nil && !t.idle() && t.live() > 0 {
			return nil, nil
		}
	}
	for _, t := range st.order {
		if t.named && t.live() < maxFlights {
			if f := st.collect(t, now, gone); f != nil {
				return t, f
			}
		}
	}
	return nil, nil
}

// making says that additions of a type are unsent or unanswered.
func (st *stream) making(t *typeState) bool {
	if t.live() > 0 {
		return true
	}
	for name := range t.dirty {
		if a, _ := st.assess(t, name); a == add {
			return true
		}
	}
	return false
}

// collect fills a response with dirty names that are accepted, and forgets those
// that need nothing. What canaries are trying waits. What was refused in company of a
// type whose NACK names nothing travels alone.
func (st *stream) collect(t *typeState, now time.Time, accept func(string, action) bool) *flight {
	var f *flight // made when there is something to carry: most calls find nothing
	size := 0
	awaited, owed := false, false
	for _, name := range t.marks() {
		if _, ok := t.dirty[name]; !ok {
			continue
		}
		a, r := st.assess(t, name)
		if a == nothing {
			t.clean(name)
			continue
		}
		if !accept(name, a) {
			continue
		}
		if a != add {
			if f == nil {
				f = newFlight()
			}
			f.items[name] = ""
			f.removed = append(f.removed, name)
			t.clean(name)
			continue
		}
		_, single := t.alone[name]
		unproven := st.unproven(t, r)
		if unproven && st.awaits(t, r, now) {
			awaited = true
			continue
		}
		if f == nil {
			f = newFlight()
		}
		if single && len(f.items) > 0 || len(f.resources) > 0 && size+len(r.Body) > maxResponse {
			if single {
				continue
			}
			break
		}
		f.add(t, r)
		owed = owed || single || unproven || t.isOwed(name)
		t.clean(name)
		size += len(r.Body)
		if single || len(f.items) == t.limit {
			break
		}
	}
	if !awaited {
		t.held = time.Time{}
	}
	if f == nil {
		return nil
	}
	if awaited && !owed && len(f.removed) == 0 && st.holds(t, now) {
		for name := range f.items {
			t.mark(name, false)
		}
		return nil
	}
	return f
}

// unproven says that a resource is of a type that is tried, and that no Envoy has
// accepted it yet.
func (st *stream) unproven(t *typeState, r *Resource) bool {
	if !tried(t.typeURL) {
		return false
	}
	_, ok := st.server.proven[proof{Key{t.typeURL, r.Name}, r.Version}]
	return !ok
}

func newFlight() *flight { return &flight{items: map[string]string{}} }

func (f *flight) add(t *typeState, r *Resource) {
	if t.flying[r.Name] == nil && t.has(r.Name) == "" {
		f.fresh = true
	}
	f.items[r.Name] = r.Version
	f.resources = append(f.resources, r)
}

// launch books a flight and assembles its response around the shared bytes.
func (st *stream) launch(t *typeState, f *flight, now time.Time) *discoveryv3.DeltaDiscoveryResponse {
	st.nonces++
	f.nonce, f.sent = strconv.FormatInt(st.nonces, 10), now
	t.greet = false
	if t.keeps() {
		st.carry(t, f)
	}
	for name := range f.items {
		enter(&t.flying, name, f)
	}
	t.flights = append(t.flights, f)
	resp := responseOf(t.typeURL, f.nonce, st.node.group.mark, f.resources)
	resp.RemovedResources = f.removed
	if t.typeURL == clusterType {
		f.deadline = now.Add(st.allowance(len(f.items)))
		st.followed(f)
	}
	f.resources, f.removed = nil, nil
	st.server.metrics.of(t.typeURL).pushes.Inc()
	return resp
}

// followed has the endpoints of sent clusters sent again: Envoy warms a changed
// cluster until they come, and does not ask.
func (st *stream) followed(f *flight) {
	t := st.types[endpointType]
	if t == nil {
		return
	}
	for _, c := range f.carried {
		if name := c.now.Endpoints; name != "" && t.subscribed(name) {
			put(&t.force, name)
			t.mark(name, false)
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
