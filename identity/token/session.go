package token

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
)

// SessionKeySize is the size of a session key in bytes.
const SessionKeySize = 32

// sessionVersion leads every session token, and is part of what is authenticated.
const sessionVersion = "s1"

// Session says for which proxy an Envoy speaks.
type Session struct {
	// Mesh and Name of the Dataplane.
	Mesh, Name string
}

// SessionKey mints and checks the tokens that Envoys present to their zone's xDS
// server. A zone makes one, seals and keeps it: tokens outlive its restarts.
//
// A session token does not expire. It is worth something only while its proxy is
// a member of the zone, which an agent with a valid dataplane token decides.
type SessionKey struct {
	key [SessionKeySize]byte
}

// GenerateSessionKey makes a key.
func GenerateSessionKey() SessionKey {
	var k SessionKey
	_, _ = rand.Read(k.key[:]) // never fails: the runtime ends the process instead
	return k
}

// ParseSessionKey takes the bytes of a key.
func ParseSessionKey(b []byte) (SessionKey, error) {
	var k SessionKey
	if len(b) != SessionKeySize {
		return k, fmt.Errorf("session key must have %d bytes, not %d", SessionKeySize, len(b))
	}
	copy(k.key[:], b)
	return k, nil
}

// Bytes of the key, to be sealed and kept.
func (k SessionKey) Bytes() []byte { return append([]byte(nil), k.key[:]...) }

// Mint makes the token of a session.
func (k SessionKey) Mint(s Session) string {
	enc := base64.RawURLEncoding
	return strings.Join([]string{sessionVersion,
		enc.EncodeToString([]byte(s.Mesh)), enc.EncodeToString([]byte(s.Name)), enc.EncodeToString(k.mac(s))}, ".")
}

// Check returns the session of a token, or ErrMalformed or ErrBadSignature.
func (k SessionKey) Check(raw string) (Session, error) {
	if len(raw) > MaxSize {
		return Session{}, fmt.Errorf("%w: it must have at most %d bytes", ErrMalformed, MaxSize)
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 4 || parts[0] != sessionVersion {
		return Session{}, fmt.Errorf("%w: it is no session token", ErrMalformed)
	}
	var fields [3][]byte
	for i := range fields {
		b, err := base64.RawURLEncoding.Strict().DecodeString(parts[i+1])
		if err != nil {
			return Session{}, fmt.Errorf("%w: it is no session token", ErrMalformed)
		}
		fields[i] = b
	}
	s := Session{Mesh: string(fields[0]), Name: string(fields[1])}
	if !hmac.Equal(fields[2], k.mac(s)) {
		return Session{}, ErrBadSignature
	}
	return s, nil
}

// mac authenticates the parts with their lengths, so that no two sessions share one.
func (k SessionKey) mac(s Session) []byte {
	h := hmac.New(sha256.New, k.key[:])
	for _, part := range []string{"tombolo session", sessionVersion, s.Mesh, s.Name} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	return h.Sum(nil)
}
