package storetest

import (
	"bytes"
	"testing"

	"github.com/tombolo-mesh/tombolo/global/store"
)

// SealedStore is a store that encrypts secrets, and the one below.
type SealedStore struct {
	store.Store
	// Inner is what sees the encrypted form alone.
	Inner store.Store
}

// Seal wraps a store with a key that is the same in every process of a test.
func Seal(inner store.Store) (store.Store, error) {
	ring, err := store.NewKeyring(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		return nil, err
	}
	return SealedStore{Store: store.Sealed(inner, ring), Inner: inner}, nil
}

// Sealed is the harness with its stores wrapped by Seal. What opens its Spec
// must do the same.
func Sealed(h Harness) Harness {
	open := h.Open
	h.Open = func(t testing.TB) store.Store {
		t.Helper()
		s, err := Seal(open(t))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	h.Raw = func(s store.Store) store.Store { return s.(SealedStore).Inner }
	return h
}
