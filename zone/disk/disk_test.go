package disk_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/disk"
)

func open(t *testing.T, dir, zone string) *disk.File {
	t.Helper()
	f, err := disk.Open(disk.Config{Dir: dir, Zone: zone})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func load(t *testing.T, f *disk.File) *disk.State {
	t.Helper()
	s, err := f.Load()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func resource(name, spec string) mesh.Resource {
	return mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: name}, Labels: map[string]string{"a": "b"},
		Spec: []byte(spec), Revision: 7, Created: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}
}

func commit(t *testing.T, f *disk.File, u disk.Update) {
	t.Helper()
	if err := f.Commit(u); err != nil {
		t.Fatal(err)
	}
}

func TestEverythingComesBack(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir, "west")
	a, b := resource("a", `{ "authored" :  "verbatim" }`), resource("b", `{}`)
	dp := mesh.Resource{Key: mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "west", Name: "web-1"}, Labels: map[string]string{}, Spec: []byte(`{}`)}
	p := disk.Proxy{Resource: dp, Instance: "i", AgentVersion: "1", EnvoyVersion: "2", NotReady: []string{"http"}, LostAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	commit(t, f, disk.Update{
		Position: &disk.Position{Revision: 9, Digest: "d"}, PutResources: []mesh.Resource{b, a}, PutKept: []mesh.Resource{a}, PutProxies: []disk.Proxy{p},
		PutAuthorities: []disk.Authority{{Mesh: "default", TrustDomain: "td", Slots: []byte("very private")}},
		Counters:       map[string]uint64{"c": 3}, Permissions: map[string][]byte{"p": []byte("{}")}, SessionKey: []byte("session"),
		Quarantine: map[string][]byte{"class": []byte("q")},
	})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, disk.StateFile))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte("very private")) || bytes.Contains(raw, []byte("session-key\x00session")) {
		t.Error("private bytes lie in the clear")
	}
	f = open(t, dir, "west")
	want := &disk.State{
		Quarantine: map[string][]byte{"class": []byte("q")},
		Position:   disk.Position{Revision: 9, Digest: "d"}, Resources: []mesh.Resource{a, b}, Kept: []mesh.Resource{a}, Proxies: []disk.Proxy{p},
		Authorities: []disk.Authority{{Mesh: "default", TrustDomain: "td", Slots: []byte("very private")}},
		Counters:    map[string]uint64{"c": 3}, Permissions: map[string][]byte{"p": []byte("{}")}, SessionKey: []byte("session"),
	}
	if d := cmp.Diff(want, load(t, f)); d != "" {
		t.Error(d)
	}
	commit(t, f, disk.Update{DeleteResources: []mesh.Key{a.Key}, DeleteKept: []mesh.Key{a.Key}, DeleteProxies: []mesh.Key{dp.Key}, Permissions: map[string][]byte{"p": nil}, Quarantine: map[string][]byte{"class": nil}})
	commit(t, f, disk.Update{ReplaceResources: true, PutResources: []mesh.Resource{a}, Position: &disk.Position{Revision: 2, Digest: "e"}})
	want.Position, want.Resources, want.Kept, want.Proxies, want.Permissions = disk.Position{Revision: 2, Digest: "e"}, []mesh.Resource{a}, nil, nil, map[string][]byte{}
	want.Quarantine = map[string][]byte{}
	if d := cmp.Diff(want, load(t, f)); d != "" {
		t.Error(d)
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		zone  string
		is    error
		says  string
	}{
		"another zone": {zone: "east", says: `belongs to zone "west"`},
		"in use":       {spoil: func(t *testing.T, dir string) { open(t, dir, "west") }, is: disk.ErrInUse, says: "in use"},
		"garbage":      {spoil: func(t *testing.T, dir string) { write(t, dir, disk.StateFile, bytes.Repeat([]byte("x"), 1<<16)) }, is: disk.ErrDamaged, says: "move it away"},
		"cut short":    {spoil: func(t *testing.T, dir string) { write(t, dir, disk.StateFile, []byte("x")) }, is: disk.ErrDamaged, says: "move it away"},
		"pages lost": {spoil: func(t *testing.T, dir string) {
			path := filepath.Join(dir, disk.StateFile)
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			clear(raw[2*os.Getpagesize():])
			write(t, dir, disk.StateFile, raw)
		}, is: disk.ErrDamaged, says: "move it away"},
		"no key": {spoil: func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, disk.KeyFile)); err != nil {
				t.Fatal(err)
			}
		}, says: "key zone.key is missing"},
		"another key": {spoil: func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, disk.KeyFile)); err != nil {
				t.Fatal(err)
			}
			other := t.TempDir()
			open(t, other, "west")
			key, err := os.ReadFile(filepath.Join(other, disk.KeyFile))
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, disk.KeyFile, key)
		}, says: "authority of td"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f := open(t, dir, "west")
			commit(t, f, disk.Update{PutResources: []mesh.Resource{resource("a", "{}")}, PutAuthorities: []disk.Authority{{Mesh: "default", TrustDomain: "td", Slots: []byte("x")}}})
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if c.spoil != nil {
				c.spoil(t, dir)
			}
			zone := c.zone
			if zone == "" {
				zone = "west"
			}
			g, err := disk.Open(disk.Config{Dir: dir, Zone: zone})
			if err == nil {
				_, err = g.Load()
				_ = g.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.says) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("error is %v, must say %q", err, c.says)
			}
		})
	}
}

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}
