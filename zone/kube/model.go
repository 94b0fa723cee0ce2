package kube

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/kube/cluster"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

// model is the cluster as the zone needs it: who selects whom, and which objects
// have to be looked at again. It is not safe for concurrent use.
type model struct {
	zone       string
	namespaces map[string]*namespace
	nodes      map[string]*Node
	resolved   map[string][]string
	// meshed Services had a pod with a sidecar once; see remember.
	meshed map[string]uint64

	dirtyPods     map[*pod]bool
	dirtyServices map[*service]bool
	ingresses     map[*service]bool
	// unlinked Services have a selector whose pods are not found yet.
	unlinked map[*service]bool
	// waning pods have ports that linger.
	waning map[*pod]bool
	// gone namespaces are forgotten once nothing is left in them.
	gone map[string]bool
}

// namespace with what is in it.
type namespace struct {
	own      *Namespace // nil: not seen
	pods     map[string]*pod
	services map[string]*service
	// bySelector are the Services by one pair of their selector.
	bySelector map[string]map[*service]bool
}

// pod with the Services that select it, and what was told of it.
type pod struct {
	own      *Pod // nil: gone
	in       *namespace
	services map[*service]bool
	told     *platform.Pod
	// lingering ports, by number.
	lingering map[uint32]lingering
}

// service with the pods with a sidecar that it selects, and what was told of it.
type service struct {
	namespace, name string
	own             *Service // nil: not seen, or gone
	in              *namespace
	pods            map[*pod]bool
	slices          map[string]*Slice
	pair            string // of bySelector
	told            map[mesh.Key]owned
}

func newModel(zone string) *model {
	return &model{zone: zone, namespaces: map[string]*namespace{}, nodes: map[string]*Node{}, resolved: map[string][]string{},
		meshed: map[string]uint64{}, dirtyPods: map[*pod]bool{}, dirtyServices: map[*service]bool{}, ingresses: map[*service]bool{}, unlinked: map[*service]bool{}, waning: map[*pod]bool{}, gone: map[string]bool{}}
}

func (m *model) namespace(name string) *namespace {
	ns := m.namespaces[name]
	if ns == nil {
		ns = &namespace{pods: map[string]*pod{}, services: map[string]*service{}, bySelector: map[string]map[*service]bool{}}
		m.namespaces[name] = ns
	}
	return ns
}

func (m *model) service(namespace, name string) *service {
	ns := m.namespace(namespace)
	s := ns.services[name]
	if s == nil {
		s = &service{namespace: namespace, name: name, in: ns, pods: map[*pod]bool{}, slices: map[string]*Slice{}, told: map[mesh.Key]owned{}}
		ns.services[name] = s
	}
	return s
}

// setNamespace takes a change of labels: everything in it may be of another mesh.
func (m *model) setNamespace(c cluster.Change[*Namespace]) {
	ns := m.namespace(c.Key.Name)
	if ns.own != nil && c.New != nil && maps.Equal(ns.own.Labels, c.New.Labels) {
		return
	}
	ns.own = c.New
	if c.New == nil {
		m.gone[c.Key.Name] = true
	}
	for _, p := range ns.pods {
		m.dirtyPods[p] = true
	}
	for _, s := range ns.services {
		m.dirtyServices[s] = true
	}
}

// setNode takes a change of where pods and ingresses are. Labels of a node do not
// change in practice; when they do its pods are found one by one.
func (m *model) setNode(c cluster.Change[*Node]) {
	old := m.nodes[c.Key.Name]
	if old != nil && c.New != nil && reflect.DeepEqual(old, c.New) {
		return
	}
	if c.New == nil {
		delete(m.nodes, c.Key.Name)
	} else {
		m.nodes[c.Key.Name] = c.New
	}
	for s := range m.ingresses {
		m.dirtyServices[s] = true
	}
	if old != nil && c.New != nil && maps.Equal(old.Labels, c.New.Labels) {
		return
	}
	for _, ns := range m.namespaces {
		for _, p := range ns.pods {
			if p.own != nil && p.own.Node == c.Key.Name {
				m.dirtyPods[p] = true
			}
		}
	}
}

