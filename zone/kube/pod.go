package kube

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

// maxPodLabels bounds the labels of a pod that its Dataplane has; the others, last
// in order, are left out. The rest up to mesh.MaxLabels is for ours.
const maxPodLabels = 48

// selecting is a Service that selects a pod, with what its EndpointSlices say of it.
type selecting struct {
	service *Service
	ready   bool
}

// podInput is everything that a Dataplane is made of.
type podInput struct {
	zone      string
	pod       *Pod
	namespace *Namespace // nil: not seen yet
	node      *Node      // nil: not seen yet
	services  []selecting
	former    []mesh.Inbound // that no Service has any more, but linger
}

// podOf makes the Dataplane of a pod; nil while it has none: without a sidecar,
// without an address, or when it has run to its end. The error says what keeps a
// pod with a sidecar out of the mesh, or which annotation is left out.
func podOf(in podInput) (*platform.Pod, error) {
	p := in.pod
	if !p.Injected || p.Finished || len(p.IPs) == 0 {
		return nil, nil
	}
	slices.SortFunc(in.services, func(a, b selecting) int { return cmp.Compare(a.service.Name, b.service.Name) })
	spec := &mesh.Dataplane{Networking: mesh.Networking{Address: p.IPs[0]}}
	var warning error
	var notReady []string
	if listeners := listenersOf(p, in.services); len(listeners) > 0 {
		spec.Networking.Listeners = listeners
	} else {
		var inbound bool
		spec.Networking.TransparentProxying, inbound, warning = transparentOf(p)
		if inbound { // else nobody would reach the proxy instead of the application
			spec.Networking.Inbound, notReady = inboundsOf(p, in.services)
			spec.Networking.Inbound, notReady = outlast(spec.Networking.Inbound, notReady, in.former)
		}
	}
	r := mesh.Resource{
		Key:    mesh.Key{Kind: mesh.KindDataplane, Mesh: meshOf(p.Labels, in.namespace), Zone: in.zone, Name: mesh.NamespacedName(p.Name, p.Namespace)},
		Labels: podLabels(in),
	}
	labels, problems := mesh.ComputeLabels(r, spec, mesh.EnvKubernetes)
	r.Labels = labels
	problems = append(problems, mesh.ValidateResource(r, spec)...)
	if len(problems) > 0 {
		return nil, fmt.Errorf("it cannot be in the mesh: %w", problems)
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("it cannot be in the mesh: %w", err)
	}
	r.Spec = text
	return &platform.Pod{Resource: r, Spec: spec, UID: string(p.UID), Ready: p.Ready, Draining: p.DeletionTimestamp != nil, NotReady: notReady}, warning
}

// meshOf is the mesh that labels of an object say, else of its namespace.
func meshOf(labels map[string]string, ns *Namespace) string {
	if m := mesh.CanonicalLabels(labels)[mesh.LabelMesh]; m != "" {
		return m
	}
	if ns != nil && ns.Labels[mesh.LabelMesh] != "" {
		return ns.Labels[mesh.LabelMesh]
	}
	return "default"
}

// podLabels are the labels of a pod, those of its node that say where it is, and
// those that say who it is, which nobody else can give.
func podLabels(in podInput) map[string]string {
	out := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(in.pod.Labels)) {
		canonical := mesh.CanonicalLabel(k)
		if reserved(canonical) || len(out) >= maxPodLabels {
			continue
		}
		out[canonical] = in.pod.Labels[k]
	}
	if in.node != nil {
		maps.Copy(out, in.node.Labels)
	}
	out[mesh.LabelNamespace] = in.pod.Namespace
	out[mesh.LabelServiceAccount] = cmp.Or(in.pod.ServiceAccount, "default")
	if slices.ContainsFunc(in.services, func(s selecting) bool { return s.service.Headless }) {
		out[mesh.LabelPod] = podLabel(in.pod.Name)
	}
	if in.pod.Workload != "" {
		out[mesh.LabelWorkload] = in.pod.Workload
	}
	return out
}

// reserved labels are given by the zone alone.
func reserved(canonical string) bool {
	switch canonical {
	case mesh.LabelDisplayName, mesh.LabelZone, mesh.LabelOrigin, mesh.LabelMesh, mesh.LabelEnv, mesh.LabelPolicyRole, mesh.LabelEffect, mesh.LabelManagedBy,
		mesh.LabelSync, mesh.LabelIngress, mesh.LabelEgress, mesh.LabelNamespace, mesh.LabelServiceAccount, mesh.LabelServiceName, mesh.LabelHeadless, mesh.LabelPod:
		return true
	}
	return false
}

// target is the port of a pod that a port of a Service leads to; 0 if it has none.
func target(p *Pod, sp *ServicePort) uint32 {
	if sp.TargetName != "" {
		return p.Ports[sp.TargetName]
	}
	return sp.Target
}

// inbound collects what Services say of one port of a pod.
type inbound struct {
	names     [2][]string // by container port, by Service port
	protocol  string
	told      bool
	strict    bool // some Service asks for readiness
	isReady   bool // and one of those says that it is ready
	published bool // a Service that does not ask has it
}

