package mesh

// ServiceNames says where the proxies of a zone call a service, and by which
// names. It is part of the status of services.
type ServiceNames struct {
	// Addresses are the hostnames, sorted by name, at most 32.
	Addresses []ServiceAddress `json:"addresses,omitempty"`
	// VIPs are the addresses that the hostnames lead to, IPv4 first: those of the
	// platform, such as a ClusterIP, or else virtual ones.
	VIPs []ServiceVIP `json:"vips,omitempty"`
	// HostnameGenerators that select the service, at most 32.
	HostnameGenerators []HostnameGeneratorStatus `json:"hostnameGenerators,omitempty"`
}

// MaxServiceNames bounds the hostnames, and the generators, that a status shows.
const MaxServiceNames = 32

// ServiceAddress is a hostname of a service.
type ServiceAddress struct {
	// Hostname, for example "backend.svc.west.mesh.local".
	Hostname string `json:"hostname"`
	// Origin is HostnameGenerator.
	Origin string `json:"origin" enum:"HostnameGenerator"`
	// HostnameGeneratorRef is where it comes from.
	HostnameGeneratorRef HostnameGeneratorRef `json:"hostnameGeneratorRef"`
}

// HostnameGeneratorRef names a HostnameGenerator.
type HostnameGeneratorRef struct {
	// CoreName is its name; one that a zone owns has ".<zone>" behind it.
	CoreName string `json:"coreName"`
}

// ServiceVIP is an address at which a service is called.
type ServiceVIP struct {
	// IP, for example "241.12.3.4".
	IP string `json:"ip"`
}

// HostnameGeneratorStatus is what a generator is to a service that it selects.
type HostnameGeneratorStatus struct {
	// HostnameGeneratorRef names it.
	HostnameGeneratorRef HostnameGeneratorRef `json:"hostnameGeneratorRef"`
	// Conditions: Generated.
	Conditions []GeneratorCondition `json:"conditions"`
}

// GeneratorCondition is one aspect of a generator at a service.
type GeneratorCondition struct {
	// Type is Generated: the service has a name by the generator.
	Type string `json:"type" enum:"Generated"`
	// Status of the condition.
	Status string `json:"status" enum:"True,False"`
	// Reason is Generated, Collision (the name is another service's) or
	// TemplateError (the template yields no name for this service).
	Reason string `json:"reason" enum:"Generated,Collision,TemplateError"`
	// Message for people.
	Message string `json:"message"`
}

// Words of ServiceNames.
const (
	// OriginHostnameGenerator is the origin of generated hostnames.
	OriginHostnameGenerator = "HostnameGenerator"
	// ConditionGenerated is the type of GeneratorCondition.
	ConditionGenerated = "Generated"
	// ReasonCollision and ReasonTemplateError say why there is no name.
	ReasonCollision     = "Collision"
	ReasonTemplateError = "TemplateError"
)
