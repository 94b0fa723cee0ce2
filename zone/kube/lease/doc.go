// Package lease decides which instance of a zone's control plane leads. In flow
// a Lease object that all instances share; out flow who leads, told at each change.
//
// It is made for an API server that comes and goes: an instance that leads goes
// on leading while the API server is away, since nobody else can take the lease
// then, and gives up as soon as it sees another holder, or is told (Doubt) that
// another one acts in its place while its own renewals fail.
package lease
