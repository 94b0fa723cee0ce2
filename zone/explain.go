package zone

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/explain"
	wire "github.com/tombolo-mesh/tombolo/proto/zonesync"
	"github.com/tombolo-mesh/tombolo/zone/agents"
)

// explain answers what becomes of a call, as far as this zone has a part in it.
func (i inspector) explain(ctx context.Context, q wire.Question, w io.Writer) error {
	var question explain.Question
	if err := json.Unmarshal(q.Body, &question); err != nil {
		return fmt.Errorf("explain: the question cannot be read: %w", err)
	}
	switch {
	case question.Leave != nil:
		return i.leave(ctx, q.Mesh, *question.Leave, w)
	case len(question.Arrive) > explain.MaxArriving:
		return fmt.Errorf("explain: at most %d arrivals", explain.MaxArriving)
	}
	for _, a := range question.Arrive {
		if a.Service.Mesh != q.Mesh {
			return fmt.Errorf("explain: service %s is not of mesh %s", a.Service, q.Mesh)
		}
	}
	arrivals, err := i.arrive(ctx, question.Arrive, nil)
	if err != nil {
		return err
	}
	return writeJSON(w, explain.Reply{Arrivals: arrivals})
}

// leave makes the way of a call, with what happens in this zone itself.
func (i inspector) leave(ctx context.Context, meshName string, call explain.Call, w io.Writer) error {
	if err := call.Check(); err != nil {
		return fmt.Errorf("explain: %w", err)
	}
	var d explain.Departure
	var control agents.Control
	var unknown error
	var heldBack []string
	looks := func(*batch) {
		p, alike, err := i.e.source(meshName, call.Source)
		if unknown = err; err != nil {
			return
		}
		control = p.control
		d = i.e.departure(p, alike)
		heldBack = i.e.heldBack(map[string]bool{p.class.ir.ID: true})
	}
	if err := i.e.await(ctx.Done(), &op{looks: true, run: looks}); err != nil {
		return err
	}
	if unknown != nil {
		return answerProblem(w, unknown)
	}
	d.Candidates = func(service mesh.Key, port uint32) (out []ir.Candidate) {
		i.e.world.View(func(r ir.Reader) { out = ir.Candidates(r, service, port) })
		return out
	}
	health, unasked := askHealth(ctx, control)
	if health != nil {
		d.Ejected = health.ejected
	}
	x, err := explain.Leave(&d, call)
	if err != nil {
		return answerProblem(w, err)
	}
	x.Notes = append(x.Notes, heldBack...)
	if unasked != "" && len(x.Ways) > 0 {
		x.Notes = append(x.Notes, "whether hosts are ejected is not known: "+d.Caller.Name+" "+unasked)
	}
	peers := x.Missing()[i.e.cfg.zone]
	var calls []explain.Arriving
	for _, p := range peers {
		calls = append(calls, x.Arriving(p))
	}
	arrivals, err := i.arrive(ctx, calls, peers)
	if err != nil {
		return err
	}
	for j, p := range peers {
		p.Arrival = arrivals[j]
	}
	return writeJSON(w, explain.Reply{Explanation: x})
}

// answerProblem answers with what is wrong with the question. Any other error is none that
// another instance of the zone must share.
func answerProblem(w io.Writer, err error) error {
	if p, ok := errors.AsType[*explain.Problem](err); ok {
		return writeJSON(w, explain.Reply{Problem: p})
	}
	return fmt.Errorf("explain: %w", err)
}

// departure is what the zone has on record of a caller.
func (e *engine) departure(p *proxy, alike int) explain.Departure {
	c := p.class
	d := explain.Departure{Compiled: c.proxy, Names: e.names[p.resource.Mesh], Sets: map[string]*ir.EndpointSet{},
		Caller: explain.Proxy{Name: p.resource.RESTName(), Zone: e.cfg.zone, Class: c.ir.ID, Workload: p.resource.Labels[mesh.LabelWorkload],
			Alike: alike, State: stateOf(p), InSync: e.cfg.delta.InSync(p.node)}}
	if p.decision != nil {
		d.Caller.Identity = p.decision.SpiffeID
	}
	if at := e.position.Load(); at != nil {
		d.Caller.At = at.Revision
	}
	if c.layer != nil {
		for _, s := range c.layer.sets {
			d.Sets[s.ref.Name] = s.endpoint
		}
	}
	e.world.View(func(r ir.Reader) {
		for _, kind := range []mesh.KindName{mesh.KindMeshService, mesh.KindMeshMultiZoneService} {
			for _, o := range r.List(ir.Query{Kind: kind, Mesh: p.resource.Mesh, Index: ir.ByMesh}) {
				d.Services = append(d.Services, o.Key)
			}
		}
	})
	return d
}

