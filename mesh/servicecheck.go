package mesh

import "strconv"

// Bounds of services.
const (
	maxPorts      = 256
	maxIdentities = 256
)

// States of a MeshService.
const (
	StateAvailable   = "Available"
	StateUnavailable = "Unavailable"
)

// Validate implements Spec.
func (s *MeshService) Validate() Problems {
	var out Problems
	if s.Selector.DataplaneLabels != nil && s.Selector.DataplaneRef != nil {
		out.Addf("selector", "must have only one of dataplaneLabels and dataplaneRef")
	}
	if l := s.Selector.DataplaneLabels; l != nil {
		out.labelPairs("selector.dataplaneLabels.matchLabels", l.MatchLabels)
	}
	if r := s.Selector.DataplaneRef; r != nil {
		out.add("selector.dataplaneRef.name", CheckName(r.Name))
	}
	out.count("ports", len(s.Ports), 0, maxPorts)
	out.In("", portList(s.Ports, true))
	out.count("identities", len(s.Identities), 0, maxIdentities)
	for i, id := range s.Identities {
		out.oneOf(indexPath("identities", i)+".type", id.Type, identityTypeSpiffeID)
		out.spiffeID(indexPath("identities", i)+".value", id.Value)
	}
	out.oneOfOrNone("state", s.State, StateAvailable, StateUnavailable)
	return out
}

// Validate implements Spec.
func (s *MeshMultiZoneService) Validate() Problems {
	var out Problems
	if len(s.Selector.MeshService.MatchLabels) == 0 {
		out.Addf("selector.meshService.matchLabels", "is required: at least one label of the MeshServices, for example tombolo.io/display-name")
	}
	out.labelPairs("selector.meshService.matchLabels", s.Selector.MeshService.MatchLabels)
	out.count("ports", len(s.Ports), 1, maxPorts)
	out.In("", portList(s.Ports, false))
	return out
}

func portList(ports []ServicePort, targets bool) Problems {
	var out Problems
	names, numbers := claims{}, claims{}
	for i := range ports {
		p, at := &ports[i], indexPath("ports", i)
		out.label(at+".name", p.Name)
		out.port(at+".port", p.Port)
		out.oneOfOrNone(at+".appProtocol", p.AppProtocol, protocols()...)
		names.take(&out, at+".name", p.SectionName(), "a name is used once")
		if p.Name != "" && p.Port != 0 {
			numbers.take(&out, at+".port", strconv.FormatUint(uint64(p.Port), 10), "a port is used once")
		}
		switch t := p.TargetPort; {
		case t == nil:
		case !targets:
			out.Addf(at+".targetPort", "must be absent: the MeshServices behind it have their own")
		case t.Str != "":
			out.section(at+".targetPort", t.Str)
		default:
			out.port(at+".targetPort", t.Int)
		}
	}
	return out
}

// SectionName is how the port is named by sectionName: its name, or its number.
func (p *ServicePort) SectionName() string {
	return or(p.Name, strconv.FormatUint(uint64(p.Port), 10))
}

// Validate implements Spec.
func (s *MeshZoneAddress) Validate() Problems {
	var out Problems
	out.host("address", s.Address)
	out.port("port", s.Port)
	return out
}

// Validate implements Spec.
func (s *Workload) Validate() Problems { return nil }
