package ca

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// SealKeySize is the size of a sealing key in bytes (AES-256).
const SealKeySize = 32

// sealVersion is the first byte of everything sealed.
const sealVersion = 1

// ErrSealed is data that was damaged, moved, or sealed with another key.
var ErrSealed = errors.New("sealed data cannot be opened: wrong key, damaged, or not from this place")

// Sealer encrypts what must not lie on a disk or in a database in the clear, with
// AES-256-GCM and a fresh nonce each. It is immutable and safe for concurrent use.
type Sealer struct {
	aead cipher.AEAD
}

// NewSealer takes a key of SealKeySize bytes.
func NewSealer(key []byte) (*Sealer, error) {
	if len(key) != SealKeySize {
		return nil, fmt.Errorf("sealing key must have %d bytes, not %d", SealKeySize, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	return &Sealer{aead: aead}, nil
}

// Seal encrypts. The place (where the data will lie, for example "secret/default/db")
// is bound to it: Open needs the same.
func (s *Sealer) Seal(plain []byte, place string) []byte {
	return s.aead.Seal([]byte{sealVersion}, nil, plain, []byte(place))
}

// Open decrypts, or returns ErrSealed.
func (s *Sealer) Open(sealed []byte, place string) ([]byte, error) {
	if len(sealed) < 1+s.aead.Overhead() || sealed[0] != sealVersion {
		return nil, ErrSealed
	}
	plain, err := s.aead.Open(nil, nil, sealed[1:], []byte(place))
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}

// LoadOrCreateKey reads a sealing key from a file (base64), and makes the file,
// with mode 0600, when there is none. A file that others may read is refused.
func LoadOrCreateKey(path string) ([]byte, error) {
	key, err := loadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key = make([]byte, SealKeySize)
	_, _ = rand.Read(key) // never fails: the runtime ends the process instead
	if err := createKey(path, key); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("create sealing key: %w", err)
	}
	return loadKey(path) // of two that create it at once, both get the first one's
}

// createKey writes the whole file before it has its name, and never replaces one.
func createKey(path string, key []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".sealing-key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func loadKey(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("sealing key %s: mode is %04o, others must not have access: chmod 600", path, mode)
	}
	if info.Size() > 1024 {
		return nil, fmt.Errorf("sealing key %s: %d bytes is too large", path, info.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != SealKeySize {
		return nil, fmt.Errorf("sealing key %s: must be the base64 of %d bytes", path, SealKeySize)
	}
	return key, nil
}
