package mesh

import (
	"slices"
	"strings"
)

// Bounds of lists in policies.
const (
	MaxItems    = 256  // to[] and rules[]
	maxMatches  = 256  // matches[] of a rule
	maxPermits  = 1024 // entries of one list of a MeshTrafficPermission
	maxBackends = 64
	maxWeight   = 1_000_000
)

// policyProblems checks what every policy has: the top-level target, and
// that only those parts are given that the kind has. Of parts that the shape
// allows at least one must be given.
func policyProblems(kind KindName, p Policy) Problems {
	var out Problems
	k, _ := KindByName(kind)
	shape := k.Policy
	if top := p.TopTarget(); top != nil {
		out.In("targetRef", topTarget(top, len(p.RuleItems()) > 0))
	}
	rules, to := p.RuleItems(), p.ToItems()
	switch {
	case len(rules) == 0 && len(to) == 0 && shape.Rules && shape.To:
		out.Addf("", "must have rules (inbound) or to (outbound)")
	case len(rules) == 0 && shape.Rules && !shape.To:
		out.Addf("rules", "is required; 1 to %d items are allowed", MaxItems)
	case len(to) == 0 && shape.To && !shape.Rules:
		out.Addf("to", "is required; 1 to %d items are allowed", MaxItems)
	}
	if len(rules) > 0 && len(to) > 0 {
		out.Addf("to", "must be absent where rules are given: one policy is inbound (rules) or outbound (to)")
	}
	out.count("rules", len(rules), 0, MaxItems)
	out.count("to", len(to), 0, MaxItems)
	for i, item := range rules {
		at := indexPath("rules", i) + ".matches"
		out.count(at, len(item.Matches), 0, maxMatches)
		out.In(at, matchList(item.Matches))
	}
	for i := range to {
		out.In(indexPath("to", i)+".targetRef", toTarget(&to[i].Target, shape.ToKinds))
	}
	return out
}

func topTarget(t *TargetRef, inbound bool) Problems {
	var out Problems
	out.oneOf("kind", string(t.Kind), string(KindMesh), string(KindDataplane))
	if t.Kind == KindMesh {
		if len(t.Labels) > 0 {
			out.Addf("labels", "must be absent for kind Mesh: it selects every proxy of the mesh; use kind Dataplane")
		}
		if t.SectionName != "" {
			out.Addf("sectionName", "must be absent for kind Mesh; use kind Dataplane")
		}
		return out
	}
	out.labelPairs("labels", t.Labels)
	out.section("sectionName", t.SectionName)
	if t.SectionName != "" && !inbound {
		out.Addf("sectionName", "must be absent for outbound traffic (to): it names an inbound or a listener")
	}
	return out
}

func toTarget(t *TargetRef, kinds []KindName) Problems {
	var out Problems
	out.oneOf("kind", string(t.Kind), kindWords(kinds)...)
	if t.Kind == KindMesh && slices.Contains(kinds, KindMesh) {
		if len(t.Labels) > 0 {
			out.Addf("labels", "must be absent for kind Mesh: it means every destination")
		}
		if t.SectionName != "" {
			out.Addf("sectionName", "must be absent for kind Mesh: it names the port of a service")
		}
		return out
	}
	out.labelPairs("labels", t.Labels)
	out.section("sectionName", t.SectionName)
	if t.Kind == KindMeshHTTPRoute && t.SectionName != "" {
		out.Addf("sectionName", "must be absent for kind MeshHTTPRoute: it names the port of a service")
	}
	return out
}

func kindWords(kinds []KindName) []string {
	out := make([]string, len(kinds))
	for i, k := range kinds {
		out[i] = string(k)
	}
	return out
}

