package ir_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/tombolo-mesh/tombolo/internal/golden"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/irtest"
)

const small = `
type: MeshIdentity
name: identity
spec: {provider: {type: Bundled}}
---
type: Dataplane
name: web-1
labels: {kuma.io/zone: east, kuma.io/workload: web}
networking:
  address: 10.0.0.1
  inbound: [{name: main, port: 8080, protocol: http}, {name: raw, port: 8081}]
  outbound: [{port: 10001, backendRef: {kind: MeshService, name: backend, port: 8080}}]
---
type: MeshService
name: backend
labels: {kuma.io/zone: east}
spec:
  selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: backend}}}
  ports: [{port: 8080, appProtocol: http}]
  identities: [{type: SpiffeID, value: "spiffe://default.east.mesh.local/workload/backend"}]
status: {ports: [{port: 8080, healthy: 1}]}
---
type: MeshTimeout
name: t
revision: 3
spec: {to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 5s}}]}
---
type: MeshTrafficPermission
name: p
spec: {rules: [{default: {allow: [{spiffeID: {type: Exact, value: "spiffe://a/b"}}]}}]}
`

func parse(t testing.TB, manifests string) (*irtest.World, *ir.Class) {
	t.Helper()
	w, err := irtest.Parse("east", []byte(manifests))
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := w.Class("default", "web-1")
	if err != nil {
		t.Fatal(err)
	}
	return w, c
}

func TestDefaultTimeouts(t *testing.T) {
	w, c := parse(t, strings.ReplaceAll(small, "type: MeshTimeout", "mesh: other\ntype: MeshTimeout"))
	p := ir.Compile(w, c)
	inbound := ir.Timeouts{Connect: 10 * time.Second, Idle: 2 * time.Hour, StreamIdle: time.Hour}
	outbound := ir.Timeouts{Connect: 5 * time.Second, Idle: time.Hour, Request: 15 * time.Second, StreamIdle: 30 * time.Minute}
	for what, x := range map[string]struct{ got, want ir.Timeouts }{
		"inbound":     {p.Inbounds[0].Timeouts, inbound},
		"outbound":    {p.Outbounds[0].Timeouts, outbound},
		"route":       {p.Outbounds[0].Routes[0].Timeouts, outbound},
		"destination": {p.Destinations[0].Timeouts, outbound},
	} {
		if diff := cmp.Diff(x.want, x.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}

func TestConfs(t *testing.T) {
	w, c := parse(t, small)
	p := ir.Compile(w, c)
	for what, confs := range map[string]ir.Confs{"outbound": p.Outbounds[0].Confs, "route": p.Outbounds[0].Routes[0].Confs, "destination": p.Destinations[0].Confs} {
		conf, ok := ir.Conf[mesh.TimeoutConf](confs)
		if !ok || conf.IdleTimeout == nil || conf.IdleTimeout.Duration != 5*time.Second {
			t.Errorf("%s has %+v, %t", what, conf, ok)
		}
		if s := ir.Sources[mesh.TimeoutConf](confs); len(s) != 1 || s[0].Revision != 3 {
			t.Errorf("%s has sources %+v", what, s)
		}
	}
	if _, ok := ir.Conf[mesh.TimeoutConf](p.Inbounds[0].Confs); ok {
		t.Error("an inbound has a `to` configuration")
	}
}

// The hash follows what a proxy must do, and not who wrote it when.
func TestHash(t *testing.T) {
	w, c := parse(t, small)
	base := ir.Compile(w, c)
	for name, x := range map[string]struct {
		old, new string
		same     bool
	}{
		"revision":   {"revision: 3", "revision: 4", true},
		"health":     {"healthy: 1", "healthy: 0", true},
		"problem":    {"name: t\n", "name: t\nlabels: {note: x}\n", true},
		"timeout":    {"idleTimeout: 5s", "idleTimeout: 6s", false},
		"permission": {"spiffe://a/b", "spiffe://a/c", false},
		"identity":   {"workload/backend\"", "workload/other\"", false},
		"protocol":   {"appProtocol: http", "appProtocol: grpc", false},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(small, x.old) {
				t.Fatalf("%q is not in the world", x.old)
			}
			w, c := parse(t, strings.ReplaceAll(small, x.old, x.new))
			p := ir.Compile(w, c)
			if p.Equal(base) != x.same || (p.Hash() == base.Hash()) != x.same {
				t.Errorf("equal %t, want %t:\n%s", p.Equal(base), x.same, cmp.Diff(base.Text(), p.Text()))
			}
		})
	}
}

