package mesh

import (
	"slices"
	"strconv"
	"strings"
)

// ProxyMeta is what selection needs to know of a proxy, or of a class of them.
type ProxyMeta struct {
	// Mesh and Zone it is in.
	Mesh, Zone string
	// Name of the Dataplane; for a class it may be empty.
	Name string
	// Labels with canonical keys.
	Labels map[string]string
	// Sections are the names of its inbounds and listeners.
	Sections []string
}

// Selected is a policy that selects a proxy.
type Selected struct {
	PolicyResource
	// Section is the one inbound or listener that is selected; "" is the whole proxy.
	Section string

	to    []ToItem
	rules []RuleItem
	rank  rank
}

// rank orders policies from low to high priority, (a) to (d) and (f) of the
// merging rules; zone and name of the key make the order total.
type rank struct {
	kind, section, origin, role int
	display                     string
	zone, name                  string
}

func (r *rank) compare(o *rank) int {
	if c := r.compareTop(o); c != 0 {
		return c
	}
	return r.compareName(o)
}

// compareTop compares by target kind, section, origin and role.
func (r *rank) compareTop(o *rank) int {
	switch {
	case r.kind != o.kind:
		return r.kind - o.kind
	case r.section != o.section:
		return r.section - o.section
	case r.origin != o.origin:
		return r.origin - o.origin
	}
	return r.role - o.role
}

// compareName puts the later name first: the policy named "a" beats "b".
func (r *rank) compareName(o *rank) int {
	if c := strings.Compare(o.display, r.display); c != 0 {
		return c
	}
	if c := strings.Compare(o.zone, r.zone); c != 0 {
		return c
	}
	return strings.Compare(o.name, r.name)
}

// SelectPolicies returns the policies of a kind that select a proxy, from low to
// high priority. The order does not depend on the order of all.
func SelectPolicies(kind KindName, all []PolicyResource, proxy ProxyMeta) []Selected {
	return selectPolicies(kind, all, proxy, false)
}

// SelectWithShadow is SelectPolicies with shadow policies counted too, for a preview.
func SelectWithShadow(kind KindName, all []PolicyResource, proxy ProxyMeta) []Selected {
	return selectPolicies(kind, all, proxy, true)
}

// Selects reports whether a policy, of any kind, selects a proxy. It is pure.
func Selects(p *PolicyResource, proxy ProxyMeta) bool {
	_, _, ok := selects(p, proxy, false)
	return ok
}

func selects(p *PolicyResource, proxy ProxyMeta, shadow bool) (policy Policy, section string, ok bool) {
	if p.Mesh != proxy.Mesh || !shadow && p.Labels[LabelEffect] == EffectShadow {
		return nil, "", false
	}
	policy, ok = p.Decoded.(Policy)
	if !ok || !zoneSelects(&p.Resource, proxy.Zone) || !namespaceSelects(&p.Resource, proxy.Labels) {
		return nil, "", false
	}
	section, ok = targetSelects(policy.TopTarget(), proxy)
	return policy, section, ok
}

func selectPolicies(kind KindName, all []PolicyResource, proxy ProxyMeta, shadow bool) []Selected {
	var found []*Selected // sorted before they are copied: they are large
	for i := range all {
		p := &all[i]
		if p.Kind != kind {
			continue
		}
		policy, section, ok := selects(p, proxy, shadow)
		if !ok {
			continue
		}
		top := policy.TopTarget()
		found = append(found, &Selected{PolicyResource: *p, Section: section, to: policy.ToItems(), rules: policy.RuleItems(),
			rank: rankOf(&p.Resource, top)})
	}
	if len(found) == 0 {
		return nil
	}
	slices.SortFunc(found, func(a, b *Selected) int { return a.rank.compare(&b.rank) })
	out := make([]Selected, len(found))
	for i, s := range found {
		out[i] = *s
	}
	return out
}

// zoneSelects: a producer's policy reaches every zone, any other policy of a
// zone reaches the proxies of that zone only.
func zoneSelects(p *Resource, zone string) bool {
	owner := p.Zone
	if owner == "" && p.Labels[LabelOrigin] == OriginZone {
		owner = p.Labels[LabelZone]
	}
	return owner == "" || owner == zone || crossesZones(p.Labels)
}

// namespaceSelects: a consumer's or workload owner's policy reaches the proxies
// of its own namespace only.
func namespaceSelects(p *Resource, proxy map[string]string) bool {
	switch p.Labels[LabelPolicyRole] {
	case RoleConsumer, RoleWorkloadOwner:
		return p.Labels[LabelNamespace] == proxy[LabelNamespace]
	}
	return true
}

