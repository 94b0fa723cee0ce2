package mesh

// Dataplane is one proxy and what it stands for.
type Dataplane struct {
	// Networking is required.
	Networking Networking `json:"networking"`
}

// Networking of a Dataplane.
type Networking struct {
	// Address (IP) at which other proxies reach this one.
	Address string `json:"address"`
	// Inbound ports of the application, at most 256.
	Inbound []Inbound `json:"inbound,omitempty"`
	// Outbound addresses that the application calls, at most 1024.
	Outbound []Outbound `json:"outbound,omitempty"`
	// Listeners make this a zone proxy (ingress, egress).
	Listeners []Listener `json:"listeners,omitempty"`
	// TransparentProxying is set where the kernel redirects the application's
	// traffic to the proxy: then it needs no outbounds to reach a service.
	TransparentProxying *TransparentProxying `json:"transparentProxying,omitempty"`
	// Admin has the port of Envoy's admin API, when it is not on a socket.
	Admin *Admin `json:"admin,omitempty"`
}

// TransparentProxying says where redirected traffic arrives and what of the mesh
// the application may reach by plain names and addresses.
type TransparentProxying struct {
	// RedirectPortInbound is where redirected inbound connections arrive, default 15006.
	RedirectPortInbound uint32 `json:"redirectPortInbound,omitempty"`
	// RedirectPortOutbound is where redirected outbound connections arrive, default 15001.
	RedirectPortOutbound uint32 `json:"redirectPortOutbound,omitempty"`
	// IPFamilyMode is DualStack (default) or IPv4: which families are redirected.
	IPFamilyMode string `json:"ipFamilyMode,omitempty"`
	// ReachableBackends limits which services the proxy can call; absent: all of
	// its mesh. Fewer mean less memory and less to configure.
	ReachableBackends *ReachableBackends `json:"reachableBackends,omitempty"`
}

// ReachableBackends of a proxy.
type ReachableBackends struct {
	// Refs to services; an empty list means none.
	Refs []ReachableBackend `json:"refs,omitempty"`
}

// ReachableBackend selects services.
type ReachableBackend struct {
	// Kind is MeshService or MeshMultiZoneService.
	Kind KindName `json:"kind"`
	// Labels that the service must all have.
	Labels map[string]string `json:"labels,omitempty"`
	// Name is short for the label display-name.
	Name string `json:"name,omitempty"`
	// Namespace is short for the label namespace.
	Namespace string `json:"namespace,omitempty"`
	// Port of the service; absent: every port.
	Port uint32 `json:"port,omitempty"`
}

// Defaults of TransparentProxying.
const (
	DefaultRedirectInbound  = 15006
	DefaultRedirectOutbound = 15001
	FamilyDualStack         = "DualStack"
	FamilyIPv4              = "IPv4"
)

// Admin of a proxy.
type Admin struct {
	// Port 1-65535.
	Port uint32 `json:"port,omitempty"`
}

// Inbound is one port of the application behind the proxy.
type Inbound struct {
	// Name of the port, an RFC 1035 label; default is the number.
	Name string `json:"name,omitempty"`
	// Address where the proxy listens; default networking.address.
	Address string `json:"address,omitempty"`
	// Port where the proxy listens, and which callers address.
	Port uint32 `json:"port"`
	// ServiceAddress where the application listens; default networking.address
	// if the ports differ, else 127.0.0.1. With transparentProxying the default is
	// the inbound's own address, as if there were no proxy.
	ServiceAddress string `json:"serviceAddress,omitempty"`
	// ServicePort where the application listens; default Port.
	ServicePort uint32 `json:"servicePort,omitempty"`
	// Protocol is tcp (default), http, http2 or grpc.
	Protocol string `json:"protocol,omitempty"`
	// State is Ready (default), NotReady or Ignored.
	State string `json:"state,omitempty"`
	// Health is the older way to say it.
	Health *InboundHealth `json:"health,omitempty"`
	// ServiceProbe asks the agent to watch the application's port. By default
	// it does, with a TCP connect.
	ServiceProbe *ServiceProbe `json:"serviceProbe,omitempty"`
}

// InboundHealth says whether an inbound takes traffic.
type InboundHealth struct {
	// Ready to take traffic.
	Ready bool `json:"ready"`
}

// ServiceProbe of an inbound.
type ServiceProbe struct {
	// Interval between probes, default 1s.
	Interval *Duration `json:"interval,omitempty"`
	// Timeout of a probe, default 500ms.
	Timeout *Duration `json:"timeout,omitempty"`
	// UnhealthyThreshold of failures in a row, default 1.
	UnhealthyThreshold *uint32 `json:"unhealthyThreshold,omitempty"`
	// HealthyThreshold of successes in a row, default 1.
	HealthyThreshold *uint32 `json:"healthyThreshold,omitempty"`
	// TCP is the only form of probe.
	TCP *struct{} `json:"tcp,omitempty"`
}

// Outbound is an address that the application calls.
type Outbound struct {
	// Address to listen on, default 127.0.0.1.
	Address string `json:"address,omitempty"`
	// Port to listen on.
	Port uint32 `json:"port"`
	// BackendRef is where it leads.
	BackendRef BackendRef `json:"backendRef"`
}

// Listener of a zone proxy.
type Listener struct {
	// Type is ZoneIngress or ZoneEgress.
	Type string `json:"type"`
	// Address to listen on; default networking.address.
	Address string `json:"address,omitempty"`
	// Port to listen on.
	Port uint32 `json:"port"`
	// Name of the listener, an RFC 1035 label; default the number.
	Name string `json:"name,omitempty"`
	// State is Ready (default) or NotReady.
	State string `json:"state,omitempty"`
}

// Types of listeners.
const (
	ListenerIngress = "ZoneIngress"
	ListenerEgress  = "ZoneEgress"
)

// States of inbounds and listeners.
const (
	StateReady    = "Ready"
	StateNotReady = "NotReady"
	StateIgnored  = "Ignored"
)
