package kube

import (
	"maps"
	"net"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Annotations and labels of a cluster's objects that are read here, in canonical
// form; those under kuma.io mean the same.
const (
	annotationInjected  = mesh.LabelPrefix + "sidecar-injected"
	annotationRedirect  = "traffic." + mesh.LabelPrefix + "redirect"
	annotationReachable = mesh.LabelPrefix + "reachable-backends"
	annotationIngress   = "k8s." + mesh.LabelPrefix + "ingress-address" // host or host:port
	annotationAddress   = mesh.LabelPrefix + "ingress-public-address"   // the older two
	annotationPort      = mesh.LabelPrefix + "ingress-public-port"
	annotationProtocol  = ".service." + mesh.LabelPrefix + "protocol" // after a port
	labelInjection      = mesh.LabelPrefix + "sidecar-injection"
	labelPodSecurity    = "pod-security.kubernetes.io/enforce"
	labelZoneProxy      = "k8s." + mesh.LabelPrefix + "zone-proxy-type"
)

// Namespace is what is kept of one.
type Namespace struct{ metav1.ObjectMeta }

// Node is what is kept of one.
type Node struct {
	metav1.ObjectMeta
	// Address where others reach it: an external one, if it has one.
	Address string
	Ready   bool
}

// Pod is what is kept of one. Of a pod without a proxy that is its name.
type Pod struct {
	metav1.ObjectMeta
	// Injected: it has a sidecar, or is a zone proxy.
	Injected       bool
	ServiceAccount string
	Node           string
	IPs            []string
	// Claimed: the IPs are what its agent says, the API server has none yet.
	Claimed bool
	// Ports of its containers by name.
	Ports map[string]uint32
	Ready bool
	// Finished pods run no more.
	Finished bool
	Workload string
	// Redirect and Reachable are annotations.
	Redirect, Reachable string
}

// Service is what is kept of one.
type Service struct {
	metav1.ObjectMeta
	Selector map[string]string
	Ports    []ServicePort
	// Addresses are its ClusterIPs, none when it is headless.
	Addresses       []string
	Headless        bool
	PublishNotReady bool
	Kind            corev1.ServiceType
	// Local traffic policy: only nodes with a pod of it answer.
	Local bool
	// Balancers are the addresses and names of its load balancer.
	Balancers []string
	// PublicAddress and PublicPort are annotations.
	PublicAddress, PublicPort string
}

// ServicePort is a TCP port of a Service.
type ServicePort struct {
	Name   string
	Port   uint32
	Target uint32 // 0: by TargetName
	// TargetName is a port of the container.
	TargetName string
	NodePort   uint32
	Protocol   string // tcp, http, http2 or grpc
	// Told: somebody said the protocol.
	Told bool
}

// Slice is what is kept of an EndpointSlice.
type Slice struct {
	metav1.ObjectMeta
	Service string
	// Pods that are behind it, by name; the value says ready.
	Pods map[string]bool
}

func slimNamespace(o runtime.Object) *Namespace {
	ns := o.(*corev1.Namespace)
	return &Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns.Name, Labels: ours(ns.Labels), Annotations: ours(ns.Annotations)}}
}

// ours are the labels or annotations that say something to us, in canonical form.
func ours(all map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range mesh.CanonicalLabels(all) {
		if prefix, _, ok := strings.Cut(k, "/"); ok && (prefix+"/" == mesh.LabelPrefix || strings.HasSuffix(prefix+"/", "."+mesh.LabelPrefix)) || k == labelPodSecurity {
			out[k] = v
		}
	}
	return out
}

func slimNode(o runtime.Object) *Node {
	n := o.(*corev1.Node)
	out := &Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: map[string]string{}}}
	for _, k := range topologyLabels() {
		if v := n.Labels[k]; v != "" {
			out.Labels[k] = v
		}
	}
	for _, want := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range n.Status.Addresses {
			if a.Type == want {
				out.Address = a.Address
				break
			}
		}
	}
	for _, c := range n.Status.Conditions {
		out.Ready = out.Ready || c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}
	return out
}

