package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/global"
)

func (m *mesh) path(parts ...string) string {
	return filepath.Join(append([]string{m.cfg.Dir}, parts...)...)
}

func address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

func (m *mesh) startGlobal(ctx context.Context) error {
	p, err := m.procs.launch("global", nil, m.cfg.Tombolo, "global", "--data-dir", m.path("global"),
		"--api-address", address(globalHost, apiPort), "--zone-address", address(globalHost, zonePort))
	if err != nil {
		return err
	}
	if err := m.listens(ctx, p, address(globalHost, apiPort), address(globalHost, zonePort)); err != nil {
		return err
	}
	// The command line reads where global is from a file, which it writes once it listens.
	return m.until(ctx, "global says where it is", func() bool {
		_, err := os.Stat(m.path("global", global.AddressFile))
		return err == nil
	}, p)
}

func (m *mesh) startZone(ctx context.Context, z zone) error {
	token := m.path("token-" + z.name)
	if err := m.token(ctx, token, "zone", "--zone", z.name); err != nil {
		return err
	}
	p, err := m.procs.launch("zone-"+z.name, nil, m.cfg.Tombolo, "zone", "--name", z.name, "--data-dir", m.path("zone-"+z.name),
		"--global", address(globalHost, zonePort), "--global-ca", m.path("global", "ca.pem"), "--token-file", token,
		"--listen", address(z.host, xdsPort), "--metrics-address", address(z.host, 5680))
	if err != nil {
		return err
	}
	return m.listens(ctx, p, address(z.host, xdsPort))
}

// startAgent starts tombolo-agent and its Envoy for a Dataplane.
func (m *mesh) startAgent(ctx context.Context, mode, name, zoneName, workload, dataplane string) error {
	token, file := m.path("token-"+workload), m.path(name+".yaml")
	if _, err := os.Stat(token); err != nil {
		if err := m.token(ctx, token, "dataplane", "--mesh", "default", "--workload", workload); err != nil {
			return err
		}
	}
	if err := os.WriteFile(file, []byte(dataplane), 0o644); err != nil {
		return err
	}
	var host string
	for _, z := range zones() {
		if z.name == zoneName {
			host = z.host
		}
	}
	_, err := m.procs.launch(name, nil, m.cfg.Agent, mode, "-d", file, "--token-file", token,
		"--zone-address", address(host, xdsPort), "--zone-ca", m.path("zone-"+zoneName, "zone-ca.pem"),
		"--envoy", m.cfg.Envoy, "--work-dir", m.path("run-"+name), "--concurrency", "1", "--drain-time", "1s")
	return err
}

// startServer starts an instance of backend: the application and its sidecar.
func (m *mesh) startServer(ctx context.Context, s server) error {
	app, err := m.procs.launch("app-"+s.name, nil, m.cfg.Tombolo, "dev", "service",
		"--listen", s.application(), "--name", "backend", "--zone", s.zone, "--instance", s.name)
	if err != nil {
		return err
	}
	if err := m.listens(ctx, app, s.application()); err != nil {
		return err
	}
	return m.startAgent(ctx, "sidecar", s.name, s.zone, "backend", s.dataplane())
}

// token asks global for a token and keeps it in a file.
func (m *mesh) token(ctx context.Context, file, kind string, args ...string) error {
	out, err := m.cli(ctx, "", append([]string{"token", "create", kind}, args...)...)
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(strings.TrimSpace(out)+"\n"), 0o600)
}

// cli runs the command line as a user would and returns what it printed.
func (m *mesh) cli(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, m.cfg.Tombolo, args...)
	cmd.Env = append(os.Environ(), "TOMBOLO_CONFIG="+m.path("config.yaml"))
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("tombolo %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

// apply applies documents and shows what --wait shows.
func (m *mesh) apply(ctx context.Context, manifests string) error {
	cmd := exec.CommandContext(ctx, m.cfg.Tombolo, "apply", "-f", "-", "--wait=60s", "--yes")
	cmd.Env = append(os.Environ(), "TOMBOLO_CONFIG="+m.path("config.yaml"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(manifests), m.cfg.Out, m.cfg.Out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("tombolo apply --wait: %w", err)
	}
	return nil
}

// plan shows what documents would do, and returns it.
func (m *mesh) plan(ctx context.Context, manifests string) (string, error) {
	cmd := exec.CommandContext(ctx, m.cfg.Tombolo, "plan", "-f", "-")
	cmd.Env = append(os.Environ(), "TOMBOLO_CONFIG="+m.path("config.yaml"))
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(manifests), io.MultiWriter(&out, m.cfg.Out), m.cfg.Out
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		return out.String(), fmt.Errorf("tombolo plan: a difference makes it exit 1, not %w", orNone(err))
	}
	return out.String(), nil
}

// listens waits until a process accepts connections.
func (m *mesh) listens(ctx context.Context, p *process, addresses ...string) error {
	for _, a := range addresses {
		err := m.until(ctx, p.name+" listens at "+a, func() bool {
			conn, err := net.DialTimeout("tcp", a, time.Second)
			if err != nil {
				return false
			}
			conn.Close()
			return true
		}, p)
		if err != nil {
			return err
		}
	}
	return nil
}

// until polls for a minute; it gives up early when a process ends.
func (m *mesh) until(ctx context.Context, what string, ok func() bool, procs ...*process) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		for _, p := range procs {
			if err := p.ended(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within a minute; logs are in %s", what, m.cfg.Dir)
		case <-tick.C:
		}
	}
	return nil
}
