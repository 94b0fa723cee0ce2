package store

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// ErrSealed: a secret cannot be decrypted. The text names it and the key it needs.
var ErrSealed = errors.New("secret cannot be decrypted")

const envelopeVersion = 1

// envelope is what a store holds in place of the spec of a secret.
type envelope struct {
	Sealed *sealedSpec `json:"sealed"`
}

type sealedSpec struct {
	Version int    `json:"version"`
	Key     string `json:"key"`
	Nonce   []byte `json:"nonce"`
	Data    []byte `json:"data"`
}

// bound is what a ciphertext is bound to: it opens only as the spec of the same
// resource. Parts of keys have no NUL.
func bound(k mesh.Key) []byte {
	return []byte("tombolo secret\x00" + string(k.Kind) + "\x00" + k.Mesh + "\x00" + k.Zone + "\x00" + k.Name)
}

// Seal encrypts the spec of a resource with the first key and a fresh nonce.
func (k *Keyring) Seal(key mesh.Key, spec json.RawMessage) (json.RawMessage, error) {
	aead := k.keys[k.primary]
	s := &sealedSpec{Version: envelopeVersion, Key: k.primary, Nonce: make([]byte, aead.NonceSize())}
	rand.Read(s.Nonce) // never fails
	s.Data = aead.Seal(nil, s.Nonce, spec, bound(key))
	b, err := json.Marshal(envelope{Sealed: s})
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", key, err)
	}
	return b, nil
}

// Open decrypts what Seal made for the same resource, with whichever key it names.
func (k *Keyring) Open(key mesh.Key, spec json.RawMessage) (json.RawMessage, error) {
	var e envelope
	if err := json.Unmarshal(spec, &e); err != nil || e.Sealed == nil {
		return nil, fmt.Errorf("%s is not encrypted in the store, as a secret must be: %w", key, ErrSealed)
	}
	s := e.Sealed
	if s.Version != envelopeVersion {
		return nil, fmt.Errorf("%s was encrypted by a newer program (version %d): %w", key, s.Version, ErrSealed)
	}
	aead, ok := k.keys[s.Key]
	if !ok {
		return nil, fmt.Errorf("%s was encrypted with key %.16q, which is not in the keyring (its first key is %s): %w", key, s.Key, k.primary, ErrSealed)
	}
	if len(s.Nonce) != aead.NonceSize() {
		return nil, fmt.Errorf("%s has a malformed nonce: %w", key, ErrSealed)
	}
	plain, err := aead.Open(nil, s.Nonce, s.Data, bound(key))
	if err != nil {
		return nil, fmt.Errorf("%s does not decrypt with key %s: it was changed, or copied from another resource: %w", key, s.Key, ErrSealed)
	}
	return plain, nil
}

// sealedWith is the id of the key that an envelope names; empty if it is none.
func sealedWith(spec json.RawMessage) string {
	var e envelope
	if err := json.Unmarshal(spec, &e); err != nil || e.Sealed == nil {
		return ""
	}
	return e.Sealed.Key
}
