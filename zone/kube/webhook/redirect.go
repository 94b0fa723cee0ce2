package webhook

import (
	"math"
	"strconv"
	"strings"

	"github.com/tombolo-mesh/tombolo/agent/redirect"
)

// Keys of annotations about traffic.
const (
	annotationExcludeIn     = "traffic.tombolo.io/exclude-inbound-ports"
	annotationExcludeOut    = "traffic.tombolo.io/exclude-outbound-ports"
	annotationExcludeUIDs   = "traffic.tombolo.io/exclude-outbound-ports-for-uids"
	annotationExcludeInIPs  = "traffic.tombolo.io/exclude-inbound-ips"
	annotationExcludeOutIPs = "traffic.tombolo.io/exclude-outbound-ips"
	annotationFamilies      = "tombolo.io/transparent-proxying-ip-family-mode"
	annotationGateway       = "tombolo.io/gateway"
	annotationDNS           = "tombolo.io/builtin-dns"
)

// redirectOf is what of a pod's traffic goes through its proxy. Problems are
// collected in v.
func redirectOf(v *values, cfg Config) redirect.Config {
	c := redirect.Config{
		Inbound:     redirect.Direction{ExcludePorts: v.ports(annotationExcludeIn), ExcludeCIDRs: v.prefixes(annotationExcludeInIPs)},
		Outbound:    redirect.Direction{ExcludePorts: v.ports(annotationExcludeOut), ExcludeCIDRs: v.prefixes(annotationExcludeOutIPs)},
		ExcludeUIDs: excludedUIDs(v),
		// What people call the gateway of a mesh takes traffic from outside by itself.
		Proxy: redirect.Proxy{UID: proxyID, GID: proxyID},
		VIPs:  cfg.VIPs,
	}
	c.Inbound.Disabled = v.onOff(annotationGateway, false)
	if v.onOff(annotationDNS, !cfg.WithoutDNS) {
		c.DNS.Mode = redirect.DNSAll
	}
	switch mode, _ := v.oneOf(annotationFamilies, "dualstack", "ipv4", "ipv6"); mode {
	case "ipv4":
		c.Families = []redirect.Family{redirect.IPv4}
	case "ipv6":
		c.Families = []redirect.Family{redirect.IPv6}
	}
	c = c.WithDefaults()
	if len(v.errs) == 0 {
		if err := c.Validate(); err != nil {
			v.errs = append(v.errs, err)
		}
	}
	return c
}

// excludedUIDs reads entries "<protocol>:<ports>:<uids>", "<ports>:<uids>" or
// "<uids>", separated by semicolons; ports and uids are numbers, ranges or "*",
// separated by commas: "tcp:22,80:1000-1010;5000".
func excludedUIDs(v *values) (out []redirect.UIDs) {
	for _, entry := range v.list(annotationExcludeUIDs, ";") {
		parts := strings.Split(entry, ":")
		if len(parts) == 3 {
			if parts[0] != "tcp" && parts[0] != "udp" && parts[0] != "*" && parts[0] != "" {
				v.bad(annotationExcludeUIDs, "%q: the protocol must be tcp or udp", entry)
				continue
			}
			if parts[0] == "udp" && strings.TrimSpace(parts[1]) != "53" {
				continue // UDP but for DNS is never redirected
			}
			parts = parts[1:]
		}
		if len(parts) > 2 {
			v.bad(annotationExcludeUIDs, "%q must be <ports>:<uids>, as 80,443:1000", entry)
			continue
		}
		ports, ok := "", true
		if len(parts) == 2 {
			ports = parts[0]
		}
		for uid := range strings.SplitSeq(parts[len(parts)-1], ",") {
			u, good := excludedUID(strings.TrimSpace(uid), ports)
			if ok = ok && good; good {
				out = append(out, u)
			}
		}
		if !ok {
			v.bad(annotationExcludeUIDs, "%q must be <ports>:<uids>, as 80,443:1000 or 8000-8080:1000-1010", entry)
		}
	}
	return out
}

func excludedUID(uid, ports string) (redirect.UIDs, bool) {
	if uid == "*" {
		uid = "0-" + strconv.FormatUint(math.MaxUint32, 10)
	}
	if ports = strings.ReplaceAll(ports, " ", ""); ports == "*" {
		ports = ""
	}
	if ports != "" {
		uid += ":" + ports
	}
	u, err := redirect.ParseUIDs(uid)
	return u, err == nil
}
