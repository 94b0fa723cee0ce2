package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/agent/redirect"
)

// exitNotRedirected of redirect check: the zone's repair knows pods by it. No
// shell and no container runtime uses it.
const exitNotRedirected = 79

// notRedirected is an error with an exit code of its own.
type notRedirected struct{ error }

const redirectEnv = "TOMBOLO_REDIRECT"

func initCommand() *cobra.Command {
	var text, file string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "redirect a pod's traffic to its proxy, and end",
		Long: `Redirects the traffic of this network namespace to the proxy, and ends.

For the init container tombolo-init of a pod. What to redirect is the JSON of the
pod annotation traffic.tombolo.io/redirect, from --config, from --config-file or
from the variable ` + redirectEnv + `. Needs the capability NET_ADMIN.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := redirectJSON(text, file)
			if err != nil {
				return err
			}
			return redirect.Install(cfg, "")
		},
	}
	cmd.Flags().StringVar(&text, "config", "", "what to redirect, JSON (default: $"+redirectEnv+")")
	cmd.Flags().StringVar(&file, "config-file", "", "file with what to redirect, JSON")
	return cmd
}

func redirectJSON(text, file string) (redirect.Config, error) {
	switch {
	case text != "":
	case file != "":
		data, err := os.ReadFile(file)
		if err != nil {
			return redirect.Config{}, fmt.Errorf("config file: %w", err)
		}
		text = string(data)
	default:
		text = os.Getenv(redirectEnv)
	}
	if text == "" {
		return redirect.Config{}, errors.New("what to redirect is not given: use --config, --config-file or $" + redirectEnv)
	}
	return redirect.Parse([]byte(text))
}

func redirectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "redirect",
		Short: "redirect a host's traffic to its proxy: install, remove or check",
		Long: `Redirects the traffic of this host to the proxy, by one nftables table of its own
(inet ` + redirect.Table + `). No other program is needed, and no other table is touched.

What to redirect is told by flags; or by JSON in --config, --config-file or the
variable ` + redirectEnv + `, and then flags are not allowed.`,
	}
	cmd.AddCommand(redirectInstall(), redirectRemove(), redirectCheck())
	return cmd
}

func redirectInstall() *cobra.Command {
	var f redirectFlags
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "install [--proxy-user USER] [flags]",
		Short: "install the rules, in place of those that are there",
		Long: `Installs the rules, in place of those that are there, in one step: no connection
passes in between, and open ones go on. Needs root or CAP_NET_ADMIN.

The rules do not outlive a reboot: run this from a systemd unit before the proxy.`,
		Example: `  tombolo-agent redirect install --proxy-user tombolo --exclude-inbound-ports 22,5678
  tombolo-agent redirect install --proxy-user tombolo --dry-run | sudo nft -c -f -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.config(cmd)
			if err != nil {
				return err
			}
			if dryRun {
				fmt.Fprint(cmd.OutOrStdout(), redirect.Rules(cfg))
				return nil
			}
			return redirect.Install(cfg, f.netns)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print the rules in the syntax of nft, and change nothing")
	return cmd
}

func redirectRemove() *cobra.Command {
	var netns string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "remove",
		Short: "remove the rules",
		Long: `Removes the rules; that there are none is fine. Connections that go through the
proxy end. Needs root or CAP_NET_ADMIN.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dryRun {
				fmt.Fprintf(cmd.OutOrStdout(), "table inet %s\ndelete table inet %s\n", redirect.Table, redirect.Table)
				return nil
			}
			return redirect.Remove(netns)
		},
	}
	cmd.Flags().StringVar(&netns, "netns", "", "file of a network namespace (default: the own one)")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be done in the syntax of nft, and change nothing")
	return cmd
}

func redirectCheck() *cobra.Command {
	var f redirectFlags
	var live bool
	cmd := &cobra.Command{
		Use:   "check [flags]",
		Short: "say whether the rules are in effect",
		Long: `Compares the rules that are there with those that should be, and says what is
missing, foreign or changed. Without the right to read them (CAP_NET_ADMIN), or
with --live, it opens connections to addresses where nothing answers and sees
whether they arrive at the proxy's port.

Exit status: 0 in effect, ` + strconv.Itoa(exitNotRedirected) + ` not in effect, 1 could not tell.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.config(cmd)
			if err != nil {
				return err
			}
			if err = check(cmd.Context(), cfg, f.netns, live); err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), "traffic is redirected")
			}
			return err
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&live, "live", false, "try, without reading the rules")
	return cmd
}

// checkFromEnv is what a sidecar asks before it starts.
func checkFromEnv(ctx context.Context) error {
	cfg, err := redirectJSON("", "")
	if err != nil {
		return err
	}
	return check(ctx, cfg, "", false)
}

