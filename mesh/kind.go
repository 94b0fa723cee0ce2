package mesh

import (
	"strings"
)

// KindName is the name of a kind as users write it in `type` (REST) or `kind`
// (Kubernetes), for example "MeshTimeout".
type KindName string

// Scope says whether resources of a kind live inside a mesh.
type Scope uint8

const (
	// ScopeGlobal kinds have no mesh: Mesh, Zone.
	ScopeGlobal Scope = iota
	// ScopeMesh kinds belong to one mesh.
	ScopeMesh
)

// Flow says who may write a kind and where its resources travel. It is a set.
type Flow uint8

const (
	// GlobalToZones resources are authored at global and pushed to every zone.
	GlobalToZones Flow = 1 << iota
	// ZoneToGlobal resources are owned by a zone and reported up to global.
	ZoneToGlobal
	// AcrossZones resources, owned by one zone, are pushed on to all the others.
	AcrossZones
)

// Has reports whether f contains every element of g.
func (f Flow) Has(g Flow) bool { return f&g == g }

// PolicyShape says which parts of a policy kind its spec may carry.
type PolicyShape struct {
	// To is set for policies with outbound `to[]` items.
	To bool
	// ToKinds are the kinds a `to[].targetRef` may name.
	ToKinds []KindName
	// Rules is set for policies with inbound `rules[]` items.
	Rules bool
	// Matches is set when `rules[].matches` is supported.
	Matches bool
}

// Cluster says how a kind appears in a Kubernetes cluster, as a resource of
// group tombolo.io.
type Cluster uint8

const (
	// NotInCluster kinds have no CustomResourceDefinition.
	NotInCluster Cluster = iota
	// MirroredInCluster kinds can be read there; they are written at global.
	MirroredInCluster
	// AuthoredInCluster kinds can be written there too.
	AuthoredInCluster
)

// Kind declares one kind. It is a value in the literal list returned by Kinds;
// REST paths, CLI nouns, storage, sync direction and reference pages follow.
type Kind struct {
	// Name as users write it, for example "MeshTimeout".
	Name KindName
	// Short is the CLI and KRI abbreviation, for example "mt".
	Short string
	// Scope is global or mesh.
	Scope Scope
	// Flow is who writes it and where it goes.
	Flow Flow
	// Inline kinds carry their spec fields at the top level of the REST form
	// (Mesh, Zone, Dataplane, Secret); the others under `spec`.
	Inline bool
	// DNSLabel kinds have names that enter SNI, hostnames or SPIFFE IDs and
	// must be RFC 1035 labels of at most 63 octets.
	DNSLabel bool
	// AdminOnly kinds (Secret) are readable by administrators only.
	AdminOnly bool
	// Cluster says how it appears in a Kubernetes zone.
	Cluster Cluster
	// SystemOnly kinds are the operator's: in a Kubernetes zone they are written
	// in the system namespace alone.
	SystemOnly bool
	// Policy is nil for kinds that are not policies.
	Policy *PolicyShape
	// Summary is one line for help texts and reference pages.
	Summary string

	new func() Spec
}

// New returns a fresh zero spec of the kind.
func (k Kind) New() Spec { return k.new() }

// ClusterScoped reports whether the kind lies outside of namespaces in a cluster.
// Those of the operator that are not part of a mesh lie in the system namespace.
func (k Kind) ClusterScoped() bool { return k.Scope == ScopeGlobal && !k.SystemOnly }

// Plural is the REST path segment and CLI noun, for example "meshtimeouts".
func (k Kind) Plural() string {
	n := strings.ToLower(string(k.Name))
	if strings.HasSuffix(n, "s") || strings.HasSuffix(n, "sh") || strings.HasSuffix(n, "ch") {
		return n + "es"
	}
	if strings.HasSuffix(n, "y") {
		return strings.TrimSuffix(n, "y") + "ies"
	}
	return n + "s"
}

// Spec is the typed body of a resource. Each kind has one implementation.
type Spec interface {
	// Validate returns every problem of the spec at once, with field paths
	// relative to the spec ("rules[0].default.allow"). Empty means valid.
	Validate() Problems
}

// define builds a Kind whose spec is a *S.
func define[S any, P interface {
	*S
	Spec
}](k Kind) Kind {
	k.new = func() Spec { return P(new(S)) }
	return k
}
