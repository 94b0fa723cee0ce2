package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/global"
	"github.com/tombolo-mesh/tombolo/global/store/postgres"
	"github.com/tombolo-mesh/tombolo/internal/memory"
)

func globalCommand() *cobra.Command {
	cfg := global.Config{Version: version()}
	var level, format string
	cmd := &cobra.Command{
		Use:   "global",
		Short: "Run the global control plane",
		Long: `Runs the global control plane: it keeps what people author, and tells zones.

Without --postgres everything is in one file of the data directory. At first start it
makes its own certificate authority (ca.pem), the keys that encrypt Secrets
(secrets.key: keep a copy), an administrator's token (admin-token) and the mesh "default".`,
		Example: `  # everything in one folder
  tombolo global --data-dir /var/lib/tombolo

  # reachable for zones elsewhere, on PostgreSQL
  tombolo global --postgres "$DSN" --data-dir /var/lib/tombolo --api-address :5682 --name global.example.com`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := newLogger(cmd.ErrOrStderr(), level, format)
			if err != nil {
				return err
			}
			cfg.Logger = logger
			if cfg.DataDir == "" {
				if cfg.DataDir, err = defaultDataDir(); err != nil {
					return err
				}
			}
			g, err := global.New(cfg)
			if err != nil {
				return &exitError{exitUsage, err.Error()}
			}
			go memory.Tend(cmd.Context(), tendEvery)
			err = g.Run(cmd.Context())
			if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
				return nil
			}
			return err
		},
	}
	storeFlags(cmd, &cfg)
	f := cmd.Flags()
	f.StringVar(&cfg.APIAddress, "api-address", global.DefaultAPIAddress, "address of the REST API (HTTPS)")
	f.StringVar(&cfg.ZoneAddress, "zone-address", global.DefaultZoneAddress, "address that zones connect to (gRPC over TLS)")
	f.StringVar(&cfg.AdvertiseAddress, "advertise-address", "", "host or host:port where other instances on the same database reach this one (default: the host of --zone-address, or the address that the database is reached from)")
	f.StringSliceVar(&cfg.Names, "name", nil, "DNS name or IP address for the certificate; may be repeated")
	f.StringVar(&cfg.CertFile, "tls-cert", "", "own server certificate (PEM, with chain), instead of one of the own authority")
	f.StringVar(&cfg.KeyFile, "tls-key", "", "key of --tls-cert")
	f.BoolVar(&cfg.NoDefaultMesh, "no-default-mesh", false, `do not create the mesh "default" at first start`)
	f.BoolVar(&cfg.NewAdminToken, "new-admin-token", false, "write another administrator's token to the data directory")
	f.Int64Var(&cfg.HistorySize, "history-size", global.DefaultHistorySize, "changes that the log keeps")
	cfg.HistoryAge = global.DefaultHistoryAge
	f.Var((*days)(&cfg.HistoryAge), "history-age", "for how long the log keeps changes, as 30d or 720h")
	logFlags(cmd, &level, &format)
	return cmd
}

// tendEvery is how often a control plane looks whether it holds memory for nothing.
const tendEvery = time.Second

// logFlags are the same for every control plane.
func logFlags(cmd *cobra.Command, level, format *string) {
	cmd.Flags().StringVar(level, "log-level", "info", "debug, info, warn or error")
	cmd.Flags().StringVar(format, "log-format", "text", "text or json")
}

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, &exitError{exitUsage, fmt.Sprintf("--log-level must be debug, info, warn or error, not %q", level)}
	}
	options := &slog.HandlerOptions{Level: l}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	}
	return nil, &exitError{exitUsage, fmt.Sprintf("--log-format must be text or json, not %q", format)}
}

func defaultDataDir() (string, error) {
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "tombolo", "global"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no home directory, give --data-dir: %w", err)
	}
	return filepath.Join(home, ".local", "share", "tombolo", "global"), nil
}

func migrateCommand() *cobra.Command {
	var dsn string
	cmd := &cobra.Command{
		Use:     "migrate",
		Short:   "Bring the schema of a PostgreSQL database up to date",
		Long:    "Applies what is missing of the schema, under a lock. `tombolo global` does the same at start.",
		Example: `  tombolo migrate --postgres "$DSN"`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dsn == "" {
				return &exitError{exitUsage, "--postgres is required"}
			}
			from, to, err := postgres.Migrate(cmd.Context(), dsn)
			if err != nil {
				return err
			}
			if from == to {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "the schema is at version %d, nothing to do\n", to)
			} else {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "migrated from version %d to %d\n", from, to)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&dsn, "postgres", os.Getenv("TOMBOLO_POSTGRES"), "DSN of the database (default: TOMBOLO_POSTGRES)")
	return cmd
}
