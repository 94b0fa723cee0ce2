// Package world is what a zone knows: every resource, decoded once, and the
// counters that a compile may read.
//
// In flow batches of changes from one writer, out flow recorded reads and, for
// every batch, the units of compilation whose reads it changed. Nobody keeps a
// list of what affects what: a unit depends on what it read, the reads that
// found nothing included.
package world