// inboundsOf are the ports behind the Services that select a pod, and the names of
// those that are not ready. A port is as ready as the Services say that ask for
// readiness; one of Services that do not ask (publishNotReadyAddresses) always is.
func inboundsOf(p *Pod, services []selecting) (inbounds []mesh.Inbound, notReady []string) {
	ports := map[uint32]*inbound{}
	for _, s := range services {
		if s.service.Labels[labelZoneProxy] != "" {
			continue
		}
		for i := range s.service.Ports {
			sp := &s.service.Ports[i]
			n := target(p, sp)
			if n == 0 || n == mesh.DefaultRedirectInbound || n == mesh.DefaultRedirectOutbound {
				continue
			}
			in := ports[n]
			if in == nil {
				in = &inbound{protocol: protocolTCP}
				ports[n] = in
			}
			in.add(s, sp)
		}
	}
	taken := map[string]bool{}
	names := map[uint32]string{}
	numbers := slices.Sorted(maps.Keys(ports))
	for rank := range 2 { // who asks for a port by its name must find it
		for _, n := range numbers {
			for _, name := range ports[n].names[rank] {
				if names[n] == "" && !taken[name] {
					names[n], taken[name] = name, true
				}
			}
		}
	}
	for _, n := range numbers {
		in := mesh.Inbound{Name: names[n], Port: n, ServiceAddress: p.IPs[0], ServicePort: n, Protocol: ports[n].protocol}
		inbounds = append(inbounds, in)
		if !ports[n].ready() {
			notReady = append(notReady, in.SectionName())
		}
	}
	slices.Sort(notReady)
	return inbounds, notReady
}

func (in *inbound) add(s selecting, sp *ServicePort) {
	if sp.TargetName != "" {
		in.names[0] = append(in.names[0], portName(sp.TargetName))
	} else if sp.Name != "" {
		in.names[1] = append(in.names[1], portName(sp.Name))
	}
	if sp.Told && !in.told {
		in.protocol, in.told = sp.Protocol, true
	}
	if s.service.PublishNotReady {
		in.published = in.published || s.ready
	} else {
		in.strict, in.isReady = true, in.isReady || s.ready
	}
}

func (in *inbound) ready() bool {
	if in.strict {
		return in.isReady
	}
	return in.published
}

// portName makes a label of the name of a port, which may begin with a digit.
func portName(name string) string {
	if mesh.CheckDNSLabel(name) == "" {
		return name
	}
	return "p-" + strings.Trim(strings.ToLower(name), "-")
}

// listenersOf are the listeners of a zone proxy: the ports behind the Services
// that say that they lead to an ingress.
func listenersOf(p *Pod, services []selecting) []mesh.Listener {
	var out []mesh.Listener
	seen := map[uint32]bool{}
	for _, s := range services {
		if s.service.Labels[labelZoneProxy] != "ingress" {
			continue
		}
		for i := range s.service.Ports {
			sp := &s.service.Ports[i]
			if n := target(p, sp); n != 0 && !seen[n] {
				seen[n] = true
				l := mesh.Listener{Type: mesh.ListenerIngress, Port: n}
				if sp.Name != "" {
					l.Name = portName(sp.Name)
				}
				out = append(out, l)
			}
		}
	}
	return out
}

// transparentOf says how a pod's traffic comes to its proxy; nil when nothing is
// redirected; and whether that of others to the pod does. The error says what of the
// annotations is left out.
func transparentOf(p *Pod) (tp *mesh.TransparentProxying, inbound bool, err error) {
	if p.Redirect == "" {
		return nil, false, fmt.Errorf("without annotation %s nothing is redirected to its proxy: nobody is sent to it", annotationRedirect)
	}
	// What the rules of the pod were made of; see the field's own documentation.
	var redirect struct {
		Inbound, Outbound struct {
			Port     uint32
			Disabled bool
		}
		Families []string
	}
	if err := json.Unmarshal([]byte(p.Redirect), &redirect); err != nil {
		return nil, false, fmt.Errorf("annotation %s: %w", annotationRedirect, err)
	}
	inbound = !redirect.Inbound.Disabled
	if !inbound && redirect.Outbound.Disabled {
		return nil, false, nil
	}
	out := &mesh.TransparentProxying{RedirectPortInbound: redirect.Inbound.Port, RedirectPortOutbound: redirect.Outbound.Port}
	// A pod without an IPv6 address has nothing of that family to redirect; its
	// kernel may not even know it.
	if slices.Equal(redirect.Families, []string{"ipv4"}) || !slices.ContainsFunc(p.IPs, isIPv6) {
		out.IPFamilyMode = mesh.FamilyIPv4
	}
	if p.Reachable == "" {
		return out, inbound, nil
	}
	reachable, err := reachableOf(p.Reachable)
	if err != nil {
		return out, inbound, fmt.Errorf("annotation %s is left out, everything is reachable: %w", annotationReachable, err)
	}
	out.ReachableBackends = reachable
	return out, inbound, nil
}

func isIPv6(address string) bool {
	a, err := netip.ParseAddr(address)
	return err == nil && a.Unmap().Is6()
}

// reachableOf reads YAML or JSON.
func reachableOf(text string) (*mesh.ReachableBackends, error) {
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	out := &mesh.ReachableBackends{}
	if err := d.Decode(out); err != nil {
		return nil, err
	}
	probe := mesh.Dataplane{Networking: mesh.Networking{Address: "127.0.0.1", TransparentProxying: &mesh.TransparentProxying{ReachableBackends: out}}}
	if problems := probe.Validate(); len(problems) > 0 {
		return nil, problems
	}
	return out, nil
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
