package ir

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// backend is one port of a service that a reference led to.
type backend struct {
	object *Object
	port   mesh.ServicePort
}

func (b *backend) key() mesh.Key { return b.object.Key }

// name of the destination: the KRI of the port.
func (b *backend) name() string { return destinationName(b.object.Key, b.port.Port) }

func (b *backend) protocol() Protocol { return protocolOf(b.port.AppProtocol) }

func destinationName(k mesh.Key, port uint32) string {
	short := "msvc"
	if k.Kind == mesh.KindMeshMultiZoneService {
		short = "mzsvc"
	}
	// Names of services are labels: what follows a dot is the namespace.
	name, namespace, _ := strings.Cut(k.Name, ".")
	return mesh.KRI(short, k.Mesh, k.Zone, namespace, name, number(port))
}

func portsOf(o *Object) []mesh.ServicePort {
	switch s := o.Decoded.(type) {
	case *mesh.MeshService:
		return s.Ports
	case *mesh.MeshMultiZoneService:
		return s.Ports
	default:
		return nil
	}
}

// resolve finds what a backendRef of meshName means, or says why it cannot.
func resolve(r Reader, meshName string, ref mesh.BackendRef) (*backend, error) {
	o, err := resolveObject(r, meshName, ref)
	if err != nil {
		return nil, err
	}
	if ref.Port == 0 && ref.SectionName == "" {
		return nil, fmt.Errorf("a port is required for %s", o.Key)
	}
	for _, p := range portsOf(o) {
		if ref.Port != 0 && p.Port != ref.Port {
			continue
		}
		if ref.SectionName != "" && ref.SectionName != p.SectionName() {
			continue
		}
		return &backend{object: o, port: p}, nil
	}
	return nil, fmt.Errorf("%s has no port %s", o.Key, or(ref.SectionName, number(ref.Port)))
}

func resolveObject(r Reader, meshName string, ref mesh.BackendRef) (*Object, error) {
	if ref.Kind != mesh.KindMeshService && ref.Kind != mesh.KindMeshMultiZoneService {
		return nil, fmt.Errorf("kind %q is not a backend: must be MeshService or MeshMultiZoneService", ref.Kind)
	}
	var found []*Object
	var what string
	switch {
	case ref.Name != "":
		what = "name " + ref.Name
		q := Query{Kind: ref.Kind, Mesh: meshName, Index: ByDisplayName, Value: ref.Name}
		for _, o := range r.List(q) {
			// A MeshService by name is one of the caller's own zone.
			if ref.Kind == mesh.KindMeshMultiZoneService || o.Zone == r.Zone() {
				found = append(found, o)
			}
		}
	case len(ref.Labels) > 0:
		what = "labels " + labelText(ref.Labels)
		found = selectByLabels(r, ref.Kind, meshName, ref.Labels)
	default:
		return nil, fmt.Errorf("name or labels are required to find a %s", ref.Kind)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no %s with %s", ref.Kind, what)
	}
	return slices.MinFunc(found, older), nil
}

// older orders by age, then by key, so that of several the oldest counts.
func older(a, b *Object) int {
	return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Key.String(), b.Key.String()))
}

// selectByLabels lists through the narrowest index that the labels allow: every
// read is a dependency.
func selectByLabels(r Reader, kind mesh.KindName, meshName string, labels map[string]string) []*Object {
	want := mesh.CanonicalLabels(labels)
	q := Query{Kind: kind, Mesh: meshName, Index: ByMesh}
	switch {
	case want[mesh.LabelDisplayName] != "":
		q.Index, q.Value = ByDisplayName, want[mesh.LabelDisplayName]
	case kind == mesh.KindDataplane && want[mesh.LabelWorkload] != "":
		q.Index, q.Value = ByWorkload, want[mesh.LabelWorkload]
	case kind == mesh.KindDataplane && indexedLabel(want) != "":
		k := indexedLabel(want)
		q.Index, q.Value = ByLabel, LabelValue(want[mesh.LabelNamespace], k, want[k])
	case want[mesh.LabelZone] != "":
		q.Index, q.Value = ByZone, want[mesh.LabelZone]
	}
	var out []*Object
	for _, o := range r.List(q) {
		if mesh.MatchLabels(want, labelsOf(o)) {
			out = append(out, o)
		}
	}
	return out
}

