package zone

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/internal/serverca"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/xds/delta"
	"github.com/tombolo-mesh/tombolo/zone/agents"
	"github.com/tombolo-mesh/tombolo/zone/disk"
	zonesync "github.com/tombolo-mesh/tombolo/zone/sync"
	"github.com/tombolo-mesh/tombolo/zone/universal"
)

// CAFile is the name, in the data directory, of the certificate that agents and
// Envoys trust to reach the zone.
const CAFile = "zone-ca.pem"

// Config of a Zone.
type Config struct {
	// Name of the zone, an RFC 1035 label, fixed once it has joined. Required.
	Name string
	// DataDir holds the state, keys and certificates. Required, but in a cluster,
	// which holds them.
	DataDir string
	// Kubernetes makes it the zone of a cluster; nil: of machines and VMs.
	Kubernetes *Kubernetes
	// Listen is the address for agents and Envoys, default ":5678".
	Listen string
	// Names are further DNS names and addresses under which agents reach the zone.
	Names []string
	// XDSAddress tells Envoys that connect by themselves, as those of earlier agents do,
	// where to; empty: where their agent dialled.
	XDSAddress string
	// Global is the host:port of global; empty runs without.
	Global string
	// GlobalCA is a file with the authorities of global's certificate; empty: the system's.
	GlobalCA string
	// TokenFile holds the zone's token for global, read again at each dial.
	TokenFile string
	// Resources is a folder of manifests that the zone owns; empty for none.
	Resources string
	// MetricsAddress serves /metrics, /healthz and /readyz; empty serves none.
	MetricsAddress string
	// ProxyLease is how long a proxy that is gone is remembered, default DefaultLease.
	ProxyLease time.Duration
	// RestartGrace is how long proxies known from disk count as connected after a
	// restart of the zone, default DefaultGrace.
	RestartGrace time.Duration
	// Doubt is how long a mass disappearance is not believed, default DefaultDoubt.
	Doubt time.Duration
	// VIPs are the ranges of virtual addresses, default DefaultVIPRanges.
	VIPs VIPRanges
	// Version of the software, for people.
	Version string
	// Log, default discards.
	Log *slog.Logger
}

// Zone is a zone control plane.
type Zone struct {
	cfg      Config
	log      *slog.Logger
	registry *prometheus.Registry
	tls      *serverca.Authority
	reload   chan struct{}
	ready    chan struct{}
	address  net.Addr
}

