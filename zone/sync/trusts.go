package sync

import (
	"encoding/json"
	"fmt"
	gosync "sync"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// trusts checks what arrives in the name of other zones. Global has checked it
// before; a zone believes none the less only what the owner may say: nothing of
// this zone, and only the trust domains that the identities yield for the owner.
type trusts struct {
	zone string

	mu gosync.Mutex
	// known: identities are those of the replica.
	known      bool
	identities map[mesh.Key]mesh.PolicyResource
}

func newTrusts(zone string) *trusts {
	return &trusts{zone: zone, identities: map[mesh.Key]mesh.PolicyResource{}}
}

// load replaces the identities.
func (t *trusts) load(resources []mesh.Resource) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known, t.identities = true, map[mesh.Key]mesh.PolicyResource{}
	for _, r := range resources {
		t.learn(r)
	}
}

func (t *trusts) learn(r mesh.Resource) {
	if r.Kind != mesh.KindMeshIdentity {
		return
	}
	spec := &mesh.MeshIdentity{}
	if json.Unmarshal(r.Spec, spec) == nil {
		t.identities[r.Key] = mesh.PolicyResource{Resource: r, Decoded: spec}
	}
}

// snapshot keeps what may be believed of a whole.
func (t *trusts) snapshot(resources []mesh.Resource, lied func(mesh.Key, error)) []mesh.Resource {
	t.load(resources)
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := make([]mesh.Resource, 0, len(resources))
	domains := map[[2]string][]string{}
	for _, r := range resources {
		if err := t.check(r, domains); err != nil {
			lied(r.Key, err)
			continue
		}
		kept = append(kept, r)
	}
	return kept
}

// changes keeps what may be believed of changes; a lie leaves what was there before.
func (t *trusts) changes(changes []mesh.Change, lied func(mesh.Key, error)) []mesh.Change {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range changes {
		if c.Deleted {
			delete(t.identities, c.Resource.Key)
		} else {
			t.learn(c.Resource)
		}
	}
	kept := make([]mesh.Change, 0, len(changes))
	domains := map[[2]string][]string{}
	for _, c := range changes {
		if !c.Deleted {
			if err := t.check(c.Resource, domains); err != nil {
				lied(c.Resource.Key, err)
				continue
			}
		}
		kept = append(kept, c)
	}
	return kept
}

// check says what is wrong with a resource that is said to be another zone's.
func (t *trusts) check(r mesh.Resource, cached map[[2]string][]string) error {
	if r.Key.Zone == "" {
		return nil
	}
	if r.Key.Zone == t.zone {
		return fmt.Errorf("it is owned by this zone")
	}
	if k, ok := mesh.KindByName(r.Kind); ok && !k.Flow.Has(mesh.AcrossZones) {
		return fmt.Errorf("a zone may not tell others of kind %s", r.Kind)
	}
	if err := mesh.CheckCrossing(r).Err(); err != nil {
		return err
	}
	if !t.known {
		return nil
	}
	of := [2]string{r.Mesh, r.Key.Zone}
	domains, ok := cached[of]
	if !ok {
		all := make([]mesh.PolicyResource, 0, len(t.identities))
		for _, p := range t.identities {
			all = append(all, p)
		}
		domains = mesh.TrustDomainsOf(all, r.Mesh, r.Key.Zone)
		cached[of] = domains
	}
	return mesh.CheckClaims(r.Key.Zone, r, domains).Err()
}

// lied logs a resource that is not believed.
func (c *Client) lied(key mesh.Key, err error) {
	c.metrics.lies.Inc()
	c.log.Warn("ignoring a resource that its owner may not tell", "key", key.String(), "error", shorten(err.Error(), 1024))
}