// LabelValue is the value of index ByLabel for one label of the Dataplanes of a
// namespace.
func LabelValue(namespace, key, value string) string { return namespace + "/" + key + "=" + value }

// IndexedLabel reports whether index ByLabel has a label: those of users, and the
// names of pods. Ours are on every Dataplane, and hashes of templates in no selector.
func IndexedLabel(key string) bool {
	if key == mesh.LabelPod || key == mesh.LabelStatefulPod {
		return true
	}
	reserved := strings.HasPrefix(key, mesh.LabelPrefix) || strings.HasPrefix(key, "k8s."+mesh.LabelPrefix)
	return !reserved && !mesh.InstanceLabel(key)
}

// indexedLabel is the label of a selector for one namespace to look up: one that
// only a single pod has, or the first. "" if there is none.
func indexedLabel(want map[string]string) string {
	if want[mesh.LabelNamespace] == "" {
		return ""
	}
	for _, k := range []string{mesh.LabelPod, mesh.LabelStatefulPod} {
		if want[k] != "" {
			return k
		}
	}
	first := ""
	for k, v := range want {
		if v != "" && IndexedLabel(k) && (first == "" || k < first) {
			first = k
		}
	}
	return first
}

// SelectProxies are the Dataplanes of this zone that have all labels.
func SelectProxies(r Reader, meshName string, labels map[string]string) []*Object {
	all := selectByLabels(r, mesh.KindDataplane, meshName, labels)
	return slices.DeleteFunc(all, func(o *Object) bool { return o.Zone != r.Zone() })
}

// ServiceProxies are the proxies of this zone behind a service, whatever their health.
func ServiceProxies(r Reader, meshName string, svc *mesh.MeshService) []*Object {
	if ref := svc.Selector.DataplaneRef; ref != nil {
		if o, ok := r.Get(mesh.Key{Kind: mesh.KindDataplane, Mesh: meshName, Zone: r.Zone(), Name: ref.Name}); ok {
			return []*Object{o}
		}
		return nil
	}
	if svc.Selector.DataplaneLabels == nil {
		return nil
	}
	return SelectProxies(r, meshName, svc.Selector.DataplaneLabels.MatchLabels)
}

// member is one (service, zone) that may answer for a destination.
type member struct {
	service *Object
	spec    *mesh.MeshService
	port    mesh.ServicePort
}

func (m member) local(r Reader) bool { return m.service.Zone == r.Zone() }

// peer is how members are pinned. Its name is unique: a service's name is, in its zone.
func (m member) peer() Peer {
	k := m.service.Key
	p := Peer{Name: k.Name + "." + k.Zone, SNI: mesh.SNI(m.port.Port, k.Name, k.Zone, k.Mesh)}
	for _, id := range m.spec.Identities {
		if id.Type == identityType && id.Value != "" {
			p.Identities = append(p.Identities, id.Value)
		}
	}
	slices.Sort(p.Identities)
	p.Identities = slices.Compact(p.Identities)
	return p
}

const identityType = "SpiffeID"

// membersOf lists the services behind a destination in the order of their keys:
// of a MeshService it is that, of a MeshMultiZoneService every MeshService it
// selects that has the same port. It returns nil when the port is gone.
func membersOf(r Reader, o *Object, port uint32) []member {
	switch s := o.Decoded.(type) {
	case *mesh.MeshService:
		return appendMember(nil, o, s, port)
	case *mesh.MeshMultiZoneService:
		if !slices.ContainsFunc(s.Ports, func(p mesh.ServicePort) bool { return p.Port == port }) {
			return nil
		}
		var out []member
		for _, svc := range selectByLabels(r, mesh.KindMeshService, o.Mesh, s.Selector.MeshService.MatchLabels) {
			if spec, ok := svc.Decoded.(*mesh.MeshService); ok {
				out = appendMember(out, svc, spec, port)
			}
		}
		return out
	default:
		return nil
	}
}

func appendMember(list []member, o *Object, spec *mesh.MeshService, port uint32) []member {
	for _, p := range spec.Ports {
		if p.Port == port && o.Zone != "" {
			return append(list, member{service: o, spec: spec, port: p})
		}
	}
	return list
}

func labelText(labels map[string]string) string {
	keys := slices.Sorted(maps.Keys(labels))
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = k + "=" + labels[k]
	}
	return strings.Join(parts, ",")
}
