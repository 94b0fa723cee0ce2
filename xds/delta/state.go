package delta

import (
	"maps"
	"slices"
	"time"
)

// Types whose order and NACKs need care. Others are served after them.
const (
	clusterType   = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	endpointType  = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	secretType    = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	listenerType  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	routeType     = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	extensionType = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
)

// unknown stands for a version when nobody can say what the proxy has: it asked
// anew, or refused a response that it may have applied in part.
const unknown = "?"

// typeState is what one stream knows of one type. Its size is bounded by what the
// node should have and by the names it may subscribe to. Its maps are made when
// there is something to put in, and given up when all is settled.
type typeState struct {
	typeURL  string
	named    bool // NACKs of this type name no resource
	wildcard bool
	greet    bool // a wildcard was asked for and nothing answered yet
	unasked  bool // served though not asked for, see stream.unasked
	names    names

	// What the proxy has: over, where it has an entry ("" is nothing, or unknown),
	// else base, what the node should have had when it last had all of it.
	over map[string]string
	base *view

	dirty   map[string]struct{}  // to be compared
	sorted  []string             // dirty in order, nil when not built
	urgent  map[string]struct{}  // dirty ones that overtake
	force   map[string]struct{}  // to be sent though equal
	alone   map[string]struct{}  // refused in company: to be sent one by one
	limit   int                  // resources a response after an unattributed NACK, 0 is no limit
	flights []*flight            // sent and not answered, in order
	flying  map[string]*flight   // the last flight of a name
	kept    map[string]*Resource // of clusters and endpoints: what over speaks of, where known
	held    time.Time            // until when accepted ones wait for those on trial
	// answered is when the last answer came.
	answered time.Time
}

// flight is a response on its way.
type flight struct {
	nonce     string
	items     map[string]string // version by name, "" is a removal
	resources []*Resource
	removed   []string
	sent      time.Time
	fresh     bool // has clusters that the proxy did not have
	expired   bool
	carried   map[string]carried // of CDS and EDS
	deadline  time.Time          // of CDS
	releasing bool               // it takes suspects back
	wave      *wave              // that it is of
	view      *view              // what the proxy has once it answers for a wave
}

// carried is a cluster or its endpoints on their way.
type carried struct {
	now, before *Resource
	had         bool // the proxy had it, known as before or not
}

func newTypeState(typeURL string) *typeState {
	return &typeState{typeURL: typeURL, named: typeURL != clusterType && typeURL != listenerType}
}

func (t *typeState) subscribed(name string) bool {
	return t.wildcard || t.names.has(name)
}

// note says what the proxy has of a name: a version, "" or unknown.
func (t *typeState) note(name, version string) { enter(&t.over, name, version) }

// has is the version that the proxy has of a name.
func (t *typeState) has(name string) string {
	if v, ok := t.over[name]; ok {
		return v
	}
	if t.base != nil && t.subscribed(name) {
		return t.base.version(t.typeURL, name)
	}
	return ""
}

func (t *typeState) mark(name string, urgent bool) {
	if !t.subscribed(name) {
		return
	}
	if _, ok := t.dirty[name]; !ok {
		put(&t.dirty, name)
		t.sorted = nil
	}
	if urgent {
		put(&t.urgent, name)
	}
}

func (t *typeState) clean(name string) {
	delete(t.dirty, name)
	delete(t.urgent, name)
	delete(t.force, name)
}

// marks lists the dirty names in order.
func (t *typeState) marks() []string {
	for len(t.sorted) > 0 {
		if _, ok := t.dirty[t.sorted[0]]; ok {
			break
		}
		t.sorted = t.sorted[1:]
	}
	if len(t.sorted) == 0 && len(t.dirty) > 0 {
		t.sorted = slices.Sorted(maps.Keys(t.dirty))
	}
	return t.sorted
}

// idle says that nothing is to be sent and nothing unanswered.
func (t *typeState) idle() bool {
	return len(t.dirty) == 0 && len(t.flights) == 0 && !t.greet && !t.unasked
}

// live counts flights that may still be answered in time.
func (t *typeState) live() int {
	n := 0
	for _, f := range t.flights {
		if !f.expired {
			n++
		}
	}
	return n
}