// targetSelects applies a top-level targetRef.
func targetSelects(ref *TargetRef, proxy ProxyMeta) (section string, ok bool) {
	if ref == nil {
		return "", true
	}
	switch ref.Kind {
	case KindMesh:
		return "", true
	case KindDataplane:
		if !matchNamed(ref.Labels, proxy.Labels, proxy.Name) {
			return "", false
		}
		return ref.SectionName, ref.SectionName == "" || slices.Contains(proxy.Sections, ref.SectionName)
	}
	return "", false
}

// matchNamed is MatchLabels where the label display-name stands for the name if absent.
func matchNamed(want, have map[string]string, name string) bool {
	for k, v := range want {
		key := CanonicalLabel(k)
		got, ok := have[key]
		if !ok && key == LabelDisplayName && name != "" {
			got, ok = name, true
		}
		if !ok || got != v {
			return false
		}
	}
	return true
}

func rankOf(p *Resource, top *TargetRef) rank {
	r := rank{display: p.DisplayName(), zone: p.Zone, name: p.Name}
	if top != nil && top.Kind == KindDataplane {
		r.kind = 1
		if top.SectionName != "" {
			r.section = 1
		}
	}
	switch p.Labels[LabelOrigin] {
	case OriginGlobal:
	case OriginZone:
		r.origin = 2
	default:
		r.origin = 1
		if p.Zone != "" {
			r.origin = 2
		}
	}
	switch p.Labels[LabelPolicyRole] {
	case RoleProducer:
		r.role = 1
	case RoleConsumer:
		r.role = 2
	case RoleWorkloadOwner:
		r.role = 3
	}
	return r
}

// roles in ascending priority.
func roles() []string {
	return []string{RoleSystem, RoleProducer, RoleConsumer, RoleWorkloadOwner}
}

// DisplayName is the label display-name, or the name if there is none.
func (r *Resource) DisplayName() string {
	if n := r.Labels[LabelDisplayName]; n != "" {
		return n
	}
	return r.Name
}

// Destination is one port of a service, as `to` items see it.
type Destination struct {
	// Kind is MeshService or MeshMultiZoneService; Mesh asks for what holds
	// for every destination.
	Kind KindName
	// Name and Zone of the service.
	Name, Zone string
	// Labels of the service, canonical keys.
	Labels map[string]string
	// Port number.
	Port uint32
	// SectionName is the port's name; empty means that it is named by its number.
	SectionName string
	// Route is set when the configuration of one MeshHTTPRoute is asked for.
	Route *Key
	// RouteLabels are the labels of that route, canonical keys.
	RouteLabels map[string]string
}

// Ranks of the kinds that `to` may name, (e) of the merging rules.
const (
	toMesh = 1 + iota
	toService
	toServicePort
	toMultiZone
	toMultiZonePort
	toRoute
)

// toRank says whether a `to` item of a policy speaks of the destination, and
// how specific it is; 0 means that it does not.
func (d *Destination) toRank(p *Resource, to *TargetRef) int {
	switch to.Kind {
	case KindMesh:
		if p.Labels[LabelPolicyRole] == RoleProducer {
			return 0
		}
		return toMesh
	case KindMeshHTTPRoute:
		if d.Route != nil && ownService(p, d.Route.Zone, d.RouteLabels) && matchNamed(pinned(p, to.Labels), d.RouteLabels, d.Route.Name) {
			return toRoute
		}
		return 0
	case KindMeshService, KindMeshMultiZoneService:
	default:
		return 0
	}
	if to.Kind != d.Kind || !ownService(p, d.Zone, d.Labels) || !matchNamed(pinned(p, to.Labels), d.Labels, d.Name) {
		return 0
	}
	r := toService
	if to.Kind == KindMeshMultiZoneService {
		r = toMultiZone
	}
	if to.SectionName == "" {
		return r
	}
	if to.SectionName != d.portName() {
		return 0
	}
	return r + 1
}

func (d *Destination) portName() string {
	if d.SectionName != "" {
		return d.SectionName
	}
	return strconv.FormatUint(uint64(d.Port), 10)
}

// pinned completes the labels of a producer's `to` item: a display name without
// a namespace means the producer's own namespace.
func pinned(p *Resource, labels map[string]string) map[string]string {
	ns := p.Labels[LabelNamespace]
	if p.Labels[LabelPolicyRole] != RoleProducer || ns == "" {
		return labels
	}
	own := CanonicalLabels(labels)
	if own[LabelDisplayName] == "" || own[LabelNamespace] != "" {
		return labels
	}
	own[LabelNamespace] = ns
	return own
}

// MatchService reports whether a service selects a Dataplane, by its labels
// (canonical keys) or its name. A selector that says nothing selects nothing.
func MatchService(s ServiceSelector, labels map[string]string, name string) bool {
	switch {
	case s.DataplaneRef != nil:
		return s.DataplaneRef.Name == name
	case s.DataplaneLabels != nil:
		return matchNamed(s.DataplaneLabels.MatchLabels, labels, name)
	}
	return false
}
