package kubelab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
)

// Cluster is one that runs. Its methods may be called at the same time.
type Cluster struct {
	// Name, "east".
	Name string
	// Address of its node on the network between the clusters; empty when contexts
	// name the clusters.
	Address string

	outside             *lab.Host
	context             string
	env                 []string
	kubectl, node, load []string
}

// Kubectl runs kubectl and returns its standard output.
func (c *Cluster) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	return c.run(ctx, stdin, append(c.kubectl[:len(c.kubectl):len(c.kubectl)], args...))
}

// Watch runs kubectl until it is killed; its output is in the process' log.
func (c *Cluster) Watch(dir, name string, args ...string) (*lab.Process, error) {
	return c.outside.Start(dir, name, c.env, c.kubectl[0], append(c.kubectl[1:len(c.kubectl):len(c.kubectl)], args...)...)
}

// Apply applies manifests as one user's.
func (c *Cluster) Apply(ctx context.Context, manifests ...string) error {
	_, err := c.Kubectl(ctx, strings.Join(manifests, "\n---\n"), "apply", "-f", "-")
	return err
}

// Exec runs a command in a container of a pod ("pod/x", "deployment/x").
func (c *Cluster) Exec(ctx context.Context, namespace, pod, container string, command ...string) (string, error) {
	return c.Kubectl(ctx, "", append([]string{"-n", namespace, "exec", pod, "-c", container, "--"}, command...)...)
}

// Helm runs helm against the cluster.
func (c *Cluster) Helm(ctx context.Context, helm string, args ...string) (string, error) {
	command := []string{helm}
	if c.context != "" {
		command = append(command, "--kube-context", c.context)
	}
	return c.run(ctx, "", append(command, args...))
}

// Node runs a command on the cluster's node.
func (c *Cluster) Node(ctx context.Context, command ...string) (string, error) {
	return c.run(ctx, "", append(c.node[:len(c.node):len(c.node)], command...))
}

// Load imports image tarballs into the node. Clusters that contexts name have them.
func (c *Cluster) Load(ctx context.Context, tars ...string) error {
	if len(c.load) == 0 {
		return nil
	}
	_, err := c.run(ctx, "", append(c.load[:len(c.load):len(c.load)], tars...))
	return err
}

// Run runs a program of this machine where KUBECONFIG leads to the cluster.
func (c *Cluster) Run(ctx context.Context, program string, args ...string) (string, error) {
	return c.run(ctx, "", append([]string{program}, args...))
}

func (c *Cluster) run(ctx context.Context, stdin string, command []string) (string, error) {
	out, err := c.outside.RunContext(ctx, c.env, stdin, command[0], command[1:]...)
	if err != nil {
		return out, fmt.Errorf("cluster %s: %w", c.Name, err)
	}
	return out, nil
}

// Dump writes what explains a failure into a folder: pods, events, the logs of
// every container in the namespaces, and what configures them. What cannot be had
// is said in its file.
func (c *Cluster) Dump(ctx context.Context, dir string, namespaces ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var errs []error
	save := func(file string, args ...string) string {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		out, err := c.Kubectl(ctx, "", args...)
		if err != nil {
			out += "\n" + err.Error()
		}
		errs = append(errs, os.WriteFile(filepath.Join(dir, file), []byte(out), 0o644))
		return out
	}
	save("pods", "get", "pods", "-A", "-o", "wide")
	save("events", "get", "events", "-A", "--sort-by=.lastTimestamp")
	save("services", "get", "services,endpointslices", "-A", "-o", "wide")
	save("webhooks.yaml", "get", "mutatingwebhookconfigurations,validatingwebhookconfigurations", "-o", "yaml")
	for _, ns := range namespaces {
		save(ns+".yaml", "-n", ns, "get", "pods", "-o", "yaml")
		for _, pod := range strings.Fields(save(ns+".names", "-n", ns, "get", "pods", "-o", "name")) {
			name := ns + "_" + strings.TrimPrefix(pod, "pod/")
			save(name+".describe", "-n", ns, "describe", pod)
			save(name+".log", "-n", ns, "logs", pod, "--all-containers", "--prefix", "--tail=2000")
			save(name+".before.log", "-n", ns, "logs", pod, "--all-containers", "--prefix", "--tail=500", "--previous")
		}
	}
	return errors.Join(errs...)
}
