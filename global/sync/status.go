package sync

import (
	"strings"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// ZoneState says how a change stands in a zone.
type ZoneState string

const (
	// Done: every affected proxy has it.
	Done ZoneState = "done"
	// Behind: the zone or some of its proxies do not have it yet.
	Behind ZoneState = "behind"
	// Rejected: some proxy refuses it; none is behind.
	Rejected ZoneState = "rejected"
	// Offline: the zone is not connected and has not confirmed it.
	Offline ZoneState = "offline"
	// Unknown: the zone is connected to no instance of global that can be reached
	// from here; there are others that it may be connected to.
	Unknown ZoneState = "unknown"
)

// ZoneProgress is how far a change came in one zone.
type ZoneProgress struct {
	Zone  string    `json:"zone"`
	State ZoneState `json:"state"`
	// Affected proxies, and what became of them.
	Affected int `json:"affected"`
	Done     int `json:"done"`
	Behind   int `json:"behind"`
	Rejected int `json:"rejected"`
	// BehindNames and Rejections are bounded to 10 each.
	BehindNames []string    `json:"behindNames,omitempty"`
	Rejections  []Rejection `json:"rejections,omitempty"`
	// MayBeAt, of one that is unknown, are the instances of global that may know more.
	MayBeAt []string `json:"mayBeAt,omitempty"`
	// Settled is the time from the commit at global to the report of the last ACK.
	Settled time.Duration `json:"settledNanoseconds,omitempty"`
}

// Whereabouts says in words where a zone may be that is unknown here.
func Whereabouts(mayBeAt []string) string {
	return "unknown here: it may be connected to instance " + strings.Join(mayBeAt, " or ") + " of global, which cannot be reached"
}

// Rejection is a proxy's refusal in Envoy's own words.
type Rejection struct {
	Proxy    string `json:"proxy"`
	TypeURL  string `json:"typeUrl"`
	Resource string `json:"resource,omitempty"`
	Reason   string `json:"reason"`
}

// ChangeStatus is how far a change came everywhere.
type ChangeStatus struct {
	Revision mesh.Revision  `json:"revision"`
	Zones    []ZoneProgress `json:"zones"`
	// Complete: every zone is done, rejected or (disabled) not asked.
	Complete bool `json:"complete"`
}

// ZoneStatus is what is known of a zone now.
type ZoneStatus struct {
	Name    string    `json:"name"`
	Online  bool      `json:"online"`
	Since   time.Time `json:"since"`
	Version string    `json:"version,omitempty"`
	// Global is the instance of global that it is connected to.
	Global string `json:"global,omitempty"`
	// MayBeAt are instances of global that a zone which is not online may be connected
	// to: they live, and cannot be reached from here. Empty: it is offline.
	MayBeAt []string `json:"mayBeAt,omitempty"`
	// Instances of its control plane that are connected.
	Instances int   `json:"instances,omitempty"`
	Applied   int64 `json:"appliedRevision"`
	Connected int   `json:"proxiesConnected"`
	Total     int   `json:"proxiesTotal"`
	// Reported: the zone has told of its proxies since this global knows it.
	Reported bool `json:"-"`
	// Problems by resource, as the zone reports them.
	Problems []ResourceProblem `json:"problems,omitempty"`
}

// ResourceProblem is a compile problem or rejection attributed to a resource.
type ResourceProblem struct {
	Key     mesh.Key `json:"-"`
	Kind    string   `json:"kind"`
	Mesh    string   `json:"mesh,omitempty"`
	Name    string   `json:"name"`
	Zone    string   `json:"zone,omitempty"`
	Reason  string   `json:"reason"`
	Proxies int      `json:"proxies"`
	// Path of the rule at fault inside the spec, empty for the whole resource.
	Path string `json:"path,omitempty"`
	// TypeURL and Resource that Envoy refused; empty for a problem of a compile.
	TypeURL  string `json:"typeUrl,omitempty"`
	Resource string `json:"resource,omitempty"`
	// Quarantined: the last good one is in force instead.
	Quarantined bool `json:"quarantined,omitempty"`
}
