package mesh

// Policy is what the spec of a policy kind adds to Spec. Selection and merging
// know policies through it alone, so that a new policy is a file of its own.
type Policy interface {
	Spec
	// TopTarget is the top-level targetRef; nil means the whole mesh.
	TopTarget() *TargetRef
	// ToItems are the outbound items in document order.
	ToItems() []ToItem
	// RuleItems are the inbound items in document order.
	RuleItems() []RuleItem
}

// ToItem is one `to[]` item.
type ToItem struct {
	// Target is the destination it speaks of.
	Target TargetRef
	// Conf is a pointer to the kind's configuration struct; never changed.
	Conf any
}

// RuleItem is one `rules[]` item.
type RuleItem struct {
	// Matches limit it to some callers; empty means everyone.
	Matches []Match
	// Conf is a pointer to the kind's configuration struct; never changed.
	Conf any
}

// PolicyResource is a resource with its decoded spec. It has the shape of
// ir.Object, so that one converts into the other. Immutable.
type PolicyResource struct {
	Resource
	// Decoded is the spec of the resource.
	Decoded Spec
}

// ConfSource says which authored lines a configuration came from.
type ConfSource struct {
	// Key of the policy.
	Key Key
	// Path inside its spec, for example "to[0]".
	Path string
	// Revision of the policy.
	Revision Revision
}

// Roles of a policy, as the label policy-role has them.
const (
	// RoleSystem policies are the operator's: universal ones, and those of the system namespace.
	RoleSystem = "system"
	// RoleProducer policies are written by the owner of a service for its callers, in every zone.
	RoleProducer = "producer"
	// RoleConsumer policies are written by a namespace for its own calls.
	RoleConsumer = "consumer"
	// RoleWorkloadOwner policies are written by a namespace for its own proxies.
	RoleWorkloadOwner = "workload-owner"
)

// Values of the labels origin, env, effect and kds-sync.
const (
	OriginGlobal  = "global"
	OriginZone    = "zone"
	EnvUniversal  = "universal"
	EnvKubernetes = "kubernetes"
	EffectShadow  = "shadow"
	SyncDisabled  = "disabled"
)

// ProxyPolicy is what single-item policies add: those whose `default` is about
// the proxy as a whole, neither its callers nor its destinations.
type ProxyPolicy interface {
	Policy
	// ProxyDefault is a pointer to the kind's configuration struct, nil if absent; never changed.
	ProxyDefault() any
}