func TestGeneration(t *testing.T) {
	w, c := parse(t, small)
	before := ir.Compile(w, c)
	for _, in := range c.Inbounds {
		w.SetCounter(ir.TightenCounter(c.ID, in.Name), 7)
	}
	p := ir.Compile(w, c)
	if p.Inbounds[0].Generation != 0 || p.Inbounds[1].Generation != 7 {
		t.Errorf("generations %d of HTTP and %d of TCP, want 0 and 7", p.Inbounds[0].Generation, p.Inbounds[1].Generation)
	}
	if p.Equal(before) {
		t.Error("the generation is not in the hash")
	}
}

func TestWeightsFit(t *testing.T) {
	route := `
---
type: MeshHTTPRoute
name: r
spec:
  to:
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: backend}}
    rules:
    - matches: [{path: {type: Exact, value: /}}]
      default:
        backendRefs:
        - {kind: MeshService, labels: {kuma.io/display-name: backend}, port: 8080, weight: 4294967295}
        - {kind: MeshService, labels: {kuma.io/display-name: backend}, port: 8080, weight: 4294967295}
        - {kind: MeshService, labels: {kuma.io/display-name: gone}, port: 8080, weight: 1}
`
	w, c := parse(t, small+route)
	var sum uint64
	backends := ir.Compile(w, c).Outbounds[0].Routes[0].Backends
	for _, b := range backends {
		if b.Weight == 0 {
			t.Errorf("%q lost its share", b.Destination)
		}
		sum += uint64(b.Weight)
	}
	if len(backends) != 2 || sum >= 1<<32 {
		t.Errorf("backends %+v with a sum of %d", backends, sum)
	}
}

// contrary hands out lists in random order, and no status: neither may matter.
type contrary struct {
	*irtest.World
	t    *testing.T
	rand *rand.Rand
	mesh string
}

func (r contrary) List(q ir.Query) []*ir.Object {
	if q.Kind == mesh.KindDataplane {
		r.t.Errorf("a class reads Dataplanes: %+v", q)
	}
	if q.Mesh != r.mesh {
		r.t.Errorf("a class of mesh %s reads mesh %s: %+v", r.mesh, q.Mesh, q)
	}
	out := r.World.List(q)
	r.rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	for i, o := range out {
		bare := *o
		bare.Status = nil
		out[i] = &bare
	}
	return out
}

func (r contrary) Get(key mesh.Key) (*ir.Object, bool) {
	r.t.Errorf("a class reads %s by key, which is not covered here", key)
	return nil, false
}

// Every golden world compiles to the same in whatever order lists come, without
// health and without a look at another mesh.
func TestOrderAndStatusDoNotMatter(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, a *txtar.Archive) map[string]string {
		for zone := range irtest.Case(t, a, compiler()) {
			zone = strings.TrimPrefix(zone, golden.WantPrefix+".")
			all, _ := golden.File(a, "all.yaml")
			w, err := irtest.Parse(zone, all)
			if err != nil {
				t.Fatal(err)
			}
			for _, dp := range w.Objects(mesh.KindDataplane, "") {
				if dp.Zone != zone {
					continue
				}
				c, _, err := w.Class(dp.Mesh, dp.Name)
				if err != nil {
					t.Fatal(err)
				}
				want := ir.Compile(w, c)
				for seed := range uint64(10) {
					r := contrary{World: w, t: t, rand: rand.New(rand.NewPCG(seed, 1)), mesh: dp.Mesh}
					got := ir.Compile(r, c)
					if diff := cmp.Diff(want.Text(), got.Text()); diff != "" || !got.Equal(want) {
						t.Fatalf("seed %d (-want +got):\n%s", seed, diff)
					}
				}
			}
		}
		return irtest.Case(t, a, compiler())
	})
}

