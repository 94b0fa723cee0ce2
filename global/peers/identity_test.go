package peers

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/tombolo-mesh/tombolo/global/store"
)

func keyring(t *testing.T, fill byte) *store.Keyring {
	t.Helper()
	k, err := store.NewKeyring(bytes.Repeat([]byte{fill}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestRecordIsBoundToItsInstanceAndKeys(t *testing.T) {
	identity, err := newIdentity("a", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r := record{Address: "10.0.0.1:5685", Key: keyDigest(identity.Leaf), Version: "v1"}
	keys := keyring(t, 1)
	sealed, err := r.seal(keys, "a")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := openRecord(keys, "a", sealed); err != nil || got != r {
		t.Errorf("%+v, %v", got, err)
	}
	for name, open := range map[string]func() (record, error){
		"another instance's": func() (record, error) { return openRecord(keys, "b", sealed) },
		"other keys":         func() (record, error) { return openRecord(keyring(t, 2), "a", sealed) },
		"not sealed":         func() (record, error) { return openRecord(keys, "a", []byte(`{"address":"10.0.0.1:5685","key":"x"}`)) },
	} {
		if got, err := open(); err == nil {
			t.Errorf("%s: taken as %+v", name, got)
		}
	}
	for _, bad := range []record{{Address: "nowhere", Key: "x"}, {Address: "10.0.0.1:5685"}, {Address: "10.0.0.1:5685", Key: "x", Version: strings.Repeat("v", maxRecord)}} {
		sealed, err := bad.seal(keys, "a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := openRecord(keys, "a", sealed); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestAddressMustBeDialable(t *testing.T) {
	for address, good := range map[string]bool{
		"10.0.0.1:5685": true, "[fd00::1]:5685": true, "global-0.global:5685": true,
		"": false, ":5685": false, "0.0.0.0:5685": false, "[::]:5685": false, "10.0.0.1": false, "10.0.0.1:0": false, "10.0.0.1:": false,
	} {
		if err := CheckAddress(address); (err == nil) != good {
			t.Errorf("%q: %v", address, err)
		}
	}
}
