package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	gosync "sync"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/global/api/access"
	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/embedded"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// fakeFleet is a fleet whose states the test sets.
type fakeFleet struct {
	mu      gosync.Mutex
	changes map[mesh.Revision]sync.ChangeStatus
	zones   []sync.ZoneStatus
	changed chan struct{}
	inspect func(ctx context.Context, zone string, q sync.Question, w io.Writer) error
}

func (f *fakeFleet) set(s sync.ChangeStatus) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changes[s.Revision] = s
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeFleet) Change(rev mesh.Revision) sync.ChangeStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := f.changes[rev]; ok {
		return s
	}
	return sync.ChangeStatus{Revision: rev, Zones: []sync.ZoneProgress{}, Complete: true}
}

func (f *fakeFleet) WatchChange(ctx context.Context, rev mesh.Revision, fn func(sync.ChangeStatus) bool) error {
	for {
		f.mu.Lock()
		changed := f.changed
		f.mu.Unlock()
		if !fn(f.Change(rev)) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (f *fakeFleet) Zones() []sync.ZoneStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.zones
}

func (f *fakeFleet) Inspect(ctx context.Context, zone string, q sync.Question, w io.Writer) error {
	return f.inspect(ctx, zone, q, w)
}

// rig is a server on an embedded store, with the mesh "default" and tokens.
type rig struct {
	*testing.T
	store  store.Store
	fleet  *fakeFleet
	tokens *access.Tokens
	server *Server
	web    *httptest.Server
	// admin, author, reader and nobody are tokens.
	admin, author, reader, nobody string
}

// broken makes a store fail on demand.
type broken struct {
	store.Store
	fail func(call string) error
}

func (b *broken) Get(ctx context.Context, k mesh.Key) (mesh.Resource, error) {
	if err := b.fail("get"); err != nil {
		return mesh.Resource{}, err
	}
	return b.Store.Get(ctx, k)
}

func (b *broken) Head(ctx context.Context) (store.Position, error) {
	if err := b.fail("head"); err != nil {
		return store.Position{}, err
	}
	return b.Store.Head(ctx)
}

func (b *broken) Write(ctx context.Context, author string, ops []store.Op) (store.Position, error) {
	if err := b.fail("write"); err != nil {
		return store.Position{}, err
	}
	return b.Store.Write(ctx, author, ops)
}

func newRig(t *testing.T, wrap ...func(store.Store) store.Store) *rig {
	t.Helper()
	inner, err := embedded.Open(embedded.Config{Path: filepath.Join(t.TempDir(), "store.db")})
	if err != nil {
		t.Fatal(err)
	}
	ring, err := store.NewKeyring(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, store: store.Sealed(inner, ring), fleet: &fakeFleet{changes: map[mesh.Revision]sync.ChangeStatus{}, changed: make(chan struct{})}}
	for _, w := range wrap {
		r.store = w(r.store)
	}
	r.tokens = access.New(access.Config{Store: r.store})
	if _, err := r.tokens.Prepare(t.Context(), nil, func(raw string) error { r.admin = raw; return nil }); err != nil {
		t.Fatal(err)
	}
	r.author, r.reader, r.nobody = r.user("ann", GroupAuthor), r.user("rob", GroupReader), r.user("nick")
	if r.server, err = New(Config{Store: r.store, Fleet: r.fleet, Tokens: r.tokens, Version: "test"}); err != nil {
		t.Fatal(err)
	}
	r.web = httptest.NewServer(r.server.Handler())
	t.Cleanup(func() {
		r.server.Drain()
		r.web.Close()
		if err := inner.Close(); err != nil {
			t.Error(err)
		}
	})
	r.want(http.StatusCreated, "PUT", "/meshes/default", r.admin, `{"type":"Mesh","name":"default"}`)
	return r
}

func (r *rig) user(name string, groups ...string) string {
	r.Helper()
	raw, _, err := r.tokens.Issue(r.Context(), token.Claims{Use: token.User, Name: name, Groups: groups, Expires: time.Now().Add(time.Hour)})
	if err != nil {
		r.Fatal(err)
	}
	return raw
}

// reply is an answer.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (a reply) decode(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal(a.body, into); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
}

// do sends a request; header are pairs.
func (r *rig) do(method, path, token, body string, header ...string) reply {
	r.Helper()
	req, err := http.NewRequestWithContext(r.Context(), method, r.web.URL+path, bytes.NewReader([]byte(body)))
	if err != nil {
		r.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.web.Client().Do(req)
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		r.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, data}
}

func (r *rig) want(status int, method, path, token, body string, header ...string) reply {
	r.Helper()
	a := r.do(method, path, token, body, header...)
	if a.status != status {
		r.Fatalf("%s %s: status %d, want %d: %s", method, path, a.status, status, a.body)
	}
	if status >= 400 {
		var p Problem
		a.decode(r.T, &p)
		if p.Status != status || p.Type == "" || p.Title == "" || p.Instance == "" {
			r.Errorf("%s %s: incomplete problem %s", method, path, a.body)
		}
		if ct := a.header.Get("Content-Type"); ct != "application/problem+json" {
			r.Errorf("%s %s: Content-Type %q of a problem", method, path, ct)
		}
	}
	return a
}

// zoned writes a resource as a zone would.
func (r *rig) zoned(kind mesh.KindName, zone, name, spec string) mesh.Resource {
	r.Helper()
	res := mesh.Resource{Key: mesh.Key{Kind: kind, Mesh: "default", Zone: zone, Name: name}, Spec: []byte(spec)}
	decoded, err := mesh.DecodeSpec(kind, res.Spec)
	if err != nil {
		r.Fatal(err)
	}
	res.Labels, _ = mesh.ComputeLabels(res, decoded, mesh.EnvUniversal)
	if _, err := r.store.Write(r.Context(), "zone:"+zone, []store.Op{{Resource: res}}); err != nil {
		r.Fatal(err)
	}
	return res
}

const dataplane = `{"networking":{"address":"127.0.0.1","inbound":[{"name":"http","port":8080}]}}`

func timeout(name, value string) string {
	return fmt.Sprintf(`{"type":"MeshTimeout","mesh":"default","name":%q,"spec":{"to":[{"targetRef":{"kind":"Mesh"},"default":{"idleTimeout":%q}}]}}`, name, value)
}