// setPod takes a change of a pod.
func (m *model) setPod(c cluster.Change[*Pod]) {
	ns := m.namespace(c.Key.Namespace)
	p := ns.pods[c.Key.Name]
	if p == nil {
		if c.New == nil || !c.New.Injected {
			return
		}
		p = &pod{in: ns, services: map[*service]bool{}}
		ns.pods[c.Key.Name] = p
	}
	old := p.own
	if p.own = keepClaim(c, old); p.own != nil && !p.own.Injected {
		p.own = nil
	}
	if old != nil && p.own != nil && reflect.DeepEqual(old, p.own) {
		return
	}
	m.dirtyPods[p] = true
	if p.own == nil {
		for s := range p.services {
			m.unlink(p, s)
		}
		delete(ns.pods, c.Key.Name)
		return
	}
	if old == nil || !maps.Equal(old.Labels, p.own.Labels) {
		m.relink(p)
	}
	for s := range p.services { // addresses of instances, nodes of an ingress
		if s.own != nil && (s.own.Headless || m.ingresses[s]) {
			m.dirtyServices[s] = true
		}
	}
}

// relink finds the Services that select a pod.
func (m *model) relink(p *pod) {
	want := map[*service]bool{}
	for k, v := range p.own.Labels {
		for s := range p.in.bySelector[k+"="+v] {
			if selects(s.own.Selector, p.own.Labels) {
				want[s] = true
			}
		}
	}
	for s := range p.services {
		if !want[s] {
			m.unlink(p, s)
		}
	}
	for s := range want {
		m.link(p, s)
	}
}

// selects reports whether a Service's selector takes in a pod.
func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

func (m *model) link(p *pod, s *service) {
	if !p.services[s] {
		p.services[s], s.pods[p] = true, true
		m.dirtyPods[p], m.dirtyServices[s] = true, true
	}
}

func (m *model) unlink(p *pod, s *service) {
	delete(p.services, s)
	delete(s.pods, p)
	m.dirtyPods[p], m.dirtyServices[s] = true, true
}

// setService takes a change of a Service.
func (m *model) setService(c cluster.Change[*Service]) {
	s := m.service(c.Key.Namespace, c.Key.Name)
	old := s.own
	if old != nil && c.New != nil && reflect.DeepEqual(old, c.New) {
		return
	}
	s.own = c.New
	m.dirtyServices[s] = true
	delete(m.ingresses, s)
	if s.own != nil && s.own.Labels[labelZoneProxy] != "" {
		m.ingresses[s] = true
	}
	if (old == nil) != (c.New == nil) { // a name that a pod's MeshService may have
		for _, other := range s.in.services {
			if other.own != nil && other.own.Headless {
				m.dirtyServices[other] = true
			}
		}
	}
	if old != nil && s.own != nil && maps.Equal(old.Selector, s.own.Selector) {
		for p := range s.pods {
			m.dirtyPods[p] = true
		}
		return
	}
	m.reselect(s)
	m.sweep(s)
}

// reselect lets go of the pods that a Service selects no more. Those that it selects
// now are found with the next flush.
func (m *model) reselect(s *service) {
	if set := s.in.bySelector[s.pair]; set != nil {
		if delete(set, s); len(set) == 0 {
			delete(s.in.bySelector, s.pair)
		}
	}
	s.pair = ""
	delete(m.unlinked, s)
	selector := map[string]string(nil)
	if s.own != nil && len(s.own.Selector) > 0 {
		selector = s.own.Selector
		k := slices.Min(slices.Collect(maps.Keys(selector)))
		s.pair = k + "=" + selector[k]
		if s.in.bySelector[s.pair] == nil {
			s.in.bySelector[s.pair] = map[*service]bool{}
		}
		s.in.bySelector[s.pair][s] = true
		m.unlinked[s] = true
	}
	for p := range s.pods {
		if selector == nil || !selects(selector, p.own.Labels) {
			m.unlink(p, s)
		}
	}
}

// linkServices finds the pods of the Services whose selectors are new: with one pass
// over the pods of a namespace, however many Services there are, as at a start.
func (m *model) linkServices() {
	in := map[*namespace]bool{}
	for s := range m.unlinked {
		in[s.in] = true
	}
	for ns := range in {
		for _, p := range ns.pods {
			for k, v := range p.own.Labels {
				for s := range ns.bySelector[k+"="+v] {
					if m.unlinked[s] && selects(s.own.Selector, p.own.Labels) {
						m.link(p, s)
					}
				}
			}
		}
	}
	clear(m.unlinked)
}

// sweep forgets a Service of which nothing is left; what was told is told to end
// first, by flush.
func (m *model) sweep(s *service) {
	if s.own == nil && len(s.slices) == 0 && len(s.told) == 0 && !m.dirtyServices[s] {
		delete(s.in.services, s.name)
	}
}

