// Command tombolo-agent stands beside an Envoy and makes it a member of a mesh.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/agent"
	"github.com/tombolo-mesh/tombolo/agent/cni"
	"github.com/tombolo-mesh/tombolo/agent/dns"
)

func main() {
	if isCNI(os.Args) {
		cni.Main("tombolo-cni " + version())
		return
	}
	// The agent is in every pod: little garbage is worth more than speed here.
	debug.SetGCPercent(50)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal drains. The second has its usual effect: the agent ends at
	// once, and Envoy with it.
	context.AfterFunc(ctx, stop)
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "tombolo-agent:", err)
		os.Exit(exitCode(err))
	}
}

// exitCode is Envoy's own, when it was Envoy that ended.
func exitCode(err error) int {
	var exit *agent.EnvoyExit
	if errors.As(err, &exit) && exit.Code != 0 {
		return exit.Code
	}
	var not *notRedirected
	if errors.As(err, &not) {
		return exitNotRedirected
	}
	return 1
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "tombolo-agent",
		Short:         "stands beside an Envoy and makes it a member of a mesh",
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.AddCommand(
		run("sidecar", "run the proxy of an application", false),
		initCommand(),
		redirectCommand(),
		cniCommand(),
		run("gateway", "run the proxy that takes traffic from other zones", true),
		wait(),
	)
	return cmd
}

func run(use, short string, gateway bool) *cobra.Command {
	cfg := agent.Config{Gateway: gateway, Version: version()}
	var logLevel, logFormat, envoyLog string
	var redirected bool
	cmd := &cobra.Command{
		Use:   use + " -d FILE --token-file FILE --zone-address HOST:PORT --zone-ca FILE",
		Short: short,
		Long: strings.ToUpper(short[:1]) + short[1:] + ".\n" +
			"Every flag may be given in the environment: --drain-time as TOMBOLO_DRAIN_TIME.\n" +
			"In a pod of a Kubernetes zone (--kubernetes) there is no manifest: the zone knows the pod by its token.",
		Args:    cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) error { return flagsFromEnv(cmd) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(logLevel, logFormat)
			if err != nil {
				return err
			}
			cfg.Log = log
			if redirected { // before Envoy takes the port where the probes arrive
				if err := checkFromEnv(cmd.Context()); err != nil {
					return err
				}
			}
			if envoyLog != "" {
				f, err := os.OpenFile(envoyLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
				if err != nil {
					return fmt.Errorf("envoy log: %w", err)
				}
				defer f.Close()
				cfg.EnvoyOutput = f
			}
			a, err := agent.New(cfg)
			if err != nil {
				return err
			}
			return a.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&cfg.Dataplane, "dataplane", "d", "", "Dataplane manifest, YAML or JSON (required, but not with --kubernetes)")
	f.BoolVar(&cfg.Kubernetes, "kubernetes", false, "run in a pod of a Kubernetes zone")
	f.StringVar(&cfg.TokenFile, "token-file", "", "file with the dataplane token; read again for each connection (required)")
	f.StringVar(&cfg.ZoneAddress, "zone-address", "", "host:port of the zone control plane (required)")
	f.StringVar(&cfg.ZoneCA, "zone-ca", "", "file with the PEM authorities of the zone control plane (required, or --zone-ca-pem)")
	f.StringVar(&cfg.ZoneCAPEM, "zone-ca-pem", "", "the PEM authorities themselves")
	f.StringVar(&cfg.ZoneServerName, "zone-server-name", "", "name in the zone's certificate (default: the host of --zone-address)")
	f.StringVar(&cfg.Envoy, "envoy", "", "Envoy binary (default: envoy on PATH)")
	f.StringVar(&cfg.WorkDir, "work-dir", "", "folder for bootstrap and sockets, this agent's alone (default: a temporary one)")
	f.DurationVar(&cfg.DrainTime, "drain-time", 5*time.Second, "how long connections of a replaced or closed listener live on")
	f.DurationVar(&cfg.StopTimeout, "stop-timeout", 30*time.Second, "how long requests in flight may take at the end")
	f.IntVar(&cfg.Concurrency, "concurrency", 0, "Envoy's worker threads (default: 2, fewer on fewer cores)")
	f.StringVar(&cfg.EnvoyLogLevel, "envoy-log-level", "warning", "trace, debug, info, warning, error, critical or off")
	f.StringVar(&envoyLog, "envoy-log", "", "file that Envoy's output is appended to (default: stderr)")
	f.BoolVar(&cfg.DNS, "dns", false, "answer the names of the mesh, and pass on all others, on --dns-port of 127.0.0.1 and [::1]")
	f.IntVar(&cfg.DNSPort, "dns-port", dns.DefaultPort, "port of the DNS server, UDP and TCP")
	f.StringSliceVar(&cfg.DNSUpstreams, "dns-upstream", nil, "nameserver, IP or IP:port, for all other names; may be repeated (default: those of /etc/resolv.conf)")
	f.StringVar(&cfg.ReadinessAddress, "readiness-address", "", "host:port that answers GET /ready (default: none)")
	f.BoolVar(&redirected, "check-redirect", false, "first see that traffic is redirected as $"+redirectEnv+" says, as redirect check does; end with status "+strconv.Itoa(exitNotRedirected)+" if not")
	f.StringVar(&cfg.AppProbes, "app-probes", "", "application probes to run for a kubelet, JSON (the webhook writes it)")
	f.StringVar(&cfg.AppProbesAddress, "app-probes-address", ":9001", "host:port that answers for them")
	f.StringSliceVar(&cfg.PodIPs, "pod-ips", nil, "addresses of the pod; application probes ask the first")
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&logFormat, "log-format", "text", "text or json")
	return cmd
}

func logger(level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level must be debug, info, warn or error, not %q", level)
	}
	options := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	}
	return nil, fmt.Errorf("log format must be text or json, not %q", format)
}

// version is what the Go toolchain recorded of the build.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "devel"
	}
	return info.Main.Version
}
