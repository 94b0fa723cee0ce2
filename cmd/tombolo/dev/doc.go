// Package dev runs a whole mesh of two zones on this machine, as ordinary
// processes on loopback addresses, and plays its main job with it: `tombolo dev`.
//
// In flow the binaries (its own and tombolo-agent) and Envoy, out flow plain
// lines that say what was done and what was seen, and an error when a step did
// not do what it says.
package dev
