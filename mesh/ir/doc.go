// Package ir is what one class of proxies must do, said without Envoy.
//
// In flow recorded reads of the zone's world, out flow Proxy, EndpointSet and
// problems. The package is pure and deterministic: the same reads give the same
// value, byte for byte, so that a hash of it can be a cache key.
package ir