// check returns a *notRedirected, and tells the kubelet, if rules are not in effect.
func check(ctx context.Context, cfg redirect.Config, netns string, live bool) error {
	err := effect(ctx, cfg, netns, live)
	var not *notRedirected
	if errors.As(err, &not) {
		// What the kubelet shows as the reason. Outside of a pod there is no such file.
		if log, openErr := os.OpenFile("/dev/termination-log", os.O_WRONLY|os.O_TRUNC, 0); openErr == nil {
			fmt.Fprintln(log, "tombolo:", err)
			log.Close()
		}
	}
	return err
}

func effect(ctx context.Context, cfg redirect.Config, netns string, live bool) error {
	if !live {
		problems, err := redirect.Check(cfg, netns)
		switch {
		case err == nil && len(problems) == 0:
			return nil
		case err == nil:
			lines := []string{redirect.ErrNotRedirected.Error() + " as configured:"}
			for _, p := range problems {
				lines = append(lines, p.String())
			}
			return &notRedirected{errors.New(strings.Join(lines, "\n  "))}
		case !errors.Is(err, redirect.ErrNotPermitted) || netns != "":
			return err
		}
	}
	err := redirect.Live(ctx, cfg)
	if errors.Is(err, redirect.ErrNotRedirected) {
		return &notRedirected{err}
	}
	return err
}

// redirectFlags say a redirect.Config.
type redirectFlags struct {
	json, file, netns                      string
	proxyUser                              string
	inboundPort, outboundPort, dnsPort     uint16
	noInbound, noOutbound                  bool
	excludeIn, excludeOut, excludeUIDs     []string
	excludeInCIDRs, includeInCIDRs         []string
	excludeOutCIDRs, includeOutCIDRs, vips []string
	dns, resolvConf                        string
	nameservers                            []string
	families                               []string
}

func (f *redirectFlags) add(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.json, "config", "", "what to redirect, JSON, in place of the flags below (default: $"+redirectEnv+")")
	s.StringVar(&f.file, "config-file", "", "file with what to redirect, JSON")
	s.StringVar(&f.netns, "netns", "", "file of a network namespace (default: the own one)")
	s.StringVar(&f.proxyUser, "proxy-user", "", "user that Envoy and the agent run as: UID, UID:GID or a name (default: 1337:1337)")
	s.Uint16Var(&f.inboundPort, "inbound-port", redirect.DefaultInboundPort, "port of the proxy for connections from other hosts")
	s.Uint16Var(&f.outboundPort, "outbound-port", redirect.DefaultOutboundPort, "port of the proxy for connections to other hosts")
	s.BoolVar(&f.noInbound, "no-inbound", false, "leave connections from other hosts alone")
	s.BoolVar(&f.noOutbound, "no-outbound", false, "leave connections to other hosts alone")
	s.StringSliceVar(&f.excludeIn, "exclude-inbound-ports", nil, "own ports left alone, as 22,8000-8080")
	s.StringSliceVar(&f.excludeOut, "exclude-outbound-ports", nil, "ports of other hosts left alone")
	s.StringSliceVar(&f.excludeInCIDRs, "exclude-inbound-cidrs", nil, "networks whose connections to this host are left alone")
	s.StringSliceVar(&f.excludeOutCIDRs, "exclude-outbound-cidrs", nil, "networks to which connections are left alone")
	s.StringSliceVar(&f.includeInCIDRs, "include-inbound-cidrs", nil, "redirect connections from these networks only")
	s.StringSliceVar(&f.includeOutCIDRs, "include-outbound-cidrs", nil, "redirect connections to these networks only, and to --vips")
	s.StringArrayVar(&f.excludeUIDs, "exclude-uids", nil, "users left alone, all or for ports: 1000, 1000-1010 or 1000:53,8000-8080; may be given again")
	s.StringSliceVar(&f.vips, "vips", nil, "networks of addresses that only the mesh knows, redirected in any case")
	s.StringVar(&f.dns, "redirect-dns", string(redirect.DNSOff), "off, all, or nameservers: questions to those of --nameservers or --resolv-conf")
	s.Uint16Var(&f.dnsPort, "dns-port", redirect.DefaultDNSPort, "port of the agent's DNS server on 127.0.0.1 and ::1")
	s.StringSliceVar(&f.nameservers, "nameservers", nil, "addresses whose questions are redirected (default: those of --resolv-conf)")
	s.StringVar(&f.resolvConf, "resolv-conf", "/etc/resolv.conf", "file that names the nameservers")
	s.StringSliceVar(&f.families, "families", []string{"ipv4", "ipv6"}, "families of addresses that are redirected")
}

