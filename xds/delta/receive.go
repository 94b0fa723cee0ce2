package delta

import (
	"slices"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// handle takes in one request: a subscription, an answer, or both at once.
func (s *Server) handle(st *stream, req *discoveryv3.DeltaDiscoveryRequest) error {
	if err := check(req); err != nil {
		return err
	}
	s.mu.Lock()
	settled, err := st.handle(req, s.now())
	if !settled || len(st.node.spoilt) > 0 {
		st.wakeUp()
	}
	s.unlock()
	return err
}

func check(req *discoveryv3.DeltaDiscoveryRequest) error {
	if req.TypeUrl == "" || len(req.TypeUrl) > maxName {
		return status.Errorf(codes.InvalidArgument, "type_url: 1 to %d bytes, got %d", maxName, len(req.TypeUrl))
	}
	if err := checkNames("resource_names_subscribe", req.ResourceNamesSubscribe); err != nil {
		return err
	}
	if err := checkNames("resource_names_unsubscribe", req.ResourceNamesUnsubscribe); err != nil {
		return err
	}
	if n := len(req.InitialResourceVersions); n > maxSubscribe {
		return status.Errorf(codes.InvalidArgument, "initial_resource_versions: %d, at most %d are taken", n, maxSubscribe)
	}
	return nil
}

func checkNames(field string, names []string) error {
	if len(names) > maxNames {
		return status.Errorf(codes.InvalidArgument, "%s: %d names, at most %d are taken at once", field, len(names), maxNames)
	}
	for _, name := range names {
		if len(name) > maxName {
			return status.Errorf(codes.InvalidArgument, "%s: a name of %d bytes, at most %d are taken", field, len(name), maxName)
		}
	}
	return nil
}

// handle says whether the stream is settled with it.
func (st *stream) handle(req *discoveryv3.DeltaDiscoveryRequest, now time.Time) (settled bool, err error) {
	if st.reason != nil {
		return false, st.reason
	}
	if st.landed(req, now) {
		return st.settle(now), nil
	}
	st.book()
	t := st.types[req.TypeUrl]
	first := t == nil || t.unasked
	if first {
		if t == nil && len(st.types) == maxTypes {
			return false, status.Errorf(codes.InvalidArgument, "type_url: more than %d types", maxTypes)
		}
		if t == nil {
			t = newTypeState(req.TypeUrl)
			st.enlist(t)
		}
		t.unasked, t.wildcard = false, false
		st.greeted(t, req)
	}
	if err := st.subscribe(t, req, first); err != nil {
		return false, err
	}
	if clusters := st.types[clusterType]; first && t.typeURL == endpointType && clusters != nil {
		for _, f := range clusters.flights {
			st.followed(f) // sent before anything was known of endpoints
		}
	}
	if req.ResponseNonce != "" {
		if f := t.land(req.ResponseNonce); f != nil {
			st.answered(t, f, req, now)
		}
	}
	return st.settle(now), nil // the writer is not woken for this
}

func (st *stream) enlist(t *typeState) {
	st.types[t.typeURL] = t
	st.order = append(st.order, t)
	slices.SortStableFunc(st.order, func(a, b *typeState) int { return rank(a.typeURL) - rank(b.typeURL) })
	types := carriers()
	if i := slices.Index(types[:], t.typeURL); i >= 0 {
		st.carried[i] = t
	}
}

// rank is the order of types whose NACKs name nothing, routes before what they may use.
func rank(typeURL string) int {
	switch typeURL {
	case endpointType:
		return 0
	case secretType:
		return 1
	case routeType:
		return 2
	case extensionType:
		return 3
	}
	return 4
}

// greeted takes in what the proxy has from an earlier stream. Without anything it
// is a fresh one, which may accept what the one before it refused.
func (st *stream) greeted(t *typeState, req *discoveryv3.DeltaDiscoveryRequest) {
	v := st.view()
	for k, r := range st.node.rejected {
		if k.TypeURL == t.typeURL && (len(req.InitialResourceVersions) == 0 || v.version(k.TypeURL, k.Name) != r.Version) {
			delete(st.node.rejected, k)
		}
	}
	if t.typeURL == clusterType {
		st.greetSpoilt(req.InitialResourceVersions)
	}
	for k := range st.node.maybe {
		if k.TypeURL == t.typeURL {
			t.note(k.Name, unknown)
			delete(st.node.maybe, k)
		}
	}
	for name, version := range req.InitialResourceVersions {
		if version == "" || len(name) > maxName {
			version = unknown
		}
		t.note(name, version)
		st.server.proveCurrent(v, Key{t.typeURL, name}, version)
		if t.keeps() {
			t.keep(st.recall(v, Key{t.typeURL, name}, version))
		}
	}
}

// proveCurrent notes a version that some Envoy runs, if it is one that we serve:
// a peer cannot fill the memory with inventions.
func (s *Server) proveCurrent(v *view, k Key, version string) {
	if v.version(k.TypeURL, k.Name) == version {
		s.prove(k, version)
	}
}

// subscribe applies the names of a request. An empty first one for clusters or
// listeners means all of them, as "*" does.
func (st *stream) subscribe(t *typeState, req *discoveryv3.DeltaDiscoveryRequest, first bool) error {
	wildcard := t.wildcard
	if first && !t.named && len(req.ResourceNamesSubscribe) == 0 {
		t.wildcard = true
	}
	for _, name := range req.ResourceNamesSubscribe {
		if name == "*" {
			t.wildcard = true
		}
	}
	for _, name := range req.ResourceNamesUnsubscribe {
		st.unsubscribe(t, name)
	}
	v := st.view()
	for _, name := range req.ResourceNamesSubscribe {
		if name == "*" {
			continue
		}
		if r := v.get(t.typeURL, name); r != nil {
			name = r.Name // shares the memory of the name
		}
		t.names.add(name)
		if t.names.len() > maxSubscribe {
			return status.Errorf(codes.ResourceExhausted, "resource_names_subscribe: more than %d names of %s", maxSubscribe, t.typeURL)
		}
		if _, told := req.InitialResourceVersions[name]; !first || !told {
			// Asked anew: it is owed an answer, whatever it has or is on its way.
			t.note(name, unknown)
			if len(t.flights) > 0 {
				put(&t.force, name)
			}
			delete(st.node.rejected, Key{t.typeURL, name})
		}
		t.mark(name, false)
	}
	st.server.names.share(&t.names, false)
	if t.wildcard && !wildcard {
		if t.base != nil { // which speaks of what was subscribed to
			v.each(t.typeURL, func(name string) {
				if !t.names.has(name) {
					t.note(name, unknown)
				}
			})
		}
		t.greet = len(t.over) == 0
		t.scan(v)
	}
	if first {
		for name := range t.over {
			if !t.subscribed(name) {
				delete(t.over, name)
			}
		}
		for k := range st.node.rejected { // on its last stream
			if k.TypeURL == t.typeURL && !t.subscribed(k.Name) {
				delete(st.node.rejected, k)
			}
		}
	}
	return nil
}

func (st *stream) unsubscribe(t *typeState, name string) {
	if name == "*" {
		t.wildcard = false
		for dirty := range t.dirty {
			if !t.subscribed(dirty) {
				t.clean(dirty)
			}
		}
		return
	}
	t.names.remove(name)
	if t.wildcard {
		t.mark(name, false)
		return
	}
	t.clean(name)
	delete(t.over, name)
	delete(t.alone, name)
	delete(t.flying, name)
	delete(st.node.rejected, Key{t.typeURL, name})
}

// answered books an ACK or a NACK.
func (st *stream) answered(t *typeState, f *flight, req *discoveryv3.DeltaDiscoveryRequest, now time.Time) {
	s := st.server
	t.answered = now
	if t.typeURL == clusterType {
		st.stuck = false
	}
	s.metrics.of(t.typeURL).acks.Observe(now.Sub(f.sent).Seconds())
	if req.ErrorDetail == nil {
		for name := range f.items {
			st.accepted(t, f, name)
		}
		if t.limit > 0 {
			t.limit *= 2
		}
		return
	}
	s.metrics.of(t.typeURL).nacks.Inc()
	reason := req.ErrorDetail.GetMessage()
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "")
	}
	names := make([]string, 0, len(f.items))
	for name, version := range f.items {
		if version != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var bad map[string]string
	if !t.named {
		bad = blamed(req.ErrorDetail.GetMessage(), names)
	}
	if len(bad) == 0 && len(names) == 1 {
		bad = map[string]string{names[0]: reason}
	}
	if len(bad) == 0 {
		st.doubt(t, f, names, reason)
		names = nil
	}
	for _, name := range names {
		if words, refused := bad[name]; refused {
			st.refused(t, f, name, words)
			continue
		}
		st.accepted(t, f, name)
		if !t.named && t.subscribed(name) {
			// Envoy applied it, but would not tell of it on its next stream.
			put(&t.force, name)
			t.mark(name, false)
		}
	}
	for name, version := range f.items {
		if version != "" {
			continue
		}
		if !t.named {
			st.accepted(t, f, name)
		} else if t.subscribed(name) { // whether it came so far is not known
			t.note(name, unknown)
			t.mark(name, false)
		}
	}
}

