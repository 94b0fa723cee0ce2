package global

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tombolo-mesh/tombolo/global/api"
	"github.com/tombolo-mesh/tombolo/global/api/access"
	"github.com/tombolo-mesh/tombolo/global/peers"
	"github.com/tombolo-mesh/tombolo/global/rollout/driver"
	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/embedded"
	"github.com/tombolo-mesh/tombolo/global/store/postgres"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/internal/serverca"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// Names of files in the data directory.
const (
	// StoreFile is the embedded store.
	StoreFile = "store.db"
	// SecretsKeyFile has the keys that encrypt Secrets.
	SecretsKeyFile = "secrets.key"
	// AdminTokenFile has the first administrator's token.
	AdminTokenFile = "admin-token"
	// CAFile is what clients and zones trust.
	CAFile = "ca.pem"
	// AddressFile has the URL of the API as this process serves it.
	AddressFile = "api-url"
	tlsDir      = "tls"
)

// Defaults of addresses.
const (
	DefaultAPIAddress  = "127.0.0.1:5682"
	DefaultZoneAddress = ":5685"
)

// Bounds of the change log.
const (
	DefaultHistorySize = 200_000
	DefaultHistoryAge  = 30 * 24 * time.Hour
)

const (
	shutdownTime = 10 * time.Second
	retryStore   = time.Second
	compactEvery = 10 * time.Minute
)

// Config of a global control plane.
type Config struct {
	// DataDir keeps the embedded store, keys, certificates and the first token. Required.
	DataDir string
	// Postgres is a DSN; empty means the embedded store.
	Postgres string
	// SecretsKey is where the keys that encrypt Secrets are: "file:PATH" or
	// "env:NAME"; default the file in DataDir, made at first start. Instances that
	// share a database share the keys.
	SecretsKey string
	// APIAddress and ZoneAddress to listen on; defaults DefaultAPIAddress and DefaultZoneAddress.
	APIAddress, ZoneAddress string
	// AdvertiseAddress is where other instances on the same database reach this one,
	// host:port or a host with the port of ZoneAddress: its own, not that of a load
	// balancer. The default host is that of ZoneAddress, or else the address that
	// this process reaches the database from.
	AdvertiseAddress string
	// Names, DNS names and IPs, for the certificate that this process makes itself.
	Names []string
	// CertFile and KeyFile are the operator's own certificate.
	CertFile, KeyFile string
	// NoDefaultMesh leaves out the mesh "default" at first start.
	NoDefaultMesh bool
	// NewAdminToken writes a new administrator's token, for who lost the first.
	NewAdminToken bool
	// HistorySize is how many changes the log keeps, default 200,000, and HistoryAge
	// for how long, default 30 days. A zone that was away for longer gets a snapshot.
	HistorySize int64
	HistoryAge  time.Duration
	// Version of the software.
	Version string
	// Logger, default discards.
	Logger *slog.Logger
}

// Global is a global control plane.
type Global struct {
	cfg     Config
	log     *slog.Logger
	ca      *serverca.Authority
	started chan struct{}
	apiAddr net.Addr
	zones   net.Addr
}

// New checks the configuration; no I/O.
func New(cfg Config) (*Global, error) {
	if cfg.DataDir == "" {
		return nil, errors.New("a data directory is required")
	}
	if cfg.HistorySize < 0 || cfg.HistoryAge < 0 {
		return nil, errors.New("size and age of the history must not be negative")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		field    *string
		fallback string
	}{
		{&cfg.APIAddress, DefaultAPIAddress}, {&cfg.ZoneAddress, DefaultZoneAddress},
		{&cfg.SecretsKey, "file:" + filepath.Join(cfg.DataDir, SecretsKeyFile)}, {&cfg.Version, "dev"},
	} {
		if *d.field == "" {
			*d.field = d.fallback
		}
	}
	if cfg.HistorySize == 0 {
		cfg.HistorySize = DefaultHistorySize
	}
	if cfg.HistoryAge == 0 {
		cfg.HistoryAge = DefaultHistoryAge
	}
	if cfg.AdvertiseAddress != "" {
		if err := peers.CheckAddress(withPort(cfg.AdvertiseAddress, "5685")); err != nil {
			return nil, fmt.Errorf("address for other instances: %w", err)
		}
	}
	names := cfg.Names
	for _, address := range []string{cfg.APIAddress, cfg.ZoneAddress} {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("address %q must be host:port: %w", address, err)
		}
		if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
			names = append(names[:len(names):len(names)], host)
		}
	}
	ca, err := serverca.New(serverca.Config{Dir: filepath.Join(cfg.DataDir, tlsDir), Names: names, CertFile: cfg.CertFile,
		KeyFile: cfg.KeyFile, CommonName: "Tombolo global", Logger: cfg.Logger})
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return &Global{cfg: cfg, log: cfg.Logger, ca: ca, started: make(chan struct{})}, nil
}