// land removes the flight with a nonce and returns it, or nil for a nonce that is
// not on its way. Envoy answers in order: what was sent before and is unanswered
// is lost.
func (t *typeState) land(nonce string) *flight {
	i := slices.IndexFunc(t.flights, func(f *flight) bool { return f.nonce == nonce })
	if i < 0 {
		return nil
	}
	f := t.flights[i]
	for _, lost := range t.flights[:i] {
		for name := range lost.items {
			if t.flying[name] == lost {
				delete(t.flying, name)
				t.note(name, unknown)
				t.mark(name, false)
			}
		}
	}
	t.flights = slices.Delete(t.flights, 0, i+1)
	for name := range f.items {
		if t.flying[name] == f {
			delete(t.flying, name)
		}
	}
	return f
}

// settle replaces what is known name by name with one pointer, shared memory.
func (t *typeState) settle(v *view) {
	t.base = v
	t.over, t.kept, t.dirty, t.sorted, t.urgent, t.force, t.alone = nil, nil, nil, nil, nil, nil, nil
	t.flights, t.flying, t.limit = nil, nil, 0
}

func put(set *map[string]struct{}, name string) { enter(set, name, struct{}{}) }

// enter makes the map when it is nil.
func enter[K comparable, V any](m *map[K]V, key K, value V) {
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[key] = value
}

// spoilt says what is known of a cluster that waits to be taken back or replaced.
func (st *stream) spoilt(t *typeState, name string) (spoil, bool) {
	if t.typeURL != clusterType || t.flying[name] != nil {
		return spoil{}, false
	}
	s, ok := st.node.spoilt[name]
	return s, ok
}

// known is the resource that the proxy has of a name, nil when its bytes are not known.
func (t *typeState) known(name string) (r *Resource, had bool) {
	version := t.has(name)
	if version == "" {
		return nil, false
	}
	if r := t.kept[name]; r != nil && r.Version == version {
		return r, true
	}
	if t.base != nil {
		if r := t.base.get(t.typeURL, name); r != nil && r.Version == version {
			return r, true
		}
	}
	return nil, true
}

// instead is what a name needs whose resource was refused: nothing, but that a
// cluster sent again does not get its old endpoints back by itself.
func (st *stream) instead(t *typeState, name string) (action, *Resource) {
	if _, forced := t.force[name]; !forced || t.typeURL != endpointType || t.flying[name] != nil {
		return nothing, nil
	}
	if r, _ := t.known(name); r != nil {
		return add, r
	}
	return deny, nil
}

// keeps says that the bytes of what the proxy has may be needed again.
func (t *typeState) keeps() bool { return t.typeURL == clusterType || t.typeURL == endpointType }

// keep remembers the bytes of what the proxy has now.
func (t *typeState) keep(r *Resource) {
	if r == nil || !t.keeps() {
		return
	}
	enter(&t.kept, r.Name, r)
}

// action is what a name needs.
type action int

const (
	nothing action = iota
	add            // the proxy lacks the resource or has another version
	deny           // it asked for a name that does not exist
	remove         // it has a resource that is gone
)

// assess compares what the node should have of a name with what it has or will have.
func (st *stream) assess(t *typeState, name string) (action, *Resource) {
	if !t.subscribed(name) {
		return nothing, nil
	}
	v := st.view()
	r := v.get(t.typeURL, name)
	version := ""
	if r != nil {
		version = r.Version
	}
	if spoilt, ok := st.spoilt(t, name); ok {
		if spoilt.before != nil {
			return add, spoilt.before
		}
		return deny, nil
	}
	key := Key{t.typeURL, name}
	if refused := st.node.rejected[key]; refused != nil {
		if refused.Version == version {
			return st.instead(t, name)
		}
		delete(st.node.rejected, key)
	}
	has := t.has(name)
	if f := t.flying[name]; f != nil {
		has = f.items[name]
	}
	_, forced := t.force[name]
	switch {
	case r == nil && (has == unknown || forced && t.named):
		return deny, nil
	case r == nil && has == "":
		return nothing, nil
	case r == nil:
		return remove, nil
	case has == version && !forced:
		return nothing, nil
	}
	return add, r
}
