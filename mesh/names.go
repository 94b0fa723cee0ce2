package mesh

import (
	"fmt"
	"strings"
)

// maxServerName is the most octets of a DNS name, and so of an SNI.
const maxServerName = 253

// NamespacedName is the name of a resource that a Kubernetes zone owns: that of
// the object and of its namespace, for example "web.shop". It is unique in the
// zone, as the object is in its cluster.
func NamespacedName(name, namespace string) string {
	if namespace == "" {
		return name
	}
	return name + "." + namespace
}

// ObjectName is the name without the namespace, "web" of "web.shop", for the
// resource of a Kubernetes zone; every other resource's name is its own.
func ObjectName(r *Resource) string {
	if ns := namespaceOf(r); ns != "" {
		return strings.TrimSuffix(r.Name, "."+ns)
	}
	return r.Name
}

// namespaceOf is the namespace that a resource lies in: those of Kubernetes
// zones do. On anything else the label is one as any other.
func namespaceOf(r *Resource) string {
	if r.Zone == "" {
		return ""
	}
	labels := r.Labels
	if _, ok := labels[LabelNamespace]; !ok {
		labels = CanonicalLabels(labels)
	}
	if labels[LabelEnv] == EnvUniversal {
		return ""
	}
	return labels[LabelNamespace]
}

// checkResourceName says what is wrong with the name of a resource. Of a
// resource in a namespace it must end with that.
func checkResourceName(k Kind, r *Resource) string {
	name := r.Name
	if ns := namespaceOf(r); ns != "" {
		if reason := CheckDNSLabel(ns); reason != "" {
			return "has a namespace that is no label: " + reason
		}
		object, ok := strings.CutSuffix(name, "."+ns)
		if !ok {
			return fmt.Sprintf("must be <name>.%s, as the label %s says, not %q", ns, LabelNamespace, abridge(name))
		}
		if reason := CheckName(name); reason != "" {
			return reason
		}
		name = object
	}
	if k.DNSLabel {
		return CheckDNSLabel(name)
	}
	return CheckName(name)
}

// checkServerName bounds the SNI of a service's ports, which its name, its zone
// and its mesh make together.
func checkServerName(r *Resource) string {
	if r.Kind != KindMeshService || r.Zone == "" {
		return ""
	}
	if n := len(SNI(65535, r.Name, r.Zone, r.Mesh)); n > maxServerName {
		return fmt.Sprintf("is too long with zone %q and mesh %q: callers name a port of it by a server name (SNI) of %d octets, of which %d are allowed", abridge(r.Zone), abridge(r.Mesh), n, maxServerName)
	}
	return ""
}

// SNI is the TLS server name of one port of one service of one zone, for
// example "8080.backend.west.default.mesh", or in a Kubernetes zone
// "8080.backend.shop.west.default.mesh". It is compared, never parsed.
func SNI(port uint32, service, zone, mesh string) string {
	return fmt.Sprintf("%d.%s.%s.%s.mesh", port, service, zone, mesh)
}

// SNIWildcard covers every SNI of one zone and mesh: "*.west.default.mesh".
func SNIWildcard(zone, mesh string) string { return "*." + zone + "." + mesh + ".mesh" }

// KRI is the text id of a resource or a part of it, used as Envoy's resource
// and stats name, in `GET /_kri/{kri}` and in logs:
// kri_<short>_<mesh>_<zone>_<namespace>_<name>_<section>. Empty parts stay.
func KRI(short, mesh, zone, namespace, name, section string) string {
	return "kri_" + short + "_" + mesh + "_" + zone + "_" + namespace + "_" + name + "_" + section
}
