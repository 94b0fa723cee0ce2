// Package dns answers the names of the mesh beside an application, and passes
// every other question on.
//
// In flow frames of names from the zone and questions that the redirect brings
// (UDP and TCP); out flow answers, and questions to the nameservers of
// resolv.conf. What is not a name of the mesh is answered as they answer it.
package dns
