package redirect

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Defaults of a Config.
const (
	DefaultInboundPort  = 15006
	DefaultOutboundPort = 15001
	DefaultDNSPort      = 15053
	DefaultProxyID      = 1337
)

// maxList bounds each list of a Config: a rule per entry is read for the first
// packet of every connection.
const maxList = 256

// Config is what to redirect. It travels as JSON in the pod annotation
// traffic.tombolo.io/redirect. The zero value, after [Config.WithDefaults],
// redirects all TCP of both families, in and out, and no DNS.
type Config struct {
	// Inbound is TCP from other hosts to this one; default port 15006.
	Inbound Direction `json:"inbound,omitzero"`
	// Outbound is TCP from this host to others; default port 15001.
	Outbound Direction `json:"outbound,omitzero"`
	// DNS is questions to nameservers.
	DNS DNS `json:"dns,omitzero"`
	// Proxy is who is never redirected.
	Proxy Proxy `json:"proxy,omitzero"`
	// ExcludeUIDs are users whose connections are left alone.
	ExcludeUIDs []UIDs `json:"excludeUIDs,omitempty"`
	// VIPs are networks that only the proxy can reach: redirected whatever
	// outbound ports and networks are excluded or included.
	VIPs []netip.Prefix `json:"vips,omitempty"`
	// Families are "ipv4" and "ipv6", default both. The other one is left alone.
	Families []Family `json:"families,omitempty"`
}

// Direction of connections, seen from this host.
type Direction struct {
	// Port of the proxy that takes the connections.
	Port uint16 `json:"port,omitempty"`
	// Disabled leaves this direction alone.
	Disabled bool `json:"disabled,omitempty"`
	// ExcludePorts are destination ports that are left alone. The mesh's own
	// ports are always excluded inbound (see [OwnPorts]).
	ExcludePorts []Ports `json:"excludePorts,omitempty"`
	// ExcludeCIDRs are networks of the other side (inbound: the caller's
	// address, outbound: the destination) that are left alone.
	ExcludeCIDRs []netip.Prefix `json:"excludeCIDRs,omitempty"`
	// IncludeCIDRs, when given, are the only networks of the other side that are
	// redirected.
	IncludeCIDRs []netip.Prefix `json:"includeCIDRs,omitempty"`
}

// DNS says which questions the agent answers.
type DNS struct {
	// Mode is off (default), all or nameservers.
	Mode DNSMode `json:"mode,omitempty"`
	// Port of the agent's DNS server on 127.0.0.1 and ::1, default 15053.
	Port uint16 `json:"port,omitempty"`
	// Nameservers whose port 53 is redirected in mode nameservers; a loopback
	// address is meant too. See [Nameservers] for those of resolv.conf.
	Nameservers []netip.Addr `json:"nameservers,omitempty"`
}

// DNSMode is a choice of questions.
type DNSMode string

// Modes of DNS.
const (
	// DNSOff redirects no question.
	DNSOff DNSMode = "off"
	// DNSAll redirects every question to another host: right for pods, whose
	// resolver is unknown when the rules are made and where nobody but the agent asks others.
	DNSAll DNSMode = "all"
	// DNSNameservers redirects questions to given nameservers: right for hosts
	// where a local resolver asks others itself.
	DNSNameservers DNSMode = "nameservers"
)

// Proxy is the user and group that Envoy and the agent run as.
type Proxy struct {
	// UID, default 1337.
	UID uint32 `json:"uid,omitempty"`
	// GID, default 1337. A process with this group is left alone too.
	GID uint32 `json:"gid,omitempty"`
}

// UIDs are users and the destination ports they may reach directly.
type UIDs struct {
	// First and Last user ID, both included.
	First uint32 `json:"first"`
	Last  uint32 `json:"last"`
	// Ports that are left alone for them; none: every port, DNS included.
	Ports []Ports `json:"ports,omitempty"`
}

