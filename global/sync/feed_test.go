package sync

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

func running(t *testing.T, s store.Store) (f *feed, stop func()) {
	f = newFeed(s, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = f.run(ctx) }()
	synctest.Wait()
	return f, func() { cancel(); <-done }
}

func numbered(n, size int) store.Op {
	return store.Op{Resource: mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: fmt.Sprint("t", n)},
		Spec: fmt.Appendf(nil, `{"n":%d,"x":%q}`, n, strings.Repeat("x", size))}}
}

// TestFeedWindow: what is new is read once for all, what left the window comes
// from the store, and every revision comes once and in order either way.
func TestFeedWindow(t *testing.T) {
	for name, c := range map[string]struct{ changes, size int }{
		"few":       {10, 10},
		"too many":  {windowChanges + 500, 10},
		"too large": {200, 200 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := NewMemStore()
				f, stop := running(t, mem)
				defer stop()
				for i := range c.changes {
					if _, err := mem.Write(t.Context(), "u", []store.Op{numbered(i, c.size)}); err != nil {
						t.Fatal(err)
					}
					if i%100 == 0 {
						synctest.Wait()
					}
				}
				synctest.Wait()
				if len(f.window) > windowChanges || f.bytes > windowBytes || len(f.digests) > windowChanges+1 || len(f.history) > 2*historyChanges {
					t.Errorf("window of %d changes, %d bytes, %d digests, %d in the history", len(f.window), f.bytes, len(f.digests), len(f.history))
				}
				reads := mem.Reads
				for cursor := mesh.Revision(0); ; {
					changes, to, err := f.after(t.Context(), cursor, 1<<20)
					if err != nil {
						t.Fatal(err)
					}
					if len(changes) == 0 {
						if int(cursor) != c.changes {
							t.Errorf("ended at %d of %d", cursor, c.changes)
						}
						break
					}
					for _, change := range changes {
						if cursor++; change.Revision != cursor {
							t.Fatalf("revision %d, want %d", change.Revision, cursor)
						}
					}
					if want, err := mem.DigestAt(t.Context(), to.Revision); err != nil || to.Revision != cursor || to.Digest != want {
						t.Fatalf("position %v at %d, digest %s", to, cursor, want)
					}
				}
				if name == "few" && mem.Reads != reads {
					t.Errorf("%d reads of the store for what is in the window", mem.Reads-reads)
				}
				if p, ok := f.recall(mesh.Revision(c.changes)); !ok || p.revision != mesh.Revision(c.changes) {
					t.Errorf("recalled %v, %v", p, ok)
				}
				if _, ok := f.recall(mesh.Revision(c.changes) + 1); ok {
					t.Error("recalled the future")
				}
			})
		})
	}
}

// TestFeedIdle: without changes there are no reads.
func TestFeedIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemStore()
		_, stop := running(t, mem)
		defer stop()
		reads := mem.Reads
		if !pause(t.Context(), 3600e9) {
			t.Fatal("the test was ended")
		}
		if mem.Reads != reads {
			t.Errorf("%d reads in an idle hour", mem.Reads-reads)
		}
	})
}

