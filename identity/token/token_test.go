package token

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newKey(t *testing.T, id string) Key {
	t.Helper()
	k, err := GenerateKey(id)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t *testing.T, k Key, c Claims) string {
	t.Helper()
	raw, err := k.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func valid(use Use) Claims {
	c := Claims{ID: "id-1", Use: use, Issued: noon, Expires: noon.Add(time.Hour)}
	switch use {
	case User:
		c.Name, c.Groups = "anna", []string{"admin"}
	case Zone:
		c.Zone = "east"
	case Dataplane:
		c.Mesh, c.Workload, c.Zone = "default", "web", "east"
	}
	return c
}

func TestSignAndVerify(t *testing.T) {
	for _, use := range []Use{User, Zone, Dataplane} {
		t.Run(string(use), func(t *testing.T) {
			key := newKey(t, KeyID(use, 1))
			want := valid(use)
			got, err := NewVerifier([]PublicKey{key.Public()}, nil).Verify(sign(t, key, want), use, noon)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestVerifyRefuses(t *testing.T) {
	key, other := newKey(t, "zone-1"), newKey(t, "zone-1")
	stranger := newKey(t, "zone-9")
	good := sign(t, key, valid(Zone))
	part := strings.Split(good, ".")
	b64 := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	raw := func(method jwt.SigningMethod, secret any, claims jwt.MapClaims) string {
		tok := jwt.NewWithClaims(method, claims)
		tok.Header["kid"] = "zone-1"
		s, err := tok.SignedString(secret)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	publicPEM, err := key.Public().MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	full := jwt.MapClaims{"jti": "a", "aud": "tombolo/zone", "zone": "east", "iat": noon.Unix(), "exp": noon.Add(time.Hour).Unix()}
	without := func(name string) jwt.MapClaims {
		m := jwt.MapClaims{}
		for k, v := range full {
			if k != name {
				m[k] = v
			}
		}
		return m
	}
	expired, future := valid(Zone), valid(Zone)
	expired.Issued, expired.Expires = noon.Add(-2*time.Hour), noon
	future.Issued, future.Expires = noon.Add(2*time.Minute), noon.Add(time.Hour)
	revoked := valid(Zone)
	revoked.ID = "gone"
	late := valid(Zone)
	late.ID, late.Issued, late.Expires = "gone", noon.Add(-2*time.Hour), noon.Add(-time.Hour)

	cases := []struct {
		name, raw string
		want      error
	}{
		{"empty", "", ErrMalformed},
		{"no token", "hello", ErrMalformed},
		{"two parts", part[0] + "." + part[1], ErrMalformed},
		{"too long", good + strings.Repeat("A", MaxSize), ErrMalformed},
		{"payload is no JSON", part[0] + "." + b64("{") + "." + part[2], ErrMalformed},
		{"other claims, same signature", part[0] + "." + b64(`{"jti":"a","aud":"tombolo/zone","zone":"west","iat":1,"exp":99999999999}`) + "." + part[2], ErrBadSignature},
		{"no signature", part[0] + "." + part[1] + ".", ErrBadSignature},
		{"same kid, other key", sign(t, other, valid(Zone)), ErrBadSignature},
		{"unknown kid", sign(t, stranger, valid(Zone)), ErrUnknownKey},
		{"alg none", raw(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, full), ErrBadSignature},
		{"public key as HMAC secret", raw(jwt.SigningMethodHS256, publicPEM, full), ErrBadSignature},
		{"user token", sign(t, newKey(t, "user-1"), valid(User)), ErrWrongUse},
		{"dataplane token of the same key", sign(t, key, valid(Dataplane)), ErrWrongUse},
		{"no audience", raw(jwt.SigningMethodEdDSA, key.private, without("aud")), ErrWrongUse},
		{"no jti", raw(jwt.SigningMethodEdDSA, key.private, without("jti")), ErrMalformed},
		{"no exp", raw(jwt.SigningMethodEdDSA, key.private, without("exp")), ErrMalformed},
		{"no iat", raw(jwt.SigningMethodEdDSA, key.private, without("iat")), ErrMalformed},
		{"no zone", raw(jwt.SigningMethodEdDSA, key.private, without("zone")), ErrMalformed},
		{"expired this instant", sign(t, key, expired), ErrExpired},
		{"issued in the future", sign(t, key, future), ErrNotYetValid},
		{"revoked", sign(t, key, revoked), ErrRevoked},
		{"revoked and expired", sign(t, key, late), ErrExpired},
	}
	v := NewVerifier([]PublicKey{key.Public()}, []Revocation{{ID: "gone"}})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := v.Verify(c.raw, Zone, noon)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %+v, %v; want %v", got, err, c.want)
			}
		})
	}
	if _, err := v.Verify(good, Zone, noon); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	if _, err := v.Verify(good, Zone, noon.Add(-30*time.Second)); err != nil {
		t.Fatalf("a clock half a minute behind: %v", err)
	}
}

func TestMeshOf(t *testing.T) {
	key := newKey(t, "k")
	for raw, want := range map[string]string{
		sign(t, key, valid(Dataplane)): "default", sign(t, key, valid(Zone)): "", "garbage": "", "": "",
		strings.Repeat("a", MaxSize+1): "",
	} {
		if got := MeshOf(raw); got != want {
			t.Errorf("%.20q: got %q, want %q", raw, got, want)
		}
	}
	if NewVerifier([]PublicKey{key.Public()}, nil).Empty() || !NewVerifier(nil, nil).Empty() {
		t.Error("a verifier is empty without keys, and only then")
	}
}

func TestSignRefuses(t *testing.T) {
	key := newKey(t, "k")
	cases := map[string]func(*Claims){
		"no use":           func(c *Claims) { c.Use = "" },
		"unknown use":      func(c *Claims) { c.Use = "root" },
		"no mesh":          func(c *Claims) { c.Mesh = "" },
		"bound to nothing": func(c *Claims) { c.Workload = "" },
		"no expiry":        func(c *Claims) { c.Expires = time.Time{} },
		"no issue time":    func(c *Claims) { c.Issued = time.Time{} },
		"expires before":   func(c *Claims) { c.Expires = c.Issued },
		"too large":        func(c *Claims) { c.Groups = []string{strings.Repeat("x", MaxSize)} },
		"id too long":      func(c *Claims) { c.ID = strings.Repeat("x", 129) },
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			c := valid(Dataplane)
			change(&c)
			if raw, err := key.Sign(c); !errors.Is(err, ErrMalformed) {
				t.Fatalf("got %q, %v", raw, err)
			}
		})
	}
	c := valid(Dataplane)
	c.ID = ""
	a, b := sign(t, key, c), sign(t, key, c)
	if a == b {
		t.Error("two tokens without a given id share one")
	}
}