// Started is closed when both servers listen.
func (g *Global) Started() <-chan struct{} { return g.started }

// APIAddr and the address of ZoneAddr are where it listens; valid once Started.
func (g *Global) APIAddr() net.Addr { return g.apiAddr }

// ZoneAddr is where zones connect; valid once Started.
func (g *Global) ZoneAddr() net.Addr { return g.zones }

// Run serves until ctx ends or something fails, and then stops in order:
// requests in flight finish, streams end, the store closes.
func (g *Global) Run(ctx context.Context) (err error) {
	if err := os.MkdirAll(g.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	if err := g.ca.Load(); err != nil {
		return err
	}
	if err := g.keep(CAFile, g.ca.CAPEM(), 0o644); err != nil {
		return err
	}
	st, shared, err := g.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	tokens := access.New(access.Config{Store: st})
	if err := g.bootstrap(ctx, tokens); err != nil {
		return err
	}
	return g.serve(ctx, st, shared, tokens)
}

// open opens the store, and what its instances share beside it, if it is one for
// several. A database that is away is waited for.
func (g *Global) open(ctx context.Context) (store.Store, *shared, error) {
	ring, err := store.LoadKeyring(g.cfg.SecretsKey)
	if err != nil {
		return nil, nil, err
	}
	inner, err := g.openInner(ctx)
	for errors.Is(err, store.ErrUnavailable) && g.cfg.Postgres != "" {
		g.log.Warn("database does not answer, waiting for it", "err", err)
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(retryStore):
		}
		inner, err = g.openInner(ctx)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := store.CheckSealed(ctx, inner, ring); err != nil {
		return nil, nil, errors.Join(err, inner.Close())
	}
	if db, ok := inner.(*postgres.Store); ok {
		return store.Sealed(inner, ring), &shared{db, ring}, nil
	}
	return store.Sealed(inner, ring), nil, nil
}

func (g *Global) openInner(ctx context.Context) (store.Store, error) {
	if g.cfg.Postgres != "" {
		s, err := postgres.Open(ctx, postgres.Config{DSN: g.cfg.Postgres, Logger: g.log})
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	s, err := embedded.Open(embedded.Config{Path: filepath.Join(g.cfg.DataDir, StoreFile)})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// bootstrap makes what a new store needs: keys of tokens, the administrator's
// token, the mesh "default" and the generators of hostnames.
func (g *Global) bootstrap(ctx context.Context, tokens *access.Tokens) error {
	var with []store.Op
	if !g.cfg.NoDefaultMesh {
		var err error
		if with, err = defaultMesh(); err != nil {
			return err
		}
	}
	for _, r := range mesh.DefaultHostnameGenerators() {
		with = append(with, store.Op{Resource: r, IfRevision: new(mesh.Revision)})
	}
	file := filepath.Join(g.cfg.DataDir, AdminTokenFile)
	wrote := false
	write := func(raw string) error {
		wrote = true
		return g.keep(AdminTokenFile, []byte(raw+"\n"), 0o600)
	}
	created, err := tokens.Prepare(ctx, with, write)
	if err != nil {
		return fmt.Errorf("first start: %w", err)
	}
	if created {
		g.log.Info("administrator's token created", "file", file)
		return nil
	}
	if wrote { // another instance came first, so this token is of a key that nobody has
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("remove administrator's token: %w", err)
		}
	}
	raw, err := os.ReadFile(file)
	if err == nil && !g.cfg.NewAdminToken {
		if _, err := tokens.Verify(ctx, token.User, strings.TrimSpace(string(raw))); err != nil {
			g.log.Warn("administrator's token is not valid; start with --new-admin-token for another", "file", file, "err", err)
		}
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read administrator's token: %w", err)
	}
	if !g.cfg.NewAdminToken {
		return nil
	}
	another, err := tokens.Admin(ctx)
	if err != nil {
		return err
	}
	if err := write(another); err != nil {
		return err
	}
	g.log.Info("another administrator's token created", "file", file)
	return nil
}

func defaultMesh() ([]store.Op, error) {
	r := mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: mesh.DefaultMesh}, Spec: []byte("{}")}
	spec := &mesh.Mesh{}
	labels, problems := mesh.ComputeLabels(r, spec, mesh.EnvUniversal)
	if err := problems.Err(); err != nil {
		return nil, fmt.Errorf("default mesh: %w", err)
	}
	r.Labels = labels
	more, err := api.MeshDefaults(r.Name, spec)
	return append([]store.Op{{Resource: r, IfRevision: new(mesh.Revision)}}, more...), err
}

