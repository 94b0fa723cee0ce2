package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// owned is a resource that a Service makes, and where the zone's proxies call it.
type owned struct {
	resource  mesh.Resource
	addresses []string
}

// serviceInput is everything that the resources of a Service are made of.
type serviceInput struct {
	zone      string
	service   *Service
	namespace *Namespace // nil: not seen yet
	// pods with a sidecar that the Service selects.
	pods []*Pod
	// taken reports whether another Service of the namespace has a name.
	taken func(name string) bool
}

// servicesOf makes the MeshServices of a Service: one and, when it is headless, one
// for each of its pods. Errors say what cannot be one.
func servicesOf(in serviceInput) ([]owned, []error) {
	s := in.service
	if len(s.Selector) == 0 || len(s.Ports) == 0 || s.Labels[labelZoneProxy] != "" {
		return nil, nil
	}
	var out []owned
	var errs []error
	add := func(o owned, err error) {
		if err != nil {
			errs = append(errs, err)
		} else {
			out = append(out, o)
		}
	}
	labels := map[string]string{mesh.LabelHeadless: "false"}
	add(in.meshService(s.Name, labels, s.Selector, s.Addresses))
	if !s.Headless {
		return out, errs
	}
	pods := slices.Clone(in.pods)
	slices.SortFunc(pods, func(a, b *Pod) int { return strings.Compare(a.Name, b.Name) })
	for _, p := range pods {
		if len(p.IPs) == 0 || p.Finished {
			continue
		}
		name := instanceName(s.Name, p.Name)
		if in.taken != nil && in.taken(name) {
			errs = append(errs, fmt.Errorf("pod %s has no name of its own: a Service is called %s", p.Name, name))
			continue
		}
		selector := maps.Clone(s.Selector)
		selector[mesh.LabelPod] = podLabel(p.Name)
		labels := map[string]string{mesh.LabelHeadless: "true"}
		if pod := p.Labels[mesh.LabelStatefulPod]; pod != "" {
			labels[mesh.LabelStatefulPod] = pod // its name lasts: names may be made of it
		}
		add(in.meshService(name, labels, selector, p.IPs))
	}
	return out, errs
}

// meshService makes one MeshService.
func (in *serviceInput) meshService(name string, labels, selector map[string]string, addresses []string) (owned, error) {
	s := in.service
	match := map[string]string{}
	for k, v := range selector {
		match[mesh.CanonicalLabel(k)] = v
	}
	match[mesh.LabelNamespace] = s.Namespace // last: no selector reaches beyond it
	spec := &mesh.MeshService{Selector: mesh.ServiceSelector{DataplaneLabels: &mesh.LabelSelector{MatchLabels: match}}, Ports: portsOf(s)}
	all := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		if !reserved(k) && len(all) < maxPodLabels {
			all[k] = s.Labels[k]
		}
	}
	all[mesh.LabelNamespace], all[mesh.LabelServiceName] = s.Namespace, s.Name
	all[mesh.LabelManagedBy] = "k8s-controller"
	maps.Copy(all, labels)
	r := mesh.Resource{
		Key:    mesh.Key{Kind: mesh.KindMeshService, Mesh: meshOf(s.Labels, in.namespace), Zone: in.zone, Name: mesh.NamespacedName(name, s.Namespace)},
		Labels: all, Created: s.CreationTimestamp.UTC(),
	}
	computed, problems := mesh.ComputeLabels(r, spec, mesh.EnvKubernetes)
	r.Labels = computed
	problems = append(problems, mesh.ValidateResource(r, spec)...)
	if len(problems) > 0 {
		return owned{}, fmt.Errorf("it is no service of the mesh, and called as if there were none: %w", problems)
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return owned{}, err
	}
	r.Spec = text
	return owned{resource: r, addresses: canonicalAddresses(addresses)}, nil
}

// portsOf are the ports of a Service, none twice.
func portsOf(s *Service) []mesh.ServicePort {
	var out []mesh.ServicePort
	ports, names := map[uint32]bool{}, map[string]bool{}
	for _, p := range s.Ports {
		if ports[p.Port] {
			continue
		}
		ports[p.Port] = true
		sp := mesh.ServicePort{Port: p.Port, AppProtocol: p.Protocol, TargetPort: &mesh.IntOrString{Int: p.Target}}
		if p.TargetName != "" {
			sp.TargetPort = &mesh.IntOrString{Str: portName(p.TargetName)}
		}
		if name := portName(p.Name); p.Name != "" && !names[name] {
			sp.Name, names[name] = name, true
		}
		out = append(out, sp)
	}
	return out
}

// podLabel is the value of mesh.LabelPod: the name, cut where it is too long.
func podLabel(pod string) string {
	if len(pod) <= maxLabelValue {
		return pod
	}
	return cut(pod, digest(pod))
}

// instanceName is the name of the MeshService of one pod behind a headless Service,
// a label: that of the Service and the pod, or, where that is too long or no label,
// what fits of it and a digest.
func instanceName(service, pod string) string {
	name := service + "-" + pod
	if mesh.CheckDNSLabel(name) == "" {
		return name
	}
	return cut(strings.ReplaceAll(name, ".", "-"), digest(service+"/"+pod))
}

// maxLabelValue is the most octets of a label, in DNS and in Kubernetes.
const maxLabelValue = 63

// cut shortens a name so that a suffix still fits.
func cut(name, suffix string) string {
	name = name[:min(len(name), maxLabelValue-len(suffix)-1)]
	return strings.TrimRight(name, "-.") + "-" + suffix
}

func digest(text string) string {
	const octets = 4
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:octets])
}

// canonicalAddresses leaves IP addresses in canonical form, IPv4 first.
func canonicalAddresses(addresses []string) []string {
	var out []netip.Addr
	for _, a := range addresses {
		if ip, err := netip.ParseAddr(a); err == nil && ip.Zone() == "" {
			out = append(out, ip.Unmap())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	out = slices.Compact(out)
	text := make([]string, len(out))
	for i, ip := range out {
		text[i] = ip.String()
	}
	return text
}
