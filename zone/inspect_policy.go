package zone

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/explain"
	wire "github.com/tombolo-mesh/tombolo/proto/zonesync"
)

// policy answers which proxies a policy reaches, and what it gave them.
func (i inspector) policy(ctx context.Context, q wire.Question, w io.Writer) error {
	var asked explain.Asked
	if err := json.Unmarshal(q.Body, &asked); err != nil {
		return fmt.Errorf("policy: the question cannot be read: %w", err)
	}
	kind, ok := mesh.KindByName(asked.Policy.Kind)
	if !ok || kind.Policy == nil || asked.Policy.Mesh != q.Mesh {
		return fmt.Errorf("policy: %s is no policy of mesh %s", asked.Policy, q.Mesh)
	}
	var out explain.ZoneReach
	if err := i.whole(ctx, func(e *engine) { out = e.reach(kind, asked.Policy) }); err != nil {
		return err
	}
	return writeJSON(w, out)
}

// reach walks what the classes were compiled to.
func (e *engine) reach(kind mesh.Kind, policy mesh.Key) explain.ZoneReach {
	out := explain.ZoneReach{Zone: e.cfg.zone}
	if at := e.position.Load(); at != nil {
		out.At = at.Revision
	}
	var known []mesh.PolicyResource
	e.world.View(func(r ir.Reader) {
		if o, ok := r.Get(policy); ok {
			known = append(known, mesh.PolicyResource(*o))
		}
	})
	if len(known) == 0 {
		out.Nobody = "the zone does not have it"
		return out
	}
	classes := 0
	for _, c := range e.classes {
		if c.ir.Mesh != policy.Mesh || c.ir.Role == ir.Ingress || c.proxy == nil {
			continue
		}
		connected, names := c.connected()
		if connected == 0 {
			continue
		}
		classes++
		if len(mesh.SelectPolicies(kind.Name, known, classMeta(c.ir, e.cfg.zone))) > 0 {
			out.Selected += connected
		}
		for _, p := range c.proxy.Problems {
			if p.Source == policy && !slices.Contains(out.Problems, p.Reason) {
				out.Problems = append(out.Problems, p.Reason)
			}
		}
		if gave := explain.Gifts(c.proxy, policy); len(gave) > 0 {
			out.Proxies += connected
			out.Classes = append(out.Classes, explain.ClassReach{Class: c.ir.ID, Workload: c.ir.Labels[mesh.LabelWorkload],
				Proxies: connected, Names: names, Gave: gave})
		}
	}
	e.quarantined(func(c *class, x *refusal, _ *good) {
		if slices.ContainsFunc(x.Sources, func(b blamed) bool { return b.Key == policy }) {
			out.Problems = append(out.Problems, fmt.Sprintf("Envoy refuses %s of the proxies %s, which keep the last good one: %s", x.Name, c.ir.ID, x.Reason))
		}
	})
	explain.SortClasses(out.Classes)
	slices.Sort(out.Problems)
	out.Problems = out.Problems[:min(len(out.Problems), maxOutcomeProblems)]
	switch {
	case out.Proxies > 0:
	case classes == 0:
		out.Nobody = "no proxy of mesh " + policy.Mesh + " is connected in the zone"
	case out.Selected == 0:
		out.Nobody = "its targetRef selects no proxy of the zone"
	default:
		out.Nobody = fmt.Sprintf("it selects %d proxies and gives them nothing: they have no inbound or destination that it speaks of, or other policies outweigh it", out.Selected)
	}
	return out
}

// connected members of a class, and the names of some.
func (c *class) connected() (int, []string) {
	n := 0
	var names []string
	for _, k := range sortedKeys(c.members) {
		if !c.members[k].connected() {
			continue
		}
		if n++; len(names) < explain.MaxReachedNames {
			names = append(names, k.Name)
		}
	}
	return n, names
}
