package zone

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	wire "github.com/tombolo-mesh/tombolo/proto/zonesync"
	"github.com/tombolo-mesh/tombolo/zone/agents"
	zonesync "github.com/tombolo-mesh/tombolo/zone/sync"
)

// inspector answers questions about proxies. It implements zonesync.Inspector.
type inspector struct{ e *engine }

var _ zonesync.Inspector = inspector{}

// adminPaths are the questions that an Envoy answers.
func adminPaths() map[string]string {
	return map[string]string{
		"config_dump": "/config_dump?include_eds",
		"clusters":    "/clusters?format=json",
		"stats":       "/stats?usedonly",
		"listeners":   "/listeners?format=json",
		"certs":       "/certs",
	}
}

// ProxyState is one line of the answer to "proxies".
type ProxyState struct {
	// Mesh and Name of the Dataplane.
	Mesh string `json:"mesh"`
	Name string `json:"name"`
	// State is present, presumed (believed to live) or lost.
	State string `json:"state"`
	// InSync: its Envoy has confirmed everything that it was sent.
	InSync bool `json:"inSync"`
	// Class that it is configured as.
	Class string `json:"class"`
	// Status as the zone knows it.
	Status mesh.DataplaneStatus `json:"status"`
	// Problem why it has no identity, if it has none.
	Problem string `json:"problem,omitempty"`
}

// Inspect implements zonesync.Inspector. Besides the questions for Envoy there
// are "proxies", and "policies": what the proxy's class was compiled to.
func (i inspector) Inspect(ctx context.Context, q wire.Question, w io.Writer) error {
	switch q.What {
	case "proxies":
		return i.proxies(ctx, q.Mesh, w)
	case "policy":
		return i.policy(ctx, q, w)
	case "explain":
		return i.explain(ctx, q, w)
	case wire.WhatSuccess:
		return i.success(ctx, q, w)
	case wire.WhatPlan:
		return i.plan(ctx, q, w)
	default:
		return i.proxy(ctx, q, w)
	}
}

// proxy answers about one proxy.
func (i inspector) proxy(ctx context.Context, q wire.Question, w io.Writer) error {
	path, forEnvoy := adminPaths()[q.What]
	if !forEnvoy && q.What != "policies" {
		return fmt.Errorf("inspect %q: must be proxies, policies, config_dump, clusters, stats, listeners or certs", q.What)
	}
	var control agents.Control
	var compiled *ir.Proxy
	err := i.e.do(ctx.Done(), func(*batch) {
		p := i.e.proxies[mesh.Key{Kind: mesh.KindDataplane, Mesh: q.Mesh, Zone: i.e.cfg.zone, Name: q.Proxy}]
		if p == nil {
			return
		}
		control = p.control
		if p.class != nil {
			compiled = p.class.proxy
		}
	})
	switch {
	case err != nil:
		return err
	case compiled == nil:
		return fmt.Errorf("inspect: no proxy %s in mesh %s of zone %s", q.Proxy, q.Mesh, i.e.cfg.zone)
	case !forEnvoy:
		return writeJSON(w, compiled)
	case control == nil:
		return fmt.Errorf("inspect: proxy %s in mesh %s is not connected", q.Proxy, q.Mesh)
	}
	return control.Inspect(ctx, path, w)
}

// whole has look see all proxies of the zone: those of the engine, or, where agents of
// pods are with other instances of the zone, a fork that has classes for them too.
func (i inspector) whole(ctx context.Context, look func(e *engine)) error {
	elsewhere := false
	here := func(*batch) {
		for _, p := range i.e.proxies {
			if elsewhere = p.elsewhere(); elsewhere {
				return
			}
		}
		look(i.e)
	}
	if err := i.e.await(ctx.Done(), &op{looks: true, run: here}); err != nil || !elsewhere {
		return err
	}
	return i.beside(ctx, func(f *engine) { f.adoptEveryone(); f.process(nil) }, look)
}

// beside has a fork of the engine turn, and look at what it came to, with the agents that
// are connected here.
func (i inspector) beside(ctx context.Context, turn, look func(f *engine)) error {
	select {
	case i.e.planning <- struct{}{}:
		defer func() { <-i.e.planning }()
	case <-ctx.Done():
		return ctx.Err()
	}
	var c *copied
	controls := map[mesh.Key]agents.Control{}
	err := i.e.await(ctx.Done(), &op{looks: true, run: func(*batch) {
		c = i.e.copy()
		for k, p := range i.e.proxies {
			controls[k] = p.control
		}
	}})
	if err != nil {
		return err
	}
	fork := c.engine()
	fork.cfg.workers, fork.cfg.left = planWorkers, func() bool { return ctx.Err() != nil }
	err = contained(i.e.log, func() {
		turn(fork)
		for k, p := range fork.proxies { // only now: a fork tells nobody anything
			p.control = controls[k]
		}
		look(fork)
	})
	if err == nil && fork.isLeft() {
		err = errLeft
	}
	return err
}

func (i inspector) proxies(ctx context.Context, meshName string, w io.Writer) error {
	out := []ProxyState{}
	err := i.e.do(ctx.Done(), func(*batch) {
		for _, k := range sortedKeys(i.e.proxies) {
			p := i.e.proxies[k]
			if meshName != "" && k.Mesh != meshName {
				continue
			}
			s := ProxyState{Mesh: k.Mesh, Name: k.Name, State: presenceName(p.presence), InSync: i.e.cfg.delta.InSync(p.node)}
			if p.class != nil {
				s.Class = p.class.ir.ID
			}
			s.Status = mesh.DataplaneStatus{Connected: p.connected(), Draining: p.draining, NotReady: p.notReadyNow(), Envoy: p.envoy, Agent: p.agent}
			if p.decision != nil {
				s.Status.SpiffeID = p.decision.SpiffeID
			} else {
				s.Problem = p.withoutIdentity()
			}
			out = append(out, s)
		}
	})
	if err != nil {
		return err
	}
	return writeJSON(w, out)
}

// presenceName says whether a proxy is there.
func presenceName(p presence) string { return []string{"present", "presumed", "lost"}[p] }

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("inspect: %w", err)
	}
	return nil
}
