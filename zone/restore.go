package zone

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/tombolo-mesh/tombolo/identity"
	"github.com/tombolo-mesh/tombolo/identity/ca"
	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/zone/disk"
	zonesync "github.com/tombolo-mesh/tombolo/zone/sync"
	"github.com/tombolo-mesh/tombolo/zone/world"
)

// restore starts from what the disk holds: the zone serves what it served before.
func (e *engine) restore(s *disk.State) error {
	if len(s.SessionKey) == 0 {
		key := token.GenerateSessionKey()
		if err := e.cfg.disk.Commit(disk.Update{SessionKey: key.Bytes()}); err != nil {
			return err
		}
		e.session = key
	} else {
		key, err := token.ParseSessionKey(s.SessionKey)
		if err != nil {
			return err
		}
		e.session = key
	}
	for _, a := range s.Authorities {
		td, err := identity.ParseTrustDomain(a.TrustDomain)
		if err != nil {
			return fmt.Errorf("restore authority: %w", err)
		}
		slots, err := ca.ParseSlots(td, a.Slots)
		if err != nil {
			return fmt.Errorf("restore authority: %w", err)
		}
		e.authorities[authorityKey{a.Mesh, a.TrustDomain}] = slots
	}
	e.counters = s.Counters
	e.vips.adopt(s.Counters)
	for name, text := range s.Permissions {
		var p ir.Permission
		if err := json.Unmarshal(text, &p); err != nil {
			return fmt.Errorf("restore permission %s: %w", name, err)
		}
		e.permissions[name] = p
	}
	if err := e.restoreQuarantines(s.Quarantine); err != nil {
		return err
	}
	b := &batch{}
	changes := world.Batch{Counters: s.Counters}
	for _, r := range s.Kept { // the former version first: it stays if the newer cannot be decoded
		e.kept[r.Key] = r
		changes.Changes = append(changes.Changes, mesh.Change{Revision: r.Revision, Resource: r})
	}
	for _, r := range s.Resources {
		e.synced[r.Key] = true
		changes.Changes = append(changes.Changes, mesh.Change{Revision: r.Revision, Resource: r})
	}
	e.apply(b, changes)
	e.mark = s.Position.Revision
	e.position.Store(&zonesync.Position{Revision: s.Position.Revision, Digest: s.Position.Digest})
	e.tracker.restart(s.Position.Revision)
	return e.restoreProxies(s.Proxies)
}

// restoreProxies believes that the proxies it knows live, until they come back
// or a grace is over: that the zone was away says nothing against them.
func (e *engine) restoreProxies(proxies []disk.Proxy) error {
	now := time.Now()
	for _, rec := range proxies {
		spec, err := mesh.DecodeSpec(mesh.KindDataplane, rec.Resource.Spec)
		if err != nil {
			return fmt.Errorf("restore %s: %w", rec.Resource.Key, err)
		}
		dataplane, ok := spec.(*mesh.Dataplane)
		if !ok {
			return fmt.Errorf("restore %s: it is no Dataplane", rec.Resource.Key)
		}
		p := e.member(rec.Resource, dataplane)
		p.instance, p.agent, p.envoy, p.notReady = rec.Instance, rec.AgentVersion, rec.EnvoyVersion, rec.NotReady
		p.warm = true // its Envoy served before
		if rec.LostAt.IsZero() {
			e.count(p, presumed)
			e.liveness.presume(rec.Resource.Key, now.Add(e.cfg.grace))
			continue
		}
		e.count(p, lost)
		p.lostAt = rec.LostAt
		e.liveness.lease(rec.Resource.Key, rec.LostAt.Add(e.cfg.lease))
	}
	return nil
}
