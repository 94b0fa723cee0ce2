package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/global/api/access"
	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
)

func (r *rig) issue(path, body string) TokenResponse {
	r.Helper()
	var out TokenResponse
	r.want(http.StatusCreated, "POST", path, r.admin, body).decode(r.T, &out)
	return out
}

func TestTokensAreBoundAndExpire(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		use  token.Use
		body string
		life time.Duration
		want token.Claims
	}{
		{token.User, `{"name":"eve","groups":["reader"]}`, access.UserLife, token.Claims{Name: "eve"}},
		{token.User, `{"name":"eve","validFor":"1h"}`, time.Hour, token.Claims{Name: "eve"}},
		{token.Zone, `{"zone":"east"}`, access.ZoneLife, token.Claims{Zone: "east"}},
		{token.Dataplane, `{"mesh":"default","workload":"web"}`, access.DataplaneLife, token.Claims{Mesh: "default", Workload: "web"}},
		{token.Dataplane, `{"mesh":"default","name":"web-1","zone":"east"}`, access.DataplaneLife, token.Claims{Mesh: "default", Name: "web-1", Zone: "east"}},
	} {
		out := r.issue("/tokens/"+string(c.use), c.body)
		got, err := r.tokens.Verify(t.Context(), c.use, out.Token)
		if err != nil {
			t.Fatalf("%s: %v", c.body, err)
		}
		if got.Name != c.want.Name || got.Zone != c.want.Zone || got.Mesh != c.want.Mesh || got.Workload != c.want.Workload || got.ID != out.ID {
			t.Errorf("%s: claims %+v", c.body, got)
		}
		if life := got.Expires.Sub(got.Issued); life != c.life || !got.Expires.Equal(out.Expires) {
			t.Errorf("%s: lives %s, want %s", c.body, life, c.life)
		}
		for _, other := range uses() {
			if other == c.use {
				continue
			}
			if _, err := r.tokens.Verify(t.Context(), other, out.Token); err == nil {
				t.Errorf("a %s token is taken for a %s token", c.use, other)
			}
		}
		if c.use != token.User {
			r.want(401, "GET", "/", out.Token, "")
		}
	}
	if zone, err := r.tokens.Zone(t.Context(), r.issue("/tokens/zone", `{"zone":"west"}`).Token); err != nil || zone != "west" {
		t.Errorf("zone %q, err %v", zone, err)
	}
	if _, err := r.tokens.Zone(t.Context(), r.admin); err == nil {
		t.Error("an administrator's token opens a zone's stream")
	}
}

func TestTokenRequestsAreChecked(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct{ use, body, field string }{
		{"user", `{}`, "name"},
		{"user", `{"name":"a","groups":["root"]}`, "groups[0]"},
		{"user", `{"name":"a","zone":"x"}`, "zone"},
		{"user", `{"name":"a","validFor":"100000h"}`, "validFor"},
		{"user", `{"name":"a","validFor":"-1h"}`, "validFor"},
		{"user", `{"name":"a\n"}`, "name"},
		{"user", `{"name":"a","admin":true}`, "admin"},
		{"zone", `{}`, "zone"},
		{"zone", `{"zone":"East"}`, "zone"},
		{"zone", `{"zone":"east","groups":["admin"]}`, "groups"},
		{"dataplane", `{"workload":"w"}`, "mesh"},
		{"dataplane", `{"mesh":"default"}`, "workload"},
		{"dataplane", `{"mesh":"default","workload":"W_"}`, "workload"},
		{"dataplane", `{"mesh":7,"workload":"w"}`, "mesh"},
	} {
		a := r.want(422, "POST", "/tokens/"+c.use, r.admin, c.body)
		if !strings.Contains(string(a.body), fmt.Sprintf("%q", c.field)) {
			t.Errorf("%s %s: no problem of %s in %s", c.use, c.body, c.field, a.body)
		}
	}
	r.want(400, "POST", "/tokens/user", r.admin, `[]`+`x`)
	r.want(404, "POST", "/tokens/dataplane", r.admin, `{"mesh":"nope","workload":"w"}`)
}

