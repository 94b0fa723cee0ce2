// Package state keeps a zone's state in its cluster, for several instances of its
// control plane that come and go with nothing of their own.
//
// In flow the updates of the engine, out flow the state to start from, and what
// another instance decided: authorities, counters and permissions last in force.
// It lies in Secrets of the zone's own namespace: one for what is shared, and a
// fixed number of shards for the copy of what global pushed, so that a change
// rewrites one of them. What proxies refused has a Secret of its own, written
// behind, of which as much is kept as fits. The instance that leads writes; the others read.
//
// What must not be lost (an authority's key, the key of Envoy's sessions) is
// written before Commit returns. The copy of global's resources is written
// behind: after a crash of every instance the zone goes on from what was written,
// and global sends what came after. So no change of policy waits for the API
// server, or is refused while it is away. A seal says which content of the shards
// belongs to which position of global's history: whoever finds another content
// starts with it, and asks global for everything.
package state
