// Package token signs and verifies the tokens that people, zones and proxies
// present: JWTs (EdDSA) with a key id, an expiry and what they are bound to.
package token