// matchList checks matches by the caller's identity and the name it asked for.
func matchList(list []Match) Problems {
	var out Problems
	for i, m := range list {
		at := indexPath("", i)
		if m.SpiffeID == nil && m.SNI == nil {
			out.Addf(at, "must have spiffeID or sni; a match without either would be for everyone")
		}
		if s := m.SpiffeID; s != nil {
			out.oneOf(at+".spiffeID.type", s.Type, MatchExact, MatchPrefix)
			if s.Type == MatchPrefix {
				out.spiffePrefix(at+".spiffeID.value", s.Value)
			} else {
				out.spiffeID(at+".spiffeID.value", s.Value)
			}
		}
		if s := m.SNI; s != nil {
			out.oneOf(at+".sni.type", s.Type, MatchExact)
			if s.Value == "" {
				out.Addf(at+".sni.value", "is required; the whole server name, such as 8080.backend.west.default.mesh")
			} else {
				out.dnsName(at+".sni.value", s.Value)
			}
		}
	}
	return out
}

func (p *Problems) spiffePrefix(field, s string) {
	p.length(field, s, maxSpiffeID)
	rest, ok := strings.CutPrefix(s, spiffeIDScheme)
	switch {
	case s == "":
		p.Addf(field, "is required; the beginning of a SPIFFE ID such as spiffe://default.west.mesh.local/")
	case !ok:
		p.Addf(field, "must begin with %s, not %q", spiffeIDScheme, abridge(s))
	case rest == "" || rest[0] == '/' || !spiffePrefixForm.MatchString(rest):
		p.Addf(field, "%q is no beginning of a SPIFFE ID: spiffe://<trust domain>/<path>, of letters, digits, '-', '_' and '.'", abridge(s))
	}
}

// backendRef checks where traffic is sent. byName is for a Dataplane's
// outbounds, weighted for lists of which one is chosen.
func backendRef(b *BackendRef, byName, weighted bool) Problems {
	var out Problems
	out.oneOf("kind", string(b.Kind), string(KindMeshService), string(KindMeshMultiZoneService))
	switch {
	case !byName && b.Name != "":
		out.Addf("name", "must be absent here; select by labels, for example tombolo.io/display-name: %s", abridge(b.Name))
	case b.Name != "" && len(b.Labels) > 0:
		out.Addf("name", "must be absent where labels are given")
	case b.Name == "" && len(b.Labels) == 0 && byName:
		out.Addf("name", "is required, or labels")
	case b.Name != "":
		out.add("name", CheckDNSLabel(b.Name))
	case len(b.Labels) == 0:
		out.Addf("labels", "is required: at least one label, for example tombolo.io/display-name")
	}
	out.labelPairs("labels", b.Labels)
	out.section("sectionName", b.SectionName)
	switch {
	case b.SectionName == "":
		out.port("port", b.Port)
	case b.Port != 0:
		out.Addf("port", "must be absent where sectionName is given")
	}
	if b.Weight != nil && !weighted {
		out.Addf("weight", "must be absent: there is no other backend to weigh it against")
	}
	if len(b.Filters) > 0 && !weighted {
		out.Addf("filters", "must be absent: only requests of a MeshHTTPRoute can be changed")
	}
	if b.Weight != nil && *b.Weight > maxWeight {
		out.Addf("weight", "must be 0 to %d, not %d", maxWeight, *b.Weight)
	}
	return out
}

// backendRefs checks a list with weights. With filters each may have its own.
func backendRefs(field string, refs *[]BackendRef, filters bool) Problems {
	var out Problems
	if refs == nil {
		return nil
	}
	out.count(field, len(*refs), 0, maxBackends)
	total := uint64(0)
	for i := range *refs {
		b := &(*refs)[i]
		out.In(indexPath(field, i), backendRef(b, false, true))
		if filters {
			out.In(indexPath(field, i)+".filters", backendFilters(b.Filters))
		} else if len(b.Filters) > 0 {
			out.Addf(indexPath(field, i)+".filters", "must be absent: only requests of a MeshHTTPRoute can be changed")
		}
		if b.Weight == nil {
			total++
		} else {
			total += uint64(*b.Weight)
		}
	}
	if len(*refs) > 0 && total == 0 {
		out.Addf(field, "has only weights of 0; at least one must be more")
	}
	return out
}
