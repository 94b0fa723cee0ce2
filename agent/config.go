package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"time"
)

// Bounds of what is read from files.
const (
	maxManifest = 256 << 10
	maxToken    = 8 << 10
	maxCA       = 256 << 10
)

// Config of an Agent.
type Config struct {
	// Gateway is set for a zone ingress, a Dataplane with listeners.
	Gateway bool
	// Kubernetes is set in a pod: there is no manifest, since the zone knows the
	// pod from the API server, and a sidecar is stopped after the application's
	// containers ended, so that it has nothing to drain.
	Kubernetes bool
	// Dataplane is the path of the manifest; none in Kubernetes.
	Dataplane string
	// TokenFile has the dataplane token. It is read again for each connection.
	TokenFile string
	// ZoneAddress is host:port of the zone control plane.
	ZoneAddress string
	// ZoneCA is the path of the PEM authorities that the zone's certificate is
	// verified with. It is read again for each connection.
	ZoneCA string
	// ZoneCAPEM is the authorities themselves, instead of a file.
	ZoneCAPEM string
	// ZoneServerName is the name in the zone's certificate; default is the host of the address.
	ZoneServerName string
	// Envoy is the binary, default "envoy" on PATH.
	Envoy string
	// WorkDir holds bootstrap and sockets; default is a temporary one, removed at the end.
	WorkDir string
	// DrainTime is how long Envoy lets connections of a replaced or closed listener
	// live, 1s to 10m, default 5s.
	DrainTime time.Duration
	// StopTimeout bounds the wait for requests in flight at the end, default 30s.
	StopTimeout time.Duration
	// Concurrency is Envoy's worker threads; default 2, fewer with fewer cores.
	Concurrency int
	// EnvoyLogLevel is trace, debug, info, warning (default), error, critical or off.
	EnvoyLogLevel string
	// ReadinessAddress is host:port for GET /ready and /started; empty for none.
	ReadinessAddress string
	// DNS answers the names of the mesh on DNSPort of 127.0.0.1 and [::1], where the
	// redirect brings questions to; all others go to the host's nameservers. The
	// agent is ready when it has the names.
	DNS bool
	// DNSPort, default dns.DefaultPort.
	DNSPort int
	// DNSUpstreams are nameservers, as IP or IP:port, in place of those of
	// /etc/resolv.conf.
	DNSUpstreams []string
	// AppProbes is the table of the application's probes that the agent runs for a
	// kubelet, as package appprobe writes it; empty for none.
	AppProbes string
	// AppProbesAddress is host:port for them, default ":9001".
	AppProbesAddress string
	// PodIPs are the pod's addresses, the first is the one that probes ask.
	PodIPs []string
	// Version of the agent, for people.
	Version string
	// EnvoyOutput gets what Envoy writes; default os.Stderr.
	EnvoyOutput *os.File
	// Log for state changes; default discards.
	Log *slog.Logger
}

// withDefaults checks and completes a configuration.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	need := func(value, flag string) {
		if value == "" {
			errs = append(errs, fmt.Errorf("%s is required", flag))
		}
	}
	if !c.Kubernetes {
		need(c.Dataplane, "dataplane")
	} else if c.Dataplane != "" {
		errs = append(errs, errors.New("dataplane is not for Kubernetes, where the zone knows the pod"))
	}
	need(c.TokenFile, "token file")
	need(c.ZoneAddress, "zone address")
	need(c.ZoneCA+c.ZoneCAPEM, "zone CA")
	if len(c.ZoneCAPEM) > maxCA {
		errs = append(errs, fmt.Errorf("zone CA: %d bytes, at most %d are allowed", len(c.ZoneCAPEM), maxCA))
	}
	if c.AppProbes != "" && len(c.PodIPs) == 0 {
		errs = append(errs, errors.New("pod IPs are required for application probes"))
	}
	if c.ZoneAddress != "" {
		host, _, err := splitAddress(c.ZoneAddress)
		if err != nil {
			errs = append(errs, fmt.Errorf("zone address: %w", err))
		}
		if c.ZoneServerName == "" {
			c.ZoneServerName = host
		}
	}
	orDefault(&c.Envoy, "envoy")
	orDefault(&c.DrainTime, 5*time.Second)
	orDefault(&c.StopTimeout, 30*time.Second)
	orDefault(&c.Concurrency, min(2, runtime.NumCPU()))
	orDefault(&c.EnvoyLogLevel, "warning")
	orDefault(&c.Version, "unknown")
	orDefault(&c.EnvoyOutput, os.Stderr)
	orDefault(&c.Log, slog.New(slog.DiscardHandler))
	if c.DrainTime < time.Second || c.DrainTime > 10*time.Minute {
		errs = append(errs, fmt.Errorf("drain time must be 1s to 10m, not %s", c.DrainTime))
	}
	if c.StopTimeout < 0 {
		errs = append(errs, fmt.Errorf("stop timeout must not be negative, as %s is", c.StopTimeout))
	}
	if c.Concurrency < 1 || c.Concurrency > 256 {
		errs = append(errs, fmt.Errorf("concurrency must be 1 to 256, not %d", c.Concurrency))
	}
	return c, errors.Join(errs...)
}

// nameservers are the DNSUpstreams, parsed.
func (c *Config) nameservers() ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, text := range c.DNSUpstreams {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, netip.AddrPortFrom(a, 53))
			continue
		}
		at, err := netip.ParseAddrPort(text)
		if err != nil {
			return nil, fmt.Errorf("DNS upstream must be an IP address, or one with a port, not %q", text)
		}
		out = append(out, at)
	}
	return out, nil
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func splitAddress(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("must be host:port: %w", err)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 || host == "" {
		return "", 0, fmt.Errorf("must be host:port with a port of 1 to 65535, not %q", address)
	}
	return host, port, nil
}

// zoneCA reads the PEM authorities of the zone.
func (c Config) zoneCA() ([]byte, error) {
	if c.ZoneCAPEM != "" {
		return []byte(c.ZoneCAPEM), nil
	}
	pem, err := readBounded(c.ZoneCA, maxCA)
	if err != nil {
		return nil, fmt.Errorf("zone CA: %w", err)
	}
	return pem, nil
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are allowed", path, info.Size(), limit)
	}
	return os.ReadFile(path)
}