func topologyLabels() []string {
	return []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelHostname}
}

// slimPod keeps of a pod what a Dataplane needs. In a namespace that is not the
// operator's it is no zone proxy, whatever its labels say. A pod with the network of
// its node has no proxy either, and the node's address is not one of the mesh.
func slimPod(o runtime.Object, operators func(namespace string) bool) *Pod {
	p := o.(*corev1.Pod)
	out := &Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID}}
	annotations := mesh.CanonicalLabels(p.Annotations)
	proxy := operators(p.Namespace) && mesh.CanonicalLabels(p.Labels)[labelZoneProxy] != ""
	if !proxy && (annotations[annotationInjected] != "true" || p.Spec.HostNetwork) {
		return out
	}
	out.Injected, out.Labels, out.DeletionTimestamp = true, p.Labels, p.DeletionTimestamp
	out.Redirect, out.Reachable = annotations[annotationRedirect], annotations[annotationReachable]
	out.ServiceAccount, out.Node = p.Spec.ServiceAccountName, p.Spec.NodeName
	for _, ip := range p.Status.PodIPs {
		out.IPs = append(out.IPs, ip.IP)
	}
	if len(out.IPs) == 0 && p.Status.PodIP != "" {
		out.IPs = []string{p.Status.PodIP}
	}
	for _, c := range slices.Concat(p.Spec.Containers, p.Spec.InitContainers) {
		for _, port := range c.Ports {
			if port.Name != "" && (port.Protocol == corev1.ProtocolTCP || port.Protocol == "") && port.ContainerPort > 0 {
				if out.Ports == nil {
					out.Ports = map[string]uint32{}
				}
				if _, taken := out.Ports[port.Name]; !taken {
					out.Ports[port.Name] = uint32(port.ContainerPort)
				}
			}
		}
	}
	for _, c := range p.Status.Conditions {
		out.Ready = out.Ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	}
	out.Finished = p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	out.Workload = workloadOf(p)
	return out
}

// slimService keeps of a Service what is read of it. In a namespace that is not the
// operator's it leads to no zone proxy, whatever its labels say.
func slimService(o runtime.Object, operators func(namespace string) bool) *Service {
	s := o.(*corev1.Service)
	out := &Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name, UID: s.UID, Labels: mesh.CanonicalLabels(s.Labels), CreationTimestamp: s.CreationTimestamp}}
	if !operators(s.Namespace) {
		delete(out.Labels, labelZoneProxy)
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName || len(s.Spec.Selector) == 0 {
		return out
	}
	annotations := mesh.CanonicalLabels(s.Annotations)
	out.PublicAddress, out.PublicPort = annotations[annotationAddress], annotations[annotationPort]
	if given := annotations[annotationIngress]; given != "" {
		if host, port, err := net.SplitHostPort(given); err == nil {
			out.PublicAddress, out.PublicPort = host, port
		} else {
			out.PublicAddress = strings.Trim(given, "[]")
		}
	}
	out.Selector, out.PublishNotReady, out.Kind = s.Spec.Selector, s.Spec.PublishNotReadyAddresses, s.Spec.Type
	out.Local = s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	out.Headless = s.Spec.ClusterIP == corev1.ClusterIPNone
	if !out.Headless {
		out.Addresses = slices.DeleteFunc(slices.Clone(s.Spec.ClusterIPs), func(ip string) bool { return ip == "" || ip == corev1.ClusterIPNone })
	}
	for _, p := range s.Spec.Ports {
		if p.Protocol != corev1.ProtocolTCP && p.Protocol != "" || p.Port <= 0 {
			continue
		}
		port := ServicePort{Name: p.Name, Port: uint32(p.Port), NodePort: uint32(max(p.NodePort, 0)), TargetName: p.TargetPort.StrVal}
		if port.TargetName == "" {
			if port.Target = uint32(max(p.TargetPort.IntVal, 0)); port.Target == 0 {
				port.Target = port.Port
			}
		}
		port.Protocol, port.Told = protocolOf(p, annotations)
		out.Ports = append(out.Ports, port)
	}
	for _, b := range s.Status.LoadBalancer.Ingress {
		if b.IP != "" {
			out.Balancers = append(out.Balancers, b.IP)
		} else if b.Hostname != "" {
			out.Balancers = append(out.Balancers, b.Hostname)
		}
	}
	return out
}

