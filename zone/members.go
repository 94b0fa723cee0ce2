package zone

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tombolo-mesh/tombolo/identity"
	"github.com/tombolo-mesh/tombolo/identity/ca"
	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/xds"
	"github.com/tombolo-mesh/tombolo/xds/delta"
	"github.com/tombolo-mesh/tombolo/zone/agents"
	"github.com/tombolo-mesh/tombolo/zone/disk"
	"github.com/tombolo-mesh/tombolo/zone/platform"
	"github.com/tombolo-mesh/tombolo/zone/world"
)

// presence is what the zone knows of a proxy's life.
type presence uint8

const (
	// present: its agent's stream is up.
	present presence = iota
	// presumed: known from disk since the zone restarted, or its stream broke
	// together with too many others: believed to live, for a while.
	presumed
	// lost: its stream broke. It is in no endpoint set.
	lost
	presences // how many there are
)

// proxy is a member of the zone. It is the loop's own.
type proxy struct {
	unit     world.Unit
	node     string
	resource mesh.Resource
	spec     *mesh.Dataplane
	instance string
	control  agents.Control
	// streams of the instance that have joined and not left; the last one counts.
	streams  int
	agent    string
	envoy    string
	notReady []string
	presence presence
	draining bool
	lostAt   time.Time
	// warm: its Envoy has been configured. Before that nobody is sent to it.
	warm bool
	// pod is set where the platform knows the proxy by itself.
	pod *platform.Pod

	// What was derived.
	decision *mesh.IdentityDecision
	problems mesh.Problems
	class    *class
	own      *ir.Instance
	// group that it is assigned to, with ownSet.
	group  string
	ownSet *delta.Set
	// owns: ownSet was built from own.
	owns bool
	// ownResources are what ownSet holds.
	ownResources []*delta.Resource
}

func (p *proxy) connected() bool {
	if p.pod != nil && p.control == nil && p.presence == present {
		return p.pod.Ready
	}
	return p.presence != lost
}

// elsewhere says that the agent of a pod never came to this instance of the zone, which
// has no class for it then.
func (p *proxy) elsewhere() bool { return p.pod != nil && p.class == nil }

func (p *proxy) record() disk.Proxy {
	return disk.Proxy{Resource: p.resource, Instance: p.instance, AgentVersion: p.agent, EnvoyVersion: p.envoy,
		NotReady: p.notReady, LostAt: p.lostAt}
}

// subject is how identities are decided: as for the proxy's class, so that the
// certificate and the configuration agree.
func (e *engine) subject(p *proxy) mesh.IdentitySubject {
	who := mesh.IdentitySubject{Mesh: p.resource.Mesh, Zone: p.resource.Zone}
	class, _ := e.shape(p)
	who.Labels, who.Name = make(map[string]string, len(class.Labels)+3), class.Name
	maps.Copy(who.Labels, class.Labels)
	who.Labels[mesh.LabelMesh], who.Labels[mesh.LabelZone] = p.resource.Mesh, p.resource.Zone
	if who.Name != "" {
		who.Labels[mesh.LabelDisplayName] = who.Name
	}
	return who
}

// nodeID is how Envoy calls itself.
func nodeID(k mesh.Key) string { return k.Mesh + "." + k.Name }

// members is what the zone does for agents. It implements agents.Proxies.
type members struct{ e *engine }

var _ agents.Proxies = members{}

