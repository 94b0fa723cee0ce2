package mesh

import "slices"

// The names of the kinds, for code that handles one in particular.
const (
	KindMesh                  KindName = "Mesh"
	KindZone                  KindName = "Zone"
	KindDataplane             KindName = "Dataplane"
	KindWorkload              KindName = "Workload"
	KindMeshService           KindName = "MeshService"
	KindMeshMultiZoneService  KindName = "MeshMultiZoneService"
	KindMeshZoneAddress       KindName = "MeshZoneAddress"
	KindHostnameGenerator     KindName = "HostnameGenerator"
	KindContainerPatch        KindName = "ContainerPatch"
	KindMeshIdentity          KindName = "MeshIdentity"
	KindMeshTrust             KindName = "MeshTrust"
	KindSecret                KindName = "Secret"
	KindMeshTrafficPermission KindName = "MeshTrafficPermission"
	KindMeshTimeout           KindName = "MeshTimeout"
	KindMeshHTTPRoute         KindName = "MeshHTTPRoute"
	KindMeshTCPRoute          KindName = "MeshTCPRoute"
)

// Kinds returns every kind, in the order in which lists are shown and policies
// are applied. A new kind is one more value here and one file beside it.
func Kinds() []Kind {
	services := []KindName{KindMeshService, KindMeshMultiZoneService}
	everywhere := GlobalToZones | ZoneToGlobal | AcrossZones // of policies, across zones those of producers alone
	anyTo := append([]KindName{KindMesh, KindMeshHTTPRoute}, services...)
	return []Kind{
		define[Mesh](Kind{Name: KindMesh, Short: "m", Flow: GlobalToZones, Inline: true, DNSLabel: true, Cluster: MirroredInCluster,
			Summary: "a set of workloads that share policy and trust; two meshes never talk to each other"}),
		define[Zone](Kind{Name: KindZone, Short: "z", Inline: true, DNSLabel: true,
			Summary: "a cluster or datacenter that has joined; enabled: false withholds its resources from the others"}),
		define[Dataplane](Kind{Name: KindDataplane, Short: "dp", Scope: ScopeMesh, Flow: ZoneToGlobal, Inline: true,
			Summary: "one proxy: a sidecar with its inbounds and outbounds, or a zone ingress with listeners"}),
		define[Workload](Kind{Name: KindWorkload, Short: "wl", Scope: ScopeMesh, Flow: ZoneToGlobal, DNSLabel: true,
			Summary: "inventory of the workloads of a zone"}),
		define[MeshService](Kind{Name: KindMeshService, Short: "msvc", Scope: ScopeMesh, Flow: ZoneToGlobal | AcrossZones, DNSLabel: true, Cluster: AuthoredInCluster,
			Summary: "a service of one zone: its ports, the proxies behind it and the identities they prove"}),
		define[MeshMultiZoneService](Kind{Name: KindMeshMultiZoneService, Short: "mzsvc", Scope: ScopeMesh, Flow: GlobalToZones, DNSLabel: true, Cluster: MirroredInCluster,
			Summary: "one name for the MeshServices of several zones; local first, failover to the others"}),
		define[MeshZoneAddress](Kind{Name: KindMeshZoneAddress, Short: "mza", Scope: ScopeMesh, Flow: ZoneToGlobal | AcrossZones,
			Summary: "where other zones reach a mesh's ingress of this zone"}),
		define[HostnameGenerator](Kind{Name: KindHostnameGenerator, Short: "hg", Flow: GlobalToZones | ZoneToGlobal, Cluster: AuthoredInCluster, SystemOnly: true,
			Summary: "hostnames for services, by a template"}),
		// Global cannot write it: that would be a way into every cluster's nodes.
		define[ContainerPatch](Kind{Name: KindContainerPatch, Flow: ZoneToGlobal, Cluster: AuthoredInCluster, SystemOnly: true,
			Summary: "changes to the containers that are injected into pods"}),
		define[MeshIdentity](Kind{Name: KindMeshIdentity, Short: "mid", Scope: ScopeMesh, Flow: GlobalToZones, DNSLabel: true, Cluster: MirroredInCluster,
			Summary: "who gets which SPIFFE ID, and from which authority"}),
		define[MeshTrust](Kind{Name: KindMeshTrust, Short: "mtrust", Scope: ScopeMesh, Flow: GlobalToZones | ZoneToGlobal | AcrossZones, DNSLabel: true, Cluster: MirroredInCluster,
			Summary: "the public trust bundle of a trust domain"}),
		define[Secret](Kind{Name: KindSecret, Scope: ScopeMesh, Flow: GlobalToZones, Inline: true, AdminOnly: true,
			Summary: "bytes that policies refer to; encrypted at rest"}),
		define[MeshTrafficPermission](Kind{Name: KindMeshTrafficPermission, Short: "mtp", Scope: ScopeMesh, Flow: everywhere, Cluster: AuthoredInCluster,
			Policy:  &PolicyShape{Rules: true},
			Summary: "who may call whom; without one, nobody may"}),
		define[MeshTimeout](Kind{Name: KindMeshTimeout, Short: "mt", Scope: ScopeMesh, Flow: everywhere, Cluster: AuthoredInCluster,
			Policy:  &PolicyShape{To: true, ToKinds: anyTo, Rules: true, Matches: true},
			Summary: "timeouts of connections, requests and streams, inbound or outbound"}),
		define[MeshHTTPRoute](Kind{Name: KindMeshHTTPRoute, Short: "mhttpr", Scope: ScopeMesh, Flow: everywhere, Cluster: AuthoredInCluster,
			Policy:  &PolicyShape{To: true, ToKinds: services},
			Summary: "where an HTTP request goes: matches, filters and weighted backends"}),
		define[MeshTCPRoute](Kind{Name: KindMeshTCPRoute, Short: "mtcpr", Scope: ScopeMesh, Flow: everywhere, Cluster: AuthoredInCluster,
			Policy:  &PolicyShape{To: true, ToKinds: services},
			Summary: "weighted backends for TCP connections"}),
	}
}

// ClusterKinds returns the kinds that Kubernetes clusters have a resource for.
func ClusterKinds() []Kind {
	return slices.DeleteFunc(Kinds(), func(k Kind) bool { return k.Cluster == NotInCluster })
}

// KindByName finds a kind by its name ("MeshTimeout").
func KindByName(name KindName) (Kind, bool) {
	return find(func(k Kind) bool { return k.Name == name })
}

// KindByNoun finds a kind by plural, short form or lower-case name, as typed on
// a command line or in a REST path ("meshtimeouts", "mt", "meshtimeout").
func KindByNoun(noun string) (Kind, bool) {
	return find(func(k Kind) bool { return noun == k.Plural() || noun == k.Short && noun != "" || noun == lower(k.Name) })
}
