// Package ingress compiles what a zone offers to the others: the exports of a
// class of zone ingresses and the local endpoints behind them.
//
// In flow recorded reads of the zone's world and the class, out flow ir.Proxy
// and ir.EndpointSet. The package is pure.
package ingress
