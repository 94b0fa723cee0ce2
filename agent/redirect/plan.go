package redirect

import (
	"fmt"
	"net/netip"
	"strings"
)

// Table is the name of the one nftables table (family inet) that holds the redirect.
const Table = "tombolo"

// DNSZone is the conntrack zone of redirected UDP questions and their answers.
const DNSZone = 15053

// MeshCallPriority is the SO_PRIORITY of what Envoy opens to other proxies: a mark
// that takes no privilege to set and never leaves the host.
const MeshCallPriority = 6

const dnsPort = 53

// Plan is the content of the table.
type Plan struct {
	chains []chain
}

type chain struct {
	name     string
	kind     string // nat or filter
	hook     string // output or prerouting
	priority int32
	rules    []rule
}

// rule is one line: every match must hold for its verdict.
type rule struct {
	match   []match
	verdict verdict
	comment string
}

// Rules says what the kernel must do for a valid Config.
func Rules(c Config) Plan {
	var p Plan
	if c.DNS.Mode != DNSOff {
		p.chains = append(p.chains, chain{"dns_zone", "filter", "output", -300, dnsZone(c)})
	}
	if !c.Outbound.Disabled || c.DNS.Mode != DNSOff {
		p.chains = append(p.chains, chain{"output", "nat", "output", -100, output(c)})
	}
	if !c.Inbound.Disabled {
		p.chains = append(p.chains, chain{"prerouting", "nat", "prerouting", -100, prerouting(c)})
	}
	return p
}

func output(c Config) []rule {
	var out []rule
	if !c.Inbound.Disabled {
		out = append(out, selfCalls(c)...)
	}
	out = append(out, notTheApplications(c)...)
	if !c.Outbound.Disabled {
		for _, vip := range c.VIPs {
			out = append(out, rule{[]match{daddr(vip), tcp()}, redirectTo(c.Outbound.Port), "addresses of the mesh"})
		}
	}
	out = append(out, excludedOutbound(c)...)
	for _, q := range questions(c) {
		out = append(out, q...)
	}
	if c.Outbound.Disabled {
		return out
	}
	out = append(out, rule{[]match{daddrLocal()}, leave(), "this host"})
	out = append(out, rule{[]match{daddr(linkLocal())}, leave(), "link-local"})
	if len(c.Outbound.IncludeCIDRs) > 0 {
		for _, p := range c.Outbound.IncludeCIDRs {
			out = append(out, rule{[]match{daddr(p), tcp()}, redirectTo(c.Outbound.Port), "included"})
		}
		return out
	}
	return append(out, rule{[]match{tcp()}, redirectTo(c.Outbound.Port), "outbound"})
}

// selfCalls of the application by way of the mesh: Envoy's connection to an own
// address has to enter as anybody's does, with mTLS and permission. Envoy marks what
// it opens to other proxies; what it and the agent open to the application has no mark.
func selfCalls(c Config) []rule {
	self := []match{skuid(c.Proxy.UID, c.Proxy.UID), outLoopback(), priority(MeshCallPriority)}
	with := func(m ...match) []match { return append(append([]match{}, self...), m...) }
	out := []rule{}
	for _, loopback := range loopbacks() {
		out = append(out, rule{with(daddr(loopback)), leave(), "a proxy that listens on loopback"})
	}
	for _, p := range c.Inbound.ExcludePorts {
		out = append(out, rule{with(tcpTo(p)), leave(), "excluded inbound port"})
	}
	for _, f := range missingFamilies(c) {
		out = append(out, rule{with(f), leave(), "family"})
	}
	return append(out, rule{with(tcp()), redirectTo(c.Inbound.Port), "the application calls itself"})
}

// notTheApplications is what both chains of outgoing packets leave alone first.
func notTheApplications(c Config) []rule {
	out := []rule{
		{[]match{skuid(c.Proxy.UID, c.Proxy.UID)}, leave(), "proxy"},
		{[]match{skgid(c.Proxy.GID)}, leave(), "proxy"},
	}
	for _, f := range missingFamilies(c) {
		out = append(out, rule{[]match{f}, leave(), "family"})
	}
	for _, u := range c.ExcludeUIDs {
		who := skuid(u.First, u.Last)
		if len(u.Ports) == 0 {
			out = append(out, rule{[]match{who}, leave(), "excluded user"})
		}
		for _, p := range u.Ports {
			out = append(out, rule{[]match{who, tcpTo(p)}, leave(), "excluded user"})
			if p.contains(dnsPort) {
				out = append(out, rule{[]match{who, udpTo(dnsPort)}, leave(), "excluded user"})
			}
		}
	}
	return out
}

