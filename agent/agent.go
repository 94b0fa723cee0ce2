package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/agent/appprobe"
	"github.com/tombolo-mesh/tombolo/agent/dns"
)

// errStopped ends the parts of an agent after a proper end.
var errStopped = errors.New("stopped")

// Agent stands beside one Envoy.
type Agent struct {
	cfg Config
}

// New checks the configuration. It does no I/O.
func New(cfg Config) (*Agent, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	return &Agent{cfg: cfg}, nil
}

// Run runs Envoy until ctx ends, then drains in order and returns nil. It returns
// an *EnvoyExit when Envoy ends on its own.
func (a *Agent) Run(ctx context.Context) error {
	var manifest []byte
	if !a.cfg.Kubernetes {
		var err error
		if manifest, err = readManifest(a.cfg); err != nil {
			return err
		}
	}
	health, err := a.appProbes()
	if err != nil {
		return err
	}
	names, err := a.names()
	if err != nil {
		return err
	}
	version, err := envoyVersion(ctx, a.cfg.Envoy)
	if err != nil {
		return err
	}
	dir, remove, err := workDir(a.cfg.WorkDir)
	if err != nil {
		return err
	}
	defer remove()
	at := sockets{admin: filepath.Join(dir, "admin.sock"), sds: filepath.Join(dir, "sds.sock"), ads: filepath.Join(dir, "xds.sock")}
	listener, err := listenUnix(at.sds)
	if err != nil {
		return err
	}
	carried, err := listenUnix(at.ads)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	sds, ads := newSecrets(a.cfg.Log), newADS(a.cfg.Log)
	probes := newProber(a.cfg.Log)
	admin := newAdmin(at.admin)
	l := newLink(linkConfig{agent: a.cfg, manifest: manifest, instance: newInstance(), envoyVersion: version,
		renew: newRenewer(a.cfg.Log, sds.set), probes: probes, admin: admin, ads: ads, names: names, log: a.cfg.Log})
	sup := &supervisor{cfg: a.cfg, dir: dir, sockets: at, link: l, admin: admin, names: names, log: a.cfg.Log}

	// What runs goes on after the request to stop, until the drain is over.
	group, live := errgroup.WithContext(context.WithoutCancel(ctx))
	group.Go(func() error { return sds.serve(live, listener) })
	group.Go(func() error { return ads.serve(live, carried) })
	group.Go(func() error { probes.run(live); return nil })
	group.Go(func() error { return l.run(live) })
	group.Go(func() error {
		if err := sup.run(ctx, live); err != nil {
			return err
		}
		return errStopped
	})
	if a.cfg.ReadinessAddress != "" {
		group.Go(func() error { return sup.serveReadiness(live) })
	}
	if names != nil {
		group.Go(func() error { return names.Run(live) })
	}
	if health != nil {
		group.Go(func() error { return health.Run(live) })
	}
	if err := group.Wait(); !errors.Is(err, errStopped) {
		return err
	}
	return nil
}

// names is the DNS server, nil without one.
func (a *Agent) names() (*dns.Server, error) {
	upstreams, err := a.cfg.nameservers()
	if err != nil || !a.cfg.DNS {
		return nil, err
	}
	return dns.New(dns.Config{Port: a.cfg.DNSPort, Upstreams: upstreams, Log: a.cfg.Log})
}

// appProbes is the server that runs the application's probes, nil without probes.
func (a *Agent) appProbes() (*appprobe.Server, error) {
	table, err := appprobe.Parse([]byte(a.cfg.AppProbes))
	if err != nil || len(table) == 0 {
		return nil, err
	}
	return appprobe.NewServer(appprobe.Config{Table: table, Host: a.cfg.PodIPs[0], Address: a.cfg.AppProbesAddress, Log: a.cfg.Log})
}

// readManifest reads the Dataplane. The zone judges it; the agent looks only
// whether it is of the kind that its command says.
func readManifest(cfg Config) ([]byte, error) {
	text, err := readBounded(cfg.Dataplane, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("dataplane: %w", err)
	}
	var shape struct {
		Networking networking `json:"networking"`
		Spec       struct {
			Networking networking `json:"networking"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(text, &shape); err != nil {
		return nil, fmt.Errorf("dataplane: %s: %w", cfg.Dataplane, err)
	}
	gateway := len(shape.Networking.Listeners)+len(shape.Spec.Networking.Listeners) > 0
	switch {
	case cfg.Gateway && !gateway:
		return nil, fmt.Errorf("dataplane: %s has no networking.listeners: it is a sidecar's, not a gateway's", cfg.Dataplane)
	case !cfg.Gateway && gateway:
		return nil, fmt.Errorf("dataplane: %s has networking.listeners: it is a gateway's, not a sidecar's", cfg.Dataplane)
	}
	for _, n := range []networking{shape.Networking, shape.Spec.Networking} {
		if n.needsIPv6() && !hasIPv6() {
			return nil, fmt.Errorf("dataplane: %s: networking.transparentProxying.ipFamilyMode must be IPv4: this kernel has no IPv6", cfg.Dataplane)
		}
	}
	return text, nil
}

// networking is what the agent looks at in a Dataplane.
type networking struct {
	Listeners           []any `json:"listeners"`
	TransparentProxying *struct {
		IPFamilyMode string `json:"ipFamilyMode"`
	} `json:"transparentProxying"`
}

// needsIPv6: redirected connections arrive at a socket for both families.
func (n networking) needsIPv6() bool {
	return n.TransparentProxying != nil && n.TransparentProxying.IPFamilyMode != "IPv4"
}

// hasIPv6 reports whether the kernel knows the family at all. Where it does not,
// Envoy could take no redirected connection of either family.
func hasIPv6() bool {
	fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM, 0)
	if err == nil {
		_ = syscall.Close(fd)
	}
	return !errors.Is(err, syscall.EAFNOSUPPORT)
}

// workDir makes the directory for bootstrap and sockets, for this user alone.
func workDir(path string) (dir string, remove func(), err error) {
	if path == "" {
		dir, err := os.MkdirTemp("", "tombolo-agent-")
		if err != nil {
			return "", nil, fmt.Errorf("work dir: %w", err)
		}
		return dir, func() { _ = os.RemoveAll(dir) }, nil
	}
	dir, err = filepath.Abs(path)
	if err != nil {
		return "", nil, fmt.Errorf("work dir: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("work dir: %w", err)
	}
	return dir, func() {
		for _, name := range []string{"sds.sock", "admin.sock", "xds.sock", bootstrapFile} {
			_ = os.Remove(filepath.Join(dir, name))
		}
	}, nil
}

func newInstance() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: the runtime ends the process instead
	return hex.EncodeToString(b[:])
}

// until calls f at each interval until it returns true or ctx ends.
func until(ctx context.Context, interval time.Duration, f func() bool) error {
	t := time.NewTicker(interval)
	defer t.Stop()
	for !f() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
	return nil
}