// serve runs the two servers.
func (g *Global) serve(ctx context.Context, st store.Store, shared *shared, tokens *access.Tokens) error {
	apiListener, err := listen(ctx, g.cfg.APIAddress)
	if err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	defer apiListener.Close()
	g.apiAddr = apiListener.Addr()
	// Who finds both listening finds the file, too.
	if err := g.keep(AddressFile, []byte("https://"+dialable(g.apiAddr)+"\n"), 0o644); err != nil {
		return err
	}
	zoneListener, err := listen(ctx, g.cfg.ZoneAddress)
	if err != nil {
		return fmt.Errorf("listen for zones: %w", err)
	}
	defer zoneListener.Close()
	g.zones = zoneListener.Addr()
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	cfg := sync.Config{Store: st, Authorize: tokens.Zone, Instance: instance(), Version: g.cfg.Version, Log: g.log, Registerer: reg}
	var others *peers.Peers
	instances := alone(cfg.Instance, g.zones.String(), g.cfg.Version)
	if shared != nil {
		if others, err = g.join(ctx, shared, cfg.Instance, reg); err != nil {
			return err
		}
		cfg.Ask, instances = others.Ask, others.Instances
	}
	fleet := sync.New(cfg)
	moves := driver.New(driver.Config{Store: st, Fleet: fleet, Log: g.log, Now: time.Now, Registerer: reg})
	rest, err := api.New(api.Config{Store: st, Fleet: fleet, Observe: moves.Observe, Instances: instances, Tokens: tokens, Revoked: fleet.Recheck, Logger: g.log, Registry: reg, Version: g.cfg.Version,
		Ready: func() error {
			if !fleet.Ready() {
				return errors.New("the store was not read yet")
			}
			return nil
		}})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.ca.Run(ctx) })
	group.Go(func() error { return fleet.Run(ctx) })
	group.Go(func() error { return g.serveAPI(ctx, rest, apiListener) })
	group.Go(func() error { return g.serveZones(ctx, fleet, others, zoneListener) })
	if others != nil {
		group.Go(func() error { return others.Run(ctx, fleet) })
	}
	group.Go(func() error { return moves.Run(ctx) })
	history := newHistorian(g.cfg, st, reg)
	group.Go(func() error { return g.runHistory(ctx, history) })
	g.log.Info("global serves", "api", g.apiAddr.String(), "zones", g.zones.String(), "instance", cfg.Instance, "version", g.cfg.Version)
	close(g.started)
	err = group.Wait()
	g.log.Info("global stopped")
	return err
}

func (g *Global) serveAPI(ctx context.Context, rest *api.Server, l net.Listener) error {
	tlsConfig := g.ca.TLS()
	tlsConfig.NextProtos = []string{"h2", "http/1.1"}
	srv := &http.Server{
		Handler: rest.Handler(), TLSConfig: tlsConfig, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	srv.RegisterOnShutdown(rest.Drain)
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	select {
	case err := <-done:
		return fmt.Errorf("serve the API: %w", err)
	case <-ctx.Done():
	}
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	if err := srv.Shutdown(bound); err != nil {
		g.log.Warn("requests did not finish in time", "err", err)
		_ = srv.Close() // what is left is cut
	}
	<-done
	return nil
}

// serveZones serves zones, and other instances where there may be some.
func (g *Global) serveZones(ctx context.Context, fleet *sync.Server, others *peers.Peers, l net.Listener) error {
	tlsConfig := g.ca.TLS()
	if others != nil {
		tlsConfig = others.TLS(tlsConfig)
	}
	srv := grpc.NewServer(append(sync.ServerOptions(), grpc.Creds(credentials.NewTLS(tlsConfig)))...)
	fleet.Register(srv)
	if others != nil {
		others.Register(srv, fleet)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve zones: %w", err)
	case <-ctx.Done():
	}
	stopped := make(chan struct{})
	go func() { defer close(stopped); srv.GracefulStop() }()
	late := time.NewTimer(shutdownTime)
	defer late.Stop()
	select {
	case <-stopped:
	case <-late.C:
		srv.Stop()
		<-stopped
	}
	<-done
	return nil
}

// keep replaces a file of the data directory as a whole.
func (g *Global) keep(name string, data []byte, mode fs.FileMode) error {
	path := filepath.Join(g.cfg.DataDir, name)
	f, err := os.CreateTemp(g.cfg.DataDir, "."+name+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // best effort, the error below counts
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", address)
}

// dialable is an address for a client on this machine.
func dialable(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
