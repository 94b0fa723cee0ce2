// Package kubelab gives tests Kubernetes clusters: those of e2e/kubelab, started
// for the test and gone with it, or any that kubeconfig contexts name. In flow
// names and what the environment says, out flow clusters to run kubectl and helm
// against, and hosts on the network between them.
//
//	TOMBOLO_E2E_KUBE_STATE     folder with clusters of e2e/kubelab to use and keep: started
//	                           when they are not there, never removed
//	TOMBOLO_E2E_KUBE_CONTEXTS  kubeconfig contexts to use instead, in the order of the names,
//	                           "kind-east,kind-west"; images are loaded before
//	TOMBOLO_E2E_KUBE_NODES     with it, what runs a command on a cluster's node, one per
//	                           context, "docker exec east-control-plane,docker exec west-…"
//	TOMBOLO_E2E_KUBE_BRIDGE    with it, the bridge between them and its address,
//	                           "br-0123456789ab 172.18.0.1/16"
package kubelab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tombolo-mesh/tombolo/e2e/lab"
)

// The network of e2e/kubelab.
const (
	namespace     = "k8s-net"
	bridge        = "br0"
	bridgeAddress = "172.30.0.1/24"
	// Hosts that tests attach have the last numbers from..to, beside the nodes'.
	fromNumber, toNumber = 100, 199
)

// Config of a Lab.
type Config struct {
	// Dir is the folder of e2e/kubelab.
	Dir string
	// Cache is where its build.sh has put binaries and images.
	Cache string
	// Logs is the folder for what the clusters' start prints.
	Logs string
	// Names of the clusters, at most 9 letters each.
	Names []string
}

// Lab is running clusters and the network between them.
type Lab struct {
	// Clusters in the order of the names.
	Clusters []*Cluster
	// State is a folder that is gone when the lab is, for what should be, too.
	State string

	outside *lab.Host // the namespace of the bridge
	bridge  string
	address netip.Prefix
	hold    *exec.Cmd
	input   io.Closer
	own     bool
}

// Start gives clusters that run. Close ends them, as does the end of this process.
func Start(ctx context.Context, cfg Config) (*Lab, error) {
	l := &Lab{bridge: bridge, address: netip.MustParsePrefix(bridgeAddress)}
	var err error
	if contexts := os.Getenv("TOMBOLO_E2E_KUBE_CONTEXTS"); contexts != "" {
		return l, l.use(cfg, strings.Split(contexts, ","))
	}
	script, err := filepath.Abs(filepath.Join(cfg.Dir, "cluster.sh"))
	if err != nil {
		return nil, err
	}
	if l.State = os.Getenv("TOMBOLO_E2E_KUBE_STATE"); l.State == "" {
		if l.State, err = os.MkdirTemp("", "tombolo-kube-"); err != nil {
			return nil, err
		}
		if err := os.Chmod(l.State, 0o755); err != nil { // for PostgreSQL's user
			return nil, err
		}
		if err := l.start(cfg, script); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	} else if err := l.keep(ctx, cfg, script); err != nil {
		return nil, err
	}
	if l.outside, err = lab.Enter(namespace); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	for _, name := range cfg.Names {
		ip, err := exec.CommandContext(ctx, "env", "STATE="+l.State, script, "ip", name).Output()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("address of cluster %s: %w", name, err), l.Close())
		}
		l.Clusters = append(l.Clusters, &Cluster{
			Name: name, Address: strings.TrimSpace(string(ip)), outside: l.outside,
			env:     []string{"KUBECONFIG=" + filepath.Join(l.State, name, "etc/kubernetes/admin.conf"), "STATE=" + l.State, "CACHE=" + cfg.Cache},
			kubectl: []string{filepath.Join(cfg.Cache, "bin/kubectl")},
			node:    []string{script, "node", name},
			load:    []string{script, "load", name},
		})
	}
	return l, nil
}