// Family of addresses.
type Family string

// Families of addresses.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// Ports is a range of ports, one for a single port. In JSON and flags it is
// written 80 or 8000-8080.
type Ports struct {
	First, Last uint16
}

// OwnPorts are never redirected inbound: the redirect's targets, the application
// probes (9001) and the readiness of the proxy (9902), which kubelets and load balancers call without a certificate.
func (c Config) OwnPorts() []Ports {
	out := []Ports{}
	for _, p := range []uint16{9001, 9902, c.Outbound.Port, c.Inbound.Port, c.DNS.Port} {
		out = append(out, Ports{p, p})
	}
	return out
}

// WithDefaults returns c with what is absent filled in.
func (c Config) WithDefaults() Config {
	c.Inbound.Port = cmp.Or(c.Inbound.Port, DefaultInboundPort)
	c.Outbound.Port = cmp.Or(c.Outbound.Port, DefaultOutboundPort)
	c.DNS.Port = cmp.Or(c.DNS.Port, DefaultDNSPort)
	if c.DNS.Mode == "" {
		c.DNS.Mode = DNSOff
	}
	c.Proxy.UID = cmp.Or(c.Proxy.UID, DefaultProxyID)
	c.Proxy.GID = cmp.Or(c.Proxy.GID, DefaultProxyID)
	if len(c.Families) == 0 {
		c.Families = []Family{IPv4, IPv6}
	}
	return c
}

// Parse decodes and validates a Config written as JSON, with its defaults.
func Parse(data []byte) (Config, error) {
	var c Config
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Config{}, fmt.Errorf("redirect: %w", err)
	}
	if d.More() {
		return Config{}, errors.New("redirect: one JSON object expected, there is more")
	}
	c = c.WithDefaults()
	return c, c.Validate()
}

// Validate returns every problem of a Config that has its defaults, each with its field.
func (c Config) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("redirect: %s: %s", field, fmt.Sprintf(format, args...)))
	}
	ports := func(field string, list []Ports) {
		if len(list) > maxList {
			bad(field, "%d entries, at most %d", len(list), maxList)
			return
		}
		for i, p := range list {
			if p.First == 0 || p.Last < p.First {
				bad(fmt.Sprintf("%s[%d]", field, i), "%s is no port or range of ports: 1 to 65535, first before last", p)
			}
		}
	}
	prefixes := func(field string, list []netip.Prefix) {
		if len(list) > maxList {
			bad(field, "%d entries, at most %d", len(list), maxList)
			return
		}
		for i, p := range list {
			if !p.IsValid() || p.Addr().Is4In6() {
				bad(fmt.Sprintf("%s[%d]", field, i), "must be a network as 10.0.0.0/8 or fd00::/8")
			}
		}
	}
	for _, d := range []struct {
		name string
		Direction
	}{{"inbound", c.Inbound}, {"outbound", c.Outbound}} {
		if d.Port == 0 {
			bad(d.name+".port", "must be 1 to 65535")
		}
		ports(d.name+".excludePorts", d.ExcludePorts)
		prefixes(d.name+".excludeCIDRs", d.ExcludeCIDRs)
		prefixes(d.name+".includeCIDRs", d.IncludeCIDRs)
	}
	prefixes("vips", c.VIPs)
	if c.Inbound.Port == c.Outbound.Port || c.DNS.Port == c.Inbound.Port || c.DNS.Port == c.Outbound.Port {
		bad("inbound.port", "inbound (%d), outbound (%d) and DNS port (%d) must differ", c.Inbound.Port, c.Outbound.Port, c.DNS.Port)
	}
	switch c.DNS.Mode {
	case DNSOff, DNSAll:
	case DNSNameservers:
		if len(c.DNS.Nameservers) == 0 {
			bad("dns.nameservers", "mode nameservers needs at least one")
		}
	default:
		bad("dns.mode", "%q is not one of off, all, nameservers", c.DNS.Mode)
	}
	if len(c.DNS.Nameservers) > maxList {
		bad("dns.nameservers", "%d entries, at most %d", len(c.DNS.Nameservers), maxList)
	}
	for i, a := range c.DNS.Nameservers {
		if !a.IsValid() || a.Is4In6() || a.IsLinkLocalUnicast() && a.Is6() {
			bad(fmt.Sprintf("dns.nameservers[%d]", i), "must be an IPv4 or IPv6 address, not an IPv6 link-local one")
		}
	}
	if c.Proxy.UID == 0 {
		bad("proxy.uid", "must not be 0: root's connections would all be left alone")
	}
	if c.Proxy.GID == 0 {
		bad("proxy.gid", "must not be 0: connections of the group root would all be left alone")
	}
	if len(c.ExcludeUIDs) > maxList {
		bad("excludeUIDs", "%d entries, at most %d", len(c.ExcludeUIDs), maxList)
	} else {
		for i, u := range c.ExcludeUIDs {
			if u.Last < u.First {
				bad(fmt.Sprintf("excludeUIDs[%d]", i), "last (%d) must not be before first (%d)", u.Last, u.First)
			}
			ports(fmt.Sprintf("excludeUIDs[%d].ports", i), u.Ports)
		}
	}
	if len(c.Families) == 0 || len(c.Families) > 2 {
		bad("families", "must be ipv4, ipv6 or both")
	}
	for i, f := range c.Families {
		if f != IPv4 && f != IPv6 {
			bad(fmt.Sprintf("families[%d]", i), "%q is not one of ipv4, ipv6", f)
		}
	}
	return errors.Join(errs...)
}

