// Package zone is the zone control plane: it turns intent from global and local
// facts into Envoy configuration, signs identities and reports what happened.
// It works without global for as long as it must, restarts included.
//
// In flow pushes (zone/sync) and agents (zone/universal), out flow delta xDS,
// facts and reports.
package zone
