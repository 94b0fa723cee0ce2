package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxHostname is the most octets a DNS name has in text, without the last dot.
const maxHostname = 253

// HostnameGenerator gives hostnames to the services that it selects, in every
// zone that it reaches. A proxy with transparent proxying resolves them.
type HostnameGenerator struct {
	// Selector of services; exactly one kind.
	Selector HostnameSelector `json:"selector"`
	// Template of the hostname: text, {{ .DisplayName }}, .Namespace, .Zone, .Mesh,
	// .Name and {{ label "key" }}. It must yield a lower-case DNS name of at least
	// two labels, for example "{{ .DisplayName }}.svc.{{ .Zone }}.mesh.local".
	Template string `json:"template"`
}

// HostnameSelector selects the services of one kind. The label
// tombolo.io/origin means here, as seen by the zone that answers: "zone" for
// services of its own, "global" for those of other zones and of global.
type HostnameSelector struct {
	// MeshService by labels.
	MeshService *LabelSelector `json:"meshService,omitempty"`
	// MeshMultiZoneService by labels.
	MeshMultiZoneService *LabelSelector `json:"meshMultiZoneService,omitempty"`
	// MeshExternalService by labels; accepted, but there is no such kind yet.
	MeshExternalService *LabelSelector `json:"meshExternalService,omitempty"`
}

// Validate implements Spec.
func (s *HostnameGenerator) Validate() Problems {
	var out Problems
	given := 0
	for _, kind := range s.Selector.kinds() {
		if kind.selector != nil {
			given++
			out.labelPairs("selector."+kind.field+".matchLabels", kind.selector.MatchLabels)
		}
	}
	if given != 1 {
		out.Addf("selector", "must have exactly one of meshService, meshMultiZoneService and meshExternalService")
	}
	if s.Template == "" {
		out.Addf("template", "is required, for example {{ .DisplayName }}.svc.{{ .Zone }}.mesh.local")
		return out
	}
	t, err := parseHostname(s.Template)
	if err != nil {
		out.Addf("template", "%v", err)
		return out
	}
	sample := func(string) (string, error) { return "x", nil }
	if _, err := hostnameOf(t, sample, sample); err != nil {
		out.Addf("template", "%v", err)
	}
	return out
}

// Warnings implements Cautious.
func (s *HostnameGenerator) Warnings() []string {
	if s.Selector.MeshExternalService == nil {
		return nil
	}
	return []string{"selector.meshExternalService selects nothing: there is no kind MeshExternalService yet"}
}

type hostnameKind struct {
	field    string
	kind     KindName
	selector *LabelSelector
}

func (s *HostnameSelector) kinds() []hostnameKind {
	return []hostnameKind{
		{"meshService", KindMeshService, s.MeshService},
		{"meshMultiZoneService", KindMeshMultiZoneService, s.MeshMultiZoneService},
		{"meshExternalService", "MeshExternalService", s.MeshExternalService},
	}
}

// of is the selector of a kind; nil when it selects none of that kind.
func (s *HostnameSelector) of(kind KindName) *LabelSelector {
	for _, k := range s.kinds() {
		if k.kind == kind {
			return k.selector
		}
	}
	return nil
}

// Hostname is a name of a service.
type Hostname struct {
	// Name in lower case, without the last dot: "backend.svc.west.mesh.local".
	Name string
	// Service that it names.
	Service Key
	// Generator that it comes from.
	Generator Key
}

// HostnameProblem says why a generator gave a service no hostname.
type HostnameProblem struct {
	// Generator and the Service that it selects.
	Generator, Service Key
	// Name that is taken; empty when the template yields none.
	Name string
	// Reason for people.
	Reason string
}

// Hostnames are the names of services as one zone answers them, sorted by name.
// A name has one service. Of generators those of global count first, then the
// older, then by name; of the services of one generator those of the zone itself,
// then the older, then by key. Who comes too late is a problem.
func Hostnames(generators, services []PolicyResource, zone string) ([]Hostname, []HostnameProblem) {
	generators, services = slices.Clone(generators), slices.Clone(services)
	slices.SortFunc(generators, compareGenerators)
	slices.SortFunc(services, func(a, b PolicyResource) int { return compareNamed(&a, &b, zone) })
	taken := map[string]Hostname{}
	var problems []HostnameProblem
	for i := range generators {
		g := &generators[i]
		spec, ok := g.Decoded.(*HostnameGenerator)
		if !ok || !zoneSelects(&g.Resource, zone) {
			continue
		}
		t, err := parseHostname(spec.Template)
		for j := range services {
			s := &services[j]
			if selector := spec.Selector.of(s.Kind); selector == nil || !isNamed(&s.Resource, zone, selector.MatchLabels) {
				continue
			}
			name, reason := "", err // a template of a newer author may be none to us
			if reason == nil {
				name, reason = nameService(t, &s.Resource, zone)
			}
			if reason != nil {
				problems = append(problems, HostnameProblem{Generator: g.Key, Service: s.Key, Reason: reason.Error()})
				continue
			}
			first, is := taken[name]
			switch {
			case !is:
				taken[name] = Hostname{Name: name, Service: s.Key, Generator: g.Key}
			case first.Service != s.Key:
				problems = append(problems, HostnameProblem{Generator: g.Key, Service: s.Key, Name: name,
					Reason: fmt.Sprintf("%s is the name of %s already, by %s", name, first.Service, first.Generator)})
			}
		}
	}
	out := make([]Hostname, 0, len(taken))
	for _, h := range taken {
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b Hostname) int { return strings.Compare(a.Name, b.Name) })
	return out, problems
}

