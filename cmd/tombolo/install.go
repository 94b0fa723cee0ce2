package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/deploy/helm"
)

// maxValuesFile bounds what is read of a file of values, a token or authorities.
const maxValuesFile = 1 << 20

func installCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "install", Short: "Print the manifests that make a Kubernetes cluster a zone",
		Example: "  tombolo install crds | kubectl apply --server-side -f -"}
	cmd.AddCommand(installZoneCommand(), installCRDsCommand())
	return cmd
}

// installFlags are what zone and crds have in common.
type installFlags struct {
	release  helm.Release
	files    []string
	settings []string
}

func installZoneCommand() *cobra.Command {
	var in installFlags
	var zone, global, globalCA, secret, tokenFile string
	var namespace bool
	cmd := &cobra.Command{
		Use:   "zone --zone NAME [--global HOST:PORT --token-file FILE]",
		Short: "Print the manifests of a Kubernetes zone",
		Long: `Prints what "helm template" prints of the chart deploy/helm/tombolo, and before it the
namespace. Nothing is asked of the cluster. --set and -f take the chart's values
(deploy/helm/tombolo/values.yaml); the value of --set is YAML.

The output has the zone's token in it. To keep it out, make the Secret yourself, with the
key token, and give its name: --set zone.global.existingSecret=NAME.`,
		Example: `  tombolo token create zone --zone east > east.token
  tombolo install zone --zone east --global global.example.com:5685 --global-ca ca.pem --token-file east.token | kubectl apply --server-side -f -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if secret != "" && tokenFile != "" {
				return &exitError{exitUsage, "give one of --token and --token-file"}
			}
			values, err := in.values(cmd.InOrStdin())
			if err != nil {
				return err
			}
			if tokenFile != "" {
				if secret, err = readText(tokenFile, cmd.InOrStdin()); err != nil {
					return err
				}
			}
			authorities := ""
			if globalCA != "" {
				if authorities, err = readText(globalCA, cmd.InOrStdin()); err != nil {
					return err
				}
			}
			for _, given := range []struct {
				path  []string
				value string
			}{{[]string{"name"}, zone}, {[]string{"global", "address"}, global}, {[]string{"global", "token"}, secret}, {[]string{"global", "ca"}, authorities}} {
				if given.value != "" {
					values = put(values, append([]string{"zone"}, given.path...), strings.TrimSpace(given.value))
				}
			}
			objects, err := helm.Render(in.release, values)
			if err != nil {
				return &exitError{exitUsage, err.Error()}
			}
			if namespace {
				objects = append([]helm.Object{systemNamespace(in.release.Namespace, objects)}, objects...)
			}
			_, err = cmd.OutOrStdout().Write(helm.Text(objects))
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&zone, "zone", "", "name of the zone (required)")
	f.StringVar(&global, "global", "", "host:port of global; without it the zone works alone")
	f.StringVar(&globalCA, "global-ca", "", "file with the authorities of global's certificate, PEM (default: public ones)")
	f.StringVar(&secret, "token", "", "the zone's token, see tombolo token create zone; others on this machine can see it")
	f.StringVar(&tokenFile, "token-file", "", "file with the zone's token, or - for standard input")
	f.BoolVar(&namespace, "create-namespace", true, "print the namespace, too")
	in.register(cmd)
	return cmd
}

func installCRDsCommand() *cobra.Command {
	var in installFlags
	cmd := &cobra.Command{
		Use:     "crds",
		Short:   "Print the CustomResourceDefinitions alone",
		Long:    "Prints the CustomResourceDefinitions of the mesh's objects, for who may install them where others install the rest (crds.install=false).",
		Example: "  tombolo install crds | kubectl apply --server-side -f -",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			objects, err := helm.Render(in.release, map[string]any{"zone": map[string]any{"enabled": false}})
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(helm.Text(slices.DeleteFunc(objects, func(o helm.Object) bool { return o.Kind != "CustomResourceDefinition" })))
			return err
		},
	}
	return cmd
}

func uninstallCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "uninstall", Short: "Print what to delete, to take a zone out of a cluster",
		Example: "  tombolo uninstall zone | kubectl delete --ignore-not-found -f -"}
	var release helm.Release
	var meshes []string
	var crds bool
	zone := &cobra.Command{
		Use:   "zone",
		Short: "Print everything that an installation may have made, for kubectl delete",
		Long: `Prints the names of everything that the chart and the zone may have made in a cluster, in
the order in which it should go: webhooks first. It serves after "helm uninstall" as well,
for the state and certificates that the zone keeps in Secrets.

Take pods out of the mesh before: remove the label tombolo.io/sidecar-injection from their
namespaces and restart them. CustomResourceDefinitions stay, and with them all policies,
unless --crds is given. The namespace stays.`,
		Example: "  tombolo uninstall zone | kubectl delete --ignore-not-found -f -",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			objects, err := helm.Leftovers(release, meshes, crds)
			if err != nil {
				return &exitError{exitUsage, err.Error()}
			}
			_, err = cmd.OutOrStdout().Write(helm.Text(objects))
			return err
		},
	}
	f := zone.Flags()
	f.StringVarP(&release.Namespace, "namespace", "n", helm.DefaultNamespace, "namespace of the control plane")
	f.StringSliceVarP(&meshes, "mesh", "m", []string{"default"}, "meshes that had an ingress")
	f.BoolVar(&crds, "crds", false, "CustomResourceDefinitions, too: this deletes every policy of the cluster")
	cmd.AddCommand(zone)
	return cmd
}

func (in *installFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&in.release.Namespace, "namespace", "n", helm.DefaultNamespace, "namespace of the control plane")
	f.StringVar(&in.release.Name, "release", helm.DefaultName, "what Helm would call the installation, for labels")
	f.StringArrayVarP(&in.files, "values", "f", nil, "file with values of the chart, or -; may be repeated")
	f.StringArrayVar(&in.settings, "set", nil, "one value of the chart, as zone.replicas=3; may be repeated")
}

func (in *installFlags) values(stdin io.Reader) (map[string]any, error) {
	var texts [][]byte
	for _, name := range in.files {
		text, err := readText(name, stdin)
		if err != nil {
			return nil, err
		}
		texts = append(texts, []byte(text))
	}
	values, err := helm.Values(texts, in.settings)
	if err != nil {
		return nil, &exitError{exitUsage, err.Error()}
	}
	return values, nil
}

// systemNamespace is the control plane's. The CNI plugin's pods mount folders of
// the node, which only the level privileged allows; without them restricted does.
func systemNamespace(name string, objects []helm.Object) helm.Object {
	level := "restricted"
	if slices.ContainsFunc(objects, func(o helm.Object) bool { return o.Kind == "DaemonSet" }) {
		level = "privileged"
	}
	return helm.Object{APIVersion: "v1", Kind: "Namespace", Name: name, YAML: fmt.Appendf(nil, `apiVersion: v1
kind: Namespace
metadata:
  name: %s
  labels:
    app.kubernetes.io/part-of: tombolo
    pod-security.kubernetes.io/enforce: %s`, name, level)}
}

func readText(name string, stdin io.Reader) (string, error) {
	from := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		from = f
	}
	text, err := io.ReadAll(io.LimitReader(from, maxValuesFile+1))
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if len(text) > maxValuesFile {
		return "", fmt.Errorf("%s has more than %d bytes", name, maxValuesFile)
	}
	return string(text), nil
}

// put sets a value of nested objects; what is in the way is replaced.
func put(values map[string]any, path []string, value any) map[string]any {
	if values == nil {
		values = map[string]any{}
	}
	if len(path) == 1 {
		values[path[0]] = value
		return values
	}
	inner, _ := values[path[0]].(map[string]any)
	values[path[0]] = put(inner, path[1:], value)
	return values
}