func (c Config) has(f Family) bool {
	for _, have := range c.Families {
		if have == f {
			return true
		}
	}
	return false
}

// ParsePorts reads 80 or 8000-8080.
func ParsePorts(s string) (Ports, error) {
	first, last, ranged := strings.Cut(s, "-")
	if !ranged {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	if errA != nil || errB != nil || a == 0 || b < a {
		return Ports{}, fmt.Errorf("%q is no port or range of ports: 1 to 65535, as 80 or 8000-8080", s)
	}
	return Ports{uint16(a), uint16(b)}, nil
}

// ParseUIDs reads 1000, 1000-1010, 1000:53 or 1000-1010:53,8000-8080.
func ParseUIDs(s string) (UIDs, error) {
	users, list, limited := strings.Cut(s, ":")
	first, last, ranged := strings.Cut(users, "-")
	if !ranged {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 32)
	b, errB := strconv.ParseUint(last, 10, 32)
	if errA != nil || errB != nil || b < a {
		return UIDs{}, fmt.Errorf("%q: users are written 1000, 1000-1010 or 1000:53,8000-8080", s)
	}
	u := UIDs{First: uint32(a), Last: uint32(b)}
	if !limited {
		return u, nil
	}
	for p := range strings.SplitSeq(list, ",") {
		r, err := ParsePorts(p)
		if err != nil {
			return UIDs{}, fmt.Errorf("%q: %w", s, err)
		}
		u.Ports = append(u.Ports, r)
	}
	return u, nil
}

// String is 80 or 8000-8080.
func (p Ports) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

func (p Ports) contains(port uint16) bool { return p.First <= port && port <= p.Last }

// MarshalJSON writes "80" or "8000-8080".
func (p Ports) MarshalJSON() ([]byte, error) { return json.Marshal(p.String()) }

// UnmarshalJSON reads "80", 80 or "8000-8080".
func (p *Ports) UnmarshalJSON(data []byte) error {
	s := string(data)
	if strings.HasPrefix(s, `"`) {
		if err := json.Unmarshal(data, &s); err != nil {
			return err
		}
	}
	r, err := ParsePorts(s)
	if err != nil {
		return err
	}
	*p = r
	return nil
}