// TestView has a line for each rule of what a zone may see.
func TestView(t *testing.T) {
	v := newView()
	enabled := map[string]bool{"east": true, "west": true}
	r := func(kind mesh.KindName, meshName, zone string, labels ...string) mesh.Resource {
		out := mesh.Resource{Key: mesh.Key{Kind: kind, Mesh: meshName, Zone: zone, Name: "x"}, Labels: map[string]string{}}
		for _, l := range labels {
			out.Labels[l] = "disabled"
		}
		return out
	}
	for _, c := range []struct {
		what string
		r    mesh.Resource
		want bool
	}{
		{"a policy of global", r(mesh.KindMeshTimeout, "default", ""), true},
		{"a policy that stays at global", r(mesh.KindMeshTimeout, "default", "", mesh.LabelSync), false},
		{"a mesh", r(mesh.KindMesh, "", ""), true},
		{"a zone", r(mesh.KindZone, "", ""), false},
		{"a secret of a mesh", r(mesh.KindSecret, "default", ""), true},
		{"a secret of global", r(mesh.KindSecret, "", ""), false},
		{"a key that signs tokens, whatever its labels", named(r(mesh.KindSecret, "default", ""), "dataplane-token-signing-key-1"), false},
		{"a key that verifies tokens", named(r(mesh.KindSecret, "default", ""), "dataplane-token-public-key-1"), true},
		{"a service of another zone", r(mesh.KindMeshService, "default", "west"), true},
		{"a service of another zone that stays at global", r(mesh.KindMeshService, "default", "west", mesh.LabelSync), false},
		{"its own service", r(mesh.KindMeshService, "default", "east"), false},
		{"a service of a disabled zone", r(mesh.KindMeshService, "default", "north"), false},
		{"a proxy of another zone", r(mesh.KindDataplane, "default", "west"), false},
		{"a trust bundle of global", r(mesh.KindMeshTrust, "default", ""), true},
		{"a trust bundle of another zone", r(mesh.KindMeshTrust, "default", "west"), true},
		{"a policy of another zone", r(mesh.KindMeshTimeout, "default", "west"), false},
		{"a policy of another zone for the callers of its services", role(r(mesh.KindMeshTimeout, "default", "west"), mesh.RoleProducer), true},
		{"its own policy for callers", role(r(mesh.KindMeshTimeout, "default", "east"), mesh.RoleProducer), false},
		{"such a policy of a disabled zone", role(r(mesh.KindMeshTimeout, "default", "north"), mesh.RoleProducer), false},
		{"a policy of another zone for its own calls", role(r(mesh.KindMeshTimeout, "default", "west"), mesh.RoleConsumer), false},
		{"a policy of another zone for its own proxies", role(r(mesh.KindMeshTimeout, "default", "west"), mesh.RoleWorkloadOwner), false},
		{"a policy of another zone's operator", role(r(mesh.KindMeshTimeout, "default", "west"), mesh.RoleSystem), false},
		{"an unknown kind", r("MeshSurprise", "default", ""), false},
	} {
		if got := v.visible("east", c.r, enabled); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
	if got := v.strip(mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshMultiZoneService}, Status: []byte(`{}`)}); got.Status != nil {
		t.Error("the status of what global owns went along")
	}
}

func role(r mesh.Resource, role string) mesh.Resource {
	r.Labels[mesh.LabelPolicyRole] = role
	return r
}

func named(r mesh.Resource, name string) mesh.Resource {
	r.Name = name
	return r
}

// TestFactsOfOneZoneAreBounded: what is there may change and go, and nothing more comes.
func TestFactsOfOneZoneAreBounded(t *testing.T) {
	s := New(Config{})
	s.feed.meshes = map[string]bool{"default": true}
	z := &zone{name: "east", index: mesh.NewFactSet()}
	key := func(i int) mesh.Key {
		return mesh.Key{Kind: mesh.KindWorkload, Mesh: "default", Zone: "east", Name: fmt.Sprint("w-", i)}
	}
	for i := range maxZoneFacts {
		z.index.Put(key(i), [sha256.Size]byte{})
	}
	fact := func(i int) *zonesyncv1.Resource {
		return zonesync.FromResource(mesh.Resource{Key: key(i), Spec: []byte(`{}`)})
	}
	ops, edits, refused := s.judgeFacts(z, &factsBatch{upserts: []*zonesyncv1.Resource{fact(0), fact(maxZoneFacts)}})
	if len(ops) != 1 || len(edits) != 1 || len(refused) != 1 || refused[0].GetName() != key(maxZoneFacts).Name {
		t.Errorf("%d writes, %d refused: %v", len(ops), len(refused), refused)
	}
	ops, edits, refused = s.judgeFacts(z, &factsBatch{full: true, upserts: []*zonesyncv1.Resource{fact(maxZoneFacts)}})
	if len(ops) != maxZoneFacts+1 || len(edits) != maxZoneFacts+1 || len(refused) != 0 {
		t.Errorf("all anew: %d writes of %d, %v", len(ops), len(edits), refused)
	}
}