// Join implements agents.Proxies.
func (m members) Join(ctx context.Context, in agents.Proxy) (agents.Joined, error) {
	e := m.e
	key := in.Resource.Key
	result := make(chan error, 1)
	var refusal error
	join := func(b *batch) {
		if refusal = e.refusal(in); refusal == nil {
			e.join(b, in)
		}
	}
	if err := e.post(ctx.Done(), &op{run: join, done: func(err error) { result <- err }}); err != nil {
		return agents.Joined{}, err
	}
	select {
	case <-result: // when it could not be saved for now, the proxy is served all the same
		if refusal != nil {
			return agents.Joined{}, refusal
		}
	case <-ctx.Done(): // nobody will say goodbye for it
		m.Leave(key, in.Instance, false)
		return agents.Joined{}, ctx.Err()
	case <-e.stopped:
		return agents.Joined{}, errStopped
	}
	cluster := in.Resource.Labels[mesh.LabelWorkload]
	if cluster == "" {
		cluster = in.Resource.Name
	}
	return agents.Joined{NodeID: nodeID(in.Resource.Key), NodeCluster: cluster,
		SessionToken: e.session.Mint(token.Session{Mesh: in.Resource.Mesh, Name: in.Resource.Name})}, nil
}

// maxMembers bounds the proxies of a zone, those included that are gone and whose
// lease runs: twice as many as may be connected.
const maxMembers = 40_000

// refusal says why a proxy cannot join: there are too many, or its name belongs to
// a living proxy of another workload. Whoever may join for one workload cannot
// push out the proxies of another by their names.
func (e *engine) refusal(in agents.Proxy) error {
	p := e.proxies[in.Resource.Key]
	if e.cfg.env == mesh.EnvKubernetes && (p == nil || p.pod == nil) {
		return status.Errorf(codes.Unavailable, "%s is no pod that zone %s knows", in.Resource.Key, e.cfg.zone)
	}
	if p == nil && len(e.proxies) >= maxMembers {
		return status.Errorf(codes.ResourceExhausted, "zone %s has %d proxies, the most allowed", e.cfg.zone, len(e.proxies))
	}
	if p == nil || in.Named || p.instance == in.Instance || !p.connected() {
		return nil
	}
	if have := p.resource.Labels[mesh.LabelWorkload]; have != in.Resource.Labels[mesh.LabelWorkload] {
		return status.Errorf(codes.AlreadyExists, "%s is connected for workload %q; to take its place another workload needs a token for that name", in.Resource.Key, have)
	}
	return nil
}

func (e *engine) join(b *batch, in agents.Proxy) {
	p := e.member(in.Resource, in.Spec)
	if old := p.control; old != nil && old != in.Control {
		reason := fmt.Errorf("%s has joined anew", in.Resource.Key)
		b.after = append(b.after, func() { old.Close(reason) })
	}
	if p.instance != in.Instance {
		p.streams = 0
	}
	p.streams++
	p.warm = p.warm && p.instance == in.Instance
	if p.pod == nil {
		p.resource, p.spec = in.Resource, in.Spec
	}
	p.instance, p.control, p.agent, p.envoy = in.Instance, in.Control, in.AgentVersion, in.EnvoyVersion
	p.notReady = slices.Sorted(slices.Values(in.NotReady))
	e.count(p, present)
	p.draining, p.lostAt = p.pod != nil && p.pod.Draining, time.Time{}
	if p.draining && in.Control != nil {
		b.after = append(b.after, in.Control.Terminating)
	}
	e.liveness.back(p.resource.Key)
	e.unsaved[p.resource.Key] = true
	e.dirty[p.unit] = true
}

// warm notes that Envoys are configured and can serve. One that refused what it takes
// calls with, and has nothing from before, answers every call with an error that others
// would not: it is cold until it takes something better.
func (e *engine) warm(nodes map[string]bool) {
	unfit := e.unfit()
	for _, p := range e.proxies {
		if !nodes[p.node] || p.warm {
			continue
		}
		if of, refuses := unfit[p.node]; refuses && of {
			e.cold[p.node] = true
			continue
		}
		delete(e.cold, p.node)
		p.warm = true
		e.dirty[p.unit] = true
	}
}

// unfit are the proxies that refuse something; the value says that it is of their inbounds.
func (e *engine) unfit() map[string]bool {
	out := map[string]bool{}
	for _, r := range e.cfg.delta.Rejections() {
		out[r.Node] = out[r.Node] || xds.OfInbound(r.Resource)
	}
	return out
}

