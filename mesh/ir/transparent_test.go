package ir_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	"github.com/tombolo-mesh/tombolo/mesh/ir/irtest"
)

// crowd is a world of n services with addresses of both families, and a
// transparent proxy.
func crowd(t testing.TB, n int, order []int) (*irtest.World, *ir.Class) {
	t.Helper()
	w, err := irtest.Parse("east", []byte(strings.ReplaceAll(small, "  inbound: [{", "  transparentProxying: {}\n  inbound: [{")))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range order {
		err := w.Add(fmt.Appendf(nil, `
type: MeshService
name: s%[1]d
labels: {kuma.io/zone: east, kuma.io/display-name: s%[1]d}
spec:
  selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: s%[1]d}}}
  ports: [{port: 80, appProtocol: http}]
  identities: [{type: SpiffeID, value: "spiffe://default.east.mesh.local/workload/s%[1]d"}]
`, i))
		if err != nil {
			t.Fatal(err)
		}
		key := mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "east", Name: fmt.Sprintf("s%d", i)}
		// Neighbours quarrel about an address.
		w.SetAddresses(key, fmt.Sprintf("10.96.%d.%d", i/2/250, i/2%250), fmt.Sprintf("fd96::%x", i+1))
	}
	c, _, err := w.Class("default", "web-1")
	if err != nil {
		t.Fatal(err)
	}
	return w, c
}

// TestTransparentOrder: neither the outbounds nor who has an address depend on the
// order in which services came.
func TestTransparentOrder(t *testing.T) {
	order := rand.New(rand.NewPCG(1, 2)).Perm(50)
	w, c := crowd(t, 50, order)
	want := ir.Compile(w, c)
	if got := len(want.Outbounds); got != 1+25+50 {
		t.Errorf("%d outbounds, want the explicit one, 25 of IPv4 and 50 of IPv6", got)
	}
	for seed := range uint64(4) {
		w, c := crowd(t, 50, rand.New(rand.NewPCG(seed, 0)).Perm(50))
		if diff := cmp.Diff(want.Text(), ir.Compile(w, c).Text()); diff != "" {
			t.Fatalf("another order gives another proxy (-want +got):\n%s", diff)
		}
	}
}

func BenchmarkTransparent(b *testing.B) {
	for _, n := range []int{100, 1000, 4000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w, c := crowd(b, n, rand.New(rand.NewPCG(1, 2)).Perm(n))
			ir.Compile(w, c) // the world of tests indexes at the first question
			for b.Loop() {
				ir.Compile(w, c)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "µs/service")
		})
	}
}
