package delta

import (
	"slices"
	"strconv"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// Most changes concern one type, go to proxies that have everything else, and were
// accepted by some already. Then all that a proxy needs is what its neighbours need: a
// response that is made once. Whatever else happens to a stream before it has answered
// is dealt with name by name, as if the response had been its own.

// carriers are the types that travel in waves: what is named by clusters, listeners and
// each other, in no order among themselves.
func carriers() [carrierTypes]string {
	return [...]string{endpointType, secretType, routeType, extensionType}
}

const carrierTypes = 4

// course is what streams have in common that can share a wave: the version that they
// had everything of, and the names that they subscribed to of each of the carriers.
type course struct {
	from  int64
	names [carrierTypes]*sharedNames
}

// wave is one response to many streams. What it says does not change.
type wave struct {
	typeURL   string
	items     map[string]string
	resources []*Resource
	size      int // of the resources, in bytes
	response  *printed
	riders    int // streams that it was sent on
	layers    []*Set
	urgent    bool
	// At how many refusals all of it was found to be accepted, and its acceptance booked.
	tested, booked int64
}

// ride is the response of the wave that brings a stream from the version that it has
// everything of to the newest, or until when to wait for it while others try it; neither
// when it is no such stream, or there is no such wave.
func (st *stream) ride(now time.Time) (*discoveryv3.DeltaDiscoveryResponse, time.Time) {
	g := st.node.group
	if st.seen == g.version || !st.even(now) {
		return nil, time.Time{}
	}
	w := st.wave()
	if w == nil {
		return nil, time.Time{}
	}
	t := st.types[w.typeURL]
	if !w.isAccepted(st.server) {
		return nil, st.waits(t, w, now)
	}
	f := &flight{nonce: w.response.Nonce, items: w.items, sent: now, wave: w, view: &view{layers: w.layers, own: st.node.own}}
	t.flights, t.held = append(t.flights, f), time.Time{}
	st.riding, st.seen = t, g.version
	w.riders++
	st.server.metrics.of(t.typeURL).pushes.Inc()
	return w.response.DeltaDiscoveryResponse, time.Time{}
}

// message is a response as it is sent, one with several riders marshalled once, and
// whether it is a wave that a dispatcher sends.
func (st *stream) message(resp *discoveryv3.DeltaDiscoveryResponse) (msg any, small bool) {
	if st.riding == nil {
		return resp, false
	}
	w := st.riding.flights[0].wave
	if w.response.DeltaDiscoveryResponse != resp {
		return resp, false
	}
	if w.riders > 1 {
		return w.response, w.size <= maxInline
	}
	return resp, w.size <= maxInline
}

// waits is until when a stream waits for others to try what nobody has accepted of a
// wave; zero when it is not to wait.
func (st *stream) waits(t *typeState, w *wave, now time.Time) time.Time {
	s := st.server
	st.until = time.Time{}
	accepted := false
	for _, r := range w.resources {
		if _, ok := s.proven[proof{Key{w.typeURL, r.Name}, r.Version}]; ok {
			accepted = true
		} else if w.urgent || !st.awaits(t, r, now) {
			return time.Time{}
		}
	}
	if accepted && !st.holds(t, now) {
		return time.Time{}
	}
	return st.until
}

// even says that the proxy has exactly what was published up to the version that the
// stream has seen.
func (st *stream) even(now time.Time) bool {
	n := st.node
	if st.settled == nil || len(n.rejected) > 0 || len(n.spoilt) > 0 || len(n.maybe) > 0 || now.Before(n.lacking.Add(lackingTime)) {
		return false
	}
	for _, t := range st.order {
		if !t.idle() || t.base == nil || len(t.over) > 0 || len(t.alone) > 0 || t.limit > 0 {
			return false
		}
	}
	return true
}

// wave finds or makes the wave of a stream that is even.
func (st *stream) wave() *wave {
	g := st.node.group
	at := course{from: st.seen}
	for i, t := range st.carried {
		if t == nil {
			continue
		}
		if t.wildcard || len(t.names.added)+len(t.names.lost) > 0 {
			return nil
		}
		at.names[i] = t.names.shared
	}
	w, known := g.waves[at]
	if !known {
		w = g.wave(st)
		enter(&g.waves, at, w)
	}
	if w == nil || st.types[w.typeURL] == nil {
		return nil
	}
	if own := st.node.own; own.of(w.typeURL) != nil {
		for name := range w.items {
			if own.Get(w.typeURL, name) != nil {
				return nil
			}
		}
	}
	return w
}

// wave makes the one that brings a stream, and those like it, to the newest version; nil
// when that takes more than one response with additions of one type.
func (g *group) wave(st *stream) *wave {
	w := &wave{layers: g.layers}
	v := view{layers: g.layers}
	simple := true
	var urgencies [2]bool
	types := carriers()
	remembered := g.since(st.seen, func(k Key, urgent bool) {
		if !slices.Contains(types[:], k.TypeURL) {
			simple = false
			return
		}
		t := st.types[k.TypeURL]
		if t == nil || !t.subscribed(k.Name) {
			return
		}
		r := v.get(k.TypeURL, k.Name)
		if r == nil || w.typeURL != "" && w.typeURL != k.TypeURL {
			simple = false
			return
		}
		old := view{layers: t.base.layers}
		if old.version(k.TypeURL, k.Name) == r.Version {
			return
		}
		if _, twice := w.items[k.Name]; !twice {
			w.typeURL = k.TypeURL
			enter(&w.items, k.Name, r.Version)
			w.resources = append(w.resources, r)
			w.size += len(r.Body)
		}
		if urgent {
			urgencies[1] = true
		} else {
			urgencies[0] = true
		}
	})
	simple = simple && !(urgencies[0] && urgencies[1]) // what is urgent goes before what is not
	w.urgent = urgencies[1]
	if !remembered || !simple || len(w.resources) == 0 || w.size > maxResponse && len(w.resources) > 1 {
		return nil
	}
	slices.SortFunc(w.resources, func(a, b *Resource) int { return compareKeys(Key{Name: a.Name}, Key{Name: b.Name}) })
	w.response = &printed{DeltaDiscoveryResponse: responseOf(w.typeURL, "w"+strconv.FormatInt(g.version, 10), g.mark, w.resources)}
	return w
}

// isAccepted says that some Envoy runs each of its versions, and none is to be tried first.
func (w *wave) isAccepted(s *Server) bool {
	if w.tested == s.refusals+1 || w.typeURL == endpointType {
		return true
	}
	for name, version := range w.items {
		if _, ok := s.proven[proof{Key{w.typeURL, name}, version}]; !ok {
			return false
		}
	}
	w.tested = s.refusals + 1
	return true
}

// landed takes in a request that does nothing but accept a wave.
func (st *stream) landed(req *discoveryv3.DeltaDiscoveryRequest, now time.Time) bool {
	t := st.riding
	if t == nil || req.TypeUrl != t.typeURL || req.ErrorDetail != nil || len(req.ResourceNamesSubscribe)+len(req.ResourceNamesUnsubscribe) > 0 {
		return false
	}
	f := t.flights[0]
	if req.ResponseNonce != f.nonce {
		return false
	}
	s := st.server
	t.flights, t.base, t.answered, st.riding = nil, f.view, now, nil
	s.metrics.of(t.typeURL).acks.Observe(now.Sub(f.sent).Seconds())
	if t.typeURL == endpointType {
		st.node.group.paced(f, now)
	}
	if w := f.wave; w.booked != s.refusals+1 {
		w.booked = s.refusals + 1
		v := st.view()
		for name, version := range w.items {
			k := Key{t.typeURL, name}
			s.proveCurrent(v, k, version)
			s.acquit(st.node.group, k, version)
		}
	}
	return true
}

// book enters the flight of a wave name by name.
func (st *stream) book() {
	t := st.riding
	if t == nil {
		return
	}
	st.riding = nil
	f := t.flights[0]
	if t.keeps() {
		f.resources = f.wave.resources
		st.carry(t, f)
		f.resources = nil
	}
	for name := range f.items {
		enter(&t.flying, name, f)
	}
}

// responseOf assembles a response around the shared bytes of resources.
func responseOf(typeURL, nonce string, mark int64, resources []*Resource) *discoveryv3.DeltaDiscoveryResponse {
	resp := &discoveryv3.DeltaDiscoveryResponse{
		SystemVersionInfo: strconv.FormatInt(mark, 10), TypeUrl: typeURL, Nonce: nonce,
		Resources: make([]*discoveryv3.Resource, len(resources)),
	}
	for i, r := range resources {
		resp.Resources[i] = &discoveryv3.Resource{Name: r.Name, Version: r.Version, Resource: &anypb.Any{TypeUrl: r.TypeURL, Value: r.Body}}
	}
	return resp
}
