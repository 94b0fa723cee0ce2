package main

import (
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// inspected maps what is asked to the last part of the path.
func inspected() map[string]string {
	return map[string]string{"config": "xds", "clusters": "clusters", "stats": "stats", "listeners": "listeners", "certs": "certs"}
}

func inspectCommand() *cobra.Command {
	var meshName, zone string
	cmd := &cobra.Command{
		Use:   "inspect dataplane NAME config|clusters|stats|listeners|certs",
		Short: "Show what an Envoy of any zone has",
		Long:  "Asks the zone of a dataplane, through global, what its Envoy answers.",
		Example: `  tombolo inspect dataplane web-1 clusters --zone east
  tombolo inspect dp web-1.east config | jq .`,
		Args:      cobra.ExactArgs(3),
		ValidArgs: []string{"dataplane"},
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := kindOf(args[0])
			if err != nil || k.Name != mesh.KindDataplane {
				return &exitError{exitUsage, "only a dataplane can be inspected"}
			}
			part, ok := inspected()[args[2]]
			if !ok {
				return &exitError{exitUsage, "the last argument must be config, clusters, stats, listeners or certs, not " + args[2]}
			}
			name := args[1]
			if zone != "" && !strings.HasSuffix(name, "."+zone) {
				name += "." + zone
			}
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			path := "/meshes/" + url.PathEscape(meshName) + "/dataplanes/" + url.PathEscape(name) + "/" + part
			resp, err := c.open(cmd.Context(), http.MethodGet, path, nil, "", nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = io.Copy(cmd.OutOrStdout(), resp.Body)
			return err
		},
	}
	meshFlag(cmd, &meshName)
	cmd.Flags().StringVar(&zone, "zone", "", "zone of the dataplane; or name it <name>.<zone>")
	return cmd
}
