package zone

import (
	"slices"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// serviceNames is what the status of services says of their names: of those that
// the zone owns, for its facts, and of those of global, for who looks at the zone.
func serviceNames(r ir.Reader, meshName string, table *ir.NameTable) map[mesh.Key]mesh.ServiceNames {
	out := map[mesh.Key]mesh.ServiceNames{}
	for _, kind := range []mesh.KindName{mesh.KindMeshService, mesh.KindMeshMultiZoneService} {
		for _, o := range r.List(ir.Query{Kind: kind, Mesh: meshName, Index: ir.ByMesh}) {
			if o.Zone != "" && o.Zone != r.Zone() {
				continue
			}
			var names mesh.ServiceNames
			for _, ip := range r.Addresses(o.Key) {
				names.VIPs = append(names.VIPs, mesh.ServiceVIP{IP: ip})
			}
			if len(names.VIPs) > 0 {
				out[o.Key] = names
			}
		}
	}
	for i := range table.Names { // sorted by name
		n := &table.Names[i]
		names, ok := out[n.Service]
		if !ok {
			continue
		}
		ref := generatorRef(n.Generator)
		if len(names.Addresses) < mesh.MaxServiceNames {
			names.Addresses = append(names.Addresses, mesh.ServiceAddress{Hostname: n.Name, Origin: mesh.OriginHostnameGenerator, HostnameGeneratorRef: ref})
		}
		addGenerator(&names, ref, mesh.GeneratorCondition{Type: mesh.ConditionGenerated, Status: "True", Reason: mesh.ConditionGenerated, Message: n.Name})
		out[n.Service] = names
	}
	for i := range table.Problems {
		p := &table.Problems[i]
		names, ok := out[p.Service]
		if !ok {
			continue
		}
		reason := mesh.ReasonTemplateError
		if p.Name != "" {
			reason = mesh.ReasonCollision
		}
		addGenerator(&names, generatorRef(p.Generator), mesh.GeneratorCondition{Type: mesh.ConditionGenerated, Status: "False", Reason: reason, Message: p.Reason})
		out[p.Service] = names
	}
	for _, names := range out {
		slices.SortFunc(names.HostnameGenerators, func(a, b mesh.HostnameGeneratorStatus) int {
			return strings.Compare(a.HostnameGeneratorRef.CoreName, b.HostnameGeneratorRef.CoreName)
		})
	}
	return out
}

func addGenerator(names *mesh.ServiceNames, ref mesh.HostnameGeneratorRef, c mesh.GeneratorCondition) {
	if len(names.HostnameGenerators) < mesh.MaxServiceNames {
		names.HostnameGenerators = append(names.HostnameGenerators,
			mesh.HostnameGeneratorStatus{HostnameGeneratorRef: ref, Conditions: []mesh.GeneratorCondition{c}})
	}
}

func generatorRef(k mesh.Key) mesh.HostnameGeneratorRef {
	if k.Zone == "" {
		return mesh.HostnameGeneratorRef{CoreName: k.Name}
	}
	return mesh.HostnameGeneratorRef{CoreName: k.Name + "." + k.Zone}
}
