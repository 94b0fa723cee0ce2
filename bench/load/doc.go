// Package load simulates Envoys and their agents, many in one process: each pair has
// a connection of its own with the streams of both, subscribes and acknowledges as
// Envoy does, and can refuse, stall, read slowly and reconnect. Nothing is proxied.
//
// In flow the addresses and credentials of a zone, out flow the times at which
// changes arrived. The floor is a bare gRPC server of the same protocol, which
// says what of a time is the machine's.
package load
