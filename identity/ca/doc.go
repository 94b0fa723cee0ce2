// Package ca issues certificates: one authority per (mesh, zone), each its own
// trust domain, with slots for rotating it and sealing for keeping its key.
//
// In flow certificate requests, of which only the proof of possession of a key
// counts, and SPIFFE IDs that the caller decided; out flow certificate chains.
// Nothing here reads the clock.
package ca
