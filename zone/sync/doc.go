// Package sync is the zone's side of the stream between global and its zones.
//
// In flow pushes and snapshots, out flow acks after they are durable and
// applied, the facts that the zone owns, and coalesced reports. It dials for
// ever with backoff and never stands in the way of the zone's own work.
package sync
