package sync

import "strings"

// refusedByProxy begins a problem that a proxy has with a resource, in contrast
// to one that the zone has; zones write it so.
const refusedByProxy = "a proxy refuses "

// Refused says whether it is proxies that refuse the resource.
func (p ResourceProblem) Refused() bool { return strings.HasPrefix(p.Reason, refusedByProxy) }