func TestExpiredToken(t *testing.T) {
	r := newRig(t)
	later := access.New(access.Config{Store: r.store, Now: func() time.Time { return time.Now().Add(2 * time.Hour) }})
	raw := r.user("short", GroupAdmin)
	if _, err := r.tokens.Verify(t.Context(), token.User, raw); err != nil {
		t.Fatal(err)
	}
	if _, err := later.Verify(t.Context(), token.User, raw); err == nil {
		t.Error("an expired token is valid")
	}
	// And over HTTP.
	old, _, err := access.New(access.Config{Store: r.store, Now: func() time.Time { return time.Now().Add(-2 * time.Hour) }}).
		Issue(t.Context(), token.Claims{Use: token.User, Name: "old", Groups: []string{GroupAdmin}, Expires: time.Now().Add(-time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	a := r.want(401, "GET", "/", old, "")
	if !strings.Contains(string(a.body), "expired") {
		t.Errorf("answer %s", a.body)
	}
}

func TestRevocationHoldsAtOnce(t *testing.T) {
	r := newRig(t)
	rechecked := 0
	r.server.cfg.Revoked = func() { rechecked++ }
	user := r.issue("/tokens/user", `{"name":"eve","groups":["admin"]}`)
	r.want(200, "GET", "/", user.Token, "")
	r.want(200, "POST", "/tokens/revocations", r.admin, fmt.Sprintf(`{"token":%q}`, user.Token))
	a := r.want(401, "GET", "/", user.Token, "")
	if !strings.Contains(string(a.body), "revoked") {
		t.Errorf("answer %s", a.body)
	}
	zone := r.issue("/tokens/zone", `{"zone":"east"}`)
	r.want(200, "POST", "/tokens/revocations", r.admin, fmt.Sprintf(`{"id":%q,"use":"zone"}`, zone.ID))
	if _, err := r.tokens.Zone(t.Context(), zone.Token); err == nil {
		t.Error("a revoked zone token is valid")
	}
	// Another instance of global on the same store.
	if _, err := access.New(access.Config{Store: r.store}).Zone(t.Context(), zone.Token); err == nil {
		t.Error("another instance takes a revoked token")
	}
	dp := r.issue("/tokens/dataplane", `{"mesh":"default","workload":"web"}`)
	r.want(200, "POST", "/tokens/revocations", r.admin, fmt.Sprintf(`{"token":%q}`, dp.Token))
	if _, err := r.tokens.Verify(t.Context(), token.Dataplane, dp.Token); err == nil {
		t.Error("a revoked dataplane token is valid")
	}
	// Zones learn of it: the list is a Secret that reaches them.
	res, err := r.store.Get(t.Context(), mesh.Key{Kind: mesh.KindSecret, Mesh: "default", Name: token.RevocationsName(token.Dataplane)})
	if err != nil || !strings.Contains(string(res.Spec), "data") || res.Labels[mesh.LabelSync] != "" {
		t.Errorf("revocations of the mesh: %s, labels %v, err %v", res.Spec, res.Labels, err)
	}
	var list RevocationList
	r.want(200, "GET", "/tokens/revocations", r.admin, "").decode(t, &list)
	if len(list.Items) != 3 || rechecked != 3 {
		t.Errorf("%d revocations, %d rechecks of open streams: %+v", len(list.Items), rechecked, list.Items)
	}
	for body, status := range map[string]int{
		`{}`:                           422,
		`{"id":"x"}`:                   422,
		`{"id":"x","use":"dataplane"}`: 422,
		`{"id":"x","use":"user","mesh":"default"}`: 422,
		`{"token":"x"}`:                              422,
		fmt.Sprintf(`{"token":%q}`, zone.Token):      422,
		`{"id":"x","use":"dataplane","mesh":"nope"}`: 404,
		fmt.Sprintf(`{"token":%q,"id":"x"}`, r.issue("/tokens/zone", `{"zone":"east"}`).Token): 422,
	} {
		r.want(status, "POST", "/tokens/revocations", r.admin, body)
	}
}

func TestPrepareOnce(t *testing.T) {
	r := newRig(t)
	created, err := r.tokens.Prepare(t.Context(), nil, func(string) error {
		t.Error("a second first token")
		return nil
	})
	if created || err != nil {
		t.Errorf("created %v, err %v", created, err)
	}
	another, err := r.tokens.Admin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.want(200, "GET", "/tokens/revocations", another, "")
}
