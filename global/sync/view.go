package sync

import (
	"github.com/tombolo-mesh/tombolo/global/rollout"
	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// view decides what a zone may see. It is a pure function of the kinds and of
// which zones are enabled.
type view struct {
	flows map[mesh.KindName]mesh.Flow
	// across are the kinds that zones pass on to each other, in order.
	across []mesh.KindName
}

func newView() view {
	v := view{flows: map[mesh.KindName]mesh.Flow{}}
	for _, k := range mesh.Kinds() {
		v.flows[k.Name] = k.Flow
		if k.Flow.Has(mesh.AcrossZones) {
			v.across = append(v.across, k.Name)
		}
	}
	return v
}

// concerns says by the key alone whether a change of it is told to the zone. A
// change of a Zone is, since it shows or withholds what that zone owns.
func (v view) concerns(zone string, key mesh.Key) bool {
	switch key.Kind {
	case mesh.KindZone:
		return key.Name != zone
	case rollout.Kind: // may show the zone its documents, or take them back
		return true
	}
	flow := v.flows[key.Kind]
	if key.Zone != "" {
		return key.Zone != zone && flow.Has(mesh.AcrossZones)
	}
	return flow.Has(mesh.GlobalToZones) && (key.Kind != mesh.KindSecret || key.Mesh != "" && !signingKey(key.Name))
}

// signingKey says whether a Secret signs tokens. Its label keeps it at global,
// and so does its name, should the label be lost.
func signingKey(name string) bool {
	_, _, ok := token.ParseSigningKeyName(name)
	return ok
}

// visible says whether the zone may hold a resource, given which zones are enabled.
func (v view) visible(zone string, r mesh.Resource, enabled map[string]bool) bool {
	return r.Kind != mesh.KindZone && r.Kind != rollout.Kind && v.concerns(zone, r.Key) &&
		r.Labels[mesh.LabelSync] != "disabled" && (r.Key.Zone == "" || enabled[r.Key.Zone] && mesh.Crosses(&r))
}

// strip returns the resource as zones get it: a status only where other zones need it.
func (v view) strip(r mesh.Resource) mesh.Resource {
	if !v.flows[r.Kind].Has(mesh.AcrossZones) || r.Key.Zone == "" {
		r.Status = nil
	}
	return r
}

// change returns a change as the zone gets it, and false when it concerns
// another. What the zone may not see (any more) is a deletion.
func (v view) change(zone string, c mesh.Change, enabled map[string]bool) (mesh.Change, bool) {
	if c.Resource.Kind == mesh.KindZone || c.Resource.Kind == rollout.Kind || !v.concerns(zone, c.Resource.Key) {
		return mesh.Change{}, false
	}
	if c.Deleted || !v.visible(zone, c.Resource, enabled) {
		return mesh.Change{Revision: c.Revision, Deleted: true, Resource: mesh.Resource{Key: c.Resource.Key}}, true
	}
	return mesh.Change{Revision: c.Revision, Resource: v.strip(c.Resource)}, true
}

// Visible are changes as a zone gets them: without those that do not concern it,
// and with what it may not see as deleted. Enabled says of each zone whether it is.
func Visible(zone string, changes []mesh.Change, enabled map[string]bool) []mesh.Change {
	v := newView()
	var out []mesh.Change
	for _, c := range changes {
		if c, ok := v.change(zone, c, enabled); ok {
			out = append(out, c)
		}
	}
	return out
}
