// Command tombolo is the control plane, global and zone, and the command line
// for people. In flow flags, manifests and contexts; out flow calls of the API.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// unreleased is the version of a build that is not of a tag.
const unreleased = "dev"

// Exit codes, as --help documents them.
const (
	exitFailed   = 1
	exitUsage    = 2
	exitRejected = 3
	exitTimeout  = 4
	exitOffline  = 5
	// exitInterrupted is what shells say of Ctrl-C.
	exitInterrupted = 130
)

// exitError ends the process with a code; an empty text prints nothing more.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := rootCommand()
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	code := exitFailed
	if strings.HasPrefix(err.Error(), "unknown command ") {
		code = exitUsage // cobra has no type for it
	}
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(os.Stderr, "tombolo: "+text)
	}
	return code
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "tombolo",
		Short: "A multi-zone federated service mesh",
		Long: `Tombolo ties the services of several zones into one mesh. This program is its control
plane (global, zone) and the command line for people.

Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 3 a proxy rejected the change;
4 the change did not reach everything in time; 5 global cannot be reached;
130 interrupted. What plan, explain and inspect mean by them, their --help says.`,
		Example: `  tombolo global --data-dir /var/lib/tombolo
  tombolo config set-context prod --from-data-dir /var/lib/tombolo
  tombolo apply -f policies/ --wait
  tombolo get zones`,
		SilenceUsage: true, SilenceErrors: true,
		Version: version(),
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &exitError{exitUsage, fmt.Sprintf("%v; see %s --help", err, cmd.CommandPath())}
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().String("context", "", "context to use instead of the current one")
	root.AddGroup(&cobra.Group{ID: "people", Title: "For people:"}, &cobra.Group{ID: "planes", Title: "Control planes:"})
	group := func(id string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	group("people", applyCommand(), planCommand(), getCommand(), deleteCommand(), validateCommand(), convertCommand(), waitCommand(), rolloutCommand(), inspectCommand(), explainCommand(), tokenCommand(), configCommand(), installCommand(), uninstallCommand(), checkCommand())
	group("planes", planes()...)
	root.AddCommand(versionCommand())
	for _, c := range root.Commands() {
		usage(c)
	}
	return root
}

// usage makes wrong arguments exit 2, and a verb that a group does not have.
func usage(c *cobra.Command) {
	if c.HasSubCommands() && !c.Runnable() {
		var verbs []string
		for _, sub := range c.Commands() {
			verbs = append(verbs, sub.Name())
		}
		c.RunE = func(cmd *cobra.Command, args []string) error {
			return &exitError{exitUsage, fmt.Sprintf("%s needs one of %s, not %s; see %[1]s --help", cmd.CommandPath(), strings.Join(verbs, ", "), orDash(strings.Join(args, " ")))}
		}
	}
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &exitError{exitUsage, fmt.Sprintf("%v; see %s --help", err, cmd.CommandPath())}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		usage(sub)
	}
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return unreleased
}

func versionCommand() *cobra.Command {
	var o format
	cmd := &cobra.Command{Use: "version", Short: "Print the version", Example: "  tombolo version", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return o.print(cmd.OutOrStdout(), map[string]string{"version": version()}, func() error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version())
			return err
		})
	}}
	outputFlag(cmd, &o)
	return cmd
}