func excludedOutbound(c Config) []rule {
	var out []rule
	for _, p := range c.Outbound.ExcludePorts {
		out = append(out, rule{[]match{tcpTo(p)}, leave(), "excluded outbound port"})
		if p.contains(dnsPort) {
			out = append(out, rule{[]match{udpTo(dnsPort)}, leave(), "excluded outbound port"})
		}
	}
	for _, p := range c.Outbound.ExcludeCIDRs {
		out = append(out, rule{[]match{daddr(p)}, leave(), "excluded outbound network"})
	}
	return out
}

// questions are the redirects of DNS, one list for each protocol.
func questions(c Config) [][]rule {
	var out [][]rule
	for _, to := range []match{udpTo(dnsPort), tcpTo(Ports{dnsPort, dnsPort})} {
		out = append(out, eachQuestion(c, to, redirectTo(c.DNS.Port)))
	}
	return out
}

func eachQuestion(c Config, to match, v verdict) []rule {
	switch c.DNS.Mode {
	case DNSAll:
		// A nameserver on this host was put there on purpose.
		return []rule{
			{[]match{to, daddrLocal()}, leave(), "nameserver on this host"},
			{[]match{to}, v, "DNS"},
		}
	case DNSNameservers:
		var out []rule
		for _, a := range c.DNS.Nameservers {
			out = append(out, rule{[]match{daddr(netip.PrefixFrom(a, a.BitLen())), to}, v, "DNS"})
		}
		return out
	case DNSOff:
	}
	return nil
}

// dnsZone mirrors what the output chain does with UDP questions: a packet is in
// the zone exactly when it is redirected, or answers one that is.
func dnsZone(c Config) []rule {
	out := []rule{{[]match{outLoopback(), udpFrom(c.DNS.Port)}, zone(DNSZone), "answers of the agent"}}
	out = append(out, notTheApplications(c)...)
	out = append(out, excludedOutbound(c)...)
	return append(out, eachQuestion(c, udpTo(dnsPort), zone(DNSZone))...)
}

func prerouting(c Config) []rule {
	out := []rule{
		{[]match{inLoopback()}, leave(), "this host"},
		// A host that forwards (containers on a virtual machine) is no proxy for others.
		{[]match{daddrNotLocal()}, leave(), "forwarded"},
		{[]match{daddr(linkLocal())}, leave(), "link-local"},
	}
	for _, f := range missingFamilies(c) {
		out = append(out, rule{[]match{f}, leave(), "family"})
	}
	for _, p := range c.OwnPorts() {
		out = append(out, rule{[]match{tcpTo(p)}, leave(), "the mesh's own port"})
	}
	for _, p := range c.Inbound.ExcludePorts {
		out = append(out, rule{[]match{tcpTo(p)}, leave(), "excluded inbound port"})
	}
	for _, p := range c.Inbound.ExcludeCIDRs {
		out = append(out, rule{[]match{saddr(p)}, leave(), "excluded inbound network"})
	}
	if len(c.Inbound.IncludeCIDRs) > 0 {
		for _, p := range c.Inbound.IncludeCIDRs {
			out = append(out, rule{[]match{saddr(p), tcp()}, redirectTo(c.Inbound.Port), "included"})
		}
		return out
	}
	return append(out, rule{[]match{tcp()}, redirectTo(c.Inbound.Port), "inbound"})
}

func missingFamilies(c Config) []match {
	var out []match
	if !c.has(IPv4) {
		out = append(out, family(IPv4))
	}
	if !c.has(IPv6) {
		out = append(out, family(IPv6))
	}
	return out
}

func linkLocal() netip.Prefix { return netip.MustParsePrefix("fe80::/10") }

func loopbacks() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// String is the plan as a file for nft -f: loaded, it replaces the table, as
// Install does.
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s\ndelete table inet %s\ntable inet %s {\n", Table, Table, Table)
	for i, c := range p.chains {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype %s hook %s priority %d; policy accept;\n", c.name, c.kind, c.hook, c.priority)
		for _, r := range c.rules {
			fmt.Fprintf(&b, "\t\t%s\n", r)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

func (r rule) String() string {
	words := []string{}
	for _, m := range r.match {
		words = append(words, m.text)
	}
	words = append(words, r.verdict.text, fmt.Sprintf("comment %q", r.comment))
	return strings.Join(words, " ")
}