// start starts clusters under the process that removes them when this one ends.
func (l *Lab) start(cfg Config, script string) error {
	hold, err := filepath.Abs(filepath.Join(cfg.Dir, "../kube/kubelab/hold.sh"))
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(cfg.Logs, "clusters.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	l.hold = exec.Command(hold, append([]string{script}, cfg.Names...)...)
	l.hold.Env = append(os.Environ(), "STATE="+l.State, "CACHE="+cfg.Cache, "LB=1")
	l.hold.Stderr = log
	l.hold.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // not for Ctrl-C
	if l.input, err = l.hold.StdinPipe(); err != nil {
		return err
	}
	out, err := l.hold.StdoutPipe()
	if err != nil {
		return err
	}
	if err := l.hold.Start(); err != nil {
		return err
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	if err == nil && said != "ready\n" {
		err = fmt.Errorf("%q", said)
	}
	if err != nil {
		return fmt.Errorf("the clusters did not start: %w: see %s", err, log.Name())
	}
	return nil
}

// keep uses the clusters in a folder, and starts those that are not there.
func (l *Lab) keep(ctx context.Context, cfg Config, script string) error {
	for _, name := range cfg.Names {
		if _, err := os.Stat(filepath.Join(l.State, name)); err == nil {
			continue
		}
		cmd := exec.CommandContext(ctx, script, "up", name)
		cmd.Env = append(os.Environ(), "STATE="+l.State, "CACHE="+cfg.Cache, "LB=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("start cluster %s: %w: %s", name, err, out)
		}
	}
	return nil
}

// use takes clusters that contexts name.
func (l *Lab) use(cfg Config, contexts []string) (err error) {
	nodes := strings.Split(os.Getenv("TOMBOLO_E2E_KUBE_NODES"), ",")
	if len(contexts) != len(cfg.Names) || len(nodes) != len(cfg.Names) {
		return fmt.Errorf("TOMBOLO_E2E_KUBE_CONTEXTS and TOMBOLO_E2E_KUBE_NODES: %d each, for %v", len(cfg.Names), cfg.Names)
	}
	name, address, ok := strings.Cut(os.Getenv("TOMBOLO_E2E_KUBE_BRIDGE"), " ")
	if l.address, err = netip.ParsePrefix(address); !ok || err != nil {
		return fmt.Errorf("TOMBOLO_E2E_KUBE_BRIDGE: a bridge and its address, as in br-0123456789ab 172.18.0.1/16 (%w)", err)
	}
	l.bridge = name
	if l.State, err = os.MkdirTemp("", "tombolo-kube-"); err != nil {
		return err
	}
	if err := os.Chmod(l.State, 0o755); err != nil {
		return err
	}
	l.own = true
	if l.outside, err = lab.Enter(""); err != nil {
		return err
	}
	for i, name := range cfg.Names {
		l.Clusters = append(l.Clusters, &Cluster{Name: name, outside: l.outside, context: contexts[i],
			kubectl: []string{"kubectl", "--context", contexts[i]}, node: strings.Fields(nodes[i])})
	}
	return nil
}

// AddHost attaches a host to the network between the clusters, at a free address.
func (l *Lab) AddHost(name string) (*lab.Host, error) {
	octets := l.address.Addr().As4()
	var err error
	for number := fromNumber; number <= toNumber; number++ {
		octets[3] = byte(number)
		address := netip.PrefixFrom(netip.AddrFrom4(octets), l.address.Bits())
		var h *lab.Host
		// The cable's name is the reservation: the machine's tests share the bridge.
		if h, err = l.outside.Attach(l.bridge, name, fmt.Sprintf("host%d", number), address.String(), l.address.Addr().String()); err == nil {
			return h, nil
		}
		if !errors.Is(err, syscall.EEXIST) {
			return nil, err
		}
	}
	return nil, err
}

// SetLink cuts a cluster's node off the network between the clusters, and connects
// it again. Only clusters of e2e/kubelab have such a link.
func (l *Lab) SetLink(ctx context.Context, c *Cluster, up bool) error {
	number := strings.TrimPrefix(c.Address, "172.30.0.1")
	state := "down"
	if up {
		state = "up"
	}
	_, err := l.outside.RunContext(ctx, nil, "", "ip", "link", "set", "node"+number, state)
	return err
}

// Close ends the clusters, unless they are kept, and waits until nothing is left.
func (l *Lab) Close() error {
	if l.hold == nil {
		if l.own {
			return os.RemoveAll(l.State)
		}
		return nil
	}
	err := l.input.Close()
	return errors.Join(err, l.hold.Wait())
}
