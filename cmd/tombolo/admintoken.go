package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/global"
)

// secretsKeyVariable names the keys that encrypt Secrets where a flag does not.
const secretsKeyVariable = "TOMBOLO_SECRETS_KEY"

func adminTokenCommand() *cobra.Command {
	var cfg global.Config
	cmd := &cobra.Command{
		Use:   "admin",
		Short: "Print an administrator's token, from global's own database",
		Long: `Issues an administrator's token, valid for a year, without a token: it opens the
database itself and needs the keys that encrypt Secrets, so it works where global runs.
Use it for the first token of a global in a cluster, or when the last one is lost. A
global on the embedded store has its first token in its data directory, and must be
stopped for another (or be started with --new-admin-token).`,
		Example: `  kubectl --namespace tombolo-system exec deploy/tombolo-global -- tombolo token admin > admin.token
  tombolo token admin --postgres "$DSN" --secrets-key file:/etc/tombolo/secrets.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			logger, err := newLogger(cmd.ErrOrStderr(), "warn", "text")
			if err != nil {
				return err
			}
			cfg.Logger = logger
			if cfg.DataDir == "" {
				if cfg.DataDir, err = defaultDataDir(); err != nil {
					return err
				}
			}
			raw, err := global.AdminToken(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), raw)
			return err
		},
	}
	storeFlags(cmd, &cfg)
	return cmd
}

// storeFlags say where global keeps everything.
func storeFlags(cmd *cobra.Command, cfg *global.Config) {
	f := cmd.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", "", "folder for the store, keys and certificates (default ~/.local/share/tombolo/global)")
	f.StringVar(&cfg.Postgres, "postgres", os.Getenv("TOMBOLO_POSTGRES"), "DSN of a PostgreSQL 15+ database instead of the embedded store (default: TOMBOLO_POSTGRES)")
	f.StringVar(&cfg.SecretsKey, "secrets-key", os.Getenv(secretsKeyVariable), "keys that encrypt Secrets: file:PATH or env:NAME (default: "+secretsKeyVariable+", or secrets.key in the data directory)")
}