// thaw adds those that were cold and can serve now.
func (e *engine) thaw(nodes map[string]bool) map[string]bool {
	if len(e.cold) == 0 {
		return nodes
	}
	unfit := e.unfit()
	for node := range e.cold {
		of, refuses := unfit[node]
		if of || !refuses && !e.cfg.delta.InSync(node) {
			continue // it may be gone: who comes back is warm when it is in sync
		}
		delete(e.cold, node)
		if nodes == nil {
			nodes = map[string]bool{}
		}
		nodes[node] = true
	}
	return nodes
}

// notReadyNow are the inbounds that take no traffic: all, while the Envoy is not
// configured.
func (p *proxy) notReadyNow() []string {
	if p.pod != nil { // the platform asked the proxy too before it said ready
		return p.pod.NotReady
	}
	if p.warm {
		return p.notReady
	}
	var all []string
	for i := range p.spec.Networking.Inbound {
		all = append(all, p.spec.Networking.Inbound[i].SectionName())
	}
	slices.Sort(all)
	return all
}

// leave ends an instance's membership, or notes that its stream broke.
func (e *engine) leave(b *batch, key mesh.Key, instance string, clean bool) {
	p := e.proxies[key]
	if p == nil || p.instance != instance {
		return
	}
	if p.streams--; p.streams > 0 {
		return // an older stream of an agent that is back already
	}
	p.streams, p.control = 0, nil
	if p.pod != nil && (clean || p.draining) {
		e.lose(b, p)
		return
	}
	if clean {
		e.forget(b, p)
		return
	}
	e.vanish(b, p)
}

// health notes which inbounds do not answer.
func (e *engine) health(b *batch, key mesh.Key, instance string, notReady []string) {
	p := e.proxies[key]
	if p == nil || p.instance != instance || slices.Equal(p.notReady, notReady) {
		return
	}
	p.notReady = notReady
	e.dirty[p.unit] = true
	b.saveLate[p.resource.Key] = true
}

// member finds a proxy or makes it.
func (e *engine) member(r mesh.Resource, spec *mesh.Dataplane) *proxy {
	p := e.proxies[r.Key]
	if p != nil {
		return p
	}
	p = &proxy{unit: unitOf("proxy", r.Mesh, r.Name), node: nodeID(r.Key), resource: r, spec: spec}
	e.proxies[r.Key] = p
	e.census[p.presence]++
	e.members.Store(p.node, true)
	e.discover(r.Key)
	key := r.Key
	e.ensure(p.unit, stageProxy, func(e *engine, b *batch, r ir.Reader) []mesh.Resource { return e.deriveProxy(b, r, e.proxies[key]) })
	return p
}

// count gives a member another presence.
func (e *engine) count(p *proxy, as presence) {
	e.census[p.presence]--
	e.census[as]++
	p.presence = as
}

// Health implements agents.Proxies.
func (m members) Health(key mesh.Key, instance string, notReady []string) {
	notReady = slices.Sorted(slices.Values(notReady))
	// An error says that the zone is stopping; then health does not matter.
	_ = m.e.post(nil, &op{run: func(b *batch) { m.e.health(b, key, instance, notReady) }})
}

// Leave implements agents.Proxies.
func (m members) Leave(key mesh.Key, instance string, clean bool) {
	_ = m.e.post(nil, &op{run: func(b *batch) { m.e.leave(b, key, instance, clean) }})
}

// quit takes a proxy out of its class, of which it may be the last member.
func (e *engine) quit(p *proxy) {
	delete(p.class.members, p.resource.Key)
	e.vacant[p.class.ir.ID] = true
}

// forget ends a membership.
func (e *engine) forget(b *batch, p *proxy) {
	key := p.resource.Key
	delete(e.proxies, key)
	delete(e.cold, p.node)
	e.census[p.presence]--
	if p.pod == nil {
		e.unsaved[key] = true // deleted on disk now, or with a later batch
	}
	e.members.Delete(p.node)
	e.liveness.back(key)
	b.local = append(b.local, e.drop(p.unit)...)
	if p.class != nil {
		e.quit(p)
	}
	b.after = append(b.after, func() {
		if _, back := e.members.Load(p.node); !back {
			e.cfg.delta.Unassign(p.node)
		}
	})
}

