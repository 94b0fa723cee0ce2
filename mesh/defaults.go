package mesh

import (
	"encoding/json"
	"slices"
)

// DefaultMesh is the mesh that is meant where none is named.
const DefaultMesh = "default"

// DefaultIdentity is the name of the MeshIdentity that a new mesh gets.
const DefaultIdentity = "default"

// DefaultResources are what a new mesh gets: an identity for every proxy, so
// that no traffic is ever plain text, and timeouts. skip names kinds whose
// defaults are not wanted, "*" for all policies; the identity is left out only
// where skip names MeshIdentity.
func DefaultResources(meshName string, skip []string) []Resource {
	all := slices.Contains(skip, "*")
	var out []Resource
	add := func(kind KindName, name, spec string) {
		k, _ := KindByName(kind)
		if slices.Contains(skip, string(kind)) || all && k.Policy != nil {
			return
		}
		r := Resource{Key: Key{Kind: kind, Mesh: meshName, Name: name}, Spec: json.RawMessage(spec)}
		decoded, err := DecodeSpec(kind, r.Spec)
		if err != nil {
			// The specs are constants below, and a test decodes every one.
			return
		}
		r.Labels, _ = ComputeLabels(r, decoded, EnvUniversal)
		out = append(out, r)
	}
	add(KindMeshIdentity, DefaultIdentity,
		`{"selector":{"dataplane":{}},"provider":{"type":"Bundled","bundled":{"meshTrustCreation":"Enabled"}}}`)
	add(KindMeshTimeout, "mesh-timeout-all-"+meshName,
		`{"targetRef":{"kind":"Mesh"},"rules":[{"default":{"connectionTimeout":"10s","idleTimeout":"2h","http":{"requestTimeout":"0s","streamIdleTimeout":"1h"}}}]}`)
	add(KindMeshTimeout, "mesh-timeout-to-all-"+meshName,
		`{"targetRef":{"kind":"Mesh"},"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":"5s","idleTimeout":"1h","http":{"requestTimeout":"15s","streamIdleTimeout":"30m"}}}]}`)
	return out
}

// DefaultHostnameGenerators are the names that services have from the beginning.
// Global makes them at its first start, so that who changes or deletes one has
// the last word; a zone that never had a global makes them itself.
func DefaultHostnameGenerators() []Resource {
	const service, multiZone = "meshService", "meshMultiZoneService"
	var out []Resource
	add := func(name, selector string, labels map[string]string, template string) {
		spec := &HostnameGenerator{Template: template}
		if selector == service {
			spec.Selector.MeshService = &LabelSelector{MatchLabels: labels}
		} else {
			spec.Selector.MeshMultiZoneService = &LabelSelector{MatchLabels: labels}
		}
		text, err := json.Marshal(spec)
		if err != nil {
			return // strings always can be encoded
		}
		r := Resource{Key: Key{Kind: KindHostnameGenerator, Name: name}, Spec: text}
		r.Labels, _ = ComputeLabels(r, spec, EnvUniversal)
		out = append(out, r)
	}
	add("synced-mesh-multi-zone-service", multiZone, nil, "{{ .DisplayName }}.mzsvc.mesh.local")
	add("synced-kube-mesh-service", service, map[string]string{LabelEnv: EnvKubernetes, LabelHeadless: "false"},
		"{{ .DisplayName }}.{{ .Namespace }}.svc.{{ .Zone }}.mesh.local")
	add("synced-headless-kube-mesh-service", service, map[string]string{LabelEnv: EnvKubernetes, LabelHeadless: "true"},
		`{{ label "`+LabelStatefulPod+`" }}.{{ label "`+LabelServiceName+`" }}.{{ .Namespace }}.svc.{{ .Zone }}.mesh.local`)
	add("synced-universal-mesh-service", service, map[string]string{LabelEnv: EnvUniversal},
		"{{ .DisplayName }}.svc.{{ .Zone }}.mesh.local")
	add("local-universal-mesh-service", service, map[string]string{LabelEnv: EnvUniversal, LabelOrigin: OriginZone},
		"{{ .DisplayName }}.svc.mesh.local")
	return out
}
