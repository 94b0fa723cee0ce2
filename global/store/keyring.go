package store

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	// keySize of AES-256.
	keySize = 32
	maxKeys = 64
	keyHead = "# Keys that encrypt secrets in the store. The first encrypts, all decrypt.\n" +
		"# Without this file the secrets of every backup are lost: keep a copy of it.\n"
)

// Keyring holds the keys that seal secrets: the first encrypts, all decrypt.
type Keyring struct {
	primary string
	keys    map[string]cipher.AEAD
}

// NewKeyring makes a keyring of keys of 32 bytes each, the encrypting one first.
func NewKeyring(keys ...[]byte) (*Keyring, error) {
	if len(keys) == 0 || len(keys) > maxKeys {
		return nil, fmt.Errorf("a keyring has 1 to %d keys, not %d", maxKeys, len(keys))
	}
	k := &Keyring{keys: make(map[string]cipher.AEAD, len(keys))}
	for i, key := range keys {
		if len(key) != keySize {
			return nil, fmt.Errorf("key %d has %d bytes, it must have %d", i+1, len(key), keySize)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		// The id tells keys apart and tells nothing of the key.
		sum := sha256.Sum256(append([]byte("tombolo keyring id\x00"), key...))
		id := hex.EncodeToString(sum[:4])
		if k.keys[id] = aead; i == 0 {
			k.primary = id
		}
	}
	return k, nil
}

// ID of the key that encrypts.
func (k *Keyring) ID() string { return k.primary }

// LoadKeyring reads a keyring from "file:PATH" or "env:NAME"; a source without a
// scheme is a path. The text has one key a line, 32 bytes in base64, and comments
// that begin with #. A file that does not exist is made, with a fresh key and
// mode 0600.
func LoadKeyring(source string) (*Keyring, error) {
	if name, ok := strings.CutPrefix(source, "env:"); ok {
		text, set := os.LookupEnv(name)
		if !set {
			return nil, fmt.Errorf("keyring: environment variable %q is not set", name)
		}
		k, err := ParseKeyring([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("keyring in environment variable %s: %w", name, err)
		}
		return k, nil
	}
	path := strings.TrimPrefix(source, "file:")
	if path == "" {
		return nil, errors.New("keyring: the source is empty; it is written file:PATH or env:NAME")
	}
	text, err := readKeyFile(path)
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	k, err := ParseKeyring(text)
	if err != nil {
		return nil, fmt.Errorf("keyring in %s: %w", path, err)
	}
	return k, nil
}

// ParseKeyring reads the text form of a keyring. Its errors never quote the text.
func ParseKeyring(text []byte) (*Keyring, error) {
	var keys [][]byte
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != keySize {
			return nil, fmt.Errorf("line %d is not a key: it must be %d bytes in base64 (openssl rand -base64 32)", n, keySize)
		}
		keys = append(keys, key)
	}
	if err := lines.Err(); err != nil {
		return nil, errors.New("a line is too long")
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key in it")
	}
	return NewKeyring(keys...)
}

func readKeyFile(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return text, err
	}
	if err := createKeyFile(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	// Another process may have been first; then it is its key.
	return os.ReadFile(path)
}

// createKeyFile writes a new key beside the path and links it into place, so
// that the file is never half written and never replaces another.
func createKeyFile(path string) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key := make([]byte, keySize)
	rand.Read(key) // never fails
	f, err := os.CreateTemp(dir, ".keyring-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.WriteString(keyHead + base64.StdEncoding.EncodeToString(key) + "\n")
	if err := errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
