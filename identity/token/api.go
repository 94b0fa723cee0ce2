package token

import (
	"errors"
	"time"
)

// Use says whom a token is for.
type Use string

const (
	// User tokens are for people and their programs, at global's API.
	User Use = "user"
	// Zone tokens let one zone connect to global.
	Zone Use = "zone"
	// Dataplane tokens let proxies join a zone.
	Dataplane Use = "dataplane"
)

// Claims is what a token says.
type Claims struct {
	// ID (jti) by which it can be revoked.
	ID string
	// Use, the audience.
	Use Use
	// Name of the user (User), or of the one proxy it is bound to (Dataplane, optional).
	Name string
	// Groups of the user; "admin" may do everything.
	Groups []string
	// Zone it is bound to (Zone: required; Dataplane: optional).
	Zone string
	// Mesh it is bound to (Dataplane: required).
	Mesh string
	// Workload it is bound to (Dataplane: this or Name is required).
	Workload string
	// Issued and Expires.
	Issued, Expires time.Time
}

// Why a token is refused; every error of Verify and of session tokens is one of these.
var (
	// ErrMalformed is a token that is no token, too long, or lacks what its use needs.
	ErrMalformed = errors.New("token is malformed")
	// ErrWrongUse is a token for somebody else, for example a zone's at the REST API.
	ErrWrongUse = errors.New("token is for another use")
	// ErrUnknownKey is a token whose key is not known here, or no longer.
	ErrUnknownKey = errors.New("token is signed by an unknown key")
	// ErrBadSignature is a forged or damaged token.
	ErrBadSignature = errors.New("token has a bad signature")
	// ErrNotYetValid is a token issued in the future, by more than a minute.
	ErrNotYetValid = errors.New("token is not valid yet")
	// ErrExpired is a token that has expired.
	ErrExpired = errors.New("token has expired")
	// ErrRevoked is a token on the list of revocations.
	ErrRevoked = errors.New("token is revoked")
)

// Bounds of what is read from outside.
const (
	// MaxSize of a token in bytes.
	MaxSize = 8 << 10
	// MaxRevocations on one list.
	MaxRevocations = 10_000
	// Leeway for clocks that differ.
	Leeway = time.Minute
)