// Drain implements agents.Proxies.
func (m members) Drain(ctx context.Context, key mesh.Key, instance string) error {
	e := m.e
	var groups map[string]bool
	var version uint64
	err := e.do(ctx.Done(), func(b *batch) {
		p := e.proxies[key]
		if p == nil || p.instance != instance {
			return
		}
		p.draining = true
		e.dirty[p.unit] = true
		b.after = append(b.after, func() { groups, version = b.published, b.factsVersion })
	})
	if err != nil {
		return err
	}
	// The batch's after functions run once its operations are answered; one more
	// turn of the loop makes their result visible here.
	if err := e.do(ctx.Done(), func(*batch) {}); err != nil {
		return err
	}
	if err := e.tracker.wait(ctx, groups); err != nil {
		return fmt.Errorf("drain %s: some proxies have not confirmed: %w", key, err)
	}
	if e.cfg.linked != nil && e.cfg.linked() {
		e.facts.wait(ctx, version, drainFactsBound)
	}
	return nil
}

// drainFactsBound is how long a drain waits for global.
const drainFactsBound = 2 * time.Second

// Sign implements agents.Proxies.
func (m members) Sign(ctx context.Context, key mesh.Key, instance string, csr []byte) (agents.SVID, error) {
	e := m.e
	var decision *mesh.IdentityDecision
	var authority *ca.Authority
	failure := fmt.Errorf("sign for %s: it is not a member", key)
	err := e.do(ctx.Done(), func(*batch) {
		p := e.proxies[key]
		if p == nil || p.instance != instance {
			return
		}
		if p.decision == nil {
			failure = fmt.Errorf("sign for %s: %s", key, p.withoutIdentity())
			return
		}
		decision, authority = p.decision, e.authorities[authorityKey{key.Mesh, p.decision.TrustDomain}].Active()
		if authority == nil {
			failure = fmt.Errorf("sign for %s: no authority for trust domain %s", key, p.decision.TrustDomain)
		}
	})
	if err != nil {
		return agents.SVID{}, err
	}
	if authority == nil {
		return agents.SVID{}, failure
	}
	id, err := identity.ParseID(decision.SpiffeID)
	if err != nil {
		return agents.SVID{}, fmt.Errorf("sign for %s: %w", key, err)
	}
	now := time.Now()
	chain, err := authority.Sign(csr, id, min(max(decision.Expiry, ca.MinTTL), ca.MaxTTL), now)
	if err != nil {
		return agents.SVID{}, fmt.Errorf("sign for %s: %w", key, err)
	}
	svid, err := identity.ParseSVID(chain)
	if err != nil {
		return agents.SVID{}, fmt.Errorf("sign for %s: %w", key, err)
	}
	e.metrics.signed.Inc()
	end := svid.Leaf().NotAfter
	return agents.SVID{SpiffeID: decision.SpiffeID, Chain: chain, NotAfter: end, RenewAt: identity.HalfLife(now, end)}, nil
}

func (p *proxy) withoutIdentity() string {
	if len(p.problems) > 0 {
		return "its MeshIdentity yields no SPIFFE ID: " + strings.ReplaceAll(p.problems.Error(), "\n", "; ")
	}
	return "no MeshIdentity of mesh " + p.resource.Mesh + " selects it"
}