// setSlice takes a change of endpoints.
func (m *model) setSlice(c cluster.Change[*Slice]) {
	for _, name := range []string{serviceOf(c.Old), serviceOf(c.New)} {
		if name == "" {
			continue
		}
		s := m.service(c.Key.Namespace, name)
		old := s.slices[c.Key.Name]
		next := c.New
		if serviceOf(next) != name {
			next = nil
		}
		var before, after map[string]bool
		if old != nil {
			before = old.Pods
		}
		if next == nil {
			delete(s.slices, c.Key.Name)
		} else {
			s.slices[c.Key.Name], after = next, next.Pods
		}
		m.readiness(s, before, after)
		m.readiness(s, after, before)
		m.sweep(s)
	}
}

func serviceOf(s *Slice) string {
	if s == nil {
		return ""
	}
	return s.Service
}

// readiness marks the pods of a that b has otherwise.
func (m *model) readiness(s *service, a, b map[string]bool) {
	for name, ready := range a {
		if other, ok := b[name]; ok && other == ready {
			continue
		}
		if p := s.in.pods[name]; p != nil {
			m.dirtyPods[p] = true
		}
	}
}

// setResolved takes the addresses of a name.
func (m *model) setResolved(name string, addresses []string) {
	if slices.Equal(m.resolved[name], addresses) {
		return
	}
	m.resolved[name] = addresses
	for s := range m.ingresses {
		m.dirtyServices[s] = true
	}
}