// New checks the configuration. It does no I/O; Run does.
func New(cfg Config) (*Zone, error) {
	if problems := mesh.ValidateResource(mesh.Resource{Key: mesh.Key{Kind: mesh.KindZone, Name: cfg.Name}}, &mesh.Zone{}); len(problems) > 0 {
		return nil, fmt.Errorf("zone name: %w", problems)
	}
	switch {
	case cfg.Kubernetes == nil && cfg.DataDir == "":
		return nil, errors.New("a data directory is required")
	case cfg.Kubernetes != nil && (cfg.DataDir != "" || cfg.Resources != ""):
		return nil, errors.New("a zone of Kubernetes needs no data directory and takes no folder of resources: both are in its cluster")
	}
	if cfg.Global != "" && cfg.TokenFile == "" {
		return nil, errors.New("to connect to global a token file is required")
	}
	if cfg.Listen == "" {
		cfg.Listen = ":5678"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
		name  string
	}{{&cfg.ProxyLease, DefaultLease, "proxy lease"}, {&cfg.RestartGrace, DefaultGrace, "restart grace"}, {&cfg.Doubt, DefaultDoubt, "doubt"}} {
		if *d.value < 0 {
			return nil, fmt.Errorf("%s: %s must not be negative", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	var err error
	if cfg.VIPs, err = cfg.VIPs.withDefaults(); err != nil {
		return nil, err
	}
	names := append([]string(nil), cfg.Names...)
	host, _, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen address: %w", err)
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		names = append(names, host)
	}
	z := &Zone{cfg: cfg, log: cfg.Log, registry: prometheus.NewRegistry(), reload: make(chan struct{}, 1), ready: make(chan struct{})}
	if cfg.Kubernetes != nil {
		if ip := cfg.Kubernetes.PodIP; ip != "" && cfg.XDSAddress == "" {
			_, port, _ := net.SplitHostPort(cfg.Listen) // split above
			z.cfg.XDSAddress = net.JoinHostPort(ip, port)
		}
		return z, nil
	}
	z.tls, err = serverca.New(serverca.Config{Dir: filepath.Join(cfg.DataDir, "tls"), Names: names,
		CommonName: "Tombolo zone " + cfg.Name, Logger: cfg.Log})
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	return z, nil
}

// Reload reads the folder of resources again.
func (z *Zone) Reload() { ring(z.reload) }

// Ready is closed once the zone serves.
func (z *Zone) Ready() <-chan struct{} { return z.ready }

// Address where the zone listens for agents and Envoys; valid once it is ready.
func (z *Zone) Address() net.Addr { return z.address }

// Run serves until ctx ends. It starts and serves from its state, whether global
// can be reached or not.
func (z *Zone) Run(ctx context.Context) error {
	if err := z.run(ctx); err != nil {
		return fmt.Errorf("zone: %w", err)
	}
	return nil
}

func (z *Zone) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	h, err := z.open(ctx, g)
	if err == nil {
		defer h.close()
		err = z.start(ctx, g, h)
	}
	if err != nil {
		cancel()
		return errors.Join(err, g.Wait())
	}
	defer cancel()
	return g.Wait()
}

// home is what a zone control plane takes from where it runs.
type home struct {
	env   string
	store disk.Store
	tls   *tls.Config
	// ready is closed when everything that the platform knows was told to the engine.
	ready <-chan struct{}
	// attach says who may join.
	attach func(p *parts) agents.Admitter
	// follower reports that another instance leads; nil: this one does.
	follower func() bool
	// run feeds the engine until ctx ends.
	run   func(ctx context.Context, e *engine) error
	close func()
	// ca says where agents find whom to trust.
	ca string
}

func (z *Zone) open(ctx context.Context, g *errgroup.Group) (*home, error) {
	if z.cfg.Kubernetes != nil {
		return z.openCluster(ctx, g)
	}
	return z.openMachine()
}

// openMachine opens the data directory.
func (z *Zone) openMachine() (*home, error) {
	if err := os.MkdirAll(z.cfg.DataDir, 0o700); err != nil {
		return nil, err
	}
	file, err := disk.Open(disk.Config{Dir: z.cfg.DataDir, Zone: z.cfg.Name})
	if err != nil {
		return nil, err
	}
	h := &home{env: mesh.EnvUniversal, store: file, tls: z.tls.TLS(), run: z.runMachine, ca: filepath.Join(z.cfg.DataDir, CAFile),
		close: func() { _ = file.Close() }, // everything in it is committed
		attach: func(p *parts) agents.Admitter {
			return universal.Admitter{Zone: z.cfg.Name, Verifier: p.engine.verifier}
		}}
	if err := z.tls.Load(); err != nil {
		h.close()
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	if err := os.WriteFile(h.ca, z.tls.CAPEM(), 0o644); err != nil {
		h.close()
		return nil, err
	}
	ready := make(chan struct{})
	close(ready) // what the folder holds may follow
	h.ready = ready
	return h, nil
}

// runMachine keeps the certificate current and reads the folder of resources.
func (z *Zone) runMachine(ctx context.Context, e *engine) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return z.tls.Run(ctx) })
	g.Go(func() error { return z.files(ctx, e) })
	return g.Wait()
}

// start makes the parts and runs them in g.
func (z *Zone) start(ctx context.Context, g *errgroup.Group, h *home) error {
	p, err := z.assemble(h)
	if err != nil {
		return err
	}
	listener, err := listen(ctx, z.cfg.Listen)
	if err != nil {
		return err
	}
	z.address = listener.Addr()
	if z.cfg.MetricsAddress != "" {
		if err := z.serveHTTP(ctx, g, p); err != nil {
			return errors.Join(err, listener.Close())
		}
	}
	g.Go(func() error { return p.engine.run(ctx) })
	g.Go(func() error { return h.run(ctx, p.engine) })
	g.Go(func() error {
		// Proxies are served, and global is told, once everything that the disk and the
		// platform hold is published: what came later would look as if it were gone.
		select {
		case <-h.ready:
		case <-ctx.Done():
			return listener.Close()
		}
		if err := p.engine.do(ctx.Done(), func(*batch) {}); err != nil {
			return errors.Join(listener.Close(), ignoreStop(err))
		}
		z.log.Info("zone serves", "zone", z.cfg.Name, "address", z.address.String(), "ca", h.ca, "rev", int64(p.engine.position.Load().Revision))
		close(z.ready)
		if err := p.server.Serve(listener); !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		p.agents.Close()
		p.server.Stop()
		return nil
	})
	if p.client != nil {
		g.Go(func() error {
			select {
			case <-z.ready:
				return p.client.Run(ctx)
			case <-ctx.Done():
				return nil
			}
		})
	}
	return nil
}

