package store_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/store/embedded"
	"github.com/tombolo-mesh/tombolo/mesh"
)

var secretKey = mesh.Key{Kind: mesh.KindSecret, Mesh: "default", Name: "token"}

func ring(t testing.TB, bytesOf ...byte) *store.Keyring {
	t.Helper()
	var keys [][]byte
	for _, b := range bytesOf {
		keys = append(keys, bytes.Repeat([]byte{b}, 32))
	}
	k, err := store.NewKeyring(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newStore(t testing.TB) store.Store {
	t.Helper()
	s, err := embedded.Open(embedded.Config{Path: filepath.Join(t.TempDir(), "s.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func write(t testing.TB, s store.Store, key mesh.Key, spec string) store.Position {
	t.Helper()
	at, err := s.Write(t.Context(), "user:admin", []store.Op{{Resource: mesh.Resource{Key: key, Spec: []byte(spec)}}})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestStoreNeverSeesASecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	inner, err := embedded.Open(embedded.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	plain := base64.StdEncoding.EncodeToString([]byte("a very secret value"))
	s := store.Sealed(inner, ring(t, 1))
	write(t, s, secretKey, `{"data":"`+plain+`"}`)
	write(t, s, mesh.Key{Kind: mesh.KindMesh, Name: "default"}, `{"x":"visible"}`)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(file, []byte(plain)) || bytes.Contains(file, []byte("a very secret")) {
		t.Error("the file has the secret in plain text")
	}
	if !bytes.Contains(file, []byte("visible")) {
		t.Error("the file does not have what is not secret: the test looks at the wrong bytes")
	}
}

func TestWrongKeyIsNamed(t *testing.T) {
	inner := newStore(t)
	right, wrong := ring(t, 1), ring(t, 2)
	write(t, store.Sealed(inner, right), secretKey, `{"data":"eA=="}`)
	if err := store.CheckSealed(t.Context(), inner, right); err != nil {
		t.Errorf("check with the right key: %v", err)
	}
	err := store.CheckSealed(t.Context(), inner, wrong)
	for _, want := range []string{secretKey.String(), right.ID(), wrong.ID()} {
		if !errors.Is(err, store.ErrSealed) || !strings.Contains(err.Error(), want) {
			t.Errorf("check with the wrong key: %v, want ErrSealed with %q", err, want)
		}
	}
	s := store.Sealed(inner, wrong)
	if _, err := s.Get(t.Context(), secretKey); !errors.Is(err, store.ErrSealed) {
		t.Errorf("get: %v", err)
	}
	if page, err := s.List(t.Context(), store.Query{Kind: mesh.KindSecret}); !errors.Is(err, store.ErrSealed) || len(page.Items) > 0 {
		t.Errorf("list: %+v, %v", page, err)
	}
	if _, err := s.Changes(t.Context(), 0, 1); !errors.Is(err, store.ErrSealed) || !errors.Is(err, store.ErrCompacted) {
		t.Errorf("changes: %v", err)
	}
	_, all, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range all {
		if !errors.Is(err, store.ErrSealed) {
			t.Errorf("snapshot: %v", err)
		}
	}
	// A put replaces what cannot be read.
	write(t, s, secretKey, `{"data":"eQ=="}`)
	if r, err := s.Get(t.Context(), secretKey); err != nil || string(r.Spec) != `{"data":"eQ=="}` {
		t.Errorf("after the put: %s, %v", r.Spec, err)
	}
}

func TestEnvelopeIsBound(t *testing.T) {
	k := ring(t, 1)
	sealed, err := k.Seal(secretKey, []byte(`1`))
	if err != nil {
		t.Fatal(err)
	}
	other := secretKey
	other.Mesh = "other"
	if _, err := k.Open(other, sealed); !errors.Is(err, store.ErrSealed) {
		t.Errorf("copied to another resource: %v", err)
	}
	again, err := k.Seal(secretKey, []byte(`1`))
	if err != nil || bytes.Equal(sealed, again) {
		t.Errorf("two seals are equal: the nonce is not fresh (%v)", err)
	}
	var e map[string]map[string]any
	if err := json.Unmarshal(sealed, &e); err != nil {
		t.Fatal(err)
	}
	for field, bad := range map[string]any{"version": 2, "key": "00000000", "nonce": "AAAA", "data": "AAAAAAAAAAAAAAAAAAAAAAAAAAAA"} {
		was := e["sealed"][field]
		e["sealed"][field] = bad
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		e["sealed"][field] = was
		if _, err := k.Open(secretKey, b); !errors.Is(err, store.ErrSealed) || !strings.Contains(err.Error(), secretKey.String()) {
			t.Errorf("%s changed: %v", field, err)
		}
	}
	if _, err := k.Open(secretKey, []byte(`{"data":"eA=="}`)); !errors.Is(err, store.ErrSealed) {
		t.Errorf("plain text: %v", err)
	}
}

func TestKeysRotate(t *testing.T) {
	inner := newStore(t)
	old, both, fresh := ring(t, 1), ring(t, 2, 1), ring(t, 2)
	write(t, store.Sealed(inner, old), secretKey, `1`)
	s := store.Sealed(inner, both)
	if at := write(t, s, secretKey, `1`); at.Revision != 1 {
		t.Errorf("an unchanged put made revision %d", at.Revision)
	}
	if n, err := store.Reseal(t.Context(), inner, both, "system"); n != 1 || err != nil {
		t.Fatalf("reseal: %d, %v", n, err)
	}
	if n, err := store.Reseal(t.Context(), inner, both, "system"); n != 0 || err != nil {
		t.Fatalf("reseal again: %d, %v", n, err)
	}
	if err := store.CheckSealed(t.Context(), inner, fresh); err != nil {
		t.Errorf("with the new key alone: %v", err)
	}
	if r, err := store.Sealed(inner, fresh).Get(t.Context(), secretKey); err != nil || string(r.Spec) != `1` || r.Revision != 2 {
		t.Errorf("with the new key alone: %+v, %v", r, err)
	}
}

func TestLoadKeyring(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "secrets.key")
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids { // several that start at once agree on one key
		wg.Go(func() {
			k, err := store.LoadKeyring("file:" + path)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = k.ID()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || id == "" {
			t.Fatalf("ids differ: %v", ids)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Fatalf("files left: %v, %v", entries, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key := strings.Fields(string(text))
	newer := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, 32))
	t.Setenv("TOMBOLO_TEST_KEYS", newer+"\n"+key[len(key)-1]+"\n")
	k, err := store.LoadKeyring("env:TOMBOLO_TEST_KEYS")
	if err != nil || k.ID() == ids[0] {
		t.Fatalf("from the environment: %v", err)
	}
	for source, want := range map[string]string{"": "empty", "env:TOMBOLO_TEST_NONE": "TOMBOLO_TEST_NONE", path + "/x": path, "env:TOMBOLO_TEST_BAD": "line 2"} {
		t.Setenv("TOMBOLO_TEST_BAD", newer+"\nhunter2secret\n")
		if _, err := store.LoadKeyring(source); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("source %q: %v, want %q in it", source, err, want)
		}
	}
}

func FuzzOpenEnvelope(f *testing.F) {
	k := ring(f, 1)
	sealed, err := k.Seal(secretKey, []byte(`{"data":"eA=="}`))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(sealed))
	f.Add([]byte(`{"sealed":null}`))
	f.Add([]byte(`{"sealed":{"version":1,"key":"` + k.ID() + `","nonce":"","data":""}}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		plain, err := k.Open(secretKey, b)
		if err == nil && string(plain) != `{"data":"eA=="}` {
			t.Fatalf("something that was never sealed opened: %q", plain)
		}
		if err != nil && (!errors.Is(err, store.ErrSealed) || len(err.Error()) > 500) {
			t.Fatalf("error %v", err)
		}
	})
}

func FuzzParseKeyring(f *testing.F) {
	f.Add([]byte("# x\n" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n"))
	f.Add([]byte("\n\n=="))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := store.ParseKeyring(b); err == nil && k.ID() == "" {
			t.Fatal("a keyring without a first key")
		}
	})
}