func TestKeyPEM(t *testing.T) {
	key := newKey(t, "user-1")
	text, err := key.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseKey("user-1", text)
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.Public().MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	verify, err := ParsePublicKey("user-1", public)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewVerifier([]PublicKey{verify}, nil).Verify(sign(t, back, valid(User)), User, noon); err != nil {
		t.Error(err)
	}
	for name, parse := range map[string]func() error{
		"public as private": func() error { _, err := ParseKey("x", public); return err },
		"private as public": func() error { _, err := ParsePublicKey("x", text); return err },
		"garbage":           func() error { _, err := ParseKey("x", []byte("garbage")); return err },
		"no id":             func() error { _, err := ParseKey("", text); return err },
	} {
		if parse() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestSecretNames(t *testing.T) {
	if got := SigningKeyName(Dataplane, 1); got != "dataplane-token-signing-key-1" {
		t.Error(got)
	}
	if use, n, ok := ParsePublicKeyName(PublicKeyName(Dataplane, 12)); use != Dataplane || n != 12 || !ok {
		t.Error(use, n, ok)
	}
	if use, n, ok := ParseSigningKeyName(SigningKeyName(User, 3)); use != User || n != 3 || !ok {
		t.Error(use, n, ok)
	}
	for _, bad := range []string{"", "dataplane-token-public-key-", "dataplane-token-public-key-0", "dataplane-token-public-key-01",
		"dataplane-token-public-key-+1", "root-token-public-key-1", "dataplane-token-signing-key-1"} {
		if _, _, ok := ParsePublicKeyName(bad); ok {
			t.Errorf("%q is taken for a public key's name", bad)
		}
	}
}

func TestRevoke(t *testing.T) {
	list := []Revocation{{ID: "b", Expires: noon.Add(time.Hour)}, {ID: "old", Expires: noon}, {ID: "ever"}}
	list, err := Revoke(list, Revocation{ID: "a", Expires: noon.Add(time.Minute)}, noon)
	if err != nil {
		t.Fatal(err)
	}
	list, err = Revoke(list, Revocation{ID: "b", Expires: noon.Add(2 * time.Hour)}, noon)
	if err != nil {
		t.Fatal(err)
	}
	data, err := MarshalRevocations(list)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRevocations(data)
	if err != nil {
		t.Fatal(err)
	}
	want := []Revocation{{ID: "a", Expires: noon.Add(time.Minute)}, {ID: "b", Expires: noon.Add(2 * time.Hour)}, {ID: "ever"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	full := make([]Revocation, MaxRevocations)
	for i := range full {
		full[i].ID = fmt.Sprint(i)
	}
	if _, err := Revoke(full, Revocation{ID: "one more"}, noon); err == nil {
		t.Error("a full list took one more")
	}
	for _, bad := range []string{"{}", `[{"id":""}]`, "[", `[{"id":"` + strings.Repeat("x", 129) + `"}]`} {
		if _, err := ParseRevocations([]byte(bad)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
	if got, err := ParseRevocations(nil); err != nil || got != nil {
		t.Error("nothing is no revocation", got, err)
	}
}

func TestSession(t *testing.T) {
	key := GenerateSessionKey()
	want := Session{Mesh: "default", Name: "web-1"}
	raw := key.Mint(want)
	kept, err := ParseSessionKey(key.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := kept.Check(raw); err != nil || got != want {
		t.Fatal(got, err)
	}
	part := strings.Split(raw, ".")
	b64 := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for name, c := range map[string]struct {
		raw  string
		want error
	}{
		"empty":            {"", ErrMalformed},
		"other version":    {"s2" + raw[2:], ErrMalformed},
		"bad base64":       {part[0] + ".!." + part[2] + "." + part[3], ErrMalformed},
		"too long":         {raw + strings.Repeat("A", MaxSize), ErrMalformed},
		"other name":       {part[0] + "." + part[1] + "." + b64("web-2") + "." + part[3], ErrBadSignature},
		"moved boundary":   {part[0] + "." + b64("defaultw") + "." + b64("eb-1") + "." + part[3], ErrBadSignature},
		"other key":        {GenerateSessionKey().Mint(want), ErrBadSignature},
		"cut signature":    {part[0] + "." + part[1] + "." + part[2] + ".", ErrBadSignature},
		"token of another": {key.Mint(Session{Mesh: "default", Name: "web-2"})[:len(raw)-4] + part[3][len(part[3])-4:], ErrBadSignature},
	} {
		if got, err := key.Check(c.raw); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, %v; want %v", name, got, err, c.want)
		}
	}
	if _, err := ParseSessionKey([]byte("short")); err == nil {
		t.Error("a short key is accepted")
	}
}

func FuzzVerify(f *testing.F) {
	key, err := GenerateKey("zone-1")
	if err != nil {
		f.Fatal(err)
	}
	raw, err := key.Sign(valid(Zone))
	if err != nil {
		f.Fatal(err)
	}
	session := GenerateSessionKey()
	f.Add(raw)
	f.Add(session.Mint(Session{Mesh: "m", Name: "n"}))
	f.Add("a.b.c")
	v := NewVerifier([]PublicKey{key.Public()}, nil)
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := v.Verify(s, Zone, noon); err == nil && (c.Zone != "east" || s[:len(raw)/2] != raw[:len(raw)/2]) {
			t.Errorf("%q is accepted as %+v", s, c)
		}
		if got, err := session.Check(s); err == nil && session.Mint(got) != s {
			t.Errorf("%q is accepted as %+v", s, got)
		}
	})
}
