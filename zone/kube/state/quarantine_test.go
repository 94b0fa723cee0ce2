package state_test

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/disk"
	"github.com/tombolo-mesh/tombolo/zone/kube/state"
)

func refused(t *testing.T, c *cluster) map[string]string {
	t.Helper()
	out := map[string]string{}
	for id, text := range mustLoad(t, open(t, c, true)).Quarantine {
		out[id] = string(text)
	}
	return out
}

func refuse(id, text string) disk.Update {
	return disk.Update{Quarantine: map[string][]byte{id: []byte(text)}}
}

// TestQuarantine: what proxies refused is known after a restart, until it ends.
func TestQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		leader := begun(t, c)
		wait(time.Second)
		before := c.writes.Load()
		leader.commit(t, refuse("web", "1"))
		leader.commit(t, refuse("api", "2"))
		wait(time.Second)
		if n := c.writes.Load() - before; n < 1 || n > 2 { // its own Secret, and no other
			t.Errorf("%d writes", n)
		}
		if diff := cmp.Diff(map[string]string{"web": "1", "api": "2"}, refused(t, c)); diff != "" {
			t.Error("after a restart:", diff)
		}
		leader.commit(t, disk.Update{Quarantine: map[string][]byte{"web": nil}})
		leader.stop()
		if diff := cmp.Diff(map[string]string{"api": "2"}, refused(t, c)); diff != "" {
			t.Error("after the end of one:", diff)
		}

		// Who begins to lead writes what it knows over what the former leader wrote.
		follower := open(t, c, false)
		follower.commit(t, refuse("db", "3"))
		wait(time.Minute)
		if diff := cmp.Diff(map[string]string{"api": "2"}, refused(t, c)); diff != "" {
			t.Error("a follower wrote:", diff)
		}
		leader = open(t, c, true)
		leader.commit(t, refuse("api", "4"))
		leader.stop()
		follower.leads.Store(true)
		follower.Lead()
		wait(time.Second)
		if diff := cmp.Diff(map[string]string{"api": "2", "db": "3"}, refused(t, c)); diff != "" {
			t.Error("after a change of leader:", diff)
		}
	})
}

// TestQuarantineBounds: what does not fit is left out, and harms nothing else.
func TestQuarantineBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		leader := begun(t, c)
		noise := make([]byte, 2<<20)
		rand.NewChaCha8([32]byte{}).Read(noise)
		u := disk.Update{Position: position(7), PutResources: []mesh.Resource{timeout(1)}, Quarantine: map[string][]byte{
			"noise": []byte(base64.StdEncoding.EncodeToString(noise)),
			"zeros": make([]byte, 17<<20), // packs well, and would be too much once unpacked
		}}
		for n := range 100 {
			u.Quarantine[fmt.Sprint("small-", n)] = []byte("{}")
		}
		leader.commit(t, u)
		wait(time.Second)
		if got := refused(t, c); len(got) != 100 || got["small-7"] != "{}" {
			t.Errorf("%d classes were kept", len(got))
		}
		if s := mustLoad(t, open(t, c, true)); s.Position.Revision != 7 || len(s.Resources) != 1 {
			t.Error("the rest:", names(s))
		}
		// Nor does a Secret that cannot be written.
		c.refuse(state.QuarantineName)
		leader.commit(t, refuse("small-7", "new"))
		leader.commit(t, disk.Update{Position: position(8)})
		wait(time.Minute)
		if s := mustLoad(t, open(t, c, true)); s.Position.Revision != 8 || string(s.Quarantine["small-7"]) != "{}" {
			t.Error("the rest:", names(s))
		}
		c.refuse("")
		wait(time.Minute)
		if got := refused(t, c); got["small-7"] != "new" {
			t.Error("it was not tried again")
		}
	})
}

// TestQuarantineDamaged: a zone starts without it, and writes over it.
func TestQuarantineDamaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		leader := begun(t, c)
		leader.commit(t, refuse("web", "1"))
		leader.stop()
		object, err := c.Tracker().Get(secrets(), "tombolo-system", state.QuarantineName)
		if err != nil {
			t.Fatal(err)
		}
		o := object.(*unstructured.Unstructured).DeepCopy()
		if err := unstructured.SetNestedField(o.Object, "bm9uc2Vuc2U=", "data", "state"); err != nil {
			t.Fatal(err)
		}
		if err := c.Tracker().Update(secrets(), o, "tombolo-system"); err != nil {
			t.Fatal(err)
		}
		again := open(t, c, true)
		if s := mustLoad(t, again); len(s.Quarantine) != 0 || len(s.SessionKey) == 0 {
			t.Error("a damaged Secret:", s.Quarantine)
		}
		again.commit(t, refuse("web", "2"))
		wait(time.Second)
		if diff := cmp.Diff(map[string]string{"web": "2"}, refused(t, c)); diff != "" {
			t.Error("written over:", diff)
		}
	})
}
