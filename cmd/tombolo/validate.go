package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/mesh"
)

func validateCommand() *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "validate -f FILE|DIR|-",
		Short: "Check manifests offline: a line for every problem",
		Long: `Checks manifests as the API does, without it: unknown fields, wrong values and names.
Both forms are read, REST (type, mesh, name, spec) and Kubernetes (apiVersion, kind,
metadata, spec), with several documents in a file. What only global knows, for example
whether the mesh exists, is not checked. Exits 1 when something is wrong.`,
		Example: "  tombolo validate -f policies/\n  helm template . | tombolo validate -f -",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sources, err := readSources(files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			documents, problems := 0, 0
			report := func(at, resource, field, reason string) {
				problems++
				fmt.Fprintln(cmd.OutOrStdout(), problemLine(at, resource, field, reason))
			}
			for _, s := range sources {
				manifests, err := mesh.DecodeManifests(s.data, 0)
				if err != nil {
					report(s.name, "", "", err.Error())
					continue
				}
				for i := range manifests {
					documents++
					m := &manifests[i]
					for _, p := range m.Validate() {
						report(place{s.name, m.Line}.String(), label(m.Resource.Key), p.Field, p.Reason)
					}
				}
			}
			if problems > 0 {
				return &exitError{exitFailed, fmt.Sprintf("%s in %s", plural(problems, "problem"), plural(documents, "document"))}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s valid\n", plural(documents, "document"))
			return err
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file, folder, or - for standard input; may be repeated")
	return cmd
}

// label names a resource in messages: "MeshTimeout default/web".
func label(k mesh.Key) string {
	name := k.RESTName()
	if k.Mesh != "" {
		name = k.Mesh + "/" + name
	}
	if k.Kind == "" {
		return name
	}
	return string(k.Kind) + " " + name
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