func compareGenerators(a, b PolicyResource) int {
	return cmp.Or(
		cmp.Compare(min(len(a.Zone), 1), min(len(b.Zone), 1)),
		a.Created.Compare(b.Created),
		strings.Compare(a.DisplayName(), b.DisplayName()),
		strings.Compare(a.Key.String(), b.Key.String()),
	)
}

func compareNamed(a, b *PolicyResource, zone string) int {
	local := func(p *PolicyResource) int {
		if p.Zone == zone {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(local(a), local(b)),
		a.Created.Compare(b.Created),
		cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Mesh, b.Mesh), cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Name, b.Name),
	)
}

// labelSeen is a label of a service as a zone sees it.
func labelSeen(s *Resource, zone, key string) (string, bool) {
	switch key {
	case LabelOrigin:
		if s.Zone == zone {
			return OriginZone, true
		}
		return OriginGlobal, true
	case LabelDisplayName:
		return s.DisplayName(), true
	}
	value, ok := s.Labels[key]
	return value, ok
}

func isNamed(s *Resource, zone string, want map[string]string) bool {
	for key, value := range want {
		if got, ok := labelSeen(s, zone, CanonicalLabel(key)); !ok || got != value {
			return false
		}
	}
	return true
}

// nameService fills a template in. A service that is no zone's, such as a
// MeshMultiZoneService, has the zone that answers.
func nameService(t *template, s *Resource, zone string) (string, error) {
	field := func(name string) (value string, err error) {
		switch name {
		case "DisplayName":
			value = s.DisplayName()
		case "Namespace":
			value = s.Labels[LabelNamespace]
		case "Zone":
			value = cmp.Or(s.Zone, zone)
		case "Mesh":
			value = s.Mesh
		case "Name":
			value = s.Name
		}
		if value == "" {
			return "", fmt.Errorf("uses .%s, which the service does not have", name)
		}
		return value, nil
	}
	label := func(key string) (string, error) {
		value, ok := labelSeen(s, zone, CanonicalLabel(key))
		if !ok {
			return "", fmt.Errorf("uses label %q, which the service does not have", abridge(key))
		}
		return value, nil
	}
	return hostnameOf(t, field, label)
}

func parseHostname(text string) (*template, error) {
	return parseTemplate(text, "DisplayName", "Namespace", "Zone", "Mesh", "Name")
}

func hostnameOf(t *template, field, label func(string) (string, error)) (string, error) {
	name, err := t.expand(field, label, maxTemplate)
	if err != nil {
		return "", err
	}
	if err := checkHostname(name); err != nil {
		return "", err
	}
	return name, nil
}

// checkHostname: what applications would not look up, or would take for
// something else, is no hostname.
func checkHostname(name string) error {
	labels := strings.Split(name, ".")
	switch last := labels[len(labels)-1]; {
	case name == "":
		return errors.New("yields an empty name")
	case len(name) > maxHostname:
		return fmt.Errorf("yields a name of %d octets; a DNS name has at most %d", len(name), maxHostname)
	case !isSubdomain(name):
		return fmt.Errorf("yields %q, which is no DNS name: labels of lower-case letters, digits and '-', joined by '.', are allowed", abridge(name))
	case len(labels) < 2:
		return fmt.Errorf("yields %q; at least two labels are needed, so that it is no name of a host itself", abridge(name))
	case strings.Trim(last, "0123456789") == "":
		return fmt.Errorf("yields %q, which looks like an address: its last label must not be a number", abridge(name))
	case last == "localhost":
		return fmt.Errorf("yields %q; names below localhost are every host's own", abridge(name))
	}
	for _, l := range labels {
		if len(l) > MaxLabelLength {
			return fmt.Errorf("yields a name with a label of %d octets; a label has at most %d", len(l), MaxLabelLength)
		}
	}
	return nil
}
