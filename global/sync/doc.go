// Package sync is global's side of the stream between global and its zones.
//
// In flow changes of the store, facts and reports of the zones; out flow pushes
// per zone, accepted facts (into the store) and the state of every change. It
// keeps status in memory, rebuilt by reports after a restart.
package sync
