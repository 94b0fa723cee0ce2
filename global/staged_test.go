package global

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/global/api"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// TestStagedOverTwoInstances: a staged change goes on where the instance that the
// zone of the first stage is connected to ends in the middle.
func TestStagedOverTwoInstances(t *testing.T) {
	a, b, admin := two(t)
	trust := &running{dir: both(t, a, b)}
	zones := map[string]*aZone{}
	for zone, at := range map[string]*running{"east": b, "west": a} {
		other := a
		if at == a {
			other = b
		}
		zones[zone] = joins(t, zone, at.ZoneAddr().String()+","+other.ZoneAddr().String(), zoneToken(t, a, admin, zone), trust)
	}
	eventually(t, 60*time.Second, "both zones are known", func() error {
		for zone := range zones {
			if s := a.overview(t, admin, zone); !s.Online {
				return fmt.Errorf("%s: %+v", zone, s)
			}
		}
		return nil
	})
	status, out := a.call(t, "POST", "/rollouts?stages=east,west&pause=3s&abortOn=rejected%3E0&name=r", admin,
		`{"type":"MeshTimeout","mesh":"default","name":"t","spec":{"to":[{"targetRef":{"kind":"Mesh"},"default":{"idleTimeout":"9s"}}]}}`)
	if status >= 300 {
		t.Fatalf("%d %s", status, out)
	}
	key := mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "t"}
	has := func(zone string) bool { return strings.Contains(zones[zone].spec(key), `"9s"`) }
	eventually(t, 60*time.Second, "the first stage", func() error {
		if !has("east") {
			return errors.New("not in east")
		}
		return nil
	})
	home := b
	if at := a.overview(t, admin, "east").Global; at == selfOf(t, instancesOf(t, a, admin)) {
		home = a
	}
	left := a
	if home == a {
		left = b
	}
	if has("west") {
		t.Fatal("west has it before its stage")
	}
	home.stop()
	if status, out := left.call(t, "GET", "/meshes/default/meshtimeouts/t", admin, ""); status != 404 {
		t.Errorf("it is in the store before the end: %d %s", status, out)
	}
	eventually(t, 60*time.Second, "the end", func() error {
		_, out := left.call(t, "GET", "/rollouts/r", admin, "")
		var v api.RolloutView
		if err := json.Unmarshal(out, &v); err != nil || v.Phase != "done" || !has("east") || !has("west") {
			return fmt.Errorf("%s, west %v, %v", out, has("west"), err)
		}
		return nil
	})
	_, out = left.call(t, "GET", "/changes/_history?kind=mt&mesh=default&name=t", admin, "")
	var h api.ResourceHistory
	if err := json.Unmarshal(out, &h); err != nil || len(h.Items) != 1 {
		t.Fatalf("it was written more than once: %s", out)
	}
	// The end of a rollout is a write like any other, and can be undone.
	if status, out := left.call(t, "POST", fmt.Sprintf("/changes/%d/undo", h.Items[0].Revision), admin, ""); status >= 300 {
		t.Fatalf("undo: %d %s", status, out)
	}
	eventually(t, 60*time.Second, "the undo", func() error {
		if has("east") || has("west") {
			return errors.New("it is still there")
		}
		return nil
	})
}

func instancesOf(t *testing.T, g *running, admin string) []byte {
	t.Helper()
	_, out := g.call(t, "GET", "/instances", admin, "")
	return out
}
