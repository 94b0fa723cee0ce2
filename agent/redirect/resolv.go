package redirect

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// Nameservers are the addresses of a resolv.conf file, without IPv6 link-local
// ones, which are never redirected.
func Nameservers(path string) ([]netip.Addr, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("nameservers: %w", err)
	}
	defer f.Close()
	var out []netip.Addr
	for lines := bufio.NewScanner(f); lines.Scan() && len(out) < maxList; {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(words[1])
		if err != nil || a.Is6() && a.IsLinkLocalUnicast() {
			continue
		}
		out = append(out, a.Unmap())
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("nameservers: none in %s", path)
	}
	return out, nil
}
