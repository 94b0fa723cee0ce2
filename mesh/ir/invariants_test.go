package ir_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/irtest"
)

// FuzzCompile compiles whatever a world may hold, and holds the outcome against
// what every consumer relies on.
func FuzzCompile(f *testing.F) {
	cases, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(cases) == 0 {
		f.Fatalf("no cases: %v", err)
	}
	for _, path := range cases {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		var world []byte
		for _, file := range txtar.Parse(b).Files {
			if strings.HasSuffix(file.Name, ".yaml") {
				world = append(append(world, "\n---\n"...), file.Data...)
			}
		}
		for _, zone := range []string{"east", "west", "no"} {
			f.Add(zone, world)
		}
	}
	f.Fuzz(func(t *testing.T, zone string, manifests []byte) {
		w, err := irtest.Parse(zone, manifests)
		if err != nil {
			t.Skip()
		}
		for _, dp := range w.Objects(mesh.KindDataplane, "") {
			if dp.Zone != zone {
				continue
			}
			c, _, err := w.Class(dp.Mesh, dp.Name)
			if err != nil {
				t.Fatal(err)
			}
			p := ir.Compile(w, c)
			if !p.Equal(ir.Compile(w, c)) {
				t.Fatal("two compiles of one world differ")
			}
			checkProxy(t, p)
			checkSets(t, w, p)
		}
	})
}

// checkProxy checks what builders rely on.
func checkProxy(t *testing.T, p *ir.Proxy) {
	t.Helper()
	if !p.HasIdentity && len(p.Inbounds)+len(p.Outbounds)+len(p.Destinations) > 0 {
		t.Error("traffic without an identity")
	}
	known := map[string]bool{}
	for _, d := range p.Destinations {
		known[d.Name] = true
		if d.Timeouts.Connect <= 0 {
			t.Errorf("%s connects for ever", d.Name)
		}
		if d.Backend.Mesh != p.Class.Mesh {
			t.Errorf("%s is of mesh %s", d.Name, d.Backend.Mesh)
		}
		for _, x := range d.Peers {
			if len(x.Identities) == 0 || slices.Contains(x.Identities, "") {
				t.Errorf("peer %s of %s cannot be verified", x.Name, d.Name)
			}
		}
		names := make([]string, len(d.Peers))
		for i, x := range d.Peers {
			names[i] = x.Name
		}
		checkSorted(t, "peers of "+d.Name, names)
	}
	checkSorted(t, "destinations", keysOf(p.Destinations, func(d ir.Destination) string { return d.Name }))
	checkSorted(t, "gateways", keysOf(p.Gateways, func(g ir.Gateway) string { return g.Name }))
	checkSorted(t, "trust", keysOf(p.Trust, func(b ir.TrustBundle) string { return b.TrustDomain }))
	backends := func(what string, list []ir.WeightedBackend) {
		sum := uint64(0)
		for _, b := range list {
			if b.Destination != "" && !known[b.Destination] || b.Weight == 0 {
				t.Errorf("%s: backend %+v", what, b)
			}
			sum += uint64(b.Weight)
		}
		if sum >= 1<<32 {
			t.Errorf("%s: weights sum up to %d", what, sum)
		}
	}
	for _, o := range p.Outbounds {
		backends(o.Name, o.Backends)
		if o.Protocol.IsHTTP() != (len(o.Routes) > 0) {
			t.Errorf("%s is %s and has %d routes", o.Name, o.Protocol, len(o.Routes))
		}
		var names []string
		for _, r := range o.Routes {
			backends(o.Name+" "+r.Name, r.Backends)
			names = append(names, r.Name)
			for _, m := range r.Mirrors {
				if !known[m.Destination] || m.Percentage <= 0 || m.Percentage > 100 {
					t.Errorf("%s %s: mirror %+v", o.Name, r.Name, m)
				}
			}
		}
		slices.Sort(names)
		checkSorted(t, "routes of "+o.Name, names)
	}
	for _, in := range p.Inbounds {
		for _, m := range slices.Concat(in.Permission.Deny, in.Permission.AllowWithShadowDeny, in.Permission.Allow) {
			if m.SpiffeID == nil && m.SNI == nil {
				t.Errorf("%s: an empty match from %+v", in.Name, m.Source)
			}
		}
	}
}

// checkSets checks that every host can be dialled and verified.
func checkSets(t *testing.T, w *irtest.World, p *ir.Proxy) {
	t.Helper()
	peers := map[string]bool{}
	gateways := map[string]bool{}
	for _, d := range p.Destinations {
		for _, x := range d.Peers {
			peers[d.Name+" "+x.Name] = true
		}
	}
	for _, g := range p.Gateways {
		gateways[g.Name] = true
	}
	names := map[string]bool{}
	for _, ref := range ir.EndpointRefs(p) {
		if names[ref.Name] {
			t.Errorf("two sets are named %s", ref.Name)
		}
		names[ref.Name] = true
		set := ir.CompileEndpoints(w, ref)
		seen := map[ir.Host]bool{}
		for _, h := range set.Hosts {
			place := ir.Host{Address: h.Address, Port: h.Port, Gateway: h.Gateway}
			if h.Gateway != "" {
				place.Peer = h.Peer
			}
			if seen[place] {
				t.Errorf("%s has %+v twice", set.Name, h)
			}
			seen[place] = true
			if _, err := netip.ParseAddr(h.Address); h.Gateway == "" && err != nil {
				t.Errorf("%s: host %+v: %v", set.Name, h, err)
			}
			if h.Gateway != "" && !gateways[h.Gateway] || h.Weight == 0 {
				t.Errorf("%s: host %+v", set.Name, h)
			}
			if ref.Kind == ir.DestinationSet && !peers[set.Name+" "+h.Peer] {
				t.Errorf("%s: nobody knows how to verify %+v", set.Name, h)
			}
		}
	}
}

func keysOf[T any](list []T, key func(T) string) []string {
	out := make([]string, len(list))
	for i, x := range list {
		out[i] = key(x)
	}
	return out
}

func checkSorted(t *testing.T, what string, names []string) {
	t.Helper()
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("%s are not sorted or not unique: %q", what, names)
	}
}