// deriveProxy gives a proxy its identity and class, and returns its Dataplane and,
// for an ingress, the addresses where other zones reach it.
func (e *engine) deriveProxy(b *batch, r ir.Reader, p *proxy) []mesh.Resource {
	e.classify(b, p)
	var identities []mesh.PolicyResource
	for _, o := range r.List(ir.Query{Kind: mesh.KindMeshIdentity, Mesh: p.resource.Mesh, Index: ir.ByMesh}) {
		identities = append(identities, mesh.PolicyResource(*o))
	}
	old := p.decision
	p.decision, p.problems = mesh.IdentityFor(identities, e.subject(p))
	if old != nil && p.decision != nil && (old.SpiffeID != p.decision.SpiffeID || old.Expiry != p.decision.Expiry) || old == nil && p.decision != nil {
		b.resign[p.resource.Key] = true
	}
	status := mesh.DataplaneStatus{Connected: p.connected(), Draining: p.draining, NotReady: p.notReadyNow(), Envoy: p.envoy, Agent: p.agent}
	if p.decision != nil {
		status.SpiffeID = p.decision.SpiffeID
	}
	dataplane := p.resource
	dataplane.Status = mustJSON(status)
	out := []mesh.Resource{dataplane}
	if p.pod == nil && p.connected() && p.warm && !p.draining {
		out = append(out, e.zoneAddresses(p)...)
	}
	if w := p.resource.Labels[mesh.LabelWorkload]; w != "" {
		e.ensureWorkload(p.resource.Mesh, w, e.namespaceOf(p))
	}
	return out
}

func (e *engine) zoneAddresses(p *proxy) []mesh.Resource {
	var out []mesh.Resource
	for _, l := range p.spec.Networking.Listeners {
		if l.Type != mesh.ListenerIngress || l.State != "" && l.State != mesh.StateReady {
			continue
		}
		name, address := l.Name, l.Address
		if name == "" {
			name = fmt.Sprint(l.Port)
		}
		if address == "" {
			address = p.spec.Networking.Address
		}
		out = append(out, e.fact(mesh.KindMeshZoneAddress, p.resource.Mesh, p.resource.Name+"-"+name,
			&mesh.MeshZoneAddress{Address: address, Port: l.Port}, nil))
	}
	return out
}

// shape is the class of a proxy, and what is its own.
func (e *engine) shape(p *proxy) (*ir.Class, *ir.Instance) {
	o := &ir.Object{Resource: p.resource, Decoded: p.spec}
	c, own := ir.ClassOf(o)
	if name := p.resource.DisplayName(); e.named[p.resource.Mesh][name] {
		c = c.Named(o)
	}
	return c, own
}

// classify finds the class of a proxy and moves it there. A pod whose agent never
// came to this instance needs none: nothing is sent to it from here.
func (e *engine) classify(b *batch, p *proxy) {
	if p.pod != nil && p.control == nil && p.class == nil && !e.everyone {
		return
	}
	c, own := e.shape(p)
	if p.class != nil && p.class.ir.ID == c.ID {
		if !sameInstance(p.own, own) {
			p.own, p.owns = own, false
			b.assign[p.resource.Key] = true
		}
		return
	}
	next := e.classFor(c)
	if p.class != nil {
		e.quit(p)
		b.moves[move{p.class.ir.ID, c.ID}] = true
	}
	p.class, p.own, p.owns = next, own, false
	next.members[p.resource.Key] = p
	b.assign[p.resource.Key] = true
}

func sameInstance(a, b *ir.Instance) bool {
	return a != nil && b != nil && slices.Equal(a.Inbounds, b.Inbounds) && slices.Equal(a.Listeners, b.Listeners)
}

// fact is a resource that the zone owns.
func (e *engine) fact(kind mesh.KindName, meshName, name string, spec mesh.Spec, status any) mesh.Resource {
	r := mesh.Resource{Key: mesh.Key{Kind: kind, Mesh: meshName, Zone: e.cfg.zone, Name: name}, Spec: mustJSON(spec)}
	if status != nil {
		r.Status = mustJSON(status)
	}
	// Problems concern policies and namespaces only, and facts are neither.
	r.Labels, _ = mesh.ComputeLabels(r, spec, e.cfg.env)
	r.Labels[mesh.LabelManagedBy] = "tombolo"
	return r
}

// mustJSON marshals a value of this package's own types, which cannot fail.
func mustJSON(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", v, err))
	}
	return text
}
