package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/agent"
)

// wait holds back what must not start before the proxy; in pods it is the
// sidecar's postStart hook.
func wait() *cobra.Command {
	var address string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait",
		Short: "wait until the proxy beside is ready",
		Long: "Wait until the proxy beside is ready, and say why it is not when that takes too long.\n" +
			"Every flag may be given in the environment: --timeout as TOMBOLO_TIMEOUT.",
		Args:    cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) error { return flagsFromEnv(cmd) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			if err := agent.Wait(ctx, address); err != nil {
				return fmt.Errorf("waited %s: %w", timeout, err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&address, "readiness-address", ":9902", "host:port that answers GET /ready")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait")
	return cmd
}
