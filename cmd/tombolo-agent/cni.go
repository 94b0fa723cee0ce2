package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/agent/cni"
)

// isCNI says whether a container runtime called the binary.
func isCNI(args []string) bool {
	return os.Getenv("CNI_COMMAND") != "" || len(args) == 1 && filepath.Base(args[0]) == cni.Name
}

func cniCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cni",
		Short: "keep the CNI plugin on a node: install or uninstall",
		Long: `The CNI plugin redirects the traffic of pods that have a sidecar, so that they need
no privileged init container. It is this binary, called by a container runtime
(with CNI_COMMAND set) or under the name ` + cni.Name + `.`,
	}
	var c cni.Config
	var logLevel, logFormat string
	install := &cobra.Command{
		Use:   "install",
		Short: "install the plugin and keep it chained, until a signal",
		Long: `Copies the plugin to the node, chains it into the first network configuration, and
keeps it there when others rewrite their files. It ends with a signal and leaves
everything in place, so that a restart or an upgrade leaves no gap, unless its
DaemonSet (--daemonset) is gone: then it removes the plugin, as cni uninstall does.
Pods that run are never touched.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(logLevel, logFormat)
			if err != nil {
				return err
			}
			c.Log = log
			i, err := cni.New(c)
			if err != nil {
				return err
			}
			return i.Run(cmd.Context())
		},
	}
	f := install.Flags()
	f.StringVar(&c.NodeNetDir, "node-net-dir", "/etc/cni/net.d", "--net-dir as the node sees it")
	f.StringVar(&c.LogFile, "log-file", "/var/log/tombolo-cni/cni.log", "log of the plugin on the node, 2 MiB at most with its predecessor")
	f.StringSliceVar(&c.ExcludeNamespaces, "exclude-namespaces", []string{"kube-system"}, "pods of these namespaces start without asking the API server, where the runtime tells no annotations")
	f.StringVar(&c.ServiceAccount, "service-account", "", "folder with token and ca.crt (default: that of a pod)")
	f.StringVar(&c.APIServer, "api-server", "", "URL of the API server (default: that of a pod)")
	f.StringVar(&c.DaemonSet, "daemonset", "", "own DaemonSet, <namespace>/<name>: the plugin goes when it goes (default: the plugin stays)")
	f.StringVar(&c.ReadyAddress, "ready-address", ":9903", "host:port that answers GET /ready")
	f.DurationVar(&c.Interval, "interval", 0, "how often all is looked at although nothing happened (default: 30s)")
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&logFormat, "log-format", "text", "text or json")
	uninstall := &cobra.Command{
		Use:   "uninstall",
		Short: "take the plugin out of the network configuration and remove its files",
		Long: `Takes the plugin out of every network configuration, each byte of others as it was,
and removes its files. Pods that run keep their redirect.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := cni.Uninstall(c); err != nil {
				return err
			}
			fmt.Fprintln(os.Stderr, "the plugin is removed")
			return nil
		},
	}
	for _, sub := range []*cobra.Command{install, uninstall} {
		sub.Flags().StringVar(&c.NetDir, "net-dir", "/host/etc/cni/net.d", "folder of network configurations")
		sub.Flags().StringVar(&c.BinDir, "bin-dir", "/host/opt/cni/bin", "folder of plugins")
		sub.Flags().StringVar(&c.LogDir, "log-dir", "", "folder of --log-file as seen here, to remove it with the plugin (default: the log stays)")
		cmd.AddCommand(sub)
	}
	return cmd
}
