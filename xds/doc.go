// Package xds says in Envoy's words what an ir.Proxy must do.
//
// In flow ir.Proxy, ir.Instance and ir.EndpointSet, out flow named, hashed and
// marshalled resources. The package is pure and deterministic. A file per Envoy
// concept, a file per policy.
//
// What may vary never lives in a listener: filter chains and listener fields are
// constant, so that a change of permission, route, timeout or certificate costs
// no established connection. Permissions and TCP routing come by ECDS, HTTP
// routing by RDS, hosts by EDS, trust by SDS.
package xds
