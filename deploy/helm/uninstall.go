package helm

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// StateSecrets is how many Secrets the zone keeps its state in, beside the shared one.
const StateSecrets = 16

// Leftovers names everything that an installation of a zone may have made, with
// the ingresses of the given meshes, in the order in which it should go:
// webhooks first, so that nothing waits for a control plane that is gone. What
// the zone made itself is among it; CustomResourceDefinitions, and with them all
// policies, only on request. The manifests are for `kubectl delete`.
func Leftovers(release Release, meshes []string, crds bool) ([]Object, error) {
	list := []any{}
	for _, mesh := range meshes {
		list = append(list, map[string]any{"name": mesh})
	}
	values := map[string]any{"zone": map[string]any{"name": "any"}, "crds": map[string]any{"install": crds},
		"networkPolicy": map[string]any{"enabled": true}, "ingress": map[string]any{"meshes": list}}
	objects, err := Render(release, values)
	if err != nil {
		return nil, err
	}
	slices.Reverse(objects)
	// The daemon takes itself out of the nodes while it can still ask for its own end.
	rank := func(o Object) int {
		switch {
		case strings.HasSuffix(o.Kind, "WebhookConfiguration"):
			return 0
		case o.Kind == "DaemonSet" || o.Kind == "Deployment":
			return 1
		case o.Kind == "CustomResourceDefinition":
			return 3
		}
		return 2
	}
	slices.SortStableFunc(objects, func(a, b Object) int { return rank(a) - rank(b) })
	namespace := cmp.Or(release.Namespace, DefaultNamespace)
	own := []Object{{APIVersion: "v1", Kind: "Secret", Name: "tombolo-zone-token"}, {APIVersion: "v1", Kind: "Secret", Name: "tombolo-webhook-certs"},
		{APIVersion: "v1", Kind: "Secret", Name: "tombolo-state"}, {APIVersion: "v1", Kind: "Secret", Name: "tombolo-state-quarantine"},
		{APIVersion: "coordination.k8s.io/v1", Kind: "Lease", Name: "tombolo-zone"}}
	for i := range StateSecrets {
		own = append(own, Object{APIVersion: "v1", Kind: "Secret", Name: fmt.Sprintf("tombolo-state-%02d", i)})
	}
	for i := range own {
		own[i].Namespace = namespace
	}
	objects = append(objects, own...)
	for i, o := range objects {
		meta := map[string]any{"name": o.Name}
		if o.Namespace != "" {
			meta["namespace"] = o.Namespace
		}
		if objects[i].YAML, err = yaml.Marshal(map[string]any{"apiVersion": o.APIVersion, "kind": o.Kind, "metadata": meta}); err != nil {
			return nil, err
		}
	}
	return objects, nil
}
