package mesh

import "maps"

// MaxLabels bounds the labels of a resource.
const MaxLabels = 64

// maxSpec bounds the JSON of one spec; a Secret has its own bound inside.
const maxSpec = 2 << 20

// ValidateResource returns every problem of a resource: of its name, mesh and
// labels, and of its spec, with the field paths of the REST form.
func ValidateResource(r Resource, spec Spec) Problems {
	var out Problems
	k, ok := KindByName(r.Kind)
	if !ok {
		out.Addf("type", "unknown kind %q; known are %s", abridge(string(r.Kind)), kindNames())
		return out
	}
	if k.Scope == ScopeMesh {
		out.add("mesh", CheckDNSLabel(r.Mesh))
	} else if r.Mesh != "" {
		out.Addf("mesh", "must be absent: a %s is not part of a mesh", k.Name)
	}
	reason := checkResourceName(k, &r)
	out.add("name", reason)
	if reason == "" {
		out.add("name", checkServerName(&r))
	}
	out.labelPairs("labels", r.Labels)
	out.In("", reservedLabels(k, &r))
	if len(r.Spec) > maxSpec {
		out.Addf("spec", "has %d octets; at most %d are allowed", len(r.Spec), maxSpec)
	}
	if spec == nil {
		return out
	}
	if k.Inline {
		return append(out, spec.Validate()...)
	}
	out.In("spec", spec.Validate())
	return out
}

// reservedLabels are computed; giving them is allowed if they agree, so that
// what was read can be written back.
func reservedLabels(k Kind, r *Resource) Problems {
	var out Problems
	want := computed(k, r)
	for _, key := range sortedKeys(r.Labels) {
		var one Problems // its path is made only when something is wrong
		value := r.Labels[key]
		switch canonical := CanonicalLabel(key); canonical {
		case LabelDisplayName, LabelOrigin, LabelZone, LabelMesh:
			if w, ok := want[canonical]; !ok {
				one.Addf("", "must be absent: it is computed, and a resource written here has none")
			} else if w != value {
				one.Addf("", "must be %q or absent: it is computed, not %q", w, abridge(value))
			}
		case LabelEnv:
			one.oneOf("", value, EnvUniversal, EnvKubernetes)
		case LabelPolicyRole:
			one.oneOf("", value, roles()...)
			if k.Policy == nil {
				one.Addf("", "must be absent: only policies have a role")
			}
		case LabelEffect:
			one.oneOf("", value, EffectShadow)
		case LabelSync:
			one.oneOf("", value, "enabled", SyncDisabled)
		case LabelIngress, LabelEgress:
			one.oneOf("", value, "enabled")
		case LabelNamespace:
			one.add("", CheckDNSLabel(value))
		}
		if len(one) > 0 {
			out.In(labelPath("labels", key), one)
		}
	}
	return out
}

// computed are the labels that follow from the key.
func computed(k Kind, r *Resource) map[string]string {
	out := map[string]string{LabelDisplayName: ObjectName(r), LabelOrigin: OriginGlobal}
	if k.Scope == ScopeMesh {
		out[LabelMesh] = r.Mesh
	}
	if r.Zone != "" {
		out[LabelOrigin], out[LabelZone] = OriginZone, r.Zone
	}
	return out
}

// ComputeLabels returns the labels that a resource is stored with: the authored
// ones with canonical keys, and those that follow from its key (display-name,
// origin, mesh, zone), from where it was written (env: EnvUniversal or
// EnvKubernetes) and from its spec (policy-role, listeners of a Dataplane). The
// origin is the owning zone of the key, or global. Problems say why a role
// cannot be given; the resource must then be refused.
func ComputeLabels(r Resource, spec Spec, env string) (map[string]string, Problems) {
	out := CanonicalLabels(r.Labels)
	var problems Problems
	k, ok := KindByName(r.Kind)
	if !ok {
		problems.Addf("type", "unknown kind %q; known are %s", abridge(string(r.Kind)), kindNames())
		return out, problems
	}
	out[LabelEnv] = env
	r.Labels = out
	maps.Copy(out, computed(k, &r))
	if policy, ok := spec.(Policy); ok && k.Policy != nil {
		role, reason := roleOf(policy, out[LabelNamespace], env)
		problems.add("spec.to", reason)
		if role != "" {
			if given, ok := out[LabelPolicyRole]; ok && given != role {
				problems.Addf(labelPath("labels", LabelPolicyRole), "must be %q or absent: it is computed, not %q", role, abridge(given))
			}
			out[LabelPolicyRole] = role
		}
		if ns := out[LabelNamespace]; env == EnvUniversal && ns != "" && !IsSystemNamespace(ns) {
			problems.Addf(labelPath("labels", LabelNamespace),
				"is %q: a policy of a namespace can be written in a Kubernetes zone only; here it would apply to every namespace", abridge(ns))
		}
	}
	if dp, ok := spec.(*Dataplane); ok {
		delete(out, LabelIngress)
		delete(out, LabelEgress)
		for _, l := range dp.Networking.Listeners {
			switch l.Type {
			case ListenerIngress:
				out[LabelIngress] = "enabled"
			case ListenerEgress:
				out[LabelEgress] = "enabled"
			}
		}
	}
	return out, problems
}
