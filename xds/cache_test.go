package xds

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

func crowd(class string, n int, transparent *ir.Transparent) *ir.Proxy {
	p := &ir.Proxy{Zone: "east", Class: &ir.Class{Mesh: "default", ID: class, Transparent: transparent}}
	for i := range n {
		name := fmt.Sprintf("kri_msvc_default_east__s%d_80", i)
		route := []ir.Route{{Name: "default", Backends: []ir.WeightedBackend{{Destination: name, Weight: 1}}}}
		for _, address := range []string{fmt.Sprintf("10.96.%d.%d", i/250, i%250), fmt.Sprintf("fd00::%x", i+1)} {
			p.Outbounds = append(p.Outbounds, ir.Outbound{Name: name, Address: address, Port: 80, Redirected: true, Protocol: ir.HTTP, Routes: route})
		}
		p.Destinations = append(p.Destinations, ir.Destination{Name: name, Protocol: ir.HTTP,
			Peers: []ir.Peer{{Name: fmt.Sprintf("s%d.east", i), SNI: "80.s.east.default.mesh", Identities: []string{"spiffe://default.east.mesh.local/workload/s"}}}})
	}
	return p
}

// TestCache: classes share what they have in common, and what differs is not mixed up.
func TestCache(t *testing.T) {
	var c Cache
	transparent := &ir.Transparent{InboundPort: 15006, OutboundPort: 15001}
	build := func(p *ir.Proxy) map[string]any {
		t.Helper()
		list, err := c.Build(p, p.Digests())
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]any{}
		for _, r := range list {
			out[r.TypeURL+r.Name] = r
		}
		return out
	}
	one, other, plain := build(crowd("one", 3, transparent)), build(crowd("other", 3, transparent)), build(crowd("plain", 3, nil))
	cluster := ClusterType + "kri_msvc_default_east__s0_80"
	listener := ListenerType + OutboundListenerName("10.96.0.0", 80)
	if one[cluster] == nil || one[cluster] != other[cluster] || one[listener] != other[listener] {
		t.Error("two classes do not share a service's cluster and listener")
	}
	if one[cluster] == plain[cluster] {
		t.Error("a class that is not transparent has a transparent one's cluster")
	}
	runtime.KeepAlive(one)
	runtime.KeepAlive(other)
	one, other, plain = nil, nil, nil
	deadline := time.Now().Add(60 * time.Second)
	for left := 1; left > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d parts are remembered that nobody uses", left)
		}
		runtime.GC()
		c.mu.Lock()
		left = len(c.known)
		c.mu.Unlock()
	}
}

func BenchmarkBuild(b *testing.B) {
	p := crowd("one", 1000, &ir.Transparent{InboundPort: 15006, OutboundPort: 15001})
	b.Run("fresh", func(b *testing.B) {
		for b.Loop() {
			if _, err := Build(p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("shared", func(b *testing.B) {
		var c Cache
		kept, err := c.Build(p, p.Digests())
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := c.Build(p, p.Digests()); err != nil {
				b.Fatal(err)
			}
		}
		runtime.KeepAlive(kept)
	})
}
