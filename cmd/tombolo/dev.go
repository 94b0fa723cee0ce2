package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/cmd/tombolo/dev"
)

// devCommand runs a mesh of two zones on this machine.
func devCommand() *cobra.Command {
	cfg := dev.Config{}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run global, two zones and sample services on this machine, and play the main job",
		Long: `Runs a whole mesh as ordinary processes on loopback addresses (127.77.0.0/16), without
root and without a database: global on the embedded store, the zones east and west,
their ingresses, and two services with their sidecars. It says what it does, then
stays up until Ctrl-C. Nothing of it survives.`,
		Example: "  tombolo dev\n  tombolo dev --once",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			cfg.Tombolo, cfg.Out = self, cmd.OutOrStdout()
			if cfg.Agent == "" {
				if cfg.Agent, err = besides(self, "tombolo-agent"); err != nil {
					return err
				}
			}
			return dev.Run(cmd.Context(), cfg)
		},
	}
	cmd.Flags().StringVar(&cfg.Dir, "dir", ".demo", "folder for logs and state; emptied at start")
	cmd.Flags().StringVar(&cfg.Envoy, "envoy", os.Getenv("TOMBOLO_ENVOY"), "Envoy binary (default: TOMBOLO_ENVOY, then PATH)")
	cmd.Flags().StringVar(&cfg.Agent, "agent", "", "tombolo-agent binary (default: beside this one, then PATH)")
	cmd.Flags().BoolVar(&cfg.Once, "once", false, "exit after the story; non-zero when a step did not do what it says")
	cmd.AddCommand(devServiceCommand())
	return cmd
}

// devServiceCommand is the sample application.
func devServiceCommand() *cobra.Command {
	var listen string
	self := dev.Reply{}
	cmd := &cobra.Command{
		Use:    "service",
		Short:  "The sample application: answers who it is and who called",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return dev.Serve(cmd.Context(), listen, self)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "address to listen on")
	cmd.Flags().StringVar(&self.Service, "name", "service", "name of the service")
	cmd.Flags().StringVar(&self.Zone, "zone", "", "zone it says it is in")
	cmd.Flags().StringVar(&self.Instance, "instance", "", "instance it says it is")
	return cmd
}

func besides(self, name string) (string, error) {
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", errors.New("no " + name + " beside this binary or on PATH: build it, or give one with --agent")
	}
	return path, nil
}
