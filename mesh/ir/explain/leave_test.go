package explain

import (
	"fmt"
	"testing"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
)

// TestNamesOfServices: what people call services of Kubernetes zones and others, in a
// caller of zone east.
func TestNamesOfServices(t *testing.T) {
	service := func(zone, name string) mesh.Key {
		return mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: zone, Name: name}
	}
	d := &Departure{Compiled: &ir.Proxy{}}
	d.Compiled.Zone = "east"
	all := []mesh.Key{service("east", "backend.shop"), service("east", "backend.test"), service("west", "backend.shop"), service("vms", "orders"),
		{Kind: mesh.KindMeshMultiZoneService, Mesh: "default", Name: "everywhere"}}
	for name, want := range map[string]string{
		"backend.shop":                      "[backend.shop.east]",
		"shop/backend":                      "[backend.shop.east]",
		"backend.shop.svc":                  "[backend.shop.east]",
		"backend.shop.svc.cluster.local":    "[backend.shop.east]",
		"Backend.Shop.svc.cluster.local.":   "[backend.shop.east]",
		"backend.shop.west":                 "[backend.shop.west]",
		"meshservice/backend.shop.west":     "[backend.shop.west]",
		"backend":                           "[backend.shop.east backend.test.east]",
		"orders":                            "[orders.vms]",
		"orders.svc":                        "[]", // is a name of east's own cluster
		"everywhere":                        "[everywhere]",
		"everywhere.svc.cluster.local":      "[]",
		"other/backend":                     "[]",
		"backend.shop.svc.west.mesh.local":  "[]", // the names of the mesh are not known here
		"meshmultizoneservice/backend.shop": "[]",
	} {
		best, _ := d.named(name, all)
		got := []string{}
		for _, k := range best {
			got = append(got, k.RESTName())
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%s means %v, want %s", name, got, want)
		}
	}
}

func TestSourceAsKubectlSaysIt(t *testing.T) {
	c := Call{Source: "shop/web", Destination: "backend"}
	if err := c.Check(); err != nil || c.Source != "web.shop" {
		t.Errorf("%v, %q", err, c.Source)
	}
}
