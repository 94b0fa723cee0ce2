package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/mesh"
)

func convertCommand() *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "convert -f FILE|DIR|-",
		Short: "Turn manifests of Kuma into ours, offline",
		Long: `Writes manifests of apiVersion kuma.io/v1alpha1 as tombolo.io/v1alpha1, for kubectl, with
labels in their canonical form. Specs stay as they are: kuma.io/ in their labels means
the same. What cannot be converted is left as a comment that says why, and the command
then exits 1; what could be is written all the same. To apply the files to global no
conversion is needed: tombolo apply reads both.`,
		Example: "  tombolo convert -f kuma/ > tombolo.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sources, err := readSources(files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			var out strings.Builder
			documents, failed := 0, 0
			for _, s := range sources {
				manifests, err := mesh.DecodeManifests(s.data, 0)
				if err != nil {
					failed++
					fmt.Fprintf(&out, "---\n# %s cannot be converted: %s\n", s.name, commented(err.Error()))
					continue
				}
				for i := range manifests {
					m := &manifests[i]
					documents++
					text, problems := converted(m)
					out.WriteString("---\n")
					if len(problems) == 0 {
						out.Write(text)
						continue
					}
					failed++
					fmt.Fprintf(&out, "# %s: %s cannot be converted:\n", place{s.name, m.Line}, label(m.Resource.Key))
					for _, p := range problems {
						fmt.Fprintf(&out, "#   %s\n", commented(p.Field+": "+p.Reason))
					}
				}
			}
			if _, err := fmt.Fprint(cmd.OutOrStdout(), out.String()); err != nil {
				return err
			}
			if failed > 0 {
				return &exitError{exitFailed, fmt.Sprintf("%s could not be converted", plural(failed, "document"))}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file, folder, or - for standard input; may be repeated")
	return cmd
}

// commented keeps foreign text in its comment.
func commented(s string) string {
	return strings.Join(strings.Fields(s), " ")
}

// converted is a manifest in the form that a cluster takes.
func converted(m *mesh.Manifest) ([]byte, mesh.Problems) {
	r := m.Resource
	problems := m.Validate()
	k, ok := mesh.KindByName(r.Kind)
	if ok && k.Cluster == mesh.NotInCluster {
		problems.Addf("kind", "a cluster has no %s; see docs/operations/kubernetes-policies.md", k.Name)
	}
	if len(problems) > 0 || !ok {
		return nil, problems
	}
	meta := map[string]any{"name": r.Name}
	labels := map[string]string{}
	for key, value := range mesh.CanonicalLabels(r.Labels) {
		switch key {
		case mesh.LabelNamespace:
			meta["namespace"] = value
		case mesh.LabelDisplayName, mesh.LabelOrigin, mesh.LabelZone, mesh.LabelEnv, mesh.LabelPolicyRole: // computed
		default:
			labels[key] = value
		}
	}
	if k.Scope == mesh.ScopeMesh {
		labels[mesh.LabelMesh] = r.Mesh
	}
	if len(labels) > 0 {
		meta["labels"] = labels
	}
	text, err := yaml.Marshal(map[string]any{"apiVersion": mesh.ClusterGroup + "/" + mesh.ClusterVersion, "kind": r.Kind,
		"metadata": meta, "spec": json.RawMessage(r.Spec)})
	if err != nil {
		problems.Addf("spec", "%v", err)
	}
	return text, problems
}
