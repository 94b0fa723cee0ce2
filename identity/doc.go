// Package identity has the types of SPIFFE identities: IDs, trust domains,
// bundles and signed documents. Pure; nothing here reads a key from anywhere.
package identity
