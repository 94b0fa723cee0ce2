package kube

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// ingressInput is everything that the addresses of a zone's ingress are made of.
type ingressInput struct {
	zone      string
	service   *Service
	namespace *Namespace // nil: not seen yet
	// pods with a sidecar that the Service selects.
	pods []*Pod
	// nodes of the cluster.
	nodes []*Node
	// resolved are the addresses of names; a name that is not in it is not known yet.
	resolved map[string][]string
}

// ingressOf are the places where other zones reach the ingress behind a Service:
// those that its annotations give, else of its load balancer, else its node port on
// every node that answers there. None while none of its pods is ready. The error
// says why there is none although somebody meant it.
func ingressOf(in ingressInput) ([]owned, error) {
	s := in.service
	if s.Labels[labelZoneProxy] != "ingress" || len(s.Ports) == 0 {
		return nil, nil
	}
	nodes := map[string]bool{} // with a ready pod
	for _, p := range in.pods {
		if p.Ready && p.DeletionTimestamp == nil && !p.Finished {
			nodes[p.Node] = true
		}
	}
	if len(nodes) == 0 {
		return nil, nil
	}
	port, addresses, err := in.places(nodes)
	var out []owned
	for _, a := range addresses {
		o, problem := in.address(a, port)
		if problem != nil {
			return out, problem
		}
		out = append(out, o)
	}
	return out, err
}

// places are a port and the IP addresses where it answers, sorted.
func (in *ingressInput) places(nodes map[string]bool) (uint32, []string, error) {
	s, port := in.service, in.service.Ports[0].Port
	if s.PublicPort != "" {
		n, err := strconv.ParseUint(s.PublicPort, 10, 16)
		if err != nil || n == 0 {
			return 0, nil, fmt.Errorf("annotation %s: port must be 1 to 65535, not %.20q", annotationIngress, s.PublicPort)
		}
		port = uint32(n)
	}
	switch {
	case s.PublicAddress != "":
		return port, in.ips([]string{s.PublicAddress}), nil
	case s.Kind == corev1.ServiceTypeLoadBalancer:
		return port, in.ips(s.Balancers), nil
	case s.Kind == corev1.ServiceTypeNodePort:
		if s.PublicPort == "" {
			port = s.Ports[0].NodePort
		}
		var all []string
		for _, n := range in.nodes {
			if n.Ready && n.Address != "" && (!s.Local || nodes[n.Name]) {
				all = append(all, n.Address)
			}
		}
		return port, in.ips(all), nil
	}
	return 0, nil, fmt.Errorf("other zones cannot reach an ingress of type %s: it must be LoadBalancer or NodePort, or have the annotation %s", s.Kind, annotationIngress)
}

// ips puts the addresses of names in their places.
func (in *ingressInput) ips(places []string) []string {
	var out []string
	for _, p := range places {
		if _, err := netip.ParseAddr(p); err == nil {
			out = append(out, p)
		} else {
			out = append(out, in.resolved[p]...)
		}
	}
	return canonicalAddresses(out)
}

// names are what of the places has to be resolved.
func (s *Service) names() []string {
	if s.Labels[labelZoneProxy] == "" {
		return nil
	}
	places := s.Balancers
	if s.PublicAddress != "" {
		places = []string{s.PublicAddress}
	}
	return slices.DeleteFunc(slices.Clone(places), func(p string) bool {
		_, err := netip.ParseAddr(p)
		return err == nil
	})
}

func (in *ingressInput) address(address string, port uint32) (owned, error) {
	s := in.service
	spec := &mesh.MeshZoneAddress{Address: address, Port: port}
	name := s.Name + "-" + strings.NewReplacer(".", "-", ":", "-").Replace(address)
	r := mesh.Resource{
		Key: mesh.Key{Kind: mesh.KindMeshZoneAddress, Mesh: meshOf(s.Labels, in.namespace), Zone: in.zone,
			Name: mesh.NamespacedName(strings.TrimRight(name, "-"), s.Namespace)},
		Labels: map[string]string{mesh.LabelNamespace: s.Namespace, mesh.LabelServiceName: s.Name, mesh.LabelManagedBy: "k8s-controller"},
	}
	computed, problems := mesh.ComputeLabels(r, spec, mesh.EnvKubernetes)
	r.Labels = computed
	problems = append(problems, mesh.ValidateResource(r, spec)...)
	if len(problems) > 0 {
		return owned{}, problems
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return owned{}, err
	}
	r.Spec = text
	return owned{resource: r}, nil
}
