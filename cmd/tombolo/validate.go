package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/mesh"
)

func validateCommand() *cobra.Command {
	var files []string
	var o format
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
			found := validated{Problems: []invalid{}}
			report := func(at, resource, field, reason string) {
				found.Problems = append(found.Problems, invalid{at, resource, field, reason})
			}
			for _, s := range sources {
				manifests, err := mesh.DecodeManifests(s.data, 0)
				if err != nil {
					report(s.name, "", "", err.Error())
					continue
				}
				for i := range manifests {
					found.Documents++
					m := &manifests[i]
					for _, p := range m.Validate() {
						report(place{s.name, m.Line}.String(), label(m.Resource.Key), p.Field, p.Reason)
					}
				}
			}
			if err := o.print(cmd.OutOrStdout(), found, func() error { return found.show(cmd.OutOrStdout()) }); err != nil {
				return err
			}
			if n := len(found.Problems); n > 0 {
				return &exitError{exitFailed, fmt.Sprintf("%s in %s", plural(n, "problem"), plural(found.Documents, "document"))}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file, folder, or - for standard input; may be repeated")
	outputFlag(cmd, &o)
	return cmd
}

// validated is what a validation found.
type validated struct {
	Documents int       `json:"documents"`
	Problems  []invalid `json:"problems"`
}

// invalid is one problem of a manifest.
type invalid struct {
	// At is the file and line, Resource the one in it, Field the path in its spec.
	At       string `json:"at"`
	Resource string `json:"resource,omitempty"`
	Field    string `json:"field,omitempty"`
	Reason   string `json:"reason"`
}

func (v validated) show(w io.Writer) error {
	for _, p := range v.Problems {
		fmt.Fprintln(w, problemLine(p.At, p.Resource, p.Field, p.Reason))
	}
	if len(v.Problems) > 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "%s valid\n", plural(v.Documents, "document"))
	return err
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
