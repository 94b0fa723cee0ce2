// Package disk is the one file that a zone keeps: what global pushed with the
// position it reaches to, the proxies that are members, authorities and keys
// (sealed), and counters.
//
// In flow updates, each durable as a whole or not at all, out flows the state
// that a zone starts from when it restarts, whether global can be reached or not.
package disk
