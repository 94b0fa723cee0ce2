// Package agent stands beside one Envoy: it registers the proxy with its zone,
// makes its key and keeps its certificate fresh, carries its configuration, starts and
// watches Envoy, watches the application's ports, and drains in order at the end.
//
// In flow a Dataplane manifest (none in a pod, which the zone knows from its
// token), a token and a zone's address; out flow a running Envoy with its bootstrap and
// its identity (SDS on a Unix socket). Everything else that Envoy needs comes from
// the zone by ADS, as a stream of the agent's one connection that the agent hands to
// Envoy on another Unix socket and does not read.
package agent
