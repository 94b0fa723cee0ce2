package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/deploy/helm"
	"github.com/tombolo-mesh/tombolo/zone/check"
	kubecheck "github.com/tombolo-mesh/tombolo/zone/kube/check"
	"github.com/tombolo-mesh/tombolo/zone/kube/cluster"
)

// checkFlags say what is checked, and from where.
type checkFlags struct {
	namespace, kubeconfig, context             string
	zone, global, globalCA, tokenFile, metrics string
	inCluster, cni                             bool
	authorities                                string
	out                                        format
}

func checkCommand() *cobra.Command {
	var in checkFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Find out what is wrong with a zone, before and after its installation",
		Long: `Looks at a Kubernetes cluster, by kubeconfig: whether it can become a zone, or, where the
control plane is installed, whether everything works. Nothing is changed. With --global and
--token-file it looks at the way to global and at the token, too, from here.

For a zone of machines give --metrics-address of its control plane; no cluster is asked then.

Each line is ok, warn, fail or skip, with what to do. Exits 1 when something fails;
docs/checks.md explains every check.`,
		Example: `  tombolo check --zone east --global global.example.com:5685 --global-ca ca.pem --token-file east.token
  tombolo check -o json
  tombolo check --metrics-address 127.0.0.1:5680 --global global.example.com:5685`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			results, err := in.run(cmd.Context(), cmd.InOrStdin())
			if err != nil {
				return err
			}
			if err := in.out.print(cmd.OutOrStdout(), results, func() error { return printResults(cmd.OutOrStdout(), results) }); err != nil {
				return err
			}
			if check.Failed(results) {
				return &exitError{exitFailed, ""}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&in.namespace, "namespace", "n", helm.DefaultNamespace, "namespace of the control plane")
	f.StringVar(&in.kubeconfig, "kubeconfig", "", "kubeconfig (default: $KUBECONFIG, else ~/.kube/config)")
	f.StringVar(&in.context, "kube-context", "", "context of the kubeconfig (default: its current one)")
	f.StringVar(&in.zone, "zone", "", "name of the zone, for the token")
	f.StringVar(&in.global, "global", "", "host:port where zones connect to global")
	f.StringVar(&in.globalCA, "global-ca", "", "file with the authorities of global's certificate, PEM (default: public ones)")
	f.StringVar(&in.tokenFile, "token-file", "", "file with the zone's token, or - for standard input")
	f.StringVar(&in.metrics, "metrics-address", "", "host:port of the metrics of a control plane on a machine, instead of a cluster")
	f.BoolVar(&in.cni, "cni", true, "before an installation: the CNI plugin is to be installed")
	f.BoolVar(&in.inCluster, "in-cluster", false, "from a pod: whether the control plane answers by the names that pods use")
	f.StringVar(&in.authorities, "zone-ca", "/etc/tombolo/zone-ca/ca.crt", "with --in-cluster, authorities of the zone's certificate")
	outputFlag(cmd, &in.out)
	return cmd
}

func (in *checkFlags) run(ctx context.Context, stdin io.Reader) ([]check.Result, error) {
	now := time.Now()
	var results []check.Result
	switch {
	case in.inCluster:
		return in.inside(ctx, stdin, now)
	case in.metrics != "":
		results = append(results, check.Ready(ctx, "http://"+strings.TrimPrefix(in.metrics, "http://")))
	default:
		about, err := in.cluster(ctx, now)
		if err != nil {
			return nil, err
		}
		results = about
	}
	if in.tokenFile != "" {
		raw, err := readText(in.tokenFile, stdin)
		if err != nil {
			return nil, err
		}
		results = append(results, check.Token(raw, in.zone, now))
	}
	if in.global != "" {
		authorities := ""
		if in.globalCA != "" {
			var err error
			if authorities, err = readText(in.globalCA, stdin); err != nil {
				return nil, err
			}
		}
		results = append(results, check.Global(ctx, in.global, authorities, now)...)
	}
	return results, nil
}

// inside is what `helm test` runs: the control plane from the view of a pod.
func (in *checkFlags) inside(ctx context.Context, stdin io.Reader, now time.Time) ([]check.Result, error) {
	authorities, err := readText(in.authorities, stdin)
	if err != nil {
		return nil, err
	}
	host := "tombolo-zone." + in.namespace + ".svc"
	return []check.Result{
		check.Ready(ctx, "http://"+host+":5680"),
		check.TLS(ctx, "agents-port", host+":5678", host, authorities, now),
		check.TLS(ctx, "webhooks-port", host+":443", host, authorities, now),
	}, nil
}

func (in *checkFlags) cluster(ctx context.Context, now time.Time) ([]check.Result, error) {
	if in.kubeconfig == "" {
		in.kubeconfig = kubeconfig()
	}
	client, err := cluster.Connect(cluster.Config{Kubeconfig: in.kubeconfig, Context: in.context, Component: "tombolo-check"})
	if err != nil {
		return nil, &exitError{exitUsage, err.Error()}
	}
	cfg := kubecheck.Config{Client: client, Namespace: in.namespace, CNI: in.cni, Now: now, CRDs: map[string]map[string]any{}}
	installed, err := kubecheck.Installed(ctx, cfg)
	if err != nil || !installed {
		return kubecheck.Before(ctx, cfg), nil // tells what is wrong with the API server, too
	}
	objects, err := helm.Render(helm.Release{}, map[string]any{"zone": map[string]any{"enabled": false}})
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		var crd map[string]any
		if o.Kind != "CustomResourceDefinition" {
			continue
		}
		if err := yaml.Unmarshal(o.YAML, &crd); err != nil {
			return nil, err
		}
		cfg.CRDs[o.Name] = crd
	}
	return kubecheck.After(ctx, cfg), nil
}

// kubeconfig is the file that kubectl would read first.
func kubeconfig() string {
	for _, name := range filepath.SplitList(os.Getenv("KUBECONFIG")) {
		if name != "" {
			return name
		}
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".kube", "config")
}

func printResults(w io.Writer, results []check.Result) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range results {
		fmt.Fprintf(table, "%s\t%s\t%s\n", r.Status, r.Name, strings.ReplaceAll(r.Message, "\n", " "))
		if r.Do != "" {
			fmt.Fprintf(table, "\t\t-> %s\n", r.Do)
			fmt.Fprintf(table, "\t\t   %s\n", r.Hint)
		}
	}
	return table.Flush()
}
