package token

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// Key signs tokens. It is immutable and safe for concurrent use.
type Key struct {
	id      string
	private ed25519.PrivateKey
}

// PublicKey verifies tokens. It is immutable and safe for concurrent use.
type PublicKey struct {
	id     string
	public ed25519.PublicKey
}

// GenerateKey makes a key; its id (kid) goes into every token, for example "zone-1".
func GenerateKey(id string) (Key, error) {
	if err := checkKeyID(id); err != nil {
		return Key{}, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("generate token key: %w", err)
	}
	return Key{id: id, private: private}, nil
}

// ID is the key's id, the kid of its tokens.
func (k Key) ID() string { return k.id }

// Public is the half that verifies.
func (k Key) Public() PublicKey {
	return PublicKey{id: k.id, public: k.private.Public().(ed25519.PublicKey)}
}

// MarshalPEM writes the private key as PKCS #8 PEM.
func (k Key) MarshalPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, fmt.Errorf("marshal token key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey reads what MarshalPEM of a Key wrote.
func ParseKey(id string, text []byte) (Key, error) {
	if err := checkKeyID(id); err != nil {
		return Key{}, err
	}
	der, err := onlyBlock(text, "PRIVATE KEY")
	if err != nil {
		return Key{}, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return Key{}, fmt.Errorf("parse token key: %w", err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return Key{}, fmt.Errorf("token key must be Ed25519, not %T", parsed)
	}
	return Key{id: id, private: private}, nil
}

// ID is the key's id.
func (p PublicKey) ID() string { return p.id }

// MarshalPEM writes the public key as PKIX PEM.
func (p PublicKey) MarshalPEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(p.public)
	if err != nil {
		return nil, fmt.Errorf("marshal public token key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// ParsePublicKey reads what MarshalPEM of a PublicKey wrote.
func ParsePublicKey(id string, text []byte) (PublicKey, error) {
	if err := checkKeyID(id); err != nil {
		return PublicKey{}, err
	}
	der, err := onlyBlock(text, "PUBLIC KEY")
	if err != nil {
		return PublicKey{}, err
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return PublicKey{}, fmt.Errorf("parse public token key: %w", err)
	}
	public, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return PublicKey{}, fmt.Errorf("public token key must be Ed25519, not %T", parsed)
	}
	return PublicKey{id: id, public: public}, nil
}

func checkKeyID(id string) error {
	if id == "" || len(id) > 128 {
		return errors.New("token key id must have 1 to 128 bytes")
	}
	return nil
}

func onlyBlock(text []byte, kind string) ([]byte, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("must be one PEM block of type %q", kind)
	}
	return block.Bytes, nil
}
