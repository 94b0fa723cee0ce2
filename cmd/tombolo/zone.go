package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/internal/memory"
	"github.com/tombolo-mesh/tombolo/zone"
)

func zoneCommand() *cobra.Command {
	cfg := zone.Config{Version: version()}
	var level, format string
	var kubernetes bool
	var cluster zone.Kubernetes
	cmd := &cobra.Command{
		Use:   "zone",
		Short: "Run the control plane of a zone",
		Long: `Runs the control plane of one zone: agents register proxies with it, and it configures
their Envoys. It connects to global by itself and works without it for as long as it must:
everything it needs is in its data directory, restarts included.

At first start it makes its own certificate authority; agents need zone-ca.pem of the
data directory. SIGHUP reads --resources again.

With --kubernetes the zone is that of a cluster: its pods are the proxies, its Services the
services, and what the zone needs lies in Secrets of its namespace, shared by all instances.
It runs in a pod (see tombolo install zone), or with --kubeconfig anywhere.`,
		Example: `  tombolo zone --name west --data-dir /var/lib/tombolo-zone --global global.example.com:5685 \
    --global-ca ca.pem --token-file zone-west.token --dns-name zone.west.example.com
  tombolo zone --kubernetes --kubeconfig ~/.kube/config --name east --webhooks none`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := newLogger(cmd.ErrOrStderr(), level, format)
			if err != nil {
				return err
			}
			cfg.Log = logger
			if kubernetes {
				cfg.Kubernetes = &cluster
			}
			z, err := zone.New(cfg)
			if err != nil {
				return &exitError{exitUsage, err.Error()}
			}
			stop := onHangup(z.Reload)
			defer stop()
			go memory.Tend(cmd.Context(), tendEvery)
			err = z.Run(cmd.Context())
			if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
				return nil
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Name, "name", "", "name of the zone, fixed once it has joined (required)")
	f.StringVar(&cfg.DataDir, "data-dir", "", "folder for state, keys and certificates (required without --kubernetes)")
	f.BoolVar(&kubernetes, "kubernetes", false, "be the zone of a Kubernetes cluster")
	f.StringVar(&cluster.Kubeconfig, "kubeconfig", "", "file with access to the cluster (default: the service account of the pod this runs in)")
	f.StringVar(&cluster.Context, "kube-context", "", "context of the kubeconfig (default: its current one)")
	f.StringVar(&cluster.Namespace, "namespace", "tombolo-system", "namespace of the control plane in the cluster")
	f.StringVar(&cluster.Instance, "instance", "", "name of this process among the instances of the zone (default: host name and process id)")
	f.StringVar(&cluster.PodIP, "pod-ip", "", "address of this instance, to which the Envoys of earlier versions' agents connect (default: the address that their agent dialled)")
	f.StringVar(&cluster.Injection, "injection", "", "file that says what injected pods get; without it no pod is injected")
	f.StringVar(&cluster.Webhooks, "webhooks", ":5443", "address of the webhooks (HTTPS); none for none")
	f.StringVar(&cfg.Listen, "listen", ":5678", "address for agents, and by them for Envoys (gRPC over TLS)")
	f.StringSliceVar(&cfg.Names, "dns-name", nil, "DNS name or IP address under which agents reach this zone, for the certificate; may be repeated")
	f.StringVar(&cfg.XDSAddress, "xds-address", "", "for agents of earlier versions, whose Envoys connect by themselves: host:port that they connect to (default: the one that their agent dialled)")
	f.StringVar(&cfg.Global, "global", "", "host:port of global, or of several instances separated by commas, of which any will do; without it the zone works alone")
	f.StringVar(&cfg.GlobalCA, "global-ca", "", "authorities of global's certificate, PEM (default: the system's)")
	f.StringVar(&cfg.TokenFile, "token-file", "", "file with the zone's token, see tombolo token create zone")
	f.StringVar(&cfg.Resources, "resources", "", "folder with manifests that the zone owns, for example MeshService")
	f.StringVar(&cfg.MetricsAddress, "metrics-address", "127.0.0.1:5680", "address of /metrics, /healthz, /readyz and /proxies (HTTP); empty for none")
	f.DurationVar(&cfg.ProxyLease, "proxy-lease", zone.DefaultLease, "how long a proxy that is gone is remembered")
	f.DurationVar(&cfg.RestartGrace, "restart-grace", zone.DefaultGrace, "how long proxies known from disk count as connected after a restart")
	f.DurationVar(&cfg.Doubt, "doubt", zone.DefaultDoubt, "how long it is not believed that most proxies vanished at once")
	vipFlags(f, &cfg.VIPs)
	logFlags(cmd, &level, &format)
	return cmd
}

// onHangup calls fn at each SIGHUP until stop is called.
func onHangup(fn func()) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range signals {
			fn()
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
		<-ended
	}
}
