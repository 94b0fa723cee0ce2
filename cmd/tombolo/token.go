package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/global/api"
	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
)

func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Create and revoke tokens of users, zones and dataplanes",
		Example: "  tombolo token create zone --zone east > east.token\n  tombolo token revoke - < east.token"}
	create := &cobra.Command{Use: "create", Short: "Create a token and print it", Example: "  tombolo token create zone --zone east > east.token"}
	create.AddCommand(
		createCommand(token.User, "  tombolo token create user --name alice --group author --valid-for 8h", "name", "group"),
		createCommand(token.Zone, "  tombolo token create zone --zone east > east.token", "zone"),
		createCommand(token.Dataplane, "  tombolo token create dataplane --mesh default --workload backend\n  tombolo token create dataplane --name ingress-1 --zone east", "name", "zone", "mesh", "workload"))
	cmd.AddCommand(create, adminTokenCommand(), revokeCommand(), revokedCommand())
	return cmd
}

func createCommand(use token.Use, example string, flags ...string) *cobra.Command {
	var in api.TokenRequest
	var life time.Duration
	var out format
	cmd := &cobra.Command{
		Use: string(use), Short: "Create a token for a " + string(use), Example: example, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			in.ValidFor = mesh.Duration{Duration: life}
			var made api.TokenResponse
			if err := c.post(cmd.Context(), "/tokens/"+string(use), in, &made); err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), made, func() error {
				fmt.Fprintf(cmd.ErrOrStderr(), "token %s expires %s\n", made.ID, made.Expires.Format(time.RFC3339))
				_, err := fmt.Fprintln(cmd.OutOrStdout(), made.Token)
				return err
			})
		},
	}
	outputFlag(cmd, &out)
	f := cmd.Flags()
	for _, name := range flags {
		switch name {
		case "name":
			f.StringVar(&in.Name, "name", "", "name of the user, or of the only dataplane that may use it")
		case "group":
			f.StringSliceVar(&in.Groups, "group", nil, "admin, author or reader; may be repeated")
		case "zone":
			f.StringVar(&in.Zone, "zone", "", "zone that it is bound to")
		case "mesh":
			f.StringVarP(&in.Mesh, "mesh", "m", mesh.DefaultMesh, "mesh that it is bound to")
		case "workload":
			f.StringVar(&in.Workload, "workload", "", "workload that it is bound to; without, it lets in no proxy that has one")
		}
	}
	f.DurationVar(&life, "valid-for", 0, "how long, as 720h (default: 24h for users, 1 year for zones, 30 days for dataplanes)")
	return cmd
}

func revokeCommand() *cobra.Command {
	var in api.RevocationRequest
	var use string
	var o format
	cmd := &cobra.Command{
		Use:   "revoke [TOKEN|-]",
		Short: "Refuse a token from now on",
		Long:  "Revokes a token, given itself or by its id. Give - to read the token from standard input, so that it is in no history.",
		Example: `  tombolo token revoke - < stolen.token
  tombolo token revoke --id 3f2a… --use dataplane --mesh default`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in.Use = token.Use(use)
			if len(args) == 1 {
				in.Token = args[0]
			}
			if in.Token == "-" {
				data, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), token.MaxSize+1))
				if err != nil {
					return err
				}
				in.Token = strings.TrimSpace(string(data))
			}
			if (in.Token == "") == (in.ID == "") {
				return &exitError{exitUsage, "give a token, or --id with --use"}
			}
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			var out api.Written
			if err := c.post(cmd.Context(), "/tokens/revocations", in, &out); err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), out, func() error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "revoked, revision %d\n", out.Revision)
				return err
			})
		},
	}
	outputFlag(cmd, &o)
	cmd.Flags().StringVar(&in.ID, "id", "", "id of the token")
	cmd.Flags().StringVar(&use, "use", "", "user, zone or dataplane; with --id")
	cmd.Flags().StringVarP(&in.Mesh, "mesh", "m", "", "mesh of a dataplane token; with --id")
	return cmd
}

func revokedCommand() *cobra.Command {
	var o format
	cmd := &cobra.Command{Use: "revoked", Short: "List revoked tokens", Example: "  tombolo token revoked", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := dial(cmd)
		if err != nil {
			return err
		}
		var out api.RevocationList
		if err := c.get(cmd.Context(), "/tokens/revocations", nil, &out); err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), out, func() error {
			rows := [][]string{{"ID", "USE", "MESH", "UNTIL"}}
			for _, x := range out.Items {
				rows = append(rows, []string{x.ID, string(x.Use), orDash(x.Mesh), x.Expires.Format(time.RFC3339)})
			}
			return table(cmd.OutOrStdout(), rows)
		})
	}}
	outputFlag(cmd, &o)
	return cmd
}