func (f *redirectFlags) config(cmd *cobra.Command) (redirect.Config, error) {
	if f.json != "" || f.file != "" || os.Getenv(redirectEnv) != "" && !f.told(cmd) {
		if f.told(cmd) {
			return redirect.Config{}, errors.New("--config and --config-file say everything: other flags about rules are not allowed with them")
		}
		return redirectJSON(f.json, f.file)
	}
	c := redirect.Config{
		Inbound:  redirect.Direction{Port: f.inboundPort, Disabled: f.noInbound},
		Outbound: redirect.Direction{Port: f.outboundPort, Disabled: f.noOutbound},
		DNS:      redirect.DNS{Mode: redirect.DNSMode(f.dns), Port: f.dnsPort},
	}
	var errs []error
	ports := func(flag string, in []string) (out []redirect.Ports) {
		for _, s := range in {
			p, err := redirect.ParsePorts(s)
			if err != nil {
				errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
			}
			out = append(out, p)
		}
		return out
	}
	prefixes := func(flag string, in []string) (out []netip.Prefix) {
		for _, s := range in {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				errs = append(errs, fmt.Errorf("--%s: %q must be a network as 10.0.0.0/8 or fd00::/8", flag, s))
			}
			out = append(out, p)
		}
		return out
	}
	c.Inbound.ExcludePorts = ports("exclude-inbound-ports", f.excludeIn)
	c.Outbound.ExcludePorts = ports("exclude-outbound-ports", f.excludeOut)
	c.Inbound.ExcludeCIDRs = prefixes("exclude-inbound-cidrs", f.excludeInCIDRs)
	c.Inbound.IncludeCIDRs = prefixes("include-inbound-cidrs", f.includeInCIDRs)
	c.Outbound.ExcludeCIDRs = prefixes("exclude-outbound-cidrs", f.excludeOutCIDRs)
	c.Outbound.IncludeCIDRs = prefixes("include-outbound-cidrs", f.includeOutCIDRs)
	c.VIPs = prefixes("vips", f.vips)
	for _, s := range f.excludeUIDs {
		u, err := redirect.ParseUIDs(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("--exclude-uids: %w", err))
		}
		c.ExcludeUIDs = append(c.ExcludeUIDs, u)
	}
	for _, s := range f.nameservers {
		a, err := netip.ParseAddr(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("--nameservers: %q is no address", s))
		}
		c.DNS.Nameservers = append(c.DNS.Nameservers, a)
	}
	if c.DNS.Mode == redirect.DNSNameservers && len(f.nameservers) == 0 {
		var err error
		if c.DNS.Nameservers, err = redirect.Nameservers(f.resolvConf); err != nil {
			errs = append(errs, fmt.Errorf("--redirect-dns: %w", err))
		}
	}
	for _, s := range f.families {
		c.Families = append(c.Families, redirect.Family(s))
	}
	if f.proxyUser != "" {
		var err error
		if c.Proxy, err = proxyOf(f.proxyUser); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return c, errors.Join(errs...)
	}
	if f.proxyUser == "" {
		c = c.WithDefaults()
	}
	return c, c.Validate()
}

// told says whether flags about rules are given.
func (f *redirectFlags) told(cmd *cobra.Command) bool {
	told := false
	for _, name := range []string{"proxy-user", "inbound-port", "outbound-port", "no-inbound", "no-outbound", "exclude-inbound-ports",
		"exclude-outbound-ports", "exclude-inbound-cidrs", "exclude-outbound-cidrs", "include-inbound-cidrs", "include-outbound-cidrs",
		"exclude-uids", "vips", "redirect-dns", "dns-port", "nameservers", "resolv-conf", "families"} {
		told = told || cmd.Flags().Changed(name)
	}
	return told
}

// proxyOf reads UID, UID:GID or a name.
func proxyOf(s string) (redirect.Proxy, error) {
	id, group, both := strings.Cut(s, ":")
	if uid, err := strconv.ParseUint(id, 10, 32); err == nil {
		gid := uid
		if both {
			if gid, err = strconv.ParseUint(group, 10, 32); err != nil {
				return redirect.Proxy{}, fmt.Errorf("--proxy-user: %q must be UID, UID:GID or a name", s)
			}
		}
		return redirect.Proxy{UID: uint32(uid), GID: uint32(gid)}, nil
	}
	u, err := user.Lookup(s)
	if err != nil {
		return redirect.Proxy{}, fmt.Errorf("--proxy-user: %w", err)
	}
	uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
	gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
	return redirect.Proxy{UID: uint32(uid), GID: uint32(gid)}, errors.Join(errUID, errGID)
}
