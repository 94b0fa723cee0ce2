// Package access issues, checks and revokes the tokens of people, zones and
// proxies.
//
// In flow claims and presented tokens, out flow signed tokens and who somebody
// is. Keys and revocations are Secrets of the store: those of users and zones
// belong to no mesh and never leave global; those of proxies belong to their
// mesh, where the private key stays at global and zones get the public half.
package access
