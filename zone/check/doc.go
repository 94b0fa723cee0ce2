// Package check finds out what is wrong with a zone, or would be, and says what to
// do about it. In flow addresses, files and answers of servers; out flow results
// for people and programs. What it asks changes nothing.
//
// Here is what every zone has: its token, the way to global, its own server.
// Package zone/kube/check looks at a cluster.
package check