func slimSlice(o runtime.Object) *Slice {
	s := o.(*discoveryv1.EndpointSlice)
	out := &Slice{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name}, Service: s.Labels[discoveryv1.LabelServiceName]}
	for _, e := range s.Endpoints {
		if e.TargetRef == nil || e.TargetRef.Kind != "Pod" {
			continue
		}
		if out.Pods == nil {
			out.Pods = make(map[string]bool, len(s.Endpoints))
		}
		out.Pods[e.TargetRef.Name] = e.Conditions.Ready == nil || *e.Conditions.Ready
	}
	return out
}

// workloadOf names what a pod is a replica of: the label, if its author gave one,
// else its owner. What owns the owner shows in names: a ReplicaSet is called after
// its Deployment and the template's hash, the Job of a CronJob after it and a time.
func workloadOf(p *corev1.Pod) string {
	if w := mesh.CanonicalLabels(p.Labels)[mesh.LabelWorkload]; w != "" {
		return w
	}
	name := p.Name
	if owner := metav1.GetControllerOf(p); owner != nil {
		name = owner.Name
		switch owner.Kind {
		case "ReplicaSet":
			name = strings.TrimSuffix(name, "-"+p.Labels["pod-template-hash"])
		case "Job":
			name = withoutTime(name)
		}
	}
	if mesh.CheckDNSLabel(name) != "" {
		return "" // no value of a label
	}
	return name
}

// withoutTime cuts the minutes since 1970 off the name of a CronJob's Job.
func withoutTime(job string) string {
	const least = 8 // digits: 27 million minutes are the year 2021
	cut := strings.TrimRight(job, "0123456789")
	if base, ok := strings.CutSuffix(cut, "-"); ok && len(job)-len(cut) >= least && base != "" {
		return base
	}
	return job
}

// Protocols as the mesh knows them.
const (
	protocolTCP   = "tcp"
	protocolHTTP  = "http"
	protocolHTTP2 = "http2"
	protocolGRPC  = "grpc"
)

// protocolOf is the protocol of a port and whether somebody said so: appProtocol,
// then the prefix of its name, then an annotation for its number.
func protocolOf(p corev1.ServicePort, annotations map[string]string) (protocol string, told bool) {
	if p.AppProtocol != nil && *p.AppProtocol != "" {
		switch strings.ToLower(*p.AppProtocol) {
		case "http", "kubernetes.io/ws", "ws":
			return protocolHTTP, true
		case "http2", "h2c", "kubernetes.io/h2c":
			return protocolHTTP2, true
		case "grpc":
			return protocolGRPC, true
		}
		return protocolTCP, true // whatever it is, it is bytes to us
	}
	prefix, rest, _ := strings.Cut(p.Name, "-")
	switch {
	case prefix == "grpc" && (rest == "web" || strings.HasPrefix(rest, "web-")):
		return protocolHTTP, true
	case prefix == protocolHTTP || prefix == protocolHTTP2 || prefix == protocolGRPC || prefix == protocolTCP:
		return prefix, true
	}
	for _, k := range slices.Sorted(maps.Keys(annotations)) {
		if port, ok := strings.CutSuffix(strings.Replace(k, ".service.kuma.io/", ".service."+mesh.LabelPrefix, 1), annotationProtocol); ok && port == number(uint32(p.Port)) {
			switch v := annotations[k]; v {
			case protocolHTTP, protocolHTTP2, protocolGRPC, protocolTCP:
				return v, true
			}
		}
	}
	return protocolTCP, false
}
