// Package ingress compiles what zones offer to each other: the exports of a
// zone ingress, and the endpoint sets that lead to other zones, with their
// weights and priorities.
//
// In flow recorded reads of the zone's world and a class of ingresses, out flow
// ir.Proxy and ir.EndpointSet. The package is pure.
package ingress
