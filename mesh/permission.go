package mesh

// MeshTrafficPermission says who may call the selected proxies. Without any, a
// proxy that has an identity refuses everyone. Over all policies that select an
// inbound, deny wins over allowWithShadowDeny, which wins over allow.
type MeshTrafficPermission struct {
	// TargetRef selects the proxies; absent means the whole mesh.
	TargetRef *TargetRef `json:"targetRef,omitempty"`
	// Rules hold the matches.
	Rules []PermissionRule `json:"rules,omitempty"`
}

// PermissionRule is one rule.
type PermissionRule struct {
	// Default holds the lists.
	Default PermissionConf `json:"default"`
}

// PermissionConf has the three lists.
type PermissionConf struct {
	// Allow lets callers in.
	Allow []Match `json:"allow,omitempty"`
	// AllowWithShadowDeny lets callers in and counts that they would be denied.
	AllowWithShadowDeny []Match `json:"allowWithShadowDeny,omitempty"`
	// Deny refuses callers, whatever else allows them.
	Deny []Match `json:"deny,omitempty"`
}

// TopTarget implements Policy.
func (s *MeshTrafficPermission) TopTarget() *TargetRef { return s.TargetRef }

// ToItems implements Policy; a permission has none.
func (s *MeshTrafficPermission) ToItems() []ToItem { return nil }

// RuleItems implements Policy.
func (s *MeshTrafficPermission) RuleItems() []RuleItem {
	out := make([]RuleItem, len(s.Rules))
	for i := range s.Rules {
		out[i] = RuleItem{Conf: &s.Rules[i].Default}
	}
	return out
}

// Validate implements Spec.
func (s *MeshTrafficPermission) Validate() Problems {
	out := policyProblems(KindMeshTrafficPermission, s)
	for i := range s.Rules {
		at, c := indexPath("rules", i)+".default", &s.Rules[i].Default
		if len(c.Allow)+len(c.AllowWithShadowDeny)+len(c.Deny) == 0 {
			out.Addf(at, "must have at least one of allow, allowWithShadowDeny, deny")
		}
		list := func(name string, matches []Match) {
			out.count(join(at, name), len(matches), 0, maxPermits)
			out.In(join(at, name), matchList(matches))
		}
		list("allow", c.Allow)
		list("allowWithShadowDeny", c.AllowWithShadowDeny)
		list("deny", c.Deny)
	}
	return out
}