func stateOf(p *proxy) string {
	if p.draining {
		return "draining"
	}
	return presenceName(p.presence)
}

// source finds the proxy that stands for a name: a Dataplane, a pod, a workload or
// the proxies behind a MeshService of this zone. All that it could mean must be
// configured alike.
func (e *engine) source(meshName, name string) (*proxy, int, error) {
	name = strings.TrimSuffix(name, "."+e.cfg.zone)
	if p := e.proxies[mesh.Key{Kind: mesh.KindDataplane, Mesh: meshName, Zone: e.cfg.zone, Name: name}]; p != nil {
		return e.stands(name, []*proxy{p})
	}
	var list []*proxy
	for _, names := range []func(p *proxy) bool{
		func(p *proxy) bool {
			return p.resource.DisplayName() == name || p.resource.Labels[mesh.LabelPod] == name
		},
		func(p *proxy) bool {
			w := p.resource.Labels[mesh.LabelWorkload]
			return w != "" && (w == name || mesh.NamespacedName(w, p.resource.Labels[mesh.LabelNamespace]) == name)
		},
		e.behind(meshName, name),
	} {
		for _, k := range sortedKeys(e.proxies) {
			if p := e.proxies[k]; k.Mesh == meshName && names(p) {
				list = append(list, p)
			}
		}
		if len(list) > 0 {
			return e.stands(name, list)
		}
	}
	return nil, 0, &explain.Problem{Field: "source", Unknown: true, Reason: fmt.Sprintf("no Dataplane, pod, workload or MeshService of zone %s in mesh %s is called %q", e.cfg.zone, meshName, name)}
}

// behind reports whether a proxy is behind a MeshService of this zone.
func (e *engine) behind(meshName, service string) func(*proxy) bool {
	members := map[mesh.Key]bool{}
	e.world.View(func(r ir.Reader) {
		for _, o := range r.List(ir.Query{Kind: mesh.KindMeshService, Mesh: meshName, Index: ir.ByZone, Value: e.cfg.zone}) {
			if svc, ok := o.Decoded.(*mesh.MeshService); ok && (o.Name == service || o.DisplayName() == service) {
				for _, dp := range ir.ServiceProxies(r, meshName, svc) {
					members[dp.Key] = true
				}
			}
		}
	})
	return func(p *proxy) bool { return members[p.resource.Key] }
}

// stands picks the proxy that stands for a list: one that is there, and in sync.
func (e *engine) stands(name string, list []*proxy) (*proxy, int, error) {
	elsewhere := slices.ContainsFunc(list, (*proxy).elsewhere)
	list = slices.DeleteFunc(list, func(p *proxy) bool { return p.class == nil || p.class.proxy == nil })
	if len(list) == 0 && elsewhere {
		return nil, 0, fmt.Errorf("no agent of %q is connected in zone %s", name, e.cfg.zone) // to this instance: global asks the next
	}
	if len(list) == 0 {
		return nil, 0, &explain.Problem{Field: "source", Unknown: true, Reason: fmt.Sprintf("%q has no configuration in zone %s yet", name, e.cfg.zone)}
	}
	const most = 10
	byClass := map[string]*proxy{}
	for _, p := range list {
		if c := byClass[p.class.ir.ID]; c == nil || e.better(p, c) {
			byClass[p.class.ir.ID] = p
		}
	}
	if len(byClass) > 1 {
		var names []string
		for _, p := range byClass {
			names = append(names, p.resource.RESTName())
		}
		slices.Sort(names)
		if n := len(names); n > most {
			names = append(names[:most], fmt.Sprintf("and %d more", n-most))
		}
		return nil, 0, &explain.Problem{Field: "source", Reason: fmt.Sprintf("the proxies of %q are configured differently: say one of %s", name, strings.Join(names, ", "))}
	}
	for _, p := range byClass {
		return p, len(p.class.members), nil
	}
	return nil, 0, nil
}

// better reports whether a proxy says more than another of its class.
func (e *engine) better(p, than *proxy) bool {
	rank := func(p *proxy) int {
		n := 0
		for _, is := range []bool{p.presence == present, p.control != nil, p.decision != nil, !p.draining, e.cfg.delta.InSync(p.node)} {
			n *= 2
			if is {
				n++
			}
		}
		return n
	}
	return cmp.Or(rank(p)-rank(than), cmp.Compare(than.resource.Name, p.resource.Name)) > 0
}