// BenchmarkCompile compiles a class that calls every tenth service of a mesh
// with as many timeouts and routes.
func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		w, c := parse(b, benchWorld(n))
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ir.Compile(w, c)
			}
		})
		p := ir.Compile(w, c)
		b.Run(fmt.Sprintf("hash/services=%d", n), func(b *testing.B) {
			for b.Loop() {
				p.Hash()
			}
		})
	}
}

func benchWorld(n int) string {
	var s strings.Builder
	s.WriteString("type: MeshIdentity\nname: identity\nspec: {provider: {type: Bundled}}\n")
	s.WriteString("---\ntype: Dataplane\nname: web-1\nlabels: {kuma.io/zone: east, kuma.io/workload: web}\nnetworking:\n  address: 10.0.0.1\n  inbound: [{port: 8080, protocol: http}]\n  outbound:\n")
	for i := range (n + 9) / 10 {
		fmt.Fprintf(&s, "  - {port: %d, backendRef: {kind: MeshService, name: s%d, port: 80}}\n", 10000+i, i*10)
	}
	for i := range n {
		fmt.Fprintf(&s, "---\ntype: MeshService\nname: s%d\nlabels: {kuma.io/zone: east}\nspec: {ports: [{port: 80, appProtocol: http}], identities: [{type: SpiffeID, value: \"spiffe://default.east.mesh.local/s%d\"}]}\n", i, i)
		if i%10 == 0 {
			fmt.Fprintf(&s, "---\ntype: MeshTimeout\nname: t%d\nspec: {to: [{targetRef: {kind: MeshService, labels: {kuma.io/display-name: s%d}}, default: {idleTimeout: 5s}}]}\n", i, i)
		}
	}
	return s.String()
}

// Names of destinations begin with the short form of the kind.
func TestDestinationNames(t *testing.T) {
	w, c := parse(t, strings.ReplaceAll(small, "kind: MeshService, name: backend", "kind: MeshMultiZoneService, name: backend")+`
---
type: MeshMultiZoneService
name: backend
spec: {selector: {meshService: {matchLabels: {kuma.io/display-name: backend}}}, ports: [{port: 8080}]}
---
type: MeshTCPRoute
name: r
spec:
  to:
  - targetRef: {kind: MeshMultiZoneService}
    rules: [{default: {backendRefs: [{kind: MeshService, labels: {kuma.io/display-name: backend}, port: 8080}, {kind: MeshMultiZoneService, labels: {kuma.io/display-name: backend}, port: 8080}]}}]
`)
	p := ir.Compile(w, c)
	if len(p.Destinations) != 2 {
		t.Fatalf("destinations: %s", p.Text())
	}
	for _, d := range p.Destinations {
		kind, _ := mesh.KindByName(d.Backend.Kind)
		want := mesh.KRI(kind.Short, d.Backend.Mesh, d.Backend.Zone, "", d.Backend.Name, fmt.Sprint(d.Port))
		if d.Name != want {
			t.Errorf("destination %s, want %s", d.Name, want)
		}
	}
}

// still is a world that only answers, so that several may ask at once.
type still struct{ *irtest.World }

func (r still) List(q ir.Query) []*ir.Object {
	var out []*ir.Object
	for _, o := range r.Objects(q.Kind, q.Mesh) {
		if q.Index == ir.ByMesh || q.Index == ir.ByDisplayName && o.DisplayName() == q.Value || q.Index == ir.ByZone && o.Zone == q.Value {
			out = append(out, o)
		}
	}
	return out
}

func (still) Counter(string) uint64 { return 0 }

// Compiles run side by side and share objects: none of them may write to one.
func TestCompileSideBySide(t *testing.T) {
	w, c := parse(t, small)
	want := ir.Compile(still{w}, c)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if got := ir.Compile(still{w}, c); !got.Equal(want) {
					t.Error(cmp.Diff(want.Text(), got.Text()))
					return
				}
			}
		})
	}
	wg.Wait()
}
