// Package delta serves Envoy's aggregated discovery service in its incremental
// form (delta ADS).
//
// In flow immutable sets of named, hashed, marshalled resources, one per group
// of proxies; out flow responses that differ from what each proxy has ACKed,
// and events that say how far every group came. It knows nothing of meshes.
package delta