func (st *stream) accepted(t *typeState, f *flight, name string) {
	version := f.items[name]
	if t.typeURL == clusterType {
		delete(st.node.spoilt, name)
	}
	t.keep(f.carried[name].now)
	if !t.subscribed(name) {
		return
	}
	t.note(name, version)
	delete(t.alone, name)
	st.server.proveCurrent(st.view(), Key{t.typeURL, name}, version)
	if version != "" && (t.typeURL != clusterType || st.node.doubted[name] != version) {
		st.server.acquit(st.node.group, Key{t.typeURL, name}, version)
	}
	if a, _ := st.assess(t, name); a != nothing {
		t.mark(name, false)
	}
}

// doubt sends resources again in smaller responses: one of them is bad, and which
// of the others were applied is not known.
func (st *stream) doubt(t *typeState, f *flight, names []string, reason string) {
	st.server.cfg.Log.Warn("proxy refused a response, sending its resources apart", "node", st.node.id,
		"type", short(t.typeURL), "resources", len(names), "reason", reason, "mark", st.node.group.mark)
	suspects := names
	if t.named { // what some Envoy runs is not the first to be doubted
		suspects = slices.DeleteFunc(slices.Clone(names), func(name string) bool {
			_, proven := st.server.proven[proof{Key{t.typeURL, name}, f.items[name]}]
			return proven
		})
		if len(suspects) == 0 {
			suspects = names
		}
		for _, name := range suspects {
			put(&t.alone, name)
		}
	}
	for _, name := range names {
		if t.subscribed(name) {
			t.note(name, unknown)
			t.mark(name, false)
		}
	}
	if !t.named {
		t.limit = max(1, len(names)/2)
		st.suspect(t, f, false)
	}
}

