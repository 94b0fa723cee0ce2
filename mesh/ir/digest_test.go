package ir_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// A node's digest is of that node alone, and the hash is of all of them in their order.
func TestDigests(t *testing.T) {
	of := func(change func(p *ir.Proxy)) ir.Digests {
		p := &ir.Proxy{Zone: "east", Class: &ir.Class{ID: "web"}}
		for i := range 3 {
			name := fmt.Sprint("s", i)
			p.Destinations = append(p.Destinations, ir.Destination{Name: name})
			p.Outbounds = append(p.Outbounds, ir.Outbound{Name: name, Port: 80})
		}
		change(p)
		return p.Digests()
	}
	base := of(func(*ir.Proxy) {})
	if again := of(func(p *ir.Proxy) { p.Destinations = slices.Clone(p.Destinations) }); again.Hash != base.Hash {
		t.Error("the same again has another hash")
	}
	for name, c := range map[string]struct {
		change                           func(p *ir.Proxy)
		destinations, listeners, targets []int // that change
	}{
		"destination":      {func(p *ir.Proxy) { p.Destinations[1].Name = "x" }, []int{1}, nil, nil},
		"listener":         {func(p *ir.Proxy) { p.Outbounds[2].Port = 81 }, nil, []int{2}, nil},
		"target":           {func(p *ir.Proxy) { p.Outbounds[2].Timeouts.Request = 1 }, nil, nil, []int{2}},
		"both":             {func(p *ir.Proxy) { p.Outbounds[2].Timeouts.RequestHeaders = 1 }, nil, []int{2}, []int{2}},
		"order":            {func(p *ir.Proxy) { slices.Reverse(p.Outbounds) }, nil, []int{0, 2}, []int{0, 2}},
		"something else":   {func(p *ir.Proxy) { p.Passthrough = true }, nil, nil, nil},
		"one more of them": {func(p *ir.Proxy) { p.Outbounds = append(p.Outbounds, p.Outbounds[0]) }, nil, nil, nil},
	} {
		got := of(c.change)
		if got.Hash == base.Hash {
			t.Errorf("%s: the hash is the same", name)
		}
		differ := func(a, b []ir.Digest) (out []int) {
			for i := range a {
				if a[i] != b[i] {
					out = append(out, i)
				}
			}
			return out
		}
		if d := differ(base.Destinations, got.Destinations); !slices.Equal(d, c.destinations) {
			t.Errorf("%s: destinations %v differ, want %v", name, d, c.destinations)
		}
		if d := differ(base.Listeners, got.Listeners); !slices.Equal(d, c.listeners) {
			t.Errorf("%s: listeners %v differ, want %v", name, d, c.listeners)
		}
		if d := differ(base.Targets, got.Targets); !slices.Equal(d, c.targets) {
			t.Errorf("%s: targets %v differ, want %v", name, d, c.targets)
		}
	}
}
