package dev

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// play starts everything and plays the main job, a step a function.
func (m *mesh) play(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		m.bringUp, m.callAcross, m.splitTraffic, m.denyAndLift, m.loseGlobal, m.conclude,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (m *mesh) bringUp(ctx context.Context) error {
	m.say("Starting global, zones east and west, their ingresses, web (east) and backend (east, west); logs in %s/*.log", m.cfg.Dir)
	if err := m.startGlobal(ctx); err != nil {
		return err
	}
	if _, err := m.cli(ctx, "", "config", "set-context", "dev", "--from-data-dir", m.path("global")); err != nil {
		return err
	}
	for _, z := range zones() {
		if err := m.startZone(ctx, z); err != nil {
			return err
		}
		if err := m.startAgent(ctx, "gateway", "ingress-"+z.name, z.name, "ingress", z.ingressDataplane()); err != nil {
			return err
		}
	}
	for _, s := range servers() {
		if err := m.startServer(ctx, s); err != nil {
			return err
		}
	}
	if err := m.startAgent(ctx, "sidecar", "web-1", "east", "web", webDataplane()); err != nil {
		return err
	}
	// Nobody may call backend yet: the first answer there is must be a refusal.
	client := newClient()
	var status int
	err := m.until(ctx, "backend refuses a caller that nothing allows", func() bool {
		_, status, _ = call(client, "http://"+toRemote)
		return status == http.StatusForbidden || status == http.StatusOK
	})
	if err != nil {
		return err
	}
	if status != http.StatusForbidden {
		return fmt.Errorf("web was served with %d before any permission: the mesh must deny by default", status)
	}
	m.say("  up after %s. web calls backend across zones: %d, since a new mesh denies by default", m.since(), status)
	return nil
}

func (m *mesh) callAcross(ctx context.Context) error {
	m.say("\n1. Let web call backend (MeshTrafficPermission), and name backend across zones (MeshMultiZoneService)")
	if err := m.apply(ctx, documents(everywhere, allowWeb)); err != nil {
		return err
	}
	reply, status, err := call(newClient(), "http://"+toRemote)
	if err != nil || status != http.StatusOK || reply.Zone != "west" {
		return fmt.Errorf("the call from east to west: status %d from zone %q: %w", status, reply.Zone, orNone(err))
	}
	const caller, self = "spiffe://default.east.mesh.local/workload/web", "spiffe://default.west.mesh.local/workload/backend"
	if reply.Caller != caller || reply.Self != self {
		return fmt.Errorf("identities: caller %q, server %q; want %q and %q", reply.Caller, reply.Self, caller, self)
	}
	m.say("  web (east) → ingress (west) → %s: %d", reply.Instance, status)
	m.say("  backend saw the caller prove  %s", reply.Caller)
	m.say("  web's sidecar takes nobody but %s", reply.Self)
	m.traffic = startTraffic("http://" + toRemote)
	return nil
}

func (m *mesh) splitTraffic(ctx context.Context) error {
	m.say("\n2. Split web's calls to backend evenly between east and west (MeshHTTPRoute)")
	if err := m.apply(ctx, split); err != nil {
		return err
	}
	const calls = 200
	client, by := newClient(), map[string]int{}
	for range calls {
		reply, status, err := call(client, "http://"+toRemote)
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("a call of the split: status %d: %w", status, orNone(err))
		}
		by[reply.Zone]++
	}
	m.say("  of %d calls, east answered %d and west %d", calls, by["east"], by["west"])
	if by["east"] < calls/4 || by["west"] < calls/4 {
		return fmt.Errorf("the split is %v, want about half each", by)
	}
	return nil
}

func (m *mesh) denyAndLift(ctx context.Context) error {
	m.say("\n3. Ask what denying web would do (MeshTrafficPermission), deny it, wait until every proxy has it, and lift it again")
	planned, err := m.plan(ctx, denyWeb)
	if err != nil {
		return err
	}
	const effect = "+ deny spiffe://default.east.mesh.local/workload/web  [narrows]"
	if strings.Count(planned, effect) != len(zones()) {
		return fmt.Errorf("the plan does not say %q of both zones", effect)
	}
	if _, status, err := call(newClient(), "http://"+toRemote); err != nil || status != http.StatusOK {
		return fmt.Errorf("after the plan web got status %d: %w", status, orNone(err))
	}
	m.traffic.expect(0)
	if err := m.apply(ctx, denyWeb); err != nil {
		return err
	}
	m.traffic.expect(http.StatusForbidden)
	_, status, err := call(newClient(), "http://"+toRemote)
	if err != nil || status != http.StatusForbidden {
		return fmt.Errorf("denied web got status %d: %w", status, orNone(err))
	}
	m.say("  web calls backend: %d", status)
	m.traffic.expect(0)
	if _, err := m.cli(ctx, "", "delete", "meshtrafficpermission", "deny-web", "--wait=60s"); err != nil {
		return err
	}
	m.traffic.expect(http.StatusOK)
	_, status, err = call(newClient(), "http://"+toRemote)
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("after lifting, web got status %d: %w", status, orNone(err))
	}
	m.say("  lifted: %d", status)
	return nil
}

func (m *mesh) loseGlobal(ctx context.Context) error {
	m.say("\n4. Kill global (SIGKILL), and start another backend in east while it is away")
	m.procs.mu.Lock()
	global := m.procs.running["global"]
	m.procs.mu.Unlock()
	global.kill()
	late := lateServer()
	if err := m.startServer(ctx, late); err != nil {
		return err
	}
	began, client := time.Now(), newClient()
	err := m.until(ctx, late.name+" answers", func() bool {
		reply, _, _ := call(client, "http://"+toRemote)
		return reply.Instance == late.name
	})
	if err != nil {
		return err
	}
	m.say("  %s serves web after %s, identity and all, without global", late.name, time.Since(began).Round(10*time.Millisecond))
	if err := m.startGlobal(ctx); err != nil {
		return err
	}
	if err := m.apply(ctx, documents(allowWeb, split)); err != nil {
		return err
	}
	m.say("  global is back; both zones confirm")
	return nil
}

func (m *mesh) conclude(context.Context) error {
	if m.cfg.Once {
		m.traffic.end()
	}
	total, wrong, example := m.traffic.sums()
	m.say("\nDone in %s. %d calls ran throughout; %d were not as they should be.", m.since(), total, wrong)
	if !m.cfg.Once {
		m.traffic.end()
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d calls went wrong, for example: %s", wrong, total, example)
	}
	return nil
}

func (m *mesh) since() time.Duration { return time.Since(m.began).Round(100 * time.Millisecond) }

// orNone is for wrapping an error that may be nil.
func orNone(err error) error {
	if err == nil {
		return errNone
	}
	return err
}