// refused keeps a rejection: the version is not sent again until it changes.
func (st *stream) refused(t *typeState, f *flight, name, reason string) {
	version := f.items[name]
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "")
	}
	k := Key{t.typeURL, name}
	if t.typeURL == clusterType {
		delete(st.node.spoilt, name)
	}
	if !t.subscribed(name) {
		return // it gave the name up meanwhile: nobody would ever clear the rejection
	}
	if old := st.node.rejected[k]; old != nil && old.Version != version && old.Version == st.view().version(k.TypeURL, k.Name) {
		return // what it had before is refused now: nothing else is left to send
	}
	switch t.typeURL {
	case clusterType:
		if !f.carried[name].had {
			st.node.lacking, st.node.lackingIn = st.server.now(), st.node.group.version
		}
		st.spoil(name, f)
	case endpointType:
		put(&t.force, name) // the old ones, for a cluster that waited for these
	default:
		st.node.refusedAt = st.server.now()
	}
	st.server.refusals++
	rejection := &Rejection{Node: st.node.id, TypeURL: t.typeURL, Resource: name, Version: version, Reason: reason}
	enter(&st.node.rejected, k, rejection)
	if s := st.server; s.nodes[st.node.id] == st.node {
		s.refusing[st.node] = struct{}{}
	}
	_, proven := st.server.proven[proof{k, version}]
	delete(st.server.proven, proof{k, version})
	st.server.contest(st.node.group, *rejection, proven)
	st.server.cfg.Log.Warn("proxy refused a resource", "node", st.node.id, "type", short(t.typeURL), "resource", name,
		"reason", reason, "mark", st.node.group.mark)
	t.mark(name, false)
	st.node.group.notify(false)
}
