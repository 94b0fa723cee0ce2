package mesh

// MeshService is a service of one zone.
type MeshService struct {
	// Selector of the proxies behind it.
	Selector ServiceSelector `json:"selector,omitzero"`
	// Ports, at most 256.
	Ports []ServicePort `json:"ports,omitempty"`
	// Identities that the proxies behind it prove; written by the zone.
	Identities []ServiceIdentity `json:"identities,omitempty"`
	// State is Available or Unavailable; written by the zone.
	State string `json:"state,omitempty" enum:"Available,Unavailable"`
}

// ServiceSelector selects by labels or one by name.
type ServiceSelector struct {
	// DataplaneLabels that a proxy must all have.
	DataplaneLabels *LabelSelector `json:"dataplaneLabels,omitempty"`
	// DataplaneRef is one proxy.
	DataplaneRef *DataplaneRef `json:"dataplaneRef,omitempty"`
}

// LabelSelector selects by labels.
type LabelSelector struct {
	// MatchLabels must all be equal; empty selects everything.
	MatchLabels map[string]string `json:"matchLabels,omitempty"`
}

// DataplaneRef names a proxy.
type DataplaneRef struct {
	// Name of the Dataplane.
	Name string `json:"name"`
}

// ServicePort is a port of a service.
type ServicePort struct {
	// Name, an RFC 1035 label; default is the number.
	Name string `json:"name,omitempty"`
	// Port that callers address, 1-65535.
	Port uint32 `json:"port"`
	// TargetPort is the inbound behind it, by number or name; default Port.
	TargetPort *IntOrString `json:"targetPort,omitempty"`
	// AppProtocol is tcp (default), http, http2 or grpc.
	AppProtocol string `json:"appProtocol,omitempty" enum:"tcp,http,http2,grpc"`
}

// ServiceIdentity is an identity that the proxies of a service prove.
type ServiceIdentity struct {
	// Type is SpiffeID.
	Type string `json:"type" enum:"SpiffeID"`
	// Value, for example "spiffe://default.west.mesh.local/workload/backend".
	Value string `json:"value"`
}

// MeshServiceStatus is what the owning zone reports of a MeshService.
type MeshServiceStatus struct {
	// DataplaneProxies behind the service.
	DataplaneProxies ProxyCounts `json:"dataplaneProxies"`
	// Ports with their healthy instances; weights between zones follow them.
	Ports []PortHealth `json:"ports,omitempty"`
	// TLS says whether every proxy has an identity: Ready or NotReady.
	TLS struct {
		Status string `json:"status,omitempty"`
	} `json:"tls,omitzero"`
	ServiceNames
}

// ProxyCounts counts proxies.
type ProxyCounts struct {
	// Connected to the zone now.
	Connected int `json:"connected"`
	// Healthy: connected and ready.
	Healthy int `json:"healthy"`
	// Total known.
	Total int `json:"total"`
}

// PortHealth is how many instances serve a port.
type PortHealth struct {
	// Port of the service.
	Port uint32 `json:"port"`
	// Healthy instances.
	Healthy uint32 `json:"healthy"`
}

// MeshMultiZoneService is one name for the MeshServices of several zones.
type MeshMultiZoneService struct {
	// Selector of the MeshServices.
	Selector MultiZoneSelector `json:"selector"`
	// Ports, at least one.
	Ports []ServicePort `json:"ports"`
}

// Warnings implements Cautious: labels of a Service are its author's to choose, and
// its namespace alone is not.
func (s *MeshMultiZoneService) Warnings() []string {
	labels := CanonicalLabels(s.Selector.MeshService.MatchLabels)
	if labels[LabelNamespace] != "" || labels[LabelEnv] == EnvUniversal {
		return nil
	}
	return []string{"selector.meshService.matchLabels has neither " + LabelNamespace + " nor " + LabelEnv + ": " + EnvUniversal + ": in Kubernetes zones a Service of any namespace that has the other labels is taken in, and gets calls to this name"}
}

// MultiZoneSelector selects MeshServices.
type MultiZoneSelector struct {
	// MeshService labels.
	MeshService LabelSelector `json:"meshService"`
}

// MeshZoneAddress is where other zones reach the ingress.
type MeshZoneAddress struct {
	// Address, an IP or a DNS name.
	Address string `json:"address"`
	// Port 1-65535.
	Port uint32 `json:"port"`
}

// Workload is inventory only; its spec is empty.
type Workload struct{}

// WorkloadStatus is what the owning zone reports of a Workload.
type WorkloadStatus struct {
	// DataplaneProxies of the workload.
	DataplaneProxies ProxyCounts `json:"dataplaneProxies"`
}