func ignoreStop(err error) error {
	if errors.Is(err, errStopped) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// files loads the folder of resources, and again when asked to.
func (z *Zone) files(ctx context.Context, e *engine) error {
	for {
		if z.cfg.Resources != "" {
			if err := e.loadFiles(ctx.Done(), z.cfg.Resources); err != nil {
				return ignoreStop(err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-z.reload:
		}
	}
}

// parts are what a running zone consists of.
type parts struct {
	engine *engine
	agents *agents.Server
	client *zonesync.Client
	server *grpc.Server
	xds    *delta.Server
	// registry has the metrics of all.
	registry *prometheus.Registry
}

func (z *Zone) assemble(h *home) (*parts, error) {
	p := &parts{registry: z.registry}
	var err error
	p.xds = delta.New(delta.Config{
		Authorize:  func(ctx context.Context, node *corev3.Node) (string, error) { return p.engine.authorize(ctx, node) },
		OnProgress: func(group string, settled bool) { p.engine.tracker.onProgress(group, settled) },
		OnInSync:   func(node string) { p.engine.tracker.onInSync(node) },
		Log:        z.log, Registerer: z.registry,
	})
	p.engine, err = newEngine(engineConfig{
		zone: z.cfg.Name, env: h.env, disk: h.store, delta: p.xds, lease: z.cfg.ProxyLease, grace: z.cfg.RestartGrace, doubt: z.cfg.Doubt, vips: z.cfg.VIPs,
		linked:        func() bool { return p.client != nil && p.client.Connected() },
		tokensChanged: func() { p.agents.Recheck() },
		log:           z.log, registerer: z.registry,
	})
	if err != nil {
		return nil, err
	}
	p.agents = agents.New(agents.Config{Zone: z.cfg.Name, Names: p.engine.board, Proxies: members{p.engine}, Admitter: h.attach(p),
		XDSAddress: z.cfg.XDSAddress, Log: z.log, Registerer: z.registry})
	if z.cfg.Global != "" {
		if p.client, err = z.dialGlobal(p.engine, h.follower); err != nil {
			return nil, err
		}
	}
	p.server = newServer(h.tls, p.agents, p.xds, p.engine)
	return p, nil
}

func (z *Zone) dialGlobal(e *engine, follower func() bool) (*zonesync.Client, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if z.cfg.GlobalCA != "" {
		text, err := os.ReadFile(z.cfg.GlobalCA)
		if err != nil {
			return nil, fmt.Errorf("global's authorities: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("global's authorities: %s has no certificate", z.cfg.GlobalCA)
		}
	}
	return zonesync.New(zonesync.Config{
		Zone: z.cfg.Name, Address: z.cfg.Global, TLS: cfg, Token: z.token,
		Replica: &replica{e: e}, Facts: e.facts, Reports: e.tracker, Inspector: inspector{e},
		Identities: e.identities, Follower: follower, Instance: token.NewID(), Version: z.cfg.Version, Log: z.log, Registerer: z.registry,
	}), nil
}

func (z *Zone) token() (string, error) {
	const maxToken = 16 << 10
	info, err := os.Stat(z.cfg.TokenFile)
	if err != nil {
		return "", err
	}
	if info.Size() > maxToken {
		return "", fmt.Errorf("%s has %d bytes, at most %d are allowed", z.cfg.TokenFile, info.Size(), maxToken)
	}
	text, err := os.ReadFile(z.cfg.TokenFile)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(text)), nil
}

// serveHTTP serves metrics and health.
func (z *Zone) serveHTTP(ctx context.Context, g *errgroup.Group, p *parts) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", z.cfg.MetricsAddress)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	server := &http.Server{Handler: z.handler(p), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(z.log.Handler(), slog.LevelDebug)}
	g.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("metrics: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return server.Close()
	})
	return nil
}
