package disk

import (
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// Position is a point in global's history, as in package zone/sync.
type Position struct {
	// Revision of the last change.
	Revision mesh.Revision
	// Digest of the history up to it.
	Digest string
}

// State is everything in the file.
type State struct {
	// Position that Resources reach to.
	Position Position
	// Resources that global pushed, sorted by key.
	Resources []mesh.Resource
	// Kept are former versions of resources that the zone goes on using, since the
	// newer one cannot be decoded, or since without it the mesh would lose its
	// identity. Sorted by key.
	Kept []mesh.Resource
	// Proxies that were members, sorted by key.
	Proxies []Proxy
	// Authorities, opened, sorted by mesh and trust domain.
	Authorities []Authority
	// Counters by name.
	Counters map[string]uint64
	// Permissions last in force for TCP inbounds, by the name of their counter.
	Permissions map[string][]byte
	// Quarantine is what proxies refused and what stands in for it, by class.
	Quarantine map[string][]byte
	// SessionKey; empty in a new file.
	SessionKey []byte
}

// Proxy is a member of the zone.
type Proxy struct {
	// Resource is its Dataplane as registered.
	Resource mesh.Resource
	// Instance of the agent that registered it last.
	Instance string
	// AgentVersion and EnvoyVersion for people.
	AgentVersion, EnvoyVersion string
	// NotReady inbounds, as last heard.
	NotReady []string
	// LostAt is when its stream broke; zero while it is connected.
	LostAt time.Time
}

// Authority is the sealed part of a trust domain.
type Authority struct {
	// Mesh that it is for.
	Mesh string
	// TrustDomain of it.
	TrustDomain string
	// Slots as package ca marshals them, private keys included.
	Slots []byte
}

// Update is what changes together.
type Update struct {
	// Position to move to, if not nil.
	Position *Position
	// ReplaceResources drops Resources and Kept before anything else.
	ReplaceResources bool
	// PutResources and DeleteResources that global pushed.
	PutResources    []mesh.Resource
	DeleteResources []mesh.Key
	// PutKept and DeleteKept versions.
	PutKept    []mesh.Resource
	DeleteKept []mesh.Key
	// PutProxies and DeleteProxies.
	PutProxies    []Proxy
	DeleteProxies []mesh.Key
	// PutAuthorities to seal and keep.
	PutAuthorities []Authority
	// Counters to set; 0 deletes.
	Counters map[string]uint64
	// Permissions to set; nil bytes delete.
	Permissions map[string][]byte
	// Quarantine to set, by class; nil bytes delete.
	Quarantine map[string][]byte
	// SessionKey to seal and keep, if not empty.
	SessionKey []byte
}

// Empty reports whether an update writes nothing.
func (u *Update) Empty() bool {
	return u.Position == nil && !u.ReplaceResources &&
		len(u.PutResources)+len(u.DeleteResources)+len(u.PutKept)+len(u.DeleteKept)+len(u.PutProxies)+len(u.DeleteProxies)+
			len(u.PutAuthorities)+len(u.Counters)+len(u.Permissions)+len(u.Quarantine)+len(u.SessionKey) == 0
}

// Store keeps the state of a zone: a File, or what a platform offers instead.
type Store interface {
	// Load reads everything.
	Load() (*State, error)
	// Commit writes an update. When it returns an error nothing of it is in force.
	Commit(u Update) error
}
