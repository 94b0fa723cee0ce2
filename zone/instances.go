package zone

import (
	"maps"
	"strings"

	"github.com/tombolo-mesh/tombolo/identity"
	"github.com/tombolo-mesh/tombolo/identity/ca"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/zone/disk"
	"github.com/tombolo-mesh/tombolo/zone/world"
)

// adopt takes what the instance that leads the zone decided: authorities, virtual
// addresses, and how often permissions were tightened, so that a proxy gets the
// same from every instance.
func (e *engine) adopt(b *batch, u disk.Update) {
	for _, a := range u.PutAuthorities {
		td, err := identity.ParseTrustDomain(a.TrustDomain)
		var slots ca.Slots
		if err == nil {
			slots, err = ca.ParseSlots(td, a.Slots)
		}
		if err != nil {
			e.log.Error("authority of another instance not taken", "mesh", a.Mesh, "trust_domain", a.TrustDomain, "error", err)
			continue
		}
		e.authorities[authorityKey{a.Mesh, a.TrustDomain}] = slots
		if unit := unitOf("authority", a.Mesh); e.units[unit] != nil {
			e.dirty[unit] = true
		}
	}
	e.adoptVIPs(u.Counters)
	tightened := map[string]uint64{}
	for name, n := range u.Counters {
		if strings.HasPrefix(name, ir.TightenPrefix) {
			if n <= e.counters[name] {
				continue
			}
			tightened[name] = n
		}
		e.counters[name] = n
	}
	if len(tightened) > 0 {
		e.apply(b, world.Batch{Counters: maps.Clone(tightened)})
	}
}
