package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagsFromEnv takes flags that are not given from the environment: --drain-time
// from TOMBOLO_DRAIN_TIME. In a pod nothing else is written by the webhook, so
// that a user's environment variables change what they name.
func flagsFromEnv(cmd *cobra.Command) error {
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		name := envName(f.Name)
		value, ok := os.LookupEnv(name)
		if f.Changed || !ok {
			return
		}
		if err := cmd.Flags().Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
		}
	})
	return errors.Join(errs...)
}

func envName(flag string) string {
	return "TOMBOLO_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}
