package token

import "time"

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
