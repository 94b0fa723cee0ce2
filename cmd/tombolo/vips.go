package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/pflag"

	"github.com/tombolo-mesh/tombolo/zone"
)

// vipFlags are the ranges of virtual addresses.
func vipFlags(f *pflag.FlagSet, v *zone.VIPRanges) {
	d := zone.DefaultVIPRanges()
	for _, r := range []struct {
		prefix *netip.Prefix
		name   string
		def    netip.Prefix
		what   string
	}{
		{&v.Service, "vip-cidr", d.Service, "IPv4 range of the virtual addresses of services that have none of their own"},
		{&v.MultiZone, "vip-cidr-multizone", d.MultiZone, "IPv4 range of the virtual addresses of multi-zone services"},
		{&v.IPv6, "vip-cidr-v6", d.IPv6, "IPv6 range of the virtual addresses of both"},
	} {
		f.Var((*prefixValue)(r.prefix), r.name, fmt.Sprintf("%s (default %s)", r.what, r.def))
	}
}

// prefixValue is a flag that is a CIDR.
type prefixValue netip.Prefix

// String implements pflag.Value.
func (p *prefixValue) String() string {
	if x := netip.Prefix(*p); x.IsValid() {
		return x.String()
	}
	return ""
}

// Set implements pflag.Value.
func (p *prefixValue) Set(text string) error {
	x, err := netip.ParsePrefix(text)
	if err != nil {
		return fmt.Errorf("must be a range such as 241.0.0.0/8, not %q", text)
	}
	*p = prefixValue(x)
	return nil
}

// Type implements pflag.Value.
func (p *prefixValue) Type() string { return "cidr" }
