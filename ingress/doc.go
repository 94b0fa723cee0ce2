// Package ingress compiles what a zone offers to the others: the exports of a
// class of zone ingresses.
//
// In flow recorded reads of the zone's world and the class, out flows ir.Proxy.
// The endpoint sets behind exports, gateways and destinations are compiled by
// ir.CompileEndpoints, since sidecars and ingresses share them. The package is pure.
package ingress
