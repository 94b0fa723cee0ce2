package identity

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Bounds of names, in bytes (SPIFFE-ID sections 2.1 and 2.3; a trust domain is
// also a DNS name to many tools).
const (
	// MaxID is the longest SPIFFE ID.
	MaxID = 2048
	// MaxTrustDomain is the longest name of a trust domain.
	MaxTrustDomain = 253
)

// ID is a SPIFFE ID, for example "spiffe://default.east.mesh.local/workload/web".
// The zero value is no ID. It is comparable.
type ID = spiffeid.ID

// TrustDomain is the name of a trust domain, for example "default.east.mesh.local".
// The zero value is none. It is comparable.
type TrustDomain = spiffeid.TrustDomain

// ParseID reads a SPIFFE ID of a workload: one with a path.
func ParseID(s string) (ID, error) {
	if len(s) > MaxID {
		return ID{}, fmt.Errorf("spiffe ID has %d bytes, at most %d are allowed", len(s), MaxID)
	}
	id, err := spiffeid.FromString(s)
	if err != nil {
		return ID{}, fmt.Errorf("spiffe ID %q: %w", s, err)
	}
	if len(id.TrustDomain().Name()) > MaxTrustDomain {
		return ID{}, fmt.Errorf("spiffe ID: trust domain has %d bytes, at most %d are allowed", len(id.TrustDomain().Name()), MaxTrustDomain)
	}
	if id.Path() == "" {
		return ID{}, fmt.Errorf("spiffe ID %q has no path: it names a trust domain, not a workload", s)
	}
	return id, nil
}

// MakeID joins a trust domain and a path such as "/workload/web".
func MakeID(td TrustDomain, path string) (ID, error) {
	if td.IsZero() {
		return ID{}, fmt.Errorf("spiffe ID: trust domain is missing")
	}
	return ParseID(td.IDString() + path)
}

// ParseTrustDomain reads the name of a trust domain.
func ParseTrustDomain(s string) (TrustDomain, error) {
	if len(s) > MaxTrustDomain {
		return TrustDomain{}, fmt.Errorf("trust domain has %d bytes, at most %d are allowed", len(s), MaxTrustDomain)
	}
	if strings.Contains(s, "/") {
		return TrustDomain{}, fmt.Errorf("trust domain %q must be a name, without scheme and path", s)
	}
	td, err := spiffeid.TrustDomainFromString(s)
	if err != nil {
		return TrustDomain{}, fmt.Errorf("trust domain %q: %w", s, err)
	}
	return td, nil
}
