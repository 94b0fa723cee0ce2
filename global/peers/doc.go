// Package peers lets the instances of global that share a database find each
// other and act as one. In flow records of who lives, from the database, and what
// the others know of their zones; out flow the same of this instance, and
// questions to zones that are connected elsewhere.
//
// Each instance has a key that lives as long as its process. Its record, with the
// address and the key's digest, is sealed with the keys that all instances share,
// so that nobody who only reaches the database can pose as one. Connections are
// mutual TLS between such keys, at the address that zones connect to. The end of a
// connection is knowledge: where the zones are that the other had is unknown while it is
// on the roster and cannot be reached, and they are offline once it is gone.
package peers