// wanted are the names to resolve.
func (m *model) wanted() []string {
	var out []string
	for s := range m.ingresses {
		out = append(out, s.own.names()...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// complaint is something that an object's owner should hear.
type complaint struct {
	about  corev1.ObjectReference
	reason string
	err    error
}

// flush says what became of everything that changed until now, and what is wrong with it.
func (m *model) flush(now time.Time) (platform.Batch, []complaint) {
	b := platform.Batch{Pods: map[mesh.Key]*platform.Pod{}, Resources: map[mesh.Key]*mesh.Resource{},
		Addresses: map[mesh.Key][]string{}, Remember: map[string]uint64{}}
	var wrong []complaint
	m.linkServices()
	m.wane(now)
	for p := range m.dirtyPods {
		wrong = append(wrong, m.flushPod(&b, p, now)...)
	}
	clear(m.dirtyPods)
	due := slices.Collect(maps.Keys(m.dirtyServices))
	clear(m.dirtyServices)
	// Ends first: a name may pass from one Service to another.
	slices.SortFunc(due, func(a, b *service) int { return boolCompare(a.own != nil, b.own != nil) })
	for _, s := range due {
		wrong = append(wrong, m.flushService(&b, s)...)
		m.sweep(s)
	}
	for name := range m.gone {
		switch ns := m.namespaces[name]; {
		case ns == nil || ns.own != nil:
			delete(m.gone, name)
		case len(ns.pods)+len(ns.services) == 0:
			delete(m.namespaces, name)
			delete(m.gone, name)
		}
	}
	return b, wrong
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (m *model) flushPod(b *platform.Batch, p *pod, now time.Time) []complaint {
	var next *platform.Pod
	var wrong []complaint
	if p.own != nil {
		in := podInput{zone: m.zone, pod: p.own, namespace: p.in.own, node: m.nodes[p.own.Node]}
		for s := range p.services {
			in.services = append(in.services, selecting{service: s.own, ready: s.ready(p.own.Name)})
		}
		var err error
		if next, err = podOf(in); err != nil {
			wrong = append(wrong, complaint{about: reference("Pod", p.own.Namespace, p.own.Name, p.own.UID), reason: "NotInMesh", err: err})
		}
		if in.former = p.linger(next, now); len(in.former) > 0 {
			m.waning[p] = true
			if with, _ := podOf(in); with != nil { // too many inbounds, say, do not end a membership
				next = with
			}
		}
	}
	if p.told != nil && (next == nil || next.Resource.Key != p.told.Resource.Key) {
		if _, again := b.Pods[p.told.Resource.Key]; !again { // a new pod of the name may be in it already
			b.Pods[p.told.Resource.Key] = nil
		}
	}
	if next != nil && (p.told == nil || !reflect.DeepEqual(p.told, next)) {
		b.Pods[next.Resource.Key] = next
	}
	p.told = next
	return wrong
}

// ready reports whether the EndpointSlices have a pod, ready.
func (s *service) ready(pod string) bool {
	for _, slice := range s.slices {
		if slice.Pods[pod] {
			return true
		}
	}
	return false
}

func (m *model) flushService(b *platform.Batch, s *service) []complaint {
	var next []owned
	var errs []error
	if s.own != nil {
		pods := make([]*Pod, 0, len(s.pods))
		for p := range s.pods {
			if !p.own.Claimed {
				pods = append(pods, p.own)
			}
		}
		if !m.ingresses[s] && m.inMesh(b, s) {
			next, errs = servicesOf(serviceInput{zone: m.zone, service: s.own, namespace: s.in.own, pods: pods,
				taken: func(name string) bool { o := s.in.services[name]; return o != nil && o.own != nil }})
		}
		if m.ingresses[s] {
			places, err := ingressOf(ingressInput{zone: m.zone, service: s.own, namespace: s.in.own, pods: pods,
				nodes: slices.Collect(maps.Values(m.nodes)), resolved: m.resolved})
			next = append(next, places...)
			if err != nil {
				errs = append(errs, err)
			}
		}
	} else if _, ok := m.meshed[memory(s)]; ok {
		delete(m.meshed, memory(s))
		b.Remember[memory(s)] = 0
	}
	now := map[mesh.Key]owned{}
	for _, o := range next {
		now[o.resource.Key] = o
	}
	for k, o := range s.told {
		if _, still := now[k]; !still {
			b.Resources[k] = nil
			if len(o.addresses) > 0 {
				b.Addresses[k] = nil
			}
		}
	}
	for k, o := range now {
		was, known := s.told[k]
		if !known || !reflect.DeepEqual(was.resource, o.resource) {
			b.Resources[k] = &o.resource
		}
		if !slices.Equal(was.addresses, o.addresses) {
			b.Addresses[k] = o.addresses
		}
	}
	s.told = now
	if len(errs) == 0 {
		return nil
	}
	return []complaint{{about: reference("Service", s.namespace, s.name, s.own.UID), reason: "NotInMesh", err: errors.Join(errs...)}}
}

// memoryPrefix begins the names of numbers that the zone remembers for us.
const memoryPrefix = "meshed/"

// maxMeshed bounds the Services that are remembered, over restarts too: the others
// are of the mesh while they have pods.
const maxMeshed = 10_000

func memory(s *service) string { return memoryPrefix + s.namespace + "/" + s.name }

// recall takes what was remembered before a restart. Call it when every Service was
// seen: what is of none is forgotten.
func (m *model) recall(b *platform.Batch, numbers map[string]uint64) {
	for id, uid := range numbers {
		rest, ours := strings.CutPrefix(id, memoryPrefix)
		if !ours || uid == 0 {
			continue
		}
		namespace, name, _ := strings.Cut(rest, "/")
		ns := m.namespaces[namespace]
		if ns == nil || ns.services[name] == nil || ns.services[name].own == nil {
			b.Remember[id] = 0
			continue
		}
		m.meshed[id] = uid
		m.dirtyServices[ns.services[name]] = true
	}
}

// inMesh reports whether a Service is one of the mesh: from the moment when it
// selects a pod with a sidecar, for as long as it lives. What had mTLS must not be
// called without it because it was scaled to zero, also not after a restart of the
// zone. It ends when no such pod is left in a namespace that has opted out.
func (m *model) inMesh(b *platform.Batch, s *service) bool {
	id := memory(s)
	uid := identityOf(s.own.UID)
	switch {
	case len(s.pods) > 0:
		if known, had := m.meshed[id]; known != uid && (had || len(m.meshed) < maxMeshed) {
			m.meshed[id], b.Remember[id] = uid, uid
		}
		return true
	case m.meshed[id] != uid:
		return false
	case s.in.own != nil && s.in.own.Labels[labelInjection] == "disabled":
		delete(m.meshed, id)
		b.Remember[id] = 0
		return false
	}
	return true
}

// identityOf is a number for one object of its name; never 0.
func identityOf(uid types.UID) uint64 {
	sum := sha256.Sum256([]byte(uid))
	return binary.BigEndian.Uint64(sum[:]) | 1
}

func reference(kind, namespace, name string, uid types.UID) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "v1", Kind: kind, Namespace: namespace, Name: name, UID: uid}
}
