// Package gateway takes Gateway API routes of a cluster that have Services as
// parents (the mesh profile, GAMMA) into MeshHTTPRoutes. In flow HTTPRoutes,
// GRPCRoutes and ReferenceGrants; out flow resources that the zone treats as
// written in it, and the conditions of each route for its status.
//
// A route in the namespace of its parent is the producer's: it holds for every
// caller, in every zone. One in another namespace is a consumer's: it holds for
// the calls of that namespace. Once a route is attached to a Service's port,
// requests that no rule matches get 404 there, as Gateway API has it.
package gateway