// arrive says what becomes of calls at services of this zone. From are the peers as
// the caller's proxy sees them; none when the calls come from another zone.
func (i inspector) arrive(ctx context.Context, calls []explain.Arriving, from []*explain.Peer) ([]*explain.Arrival, error) {
	if len(calls) == 0 {
		return nil, nil
	}
	landings := make([]landing, len(calls))
	err := i.whole(ctx, func(e *engine) {
		for j, call := range calls {
			landings[j] = e.land(call, from == nil)
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]*explain.Arrival, len(calls))
	for j := range calls {
		var peer *explain.Peer
		if from != nil {
			peer = from[j]
		}
		out[j] = landings[j].arrival(ctx, calls[j], peer)
	}
	return out, nil
}

// landing is what the zone has on record for one call.
type landing struct {
	explain.Landing
	ingresses []*proxy
	heldBack  []string
}

// land looks who is behind a service, and at the ingresses when the call comes through one.
func (e *engine) land(call explain.Arriving, through bool) landing {
	l := landing{Landing: explain.Landing{Zone: e.cfg.zone}}
	if at := e.position.Load(); at != nil {
		l.At = at.Revision
	}
	e.world.View(func(r ir.Reader) {
		for _, c := range ir.Candidates(r, call.Service, call.Port) {
			if c.Proxy.Name != "" {
				l.Instances = append(l.Instances, e.instance(c))
			}
		}
	})
	classes := map[string]bool{}
	for _, in := range l.Instances {
		if in.Compiled != nil {
			classes[in.Compiled.Class.ID] = true
		}
	}
	l.heldBack = e.heldBack(classes)
	if through {
		l.ingresses, l.Ingress = e.ingresses(call)
	}
	return l
}

// arrival asks who picks hosts which of them it leaves out.
func (l *landing) arrival(ctx context.Context, call explain.Arriving, from *explain.Peer) *explain.Arrival {
	if from != nil {
		for j := range l.Instances {
			in := &l.Instances[j]
			in.Ejected = slices.ContainsFunc(from.Hosts, func(h explain.Host) bool {
				return h.State == explain.Ejected && h.Proxy == in.Proxy.RESTName()
			})
		}
		out := explain.Arrive(&l.Landing, call)
		out.Notes = l.heldBack
		return out
	}
	var notes []string
	for _, p := range l.ingresses {
		health, unasked := askHealth(ctx, p.control)
		if health == nil {
			notes = append(notes, "whether hosts are ejected is not known: "+p.resource.RESTName()+" "+unasked)
			continue
		}
		for j := range l.Instances {
			in := &l.Instances[j]
			in.Ejected = in.Ejected || health.ejected(call.SNI, in.Host)
		}
		break // one ingress says enough: they see the same hosts
	}
	l.Ingress.Hosts = explain.HostsOf(l.Instances)
	out := explain.Arrive(&l.Landing, call)
	out.Notes = l.heldBack
	if len(l.ingresses) > 0 && len(notes) == len(l.ingresses) {
		out.Notes = append(out.Notes, notes[0])
	}
	return out
}

// maxHeldBack bounds the notes on what Envoys refused.
const maxHeldBack = 10

// heldBack says what the proxies of some classes do not have of what was compiled,
// since Envoy refuses it.
func (e *engine) heldBack(classes map[string]bool) []string {
	var out []string
	e.quarantined(func(c *class, x *refusal, kept *good) {
		if !classes[c.ir.ID] || len(out) == maxHeldBack {
			return
		}
		stands := "nothing stands in for it"
		if kept != nil {
			stands = "the last good one is in force instead"
		}
		out = append(out, fmt.Sprintf("Envoy refuses %s of the proxies %s, and %s: %s", x.Name, c.ir.ID, stands, x.Reason))
	})
	slices.Sort(out)
	return out
}

// instance is a candidate with what the zone has on record of its proxy.
func (e *engine) instance(c ir.Candidate) explain.Instance {
	out := explain.Instance{Candidate: c}
	p := e.proxies[c.Proxy]
	if p == nil {
		return out
	}
	if p.class != nil {
		out.Compiled = p.class.proxy
	}
	if p.decision != nil {
		out.Identity = p.decision.SpiffeID
	}
	return out
}

// ingresses of a mesh in this zone that can be reached, and what they do with a call.
func (e *engine) ingresses(call explain.Arriving) ([]*proxy, *explain.Ingress) {
	out := &explain.Ingress{}
	var list []*proxy
	for _, id := range slices.Sorted(maps.Keys(e.classes)) {
		c := e.classes[id]
		if c.ir.Role != ir.Ingress || c.ir.Mesh != call.Service.Mesh || c.proxy == nil {
			continue
		}
		exports := slices.ContainsFunc(c.proxy.Exports, func(x ir.Export) bool { return x.SNI == call.SNI })
		for _, k := range sortedKeys(c.members) {
			p := c.members[k]
			if !p.connected() || p.draining {
				continue
			}
			out.Exported = out.Exported || exports
			out.Proxies = append(out.Proxies, p.resource.RESTName())
			list = append(list, p)
		}
	}
	return list, out
}
