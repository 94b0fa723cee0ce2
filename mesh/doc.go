// Package mesh is the domain of Tombolo: the kinds that users write, their
// names and references, selection, validation and merging.
//
// In flow authored bytes (JSON or YAML), out flow typed specs, problems with a
// field path, and effective configurations. The package is pure: it does no
// I/O, holds no state and reads no clock, so that global, zone and the CLI
// agree on every answer.
package mesh
